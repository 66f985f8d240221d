"""Serving the mock provider on a port until told to stop."""

from __future__ import annotations

import asyncio
import errno
import signal
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from aiohttp import web

from contracts.errors import FatalError
from contracts.symbology import NEW_YORK
from ops.mock import rest
from ops.mock.feed import Feed
from ops.mock.provider import PROVIDER, MockOptions, Provider

# A kill loses what was not yet saved, so the saved time runs ahead by more than it is saved again.
_SAVE_EVERY_S = 1.0
_SAVE_AHEAD_S = 3.0


@dataclass(frozen=True, slots=True)
class RunningMock:
    """A mock provider that is being served."""

    provider: Provider
    host: str
    port: int

    @property
    def rest_url(self) -> str:
        """What `MASSIVE_REST_URL` takes."""
        return f"{'https' if self._has_tls else 'http'}://{self.host}:{self.port}"

    @property
    def ws_url(self) -> str:
        """What `MASSIVE_WS_URL` takes: the stem before `/options` and `/indices`."""
        return f"{'wss' if self._has_tls else 'ws'}://{self.host}:{self.port}"

    @property
    def _has_tls(self) -> bool:
        return self.provider.options.tls_certificate is not None

    def describe(self) -> str:
        """One line: where it is and what it serves."""
        provider, options = self.provider, self.provider.options
        source = f"synthetic seed {options.seed}" if options.chain is None else f"chain {options.chain.name}"
        moment = datetime.fromtimestamp(provider.clock.now(), NEW_YORK).isoformat(timespec="seconds")
        return (
            f"mock provider on {self.rest_url} (REST, /options, /indices): {source}, "
            f"{' '.join(provider.market.symbols)}, {len(provider.market.listing)} contracts, "
            f"{options.rate:g} events/s, scenario {options.scenario}, market time {moment}, "
            f"{provider.clock.rate:g} times as fast"
        )


def run_mock(options: MockOptions) -> None:
    """Serve until SIGINT or SIGTERM; prints one line when it is ready. FatalError says what to fix."""
    asyncio.run(_serve_until_signalled(options))


@asynccontextmanager
async def serving(options: MockOptions) -> AsyncIterator[RunningMock]:
    """The mock provider, served while the context lasts; port 0 takes a free one."""
    provider = Provider.of(options)
    feed = Feed(provider)
    app = web.Application(middlewares=[rest.guard])
    app[PROVIDER] = provider
    app[rest.CENSUS] = feed.census
    rest.add_routes(app)
    feed.add_routes(app)
    background = (feed.run, partial(_keep_clock, provider))
    try:
        async with listening(app, options.host, options.port, background, _tls(options)) as port:
            yield RunningMock(provider, options.host, port)
    finally:
        provider.clock_file.save(provider.clock.now())


@asynccontextmanager
async def listening(
    app: web.Application,
    host: str,
    port: int,
    background: Iterable[Callable[[], Coroutine[Any, Any, None]]],
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """An app on a port (0: a free one, which is told) while the context lasts, with what runs beside it."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, handler_cancellation=True)
    await runner.setup()
    try:
        found = await _listen(runner, host, port, tls)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work()) for work in background]
            try:
                yield found
            finally:
                for task in tasks:
                    task.cancel()
    finally:
        await runner.cleanup()


def stop_signal() -> asyncio.Event:
    """Set by SIGINT or SIGTERM from now on."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    return stopped


async def _serve_until_signalled(options: MockOptions) -> None:
    stopped = stop_signal()
    async with serving(options) as mock:
        print(mock.describe(), flush=True)
        await stopped.wait()


async def _listen(runner: web.AppRunner, host: str, port: int, tls: ssl.SSLContext | None) -> int:
    try:
        await web.TCPSite(runner, host, port, ssl_context=tls).start()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise FatalError(f"port {port} on {host} is in use: stop the other program or choose --port") from error
        raise FatalError(f"cannot listen on {host}:{port}: {error}") from error
    address = runner.addresses[0]
    return int(address[1])


def _tls(options: MockOptions) -> ssl.SSLContext | None:
    if options.tls_certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(options.tls_certificate, options.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise FatalError(f"--tls-certificate {options.tls_certificate}: cannot be used ({error})") from error
    return context


async def _keep_clock(provider: Provider) -> None:
    while True:
        provider.clock_file.save(provider.clock.now() + _SAVE_AHEAD_S * provider.clock.rate)
        await asyncio.sleep(_SAVE_EVERY_S)
