"""The gateway: status, models and live events of a running pipeline over HTTP."""

from __future__ import annotations

import asyncio
import errno
import html
import json
import os
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from time import time
from typing import Any

import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from consumers.broker import Broker
from consumers.clients import connect
from consumers.embedded import find_url
from contracts.errors import FatalError, TransientError
from contracts.keys import Keys
from contracts.plan import STRATEGIES
from contracts.settings import Settings
from ops.gateway.follower import Follower
from ops.gateway.metrics import Counters, Healths, read_counters, read_healths, render_metrics
from ops.gateway.stream import parse_id
from ops.logs import configure_logs
from ops.status import read_status
from ops.wiring import keys_of, partitions

log = structlog.get_logger("gateway")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MAX_CLIENTS = 1000
WRITE_S = 30.0  # a client that takes nothing for so long is let go
HEARTBEAT_EVERY_S = 1.0

_ENDPOINTS = (
    ("/api/status", "epochs, ages, lags and health"),
    ("/api/models/{U}/heatmap", "the heatmap; ?strategy=butterfly, vertical or single for one of them"),
    ("/api/models/{U}/gex", "gamma exposure"),
    ("/events/{U}", "server-sent events: a reset, then every diff, tick and model; resumes at Last-Event-ID"),
    ("/healthz", "the process is alive"),
    ("/readyz", "Redis answers and every stream is followed"),
    ("/metrics", "Prometheus"),
)


@dataclass(frozen=True, slots=True)
class RunningGateway:
    """A gateway that is being served."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://{self.host}:{self.port}"


def run_gateway(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM. FatalError says what a person must fix."""
    configure_logs()
    redis_url = find_url(settings.redis_url, settings.marketswarm_data)
    try:
        asyncio.run(_serve_until_signalled(settings, redis_url))
    except BaseExceptionGroup as group:
        fatal = group.subgroup(FatalError)
        if fatal is None:
            raise
        raise next(_leaves(fatal)) from None


def _leaves(group: BaseExceptionGroup[Any]) -> Any:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


async def _serve_until_signalled(settings: Settings, redis_url: str) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with serving(settings, redis_url) as gateway:
        log.info("started", url=gateway.url)
        await stopped.wait()
    log.info("drained")


@asynccontextmanager
async def serving(settings: Settings, redis_url: str) -> AsyncIterator[RunningGateway]:
    """The gateway, served while the body runs."""
    gateway = Gateway(settings, redis_url)
    runner = web.AppRunner(gateway.application(), access_log=None, shutdown_timeout=0.5, handler_cancellation=True)
    await runner.setup()
    stop = asyncio.Event()
    try:
        port = await _listen(runner, settings)
        async with asyncio.TaskGroup() as tasks:
            followers = [tasks.create_task(follower.run(stop)) for follower in gateway.followers.values()]
            tasks.create_task(gateway.tell_heartbeat(port, stop))
            try:
                yield RunningGateway(settings.marketswarm_host, port)
            finally:
                stop.set()
                for task in followers:
                    task.cancel()  # reading has no effects; nothing need be waited for
                await runner.cleanup()
    finally:
        await runner.cleanup()
        await gateway.close()


async def _listen(runner: web.AppRunner, settings: Settings) -> int:
    host, port = settings.marketswarm_host, settings.marketswarm_port
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise FatalError(
                f"MARKETSWARM_PORT={port}: the port is in use on {host}; stop the other program or choose another"
            ) from None
        raise FatalError(f"MARKETSWARM_HOST={host!r}, MARKETSWARM_PORT={port}: cannot listen there: {error}") from None
    return int(runner.addresses[0][1])


