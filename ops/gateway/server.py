"""The gateway: status, models, live events and alerts of a running pipeline over HTTP."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import secrets
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from time import monotonic, time
from typing import Any

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CONTENT_TYPE_LATEST

from consumers.broker import Broker
from consumers.clients import Commands
from consumers.embedded import find_url
from consumers.lease import every
from contracts.errors import FatalError, TransientError
from contracts.keys import Keys
from contracts.settings import Settings
from ops.alerts.rule_file import RuleFile
from ops.alerts.vigil import LEASE, PERIOD_S, Vigil
from ops.alerts.webhook import Webhooks
from ops.gateway.acl import GROUP
from ops.gateway.alert_stream import AlertStream
from ops.gateway.endpoints import ENDPOINTS
from ops.gateway.follower import Follower
from ops.gateway.listening import serve_events, serve_websocket
from ops.gateway.metrics import Counters, Healths, read_counters, read_healths, render_metrics
from ops.gateway.news import watch
from ops.gateway.resources import VERSION, Resources, told
from ops.gateway.security import (
    Handler,
    RateLimit,
    add_headers,
    check_exposure,
    log_in,
    rate_limited,
    same_site_required,
    token_required,
)
from ops.logs import configure_logs
from ops.wiring import keys_of, partitions

log = structlog.get_logger("gateway")
http_log = logging.getLogger("marketswarm.http")

STREAMS = frozenset({"events", "websocket"})
PAGE = Path(__file__).parent / "page"
PAGE_FILES = {file.relative_to(PAGE).as_posix(): file for file in PAGE.rglob("*") if file.is_file()}
MAX_CLIENTS = 1000
REQUESTS_PER_S, REQUESTS_BURST = 50.0, 200.0  # of one caller
HEARTBEAT_EVERY_S = 1.0


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
    redis_url = settings.marketswarm_gateway_redis_url or find_url(settings.redis_url, settings.marketswarm_data)
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
    check_exposure(settings.marketswarm_host, settings.marketswarm_token)
    gateway = Gateway(settings, redis_url)
    runner = web.AppRunner(
        gateway.application(), logger=http_log, access_log=None, shutdown_timeout=0.5, handler_cancellation=True
    )
    await runner.setup()
    stop = asyncio.Event()
    try:
        port = await _listen(runner, settings)
        async with asyncio.TaskGroup() as tasks:
            reading = [tasks.create_task(follower.run(stop)) for follower in gateway.followers.values()]
            reading += [tasks.create_task(gateway.watch(stop)), tasks.create_task(gateway.webhooks.run())]
            tasks.create_task(gateway.keep_vigil(stop))
            tasks.create_task(gateway.tell_heartbeat(port, stop))
            try:
                yield RunningGateway(settings.marketswarm_host, port)
            finally:
                stop.set()
                for task in reading:
                    task.cancel()  # it has no effects on the pipeline; nothing need be waited for
                await runner.cleanup()
    finally:
        await runner.cleanup()
        await gateway.close()


def _is_a_fault_of_ours(record: logging.LogRecord) -> bool:
    """Whether a complaint of the HTTP server is for a person to read; bytes that are no HTTP get a line instead."""
    error = record.exc_info[1] if record.exc_info else None
    if not isinstance(error, HttpProcessingError):
        return True
    log.info("malformed_request", error=type(error).__name__)  # its words may quote a token
    return False


http_log.addFilter(_is_a_fault_of_ours)


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
    """What the endpoints need, and those that are no REST."""

    def __init__(self, settings: Settings, redis_url: str) -> None:
        self._settings = settings
        self._redis_url = redis_url
        self._keys: Keys = keys_of(settings)
        self._name = f"gateway-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
        self._started_ts = time()
        symbols = settings.massive_symbols
        self._broker = Broker(redis_url, GROUP, self._name, "")
        self._commands = Commands(redis_url)
        self._rules = RuleFile(settings.marketswarm_alerts)
        self.webhooks = Webhooks()
        self._resources = Resources(settings, self._commands, self._broker, self._keys, self._rules)
        self.followers = {symbol: Follower(self._commands, self._broker, self._keys, symbol) for symbol in symbols}
        self._alerts = {
            follower: AlertStream(self._commands, self._keys.alert_stream(symbol))
            for symbol, follower in self.followers.items()
        }

    def application(self) -> web.Application:
        """Routes and the answers to everything that fails."""
        host, token = self._settings.marketswarm_host, self._settings.marketswarm_token
        limit = RateLimit(REQUESTS_PER_S, REQUESTS_BURST)
        checks = [rate_limited(limit, monotonic), same_site_required(host, token), token_required(token)]
        app = web.Application(middlewares=[json_errors, *checks], client_max_size=4096)
        app[VERSION] = version("marketswarm")
        app.on_response_prepare.append(add_headers)
        handlers = self.handlers()
        for one in ENDPOINTS:
            methods = [one.method, "HEAD"] if one.method == "GET" and one.name not in STREAMS else [one.method]
            for method in methods:
                app.router.add_route(method, one.path, handlers[one.name], expect_handler=ignore_expectations)
        for method in ("GET", "HEAD"):
            app.router.add_route(method, "/page/{file:.+}", self.page_file, expect_handler=ignore_expectations)
        for path in {one.path for one in ENDPOINTS}:
            app.router.add_route("*", path, refuse_method, expect_handler=ignore_expectations)
        app.router.add_route("*", "/{nothing:.*}", find_nothing, expect_handler=ignore_expectations)
        return app

    def handlers(self) -> dict[str, Handler]:
        """Who answers at each endpoint of the table, by its name."""
        return {
            "events": self.events,
            "websocket": self.websocket,
            "healthz": self.healthz,
            "readyz": self.readyz,
            "metrics": self.metrics,
            "page": self.page,
            "login_page": self.login_page,
            "login": self.login,
            **self._resources.handlers(),
        }

    async def close(self) -> None:
        """Close every connection to Redis."""
        await self._broker.close()
        await self._commands.close()

    # --- beside the answers

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

    async def watch(self, stop: asyncio.Event) -> None:
        """Tell clients of promotions, health and alerts until stopped."""
        await watch(self._broker, self._keys, self._alerts, stop)

    async def keep_vigil(self, stop: asyncio.Event) -> None:
        """Judge the rules of alerts while no other gateway does; without a file of rules there is nothing to do."""
        if self._rules.path is None:
            return
        async with asyncio.TaskGroup() as tasks:
            for symbols in partitions(self._settings):
                tasks.create_task(self._keep_vigil(symbols, stop))

    async def _keep_vigil(self, symbols: tuple[str, ...], stop: asyncio.Event) -> None:
        keys = self._keys
        broker = Broker(self._redis_url, GROUP, self._name, keys.cursor(GROUP, symbols[0]))
        vigil = Vigil(broker, keys, symbols, self._rules, self.webhooks)
        try:
            await every(broker, keys.lease(LEASE, symbols[0]), PERIOD_S, vigil.keep, stop)
        finally:
            await broker.close()

    # --- pages

    async def page(self, _: web.Request) -> web.FileResponse:
        """The page."""
        return web.FileResponse(PAGE / "index.html")

    async def page_file(self, request: web.Request) -> web.FileResponse:
        """What the page loads: the files that were there at the start, by their names, and nothing else."""
        file = PAGE_FILES.get(request.match_info["file"])
        if file is None:
            raise web.HTTPNotFound
        return web.FileResponse(file)

    async def login_page(self, _: web.Request) -> web.StreamResponse:
        """Who gets here need not log in (any more): others are asked for the token wherever they go."""
        raise web.HTTPSeeOther("/")

    async def login(self, request: web.Request) -> web.Response:
        """The cookie for who knows the token."""
        token = self._settings.marketswarm_token
        if token is None:
            raise web.HTTPNotFound(text="no token is set: nobody need log in")
        try:
            given = (await request.post()).get("token", "")
        except ValueError:  # of a broken form, in many ways
            raise web.HTTPBadRequest(text="a form with the field `token` is expected") from None
        return log_in(token, str(given))

    # --- events

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events."""
        return await serve_events(request, self._follower(request))

    async def websocket(self, request: web.Request) -> web.StreamResponse:
        """The same over a WebSocket."""
        return await serve_websocket(request, self._follower(request))

    def _follower(self, request: web.Request) -> Follower:
        follower = self.followers[self._resources.symbol(request)]
        if sum(one.client_count for one in self.followers.values()) >= MAX_CLIENTS:
            raise web.HTTPServiceUnavailable(text=f"{MAX_CLIENTS} clients are connected already")
        return follower

    # --- probes

    async def healthz(self, _: web.Request) -> web.Response:
        """The process is alive."""
        return told({"status": "alive"})

    async def readyz(self, _: web.Request) -> web.Response:
        """Redis answers and every stream is followed."""
        waiting = [symbol for symbol, follower in self.followers.items() if not follower.is_connected]
        return web.json_response({"ready": not waiting, "waiting_for": waiting}, status=503 if waiting else 200)

    async def metrics(self, _: web.Request) -> web.Response:
        """Prometheus."""
        counters: Counters | None = None
        healths: Healths = {}
        with suppress(TransientError):
            healths = await read_healths(self._broker, self._keys, self._settings.massive_symbols)
            counters = await read_counters(self._broker, self._keys, partitions(self._settings))
        page = render_metrics(list(self.followers.values()), counters, healths)
        return web.Response(body=page, headers={"Content-Type": CONTENT_TYPE_LATEST})


async def refuse_method(request: web.Request) -> web.StreamResponse:
    """A method that the table has not for this path."""
    path = request.match_info.route.resource
    allowed = [one.method for one in ENDPOINTS if path is not None and one.path == path.canonical]
    raise web.HTTPMethodNotAllowed(request.method, allowed)


async def find_nothing(_: web.Request) -> web.StreamResponse:
    """A path that the table has not."""
    raise web.HTTPNotFound


async def ignore_expectations(_: web.Request) -> None:
    """`Expect` is answered before anybody asks for the token, and by aiohttp with a 500 if its bytes are no text; what
    we take of a body is too small for it."""


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
