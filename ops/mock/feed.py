"""The provider's WebSocket feed: the protocol of its connections, and the task that paces events to all of them.

A connection gets events of what it subscribed to; a slow reader loses its connection and never holds up another.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from typing import Any

import orjson
from aiohttp import WSMsgType, web

from ops.mock import census
from ops.mock.activity import WINDOW_MS, Activity, fair_values
from ops.mock.census import Census
from ops.mock.connection import Connection
from ops.mock.disorder import Disorder
from ops.mock.market import Event, encode_frames
from ops.mock.provider import Provider
from ops.mock.scenario import Fault

OPTIONS = "options"
INDICES = "indices"

QUOTE_LIMIT = 1000  # option contracts on Q per connection
LOWERED_QUOTE_LIMIT = 100
_TOPICS = {OPTIONS: frozenset({"Q", "T", "A", "AM", "FMV"}), INDICES: frozenset({"V", "A", "AM"})}

_TICK_S = 0.01
_LONGEST_WAIT_S = 0.1  # for a frame to fill
_CATCH_UP_S = 0.25  # of events, after the loop was held up
_INDEX_EVERY_S = 1.0
_RIVAL_AFTER_S = 1.0  # another process with the same key connects again so soon
_AUTH_TIMEOUT_S = 2.0

_LIMIT_REACHED = "Subscription limit reached for feed. Please remove some subscriptions and try again."


class _Pace:
    """How many events are due: whole frames, or what there is once a frame takes too long to fill."""

    def __init__(self, rate: float, frame_events: int, now: float) -> None:
        self._rate = rate
        self._frame_events = frame_events
        self._paid_until = now

    def due(self, now: float) -> int:
        """Events to send at `now` (local seconds); what is left of a frame stays owed."""
        waited_s = now - self._paid_until
        owed = min(waited_s * self._rate, max(_CATCH_UP_S * self._rate, 1.0))
        count = int(owed) // self._frame_events * self._frame_events
        if count == 0 and waited_s >= _LONGEST_WAIT_S:
            count = int(owed)
        if count:
            self._paid_until = now - (owed - count) / self._rate
        return count


class Feed:
    """All connections of a provider. `run` paces events to them until cancelled."""

    def __init__(self, provider: Provider) -> None:
        self.census = Census()
        self._provider = provider
        self._connections: list[Connection] = []  # authenticated ones, oldest first
        self._held: list[Connection] = []  # as slow consumers
        self._farewells: set[asyncio.Task[None]] = set()
        self._topics: frozenset[str] = frozenset()  # subscribed to by anybody, options
        self._activity = Activity(provider.market, provider.options.seed)
        self._disorder = Disorder(provider.options.seed)

    @property
    def connections(self) -> Sequence[Connection]:
        """The authenticated connections, oldest first."""
        return self._connections

    # --- one connection

    async def serve(self, request: web.Request, cluster: str) -> web.StreamResponse:
        """One connection from its greeting to its end."""
        transport = request.transport
        assert transport is not None
        if self._provider.refuses_sockets():
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
            self._forget(connection)
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
        if self._provider.suffers(Fault.AUTH_TIMEOUT):
            await asyncio.sleep(_AUTH_TIMEOUT_S)
            await connection.end("auth_timeout", "authentication timed out")
            return
        if not self._provider.accepts(key):
            await connection.end("auth_failed", "authentication failed")
            return
        connection.send_status(("auth_success", "authenticated"))
        if connection.key is not None:
            return
        connection.key = key
        self.census.authenticated(connection, key)
        self._connections.append(connection)
        same = (key, connection.cluster)
        rivals = [other for other in self._connections if (other.key, other.cluster) == same]
        for older in rivals[: -self._provider.options.max_connections]:
            self._evict(older)

    def _known_pairs(self, connection: Connection, params: str) -> list[str]:
        """The distinct `topic.ticker` pairs of a frame; those of unknown topics are passed over without a word."""
        topics = _TOPICS[connection.cluster]
        if self._provider.suffers(Fault.UNKNOWN_TOPIC):
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
        limit = LOWERED_QUOTE_LIMIT if self._provider.suffers(Fault.OVER_LIMIT) else QUOTE_LIMIT
        if len(connection.quotes) + len(quotes) > limit:
            self.census.subscriptions[census.REFUSED] += len(quotes)
            connection.send_status(*[("error", _LIMIT_REACHED) for _ in quotes])
            return
        self._count(connection, pairs, new)
        connection.pairs.update(new)
        connection.quotes.update(quotes)
        connection.send_status(*[("success", f"subscribed to: {pair}") for pair in new])
        self._watch()

    def _unsubscribe(self, connection: Connection, pairs: list[str]) -> None:
        held = [pair for pair in pairs if pair in connection.pairs]
        self.census.subscriptions[census.NOT_HELD] += len(pairs) - len(held)
        connection.pairs.difference_update(held)
        connection.quotes.difference_update(pair[2:] for pair in held if pair.startswith("Q."))
        connection.send_status(*[("success", f"unsubscribed to: {pair}") for pair in held])
        self._watch()

    def _count(self, connection: Connection, pairs: Sequence[str], new: Sequence[str]) -> None:
        listed = self._provider.market.listing.row_of
        same = (connection.key, connection.cluster)
        others = [
            other.pairs for other in self._connections if other is not connection and (other.key, other.cluster) == same
        ]
        counts = self.census.subscriptions
        counts[census.REPEATED] += len(pairs) - len(new)
        counts[census.DOUBLED] += sum(any(pair in held for held in others) for pair in new)
        if connection.cluster == OPTIONS:
            counts[census.UNLISTED] += sum(pair.partition(".")[2] not in listed and pair[-1] != "*" for pair in new)

    # --- events

    async def run(self) -> None:
        """Send index values once a second and option events at the given rate; act what goes wrong."""
        options = self._provider.options
        pace = _Pace(options.rate, options.frame_events, time.monotonic())
        index_at = time.monotonic()
        while True:
            await asyncio.sleep(_TICK_S)
            self._suffer()
            ts_ms = int(self._provider.refresh() * 1000)
            now = time.monotonic()
            if now - index_at >= _INDEX_EVERY_S:
                index_at = now
                self._send_indices(ts_ms)
            count = pace.due(now)
            if not self._provider.suffers(Fault.SILENCE):
                self._send_options(ts_ms, count)

    def _send_options(self, ts_ms: int, count: int) -> None:
        quotes = self._provider.market.quote_events(ts_ms, count) if count and self._topics else []
        self._send_quotes(self._disordered(quotes))
        if self._topics - {"Q"}:
            self._send_activity(ts_ms, quotes)

    def _send_quotes(self, events: Sequence[Event]) -> None:
        holders = [connection for connection in self._connections if connection.quotes] if events else []
        everything = len(holders) == 1 and self._topics == {"Q"}
        for connection in holders:
            own = events if everything else [event for event in events if event["sym"] in connection.quotes]
            self._send(connection, own)

    def _send_activity(self, ts_ms: int, quotes: Sequence[Event]) -> None:
        """Trades, aggregates and fair values of what is subscribed to on those topics."""
        events = [event for topic in WINDOW_MS for event in self._activity.aggregates(topic, ts_ms)]
        events += [*self._activity.trades(quotes), *fair_values(quotes)]
        for connection in self._connections:
            if connection.cluster == OPTIONS:
                self._send(connection, [event for event in events if _holds(connection, event)])

    def _send_indices(self, ts_ms: int) -> None:
        if self._provider.market.still:
            return
        events = self._provider.market.index_events(ts_ms)
        for connection in self._connections:
            own = [event for event in events if {f"V.{event['T']}", "V.*"} & connection.pairs]
            if own:
                connection.send(orjson.dumps(own))

    def _send(self, connection: Connection, events: Sequence[Event]) -> None:
        for frame in encode_frames(events, self._provider.options.frame_events):
            connection.send(frame)

    def _disordered(self, quotes: Sequence[Event]) -> Sequence[Event]:
        if self._provider.suffers(Fault.LATE_AND_DUPLICATE):
            return self._disorder.mixed(quotes, time.monotonic())
        late = self._disorder.rest()
        return [*quotes, *late] if late else quotes

    # --- what goes wrong

    def _suffer(self) -> None:
        """Do to connections what the scenario says."""
        provider = self._provider
        if provider.refuses_sockets() or provider.begins(Fault.ABORT):
            for connection in list(self._connections):
                connection.abort()
                self._forget(connection)
        if provider.begins(Fault.CLOSE_1000):
            for connection in list(self._connections):
                self._dismiss(connection, connection.close())
        if provider.begins(Fault.STALL):
            for connection in self._connections:
                connection.stall()
        if provider.suffers(Fault.EVICT_OLDEST):
            for connection in [one for one in self._connections if one.age_s >= _RIVAL_AFTER_S]:
                self._evict(connection)
        self._hold_back()

    def _hold_back(self) -> None:
        """Slow consumers get nothing while it lasts, then everything late, then their end."""
        if self._provider.begins(Fault.SLOW_CONSUMER):
            self._held = [one for one in self._connections if one.cluster == OPTIONS]
            for connection in self._held:
                connection.hold()
        if self._held and not self._provider.suffers(Fault.SLOW_CONSUMER):
            held, self._held = self._held, []
            for connection in held:
                self._dismiss(connection, connection.end_slow())

    def _evict(self, connection: Connection) -> None:
        self.census.evicted += 1
        self._dismiss(connection, connection.evict())

    def _dismiss(self, connection: Connection, farewell: Coroutine[Any, Any, None]) -> None:
        """Forget a connection and end it in its own time."""
        self._forget(connection)
        task = asyncio.create_task(farewell)
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)

    def _forget(self, connection: Connection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
            self._watch()

    def _watch(self) -> None:
        """Only subscribed contracts quote, so the rate is what clients receive."""
        pairs = [pair.partition(".") for one in self._connections if one.cluster == OPTIONS for pair in one.pairs]
        tickers = {ticker for _, _, ticker in pairs}
        self._topics = frozenset(topic for topic, _, _ in pairs)
        self._provider.market.watch(None if "*" in tickers else tickers)


FEED = web.AppKey("feed", Feed)

STATE_PATH = "/mock/state"  # not the provider's: what clients do, counted for tests


def add_routes(app: web.Application) -> None:
    """Serve `/options` and `/indices` from this app."""
    app.router.add_get(f"/{OPTIONS}", _options)
    app.router.add_get(f"/{INDICES}", _indices)
    app.router.add_get(STATE_PATH, _state)


async def _options(request: web.Request) -> web.StreamResponse:
    return await request.app[FEED].serve(request, OPTIONS)


async def _indices(request: web.Request) -> web.StreamResponse:
    return await request.app[FEED].serve(request, INDICES)


async def _state(request: web.Request) -> web.Response:
    feed = request.app[FEED]
    return web.json_response(feed.census.as_json(feed.connections))


def _command(data: str | bytes) -> tuple[str, str]:
    """Action and parameters of a client frame; empty when it is none."""
    try:
        message: Any = orjson.loads(data)
    except orjson.JSONDecodeError:
        return "", ""
    if not isinstance(message, dict):
        return "", ""
    return str(message.get("action", "")), str(message.get("params", ""))


def _holds(connection: Connection, event: Event) -> bool:
    return f"{event['ev']}.{event['sym']}" in connection.pairs or f"{event['ev']}.*" in connection.pairs
