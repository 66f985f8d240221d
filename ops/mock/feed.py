"""The market on the wire: the task that paces events to all connections, and does to them what a scenario says.

A connection gets events of what it subscribed to; a slow reader loses its connection and never holds up another.
"""

from __future__ import annotations

import time
from asyncio import sleep
from collections.abc import Sequence

import orjson
from aiohttp import web

from ops.mock.activity import WINDOW_MS, Activity, IndexBars, fair_values
from ops.mock.census import Census
from ops.mock.connection import Connection
from ops.mock.disorder import Disorder
from ops.mock.market import Event, encode_frames
from ops.mock.provider import Provider
from ops.mock.scenario import Fault
from ops.mock.sockets import INDICES, OPTIONS, Sockets

_TICK_S = 0.01
_LONGEST_WAIT_S = 0.1  # for a frame to fill
_CATCH_UP_S = 0.25  # of events, after the loop was held up
_INDEX_EVERY_S = 1.0
_RIVAL_AFTER_S = 1.0  # another process with the same key connects again so soon


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
    """The feed of a provider. `run` paces events to its connections until cancelled."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._sockets = Sockets(provider, self._watch)
        self._held: list[Connection] = []  # as slow consumers
        self._topics: frozenset[str] = frozenset()  # subscribed to by anybody, options
        self._activity = Activity(provider.market, provider.options.seed)
        self._index_bars = IndexBars(provider.market)
        self._disorder = Disorder(provider.options.seed)

    @property
    def census(self) -> Census:
        """What its clients do."""
        return self._sockets.census

    def add_routes(self, app: web.Application) -> None:
        """Serve the sockets from this app."""
        self._sockets.add_routes(app)

    # --- events

    async def run(self) -> None:
        """Send index values once a second and option events at the given rate; act what goes wrong."""
        options = self._provider.options
        pace = _Pace(options.rate, options.frame_events, time.monotonic())
        index_at = time.monotonic()
        while True:
            await sleep(_TICK_S)
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
        holders = [connection for connection in self._sockets.connections if connection.quotes] if events else []
        everything = len(holders) == 1 and self._topics == {"Q"}
        for connection in holders:
            own = events if everything else [event for event in events if event["sym"] in connection.quotes]
            self._send(connection, own)

    def _send_activity(self, ts_ms: int, quotes: Sequence[Event]) -> None:
        """Trades, aggregates and fair values of what is subscribed to on those topics."""
        events = [event for topic in WINDOW_MS for event in self._activity.aggregates(topic, ts_ms)]
        events += [*self._activity.trades(quotes), *fair_values(quotes)]
        for connection in self._sockets.of(OPTIONS):
            self._send(connection, [event for event in events if _holds(connection, event)])

    def _send_indices(self, ts_ms: int) -> None:
        if self._provider.market.still:
            return
        values = self._provider.market.index_events(ts_ms)
        events = [*values, *self._index_bars.take(values)]
        for connection in self._sockets.of(INDICES):
            own = [event for event in events if _holds(connection, event)]
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
            for connection in list(self._sockets.connections):
                connection.abort()
                self._sockets.forget(connection)
        if provider.begins(Fault.CLOSE_1000):
            for connection in list(self._sockets.connections):
                self._sockets.dismiss(connection, connection.close())
        if provider.begins(Fault.STALL):
            for connection in self._sockets.connections:
                connection.stall()
        if provider.suffers(Fault.EVICT_OLDEST):
            for connection in [one for one in self._sockets.connections if one.age_s >= _RIVAL_AFTER_S]:
                self._sockets.evict(connection)
        self._hold_back()

    def _hold_back(self) -> None:
        """Slow consumers get nothing while it lasts, then everything late, then their end."""
        if self._provider.begins(Fault.SLOW_CONSUMER):
            self._held = self._sockets.of(OPTIONS)
            for connection in self._held:
                connection.hold()
        if self._held and not self._provider.suffers(Fault.SLOW_CONSUMER):
            held, self._held = self._held, []
            for connection in held:
                self._sockets.dismiss(connection, connection.end_slow())

    def _watch(self) -> None:
        """Only subscribed contracts quote, so the rate is what clients receive."""
        pairs = [pair.partition(".") for one in self._sockets.of(OPTIONS) for pair in one.pairs]
        tickers = {ticker for _, _, ticker in pairs}
        self._topics = frozenset(topic for topic, _, _ in pairs)
        self._provider.market.watch(None if "*" in tickers else tickers)


def _holds(connection: Connection, event: Event) -> bool:
    ticker = event.get("sym") or event["T"]
    return f"{event['ev']}.{ticker}" in connection.pairs or f"{event['ev']}.*" in connection.pairs
