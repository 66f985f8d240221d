"""One reader per symbol follows its published stream; every client of the symbol is fed from what it read lately.

A client is a place among those events (`ops/gateway/recent.py`), so a slow one costs no memory. It begins right after
its `Last-Event-ID` when that is still possible, else with a reset and right after the entry that the reset stands at;
a client whose place is gone begins anew. Nothing is missed and nothing comes twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

import orjson
import structlog

from consumers.clients import BLOCK_MS, Commands, connect_reader, faults_named
from consumers.runner import Backoff
from contracts.errors import TransientError
from contracts.keys import Keys
from contracts.ports import Reader
from ops.gateway.coalescing import coalesced, newest_told
from ops.gateway.event import Event, View
from ops.gateway.recent import Recent
from ops.gateway.reset import Resets
from ops.gateway.stream import FIRST, StreamId, entry_body, entry_kind, format_id, stream_id

log = structlog.get_logger("gateway")

HEARTBEAT_S = 15.0
RETRY_S = 0.25
CATCH_UP_S = 5.0  # the reader is waited for so long while it says nothing: a busy gateway is no reason for a reset
READ_COUNT = 500
RECALLED = 1000  # entries that a gateway begins with: clients of the one before it go on among them
KEPT_BYTES = 16 * 2**20  # of a symbol, for all clients: who is further behind gets a reset, which is smaller
KEPT_OWN_BYTES = 2**20  # of what the gateway tells by itself
COALESCE_FROM = 50  # events that wait: a client this slow gets the newest of each cell instead
RESET_LAG = 25  # so many events may follow a reset before another one is made


class Follower:
    """The published stream of one symbol and its clients."""

    def __init__(self, commands: Commands, reader: Reader, keys: Keys, symbol: str) -> None:
        self.symbol = symbol
        self.is_connected = False
        self.client_count = 0
        self.events = 0
        self.resets = 0
        self._commands = commands
        self._stream = keys.model_stream(symbol)
        self._state = keys.model_state(symbol)
        self._source = Resets(commands, reader, keys, symbol)
        self._position: StreamId | None = None  # of the last entry read; None before the first contact
        self._order: tuple[bytes, int] | None = None  # its generation and seq
        self._opened = FIRST  # the entry that opened the epoch
        self._entries = Recent(KEPT_BYTES)
        self._own = Recent(KEPT_OWN_BYTES)
        self._told: dict[str, Event] = {}  # kind -> newest event of the gateway's own
        self._news = asyncio.Event()  # is set, and replaced, whenever there is something to send
        self._merged: tuple[object, Sequence[Event]] = (None, ())  # span of what was coalesced last, and the result
        self._writing = asyncio.Lock()  # a reset is written down

    # --- the one reader

    async def run(self, stop: asyncio.Event) -> None:
        """Follow until stopped; while the server is away clients wait."""
        backoff = Backoff()
        reader: Any = connect_reader(self._commands.url)
        try:
            while not stop.is_set():
                try:
                    await self._read(reader)
                    self.is_connected = True
                    backoff.reset()
                except TransientError as error:
                    if self.is_connected or self._position is None:
                        log.warning("waiting", symbol=self.symbol, reason=str(error))
                    self.is_connected = False
                    await backoff.wait(stop)
        finally:
            await reader.aclose()

    async def _read(self, reader: Any) -> None:
        with faults_named(self._commands.url):
            position = await self._recall(reader) if self._position is None else self._position
            reply = await reader.xread({self._stream: format_id(position)}, count=READ_COUNT, block=BLOCK_MS)
            if not reply and position > FIRST:
                newest = await reader.xrevrange(self._stream, "+", "-", count=1)
                if not newest or stream_id(newest[0][0]) < position:
                    self._position = None  # this is another history, and what comes may come before our place in it
        if reply:
            for entry, fields in reply[0][1]:
                self._keep(stream_id(entry), fields)
            self._wake()

    async def _recall(self, reader: Any) -> StreamId:
        """Begin with what was published lately."""
        newest = await reader.xrevrange(self._stream, "+", "-", count=RECALLED)
        entries = [(stream_id(entry), fields) for entry, fields in reversed(newest)]
        self._position = entries[0][0] if len(entries) == RECALLED else FIRST
        self._opened = FIRST
        self._source.forget()
        self._entries.begin(self._position)
        for entry, fields in entries:
            self._keep(entry, fields)
        self.events = 0
        self._wake()
        return self._position

    def _keep(self, entry: StreamId, fields: Mapping[bytes, bytes]) -> None:
        event = event_of(entry, fields)
        assert self._position is not None
        if event is not None and entry > self._position:
            order = (fields[b"generation"], event.seq)
            if self._order is None or order == (self._order[0], self._order[1] + 1):
                self._entries.append(event)
            else:
                self._entries.begin(entry)  # entries are gone: trimmed while we were away, or another history
            self._order = order
            self._opened = entry if event.kind == "reset" else self._opened
            self.events += 1
        self._position = entry

    def tell(self, event: Event) -> None:
        """Hand out an event of the gateway's own; clients that come later are greeted with the newest of its kind."""
        if event.kind != "alert":  # nobody is alerted to what is over
            self._told[event.kind] = event
        self._own.append(event)
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    # --- clients

    async def render(self, event: Event, view: View) -> bytes | None:
        """The bytes of an event in a view. What takes long is done beside the loop, once for all who want it."""
        if event.is_rendered(view):
            return event.render(view)
        if event.kind == "reset":
            async with self._writing:
                return event.render(view) if event.is_rendered(view) else await asyncio.to_thread(event.render, view)
        if event.kind == "diff" and view.strategies is not None:
            return event.render(view, await self._source.layout(orjson.loads(event.body)["epoch"]))
        return event.render(view)

    async def stream(self, last_event_id: StreamId | None) -> AsyncGenerator[list[Event], None]:
        """Everything one client is sent, for as long as it listens; an empty list is a sign of life."""
        place: int | None = None
        resume = last_event_id
        greeting, told = list(self._told.values()), self._own.end
        quiet_s = 0.0
        self.client_count += 1
        try:
            while True:
                events: list[Event] = []
                if place is None or not self._entries.has(place):
                    place = None
                    start = await self._start(resume)
                    if start is not None:
                        place, events = start
                        resume = None
                if place is not None:
                    events += [*self._few(self._entries.since(place)), *greeting, *newest_told(self._own.since(told))]
                    place, told, greeting = self._entries.end, self._own.end, []
                if events:
                    quiet_s = 0.0
                    yield events
                    continue
                wait_s = RETRY_S if place is None else HEARTBEAT_S
                quiet_s += 0.0 if await self._heard(wait_s) else wait_s
                if quiet_s >= HEARTBEAT_S:
                    quiet_s = 0.0
                    yield []
        finally:
            self.client_count -= 1

    async def _heard(self, timeout_s: float) -> bool:
        """Whether there is something new within so many seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._news.wait()
        except TimeoutError:
            return False

    def _few(self, events: Sequence[Event]) -> Sequence[Event]:
        """Where many events wait, fewer with the same effect, made once for all clients for whom the same wait."""
        if len(events) < COALESCE_FROM:
            return events
        span = (events[0].id, events[-1].id)
        if self._merged[0] != span:
            self._merged = (span, coalesced(events))
        return self._merged[1]

    async def _start(self, resume: StreamId | None) -> tuple[int, list[Event]] | None:
        """The place where a client begins, and what brings it there: every event after `resume`, where that is still
        possible, else a reset. None: not now."""
        try:
            place = await self._place_of(resume) if resume is not None else None
            if place is not None:
                return self._entries.end, list(self._entries.since(place))
            reset = await self._source.at_or_after(max(self._opened, self._entries.back(RESET_LAG)))
        except TransientError:
            return None
        if reset is None or not await self._has_read(lambda: self._position is not None and self._position >= reset.id):
            return None
        place = self._entries.place_after(reset.id)
        if place is None:
            return None
        self.resets += 1
        return place, [reset.event, *reset.models]

    async def _place_of(self, resume: StreamId) -> int | None:
        """The place of a client that had everything up to an entry, once all that it missed is read; None unless the
        entry is still there, of this epoch and generation, and what follows it is kept."""
        known, (epoch, generation, seq) = await self._commands.ask(self._known(format_id(resume)))
        if not known or not _belongs(known[0][1], epoch, generation):
            return None
        newest = (generation, int(seq or 0))
        if not await self._has_read(lambda: self._order is not None and self._order >= newest):
            return None
        return self._entries.place_after(resume)

    async def _known(self, entry: str) -> Any:
        async with self._commands.client.pipeline(transaction=True) as pipeline:
            pipeline.xrange(self._stream, entry, entry)
            pipeline.hmget(self._state, "epoch", "generation", "seq")
            return await pipeline.execute()

    async def _has_read(self, enough: Callable[[], bool]) -> bool:
        """Whether the reader has come so far; waits while it goes on."""
        while not enough():
            if not await self._heard(CATCH_UP_S):
                return False
        return True


def event_of(entry: StreamId, fields: Mapping[bytes, bytes]) -> Event | None:
    """The event of a stream entry; None for one that is not ours."""
    kind, body = entry_kind(fields), entry_body(fields)
    return Event(entry, kind, body, int(fields[b"seq"])) if kind and body is not None else None


def _belongs(fields: Mapping[bytes, bytes], epoch: bytes | None, generation: bytes | None) -> bool:
    try:
        named = orjson.loads(fields[b"data"])["epoch"]
    except (KeyError, TypeError, ValueError):
        return False
    return epoch is not None and named == epoch.decode() and fields.get(b"generation") == generation
