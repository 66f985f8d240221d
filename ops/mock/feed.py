"""The provider's WebSocket feed: the protocol of one connection, and the task that paces events to all.

A connection gets events of what it subscribed to, through a bounded outbox that its own task empties: a slow
reader loses its connection and never holds up another.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import orjson
from aiohttp import WSMsgType, web

from ops.mock.market import Event, encode_frames
from ops.mock.provider import Provider
from ops.mock.scenario import Fault

OPTIONS = "options"
INDICES = "indices"

QUOTE_LIMIT = 1000  # option contracts on Q per connection
_TOPICS = {OPTIONS: frozenset({"Q", "T", "A", "AM", "FMV"}), INDICES: frozenset({"V", "A", "AM"})}

_TICK_S = 0.01
_LONGEST_WAIT_S = 0.1  # for a frame to fill
_CATCH_UP_S = 0.25  # of events, after the loop was held up
_INDEX_EVERY_S = 1.0
_OUTBOX_FRAMES = 4096
_STATUSES_PER_FRAME = 500
_GOODBYE_S = 1.0

_POLICY_VIOLATION = 1008
_LIMIT_REACHED = "Subscription limit reached for feed. Please remove some subscriptions and try again."
_EVICTED = (
    "Maximum number of websocket connections exceeded. You have reached the connection limit for your "
    "account. Please contact support at https://polygon.io/contact to increase your limit."
)


class Connection:
    """One client's socket: its key, its subscriptions and what waits to be sent to it."""

    def __init__(self, socket: web.WebSocketResponse, transport: asyncio.Transport, cluster: str) -> None:
        self.cluster = cluster
        self.key: str | None = None
        self.pairs: set[str] = set()  # topic.ticker, as acknowledged
        self.quotes: set[str] = set()  # tickers held on Q
        self._socket = socket
        self._transport = transport
        self._outbox: asyncio.Queue[bytes] = asyncio.Queue(_OUTBOX_FRAMES)
        self._overdue = False

    async def write(self) -> None:
        """Send what waits, for as long as the socket lives."""
        with suppress(ConnectionError):
            while True:
                frame = await self._outbox.get()
                await self._socket.send_frame(frame, WSMsgType.TEXT)
                self._outbox.task_done()

    def send(self, frame: bytes) -> None:
        """Queue a frame; a connection whose outbox is full is dropped as a slow consumer."""
        if self._overdue:
            return
        try:
            self._outbox.put_nowait(frame)
        except asyncio.QueueFull:
            self._overdue = True
            self._drop_slow()

    def send_status(self, *statuses: tuple[str, str]) -> None:
        """Queue status events (status, message), several to a frame."""
        for frame in encode_frames([_status(*status) for status in statuses], _STATUSES_PER_FRAME):
            self.send(frame)

    async def flush(self) -> None:
        """Wait until everything queued is sent, but not for a client that does not read."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE_S):
                await self._outbox.join()

    async def evict(self) -> None:
        """Tell the client that a newer connection took its place, and close."""
        self.send_status(("max_connections", _EVICTED))
        await self.flush()
        await self._socket.close(code=_POLICY_VIOLATION, message=b"max_connections")

    def hang_up(self) -> None:
        """End the TCP connection after what is sent, without a close frame, as the provider does."""
        self._transport.close()

    def abort(self) -> None:
        """End the TCP connection at once."""
        self._transport.abort()

    def _drop_slow(self) -> None:
        # The client may still read what the socket holds; then the end comes without a close frame.
        self._transport.close()
        asyncio.get_running_loop().call_later(_GOODBYE_S, self._transport.abort)


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
        self._provider = provider
        self._connections: list[Connection] = []  # oldest first
        self._evictions: set[asyncio.Task[None]] = set()

    async def serve(self, request: web.Request, cluster: str) -> web.StreamResponse:
        """One connection from its greeting to its end."""
        transport = request.transport
        assert transport is not None
        if self._provider.refuses_sockets():
            transport.abort()
            return web.Response(status=503)  # nobody reads it
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        connection = Connection(socket, transport, cluster)
        writer = asyncio.create_task(connection.write())
        connection.send_status(("connected", "Connected Successfully"))
        try:
            async for message in socket:
                if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    await self._receive(connection, message.data)
        finally:
            writer.cancel()
            self._forget(connection)
        return socket

    async def run(self) -> None:
        """Send index values once a second and option quotes at the given rate."""
        options = self._provider.options
        pace = _Pace(options.rate, options.frame_events, time.monotonic())
        index_at = time.monotonic()
        while True:
            await asyncio.sleep(_TICK_S)
            if self._provider.refuses_sockets():
                self._abort_all()
            ts_ms = int(self._provider.refresh() * 1000)
            now = time.monotonic()
            if now - index_at >= _INDEX_EVERY_S:
                index_at = now
                self._send_indices(ts_ms)
            count = pace.due(now)
            if count and not self._provider.suffers(Fault.SILENCE):
                self._send_quotes(ts_ms, count)

    def _send_quotes(self, ts_ms: int, count: int) -> None:
        holders = [connection for connection in self._connections if connection.quotes]
        if not holders:
            return
        events = self._provider.market.quote_events(ts_ms, count)
        for connection in holders:
            own = events if len(holders) == 1 else _held(events, connection.quotes)
            for frame in encode_frames(own, self._provider.options.frame_events):
                connection.send(frame)

    def _send_indices(self, ts_ms: int) -> None:
        if self._provider.market.still:
            return
        events = self._provider.market.index_events(ts_ms)
        for connection in self._connections:
            own = [event for event in events if {f"V.{event['T']}", "V.*"} & connection.pairs]
            if own:
                connection.send(orjson.dumps(own))

    async def _receive(self, connection: Connection, data: str | bytes) -> None:
        action, params = _command(data)
        if action == "auth":
            await self._authenticate(connection, params)
        elif action not in ("subscribe", "unsubscribe"):
            connection.send_status(("error", "unknown action"))
        elif connection.key is None:
            connection.send_status(("auth_required", "authentication required"))
        elif action == "subscribe":
            self._subscribe(connection, _pairs(params, connection.cluster))
        else:
            self._unsubscribe(connection, _pairs(params, connection.cluster))

    async def _authenticate(self, connection: Connection, key: str) -> None:
        if not self._provider.accepts(key):
            connection.send_status(("auth_failed", "authentication failed"))
            await connection.flush()
            connection.hang_up()
            return
        connection.send_status(("auth_success", "authenticated"))
        if connection.key is not None:
            return
        connection.key = key
        self._connections.append(connection)
        same = (key, connection.cluster)
        rivals = [other for other in self._connections if (other.key, other.cluster) == same]
        for older in rivals[: -self._provider.options.max_connections]:
            self._forget(older)
            task = asyncio.create_task(older.evict())
            self._evictions.add(task)
            task.add_done_callback(self._evictions.discard)

    def _subscribe(self, connection: Connection, pairs: list[str]) -> None:
        """Acknowledge each new pair; a frame that would cross the quote limit is refused whole."""
        new = [pair for pair in pairs if pair not in connection.pairs]
        quotes = [pair[2:] for pair in new if pair.startswith("Q.")]
        if len(connection.quotes) + len(quotes) > QUOTE_LIMIT:
            connection.send_status(*[("error", _LIMIT_REACHED) for _ in quotes])
            return
        connection.pairs.update(new)
        connection.quotes.update(quotes)
        connection.send_status(*[("success", f"subscribed to: {pair}") for pair in new])
        self._watch()

    def _unsubscribe(self, connection: Connection, pairs: list[str]) -> None:
        held = [pair for pair in pairs if pair in connection.pairs]
        connection.pairs.difference_update(held)
        connection.quotes.difference_update(pair[2:] for pair in held if pair.startswith("Q."))
        connection.send_status(*[("success", f"unsubscribed to: {pair}") for pair in held])
        self._watch()

    def _forget(self, connection: Connection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
            self._watch()

    def _abort_all(self) -> None:
        for connection in list(self._connections):
            connection.abort()
            self._forget(connection)

    def _watch(self) -> None:
        """Only subscribed contracts quote, so the rate is what clients receive."""
        quotes = (connection.quotes for connection in self._connections)
        self._provider.market.watch(set[str]().union(*quotes))


FEED = web.AppKey("feed", Feed)


def add_routes(app: web.Application) -> None:
    """Serve `/options` and `/indices` from this app."""
    app.router.add_get(f"/{OPTIONS}", _options)
    app.router.add_get(f"/{INDICES}", _indices)


async def _options(request: web.Request) -> web.StreamResponse:
    return await request.app[FEED].serve(request, OPTIONS)


async def _indices(request: web.Request) -> web.StreamResponse:
    return await request.app[FEED].serve(request, INDICES)


def _status(status: str, message: str) -> Event:
    return {"ev": "status", "status": status, "message": message}


def _command(data: str | bytes) -> tuple[str, str]:
    """Action and parameters of a client frame; empty when it is none."""
    try:
        message: Any = orjson.loads(data)
    except orjson.JSONDecodeError:
        return "", ""
    if not isinstance(message, dict):
        return "", ""
    return str(message.get("action", "")), str(message.get("params", ""))


def _pairs(params: str, cluster: str) -> list[str]:
    """The distinct `topic.ticker` pairs of a frame; unknown topics are ignored without a word."""
    pairs = dict.fromkeys(pair.strip() for pair in params.split(","))
    return [pair for pair in pairs if pair.partition(".")[0] in _TOPICS[cluster] and "." in pair]


def _held(events: Iterable[Event], quotes: set[str]) -> list[Event]:
    return [event for event in events if event["sym"] in quotes]