class Gateway:
    """The endpoints and what they need."""

    def __init__(self, settings: Settings, redis_url: str) -> None:
        self._settings = settings
        self._redis_url = redis_url
        self._keys: Keys = keys_of(settings)
        self._name = f"gateway-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
        self._started_ts = time()
        self._broker = Broker(redis_url, "gateway", self._name, "")
        self._client: Any = connect(redis_url)
        self.followers = {
            symbol: Follower(redis_url, self._client, self._broker, self._keys, symbol)
            for symbol in settings.massive_symbols
        }

    def application(self) -> web.Application:
        """Routes and the answers to everything that fails."""
        app = web.Application(middlewares=[json_errors])
        app.add_routes(
            [
                web.get("/", self._page),
                web.get("/api/status", self._status),
                web.get("/api/models/{symbol}/heatmap", self._heatmap),
                web.get("/api/models/{symbol}/gex", self._gex),
                web.get("/events/{symbol}", self._events, allow_head=False),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
            ]
        )
        return app

    async def close(self) -> None:
        """Close every connection to Redis."""
        await self._broker.close()
        await self._client.aclose()

    async def tell_heartbeat(self, port: int, stop: asyncio.Event) -> None:
        """Tell the pipeline that this gateway is there, and where."""
        body = {
            "role": "gateway",
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": self._started_ts,
            "last_commit": 0.0,
            "version": version("marketswarm"),
            "port": port,
        }
        while not stop.is_set():
            with suppress(TransientError):
                told = json.dumps(body | {"ts": time()}).encode()
                await self._broker.set_field(self._keys.heartbeat(), self._name, told)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), HEARTBEAT_EVERY_S)
        with suppress(TransientError):
            await self._broker.drop_field(self._keys.heartbeat(), self._name)

    # --- pages

    async def _page(self, _: web.Request) -> web.Response:
        items = "".join(
            f"<li><code>{html.escape(path)}</code> {html.escape(meaning)}</li>" for path, meaning in _ENDPOINTS
        )
        symbols = html.escape(", ".join(self.followers))
        text = (
            "<!doctype html><meta charset=utf-8><title>MarketSwarm</title>"
            f"<h1>MarketSwarm</h1><p>Symbols (U): {symbols}</p><ul>{items}</ul>"
        )
        return web.Response(text=text, content_type="text/html")

    async def _status(self, _: web.Request) -> web.Response:
        return web.json_response(await asyncio.to_thread(read_status, self._redis_url, self._settings))

    # --- models

    async def _heatmap(self, request: web.Request) -> web.Response:
        symbol = self._symbol(request)
        strategy = request.query.get("strategy", "")
        if strategy and strategy not in STRATEGIES:
            raise web.HTTPBadRequest(text=f"no strategy {strategy!r}; there are {', '.join(STRATEGIES)}")
        return await self._model(symbol, self._keys.heatmap_model(symbol, strategy), "heatmap")

    async def _gex(self, request: web.Request) -> web.Response:
        symbol = self._symbol(request)
        return await self._model(symbol, self._keys.gex_model(symbol), "gex")

    async def _model(self, symbol: str, key: str, name: str) -> web.Response:
        (body,) = await self._broker.values(key)
        if body is None:
            raise web.HTTPNotFound(text=f"no {name} model of {symbol} is published yet")
        return web.Response(body=body, content_type="application/json", headers={"Cache-Control": "no-store"})

    def _symbol(self, request: web.Request) -> str:
        symbol = request.match_info["symbol"]
        if symbol not in self.followers:
            raise web.HTTPNotFound(text=f"no symbol {symbol!r} here; there are {', '.join(self.followers)}")
        return symbol

    # --- events

    async def _events(self, request: web.Request) -> web.StreamResponse:
        follower = self.followers[self._symbol(request)]
        if sum(one.client_count for one in self.followers.values()) >= MAX_CLIENTS:
            raise web.HTTPServiceUnavailable(text=f"{MAX_CLIENTS} clients are connected already")
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        await response.write(b"retry: 1000\n\n")
        async with aclosing(follower.stream(parse_id(request.headers.get("Last-Event-ID", "")))) as chunks:
            try:
                async for chunk in chunks:
                    async with asyncio.timeout(WRITE_S):
                        await response.write(chunk)
            except (ConnectionError, TimeoutError):
                log.info("client_gone", symbol=follower.symbol)
        return response

    # --- probes

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def _readyz(self, _: web.Request) -> web.Response:
        waiting = [symbol for symbol, follower in self.followers.items() if not follower.is_connected]
        return web.json_response({"ready": not waiting, "waiting_for": waiting}, status=503 if waiting else 200)

    async def _metrics(self, _: web.Request) -> web.Response:
        counters: Counters | None = None
        healths: Healths = {}
        with suppress(TransientError):
            healths = await read_healths(self._broker, self._keys, self._settings.massive_symbols)
            counters = await read_counters(self._broker, self._keys, partitions(self._settings))
        page = render_metrics(list(self.followers.values()), counters, healths)
        return web.Response(body=page, headers={"Content-Type": CONTENT_TYPE_LATEST})


@web.middleware
async def json_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every failure is JSON `{"error": ...}`; what is not the caller's fault says when to come again."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return web.json_response({"error": error.text or error.reason}, status=error.status, headers=headers)
    except (TransientError, FatalError) as error:
        return web.json_response({"error": str(error)}, status=503, headers={"Retry-After": "1"})
