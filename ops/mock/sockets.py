"""The protocol of the provider's WebSockets: greeting, authentication, subscriptions, and a new one for an old one.

What is sent beside answers is the business of whoever serves: a simulated market or a recording.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

import orjson
from aiohttp import WSMsgType, web

from ops.mock import census
from ops.mock.census import Census
from ops.mock.connection import Connection
from ops.mock.scenario import Fault

OPTIONS = "options"
INDICES = "indices"

QUOTE_LIMIT = 1000  # option contracts on Q per connection
LOWERED_QUOTE_LIMIT = 100
STATE_PATH = "/mock/state"  # not the provider's: what clients do, counted for tests

_TOPICS = {OPTIONS: frozenset({"Q", "T", "A", "AM", "FMV"}), INDICES: frozenset({"V", "A", "AM"})}
_AUTH_TIMEOUT_S = 2.0
_LIMIT_REACHED = "Subscription limit reached for feed. Please remove some subscriptions and try again."


class Rules(Protocol):
    """What a provider lets clients do."""

    @property
    def max_connections(self) -> int:
        """Of one key in one cluster."""
        ...

    def accepts(self, key: str) -> bool:
        """Whether this API key is good."""
        ...

    def refuses_sockets(self) -> bool:
        """Whether connections are aborted."""
        ...

    def suffers(self, fault: Fault) -> bool:
        """Whether this fault lasts now."""
        ...

    def lists(self, ticker: str) -> bool:
        """Whether there is such an option contract."""
        ...


class Sockets:
    """All connections of a provider. `on_change` is called when a subscription or a connection came or went."""

    def __init__(self, rules: Rules, on_change: Callable[[], None] = lambda: None) -> None:
        self.census = Census()
        self.connections: list[Connection] = []  # authenticated ones, oldest first
        self._rules = rules
        self._on_change = on_change
        self._farewells: set[asyncio.Task[None]] = set()

    def add_routes(self, app: web.Application) -> None:
        """Serve `/options`, `/indices` and the census from this app."""

        async def options(request: web.Request) -> web.StreamResponse:
            return await self.serve(request, OPTIONS)

        async def indices(request: web.Request) -> web.StreamResponse:
            return await self.serve(request, INDICES)

        async def state(_: web.Request) -> web.Response:
            return web.json_response(self.census.as_json(self.connections))

        app.router.add_get(f"/{OPTIONS}", options)
        app.router.add_get(f"/{INDICES}", indices)
        app.router.add_get(STATE_PATH, state)

    def of(self, cluster: str) -> list[Connection]:
        """The authenticated connections of one cluster, oldest first."""
        return [connection for connection in self.connections if connection.cluster == cluster]

    def evict(self, connection: Connection) -> None:
        """End a connection because another one takes its place."""
        self.census.evicted += 1
        self.dismiss(connection, connection.evict())

    def dismiss(self, connection: Connection, farewell: Coroutine[Any, Any, None]) -> None:
        """Forget a connection and end it in its own time."""
        self.forget(connection)
        task = asyncio.create_task(farewell)
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)

    def forget(self, connection: Connection) -> None:
        """Send it no events any more."""
        if connection in self.connections:
            self.connections.remove(connection)
            self._on_change()

    # --- one connection

    async def serve(self, request: web.Request, cluster: str) -> web.StreamResponse:
        """One connection from its greeting to its end."""
        transport = request.transport
        assert transport is not None
        if self._rules.refuses_sockets():
            transport.abort()
            return web.Response(status=503)  # nobody reads it
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        connection = Connection(socket, transport, cluster, request.headers.get("User-Agent", ""))
        self.census.opened(connection)
        writer = asyncio.create_task(connection.write())
        connection.send_status(("connected", "Connected Successfully"))
        try:
            async for message in socket:
                if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    await self._receive(connection, message.data)
        finally:
            writer.cancel()
            self.census.closed(connection)
            self.forget(connection)
        return socket

    async def _receive(self, connection: Connection, data: str | bytes) -> None:
        action, params = _command(data)
        if action == "auth":
            await self._authenticate(connection, params)
        elif action not in ("subscribe", "unsubscribe"):
            connection.send_status(("error", "unknown action"))
        elif connection.key is None:
            connection.send_status(("auth_required", "authentication required"))
        elif action == "subscribe":
            self._subscribe(connection, self._known_pairs(connection, params))
        else:
            self._unsubscribe(connection, self._known_pairs(connection, params))

    async def _authenticate(self, connection: Connection, key: str) -> None:
        if self._rules.suffers(Fault.AUTH_TIMEOUT):
            await asyncio.sleep(_AUTH_TIMEOUT_S)
            await connection.end("auth_timeout", "authentication timed out")
            return
        if not self._rules.accepts(key):
            await connection.end("auth_failed", "authentication failed")
            return
        connection.send_status(("auth_success", "authenticated"))
        if connection.key is not None:
            return
        connection.key = key
        self.census.authenticated(connection, key)
        self.connections.append(connection)
        same = (key, connection.cluster)
        rivals = [other for other in self.connections if (other.key, other.cluster) == same]
        for older in rivals[: -self._rules.max_connections]:
            self.evict(older)

    def _known_pairs(self, connection: Connection, params: str) -> list[str]:
        """The distinct `topic.ticker` pairs of a frame; those of unknown topics are passed over without a word."""
        topics = _TOPICS[connection.cluster]
        if self._rules.suffers(Fault.UNKNOWN_TOPIC):
            topics -= {"Q"}
        pairs = dict.fromkeys(pair.strip() for pair in params.split(","))
        # there is no wildcard on Q
        known = [pair for pair in pairs if pair.partition(".")[0] in topics and "." in pair and pair != "Q.*"]
        self.census.subscriptions[census.IGNORED] += len(pairs) - len(known)
        return known

    def _subscribe(self, connection: Connection, pairs: list[str]) -> None:
        """Acknowledge each new pair; a frame that would cross the quote limit is refused whole."""
        new = [pair for pair in pairs if pair not in connection.pairs]
        quotes = [pair[2:] for pair in new if pair.startswith("Q.")]
        limit = LOWERED_QUOTE_LIMIT if self._rules.suffers(Fault.OVER_LIMIT) else QUOTE_LIMIT
        if len(connection.quotes) + len(quotes) > limit:
            self.census.subscriptions[census.REFUSED] += len(quotes)
            connection.send_status(*[("error", _LIMIT_REACHED) for _ in quotes])
            return
        self._count(connection, pairs, new)
        connection.pairs.update(new)
        connection.quotes.update(quotes)
        connection.send_status(*[("success", f"subscribed to: {pair}") for pair in new])
        self._on_change()

    def _unsubscribe(self, connection: Connection, pairs: list[str]) -> None:
        held = [pair for pair in pairs if pair in connection.pairs]
        self.census.subscriptions[census.NOT_HELD] += len(pairs) - len(held)
        connection.pairs.difference_update(held)
        connection.quotes.difference_update(pair[2:] for pair in held if pair.startswith("Q."))
        connection.send_status(*[("success", f"unsubscribed to: {pair}") for pair in held])
        self._on_change()

    def _count(self, connection: Connection, pairs: Sequence[str], new: Sequence[str]) -> None:
        same = (connection.key, connection.cluster)
        others = [
            other.pairs for other in self.connections if other is not connection and (other.key, other.cluster) == same
        ]
        counts = self.census.subscriptions
        counts[census.REPEATED] += len(pairs) - len(new)
        counts[census.DOUBLED] += sum(any(pair in held for held in others) for pair in new)
        if connection.cluster == OPTIONS:
            tickers = [pair.partition(".")[2] for pair in new]
            counts[census.UNLISTED] += sum(not self._rules.lists(ticker) for ticker in tickers if ticker != "*")


def _command(data: str | bytes) -> tuple[str, str]:
    """Action and parameters of a client frame; empty when it is none."""
    try:
        message: Any = orjson.loads(data)
    except orjson.JSONDecodeError:
        return "", ""
    if not isinstance(message, dict):
        return "", ""
    return str(message.get("action", "")), str(message.get("params", ""))
