"""One reader per symbol follows its published stream; every client of the symbol is fed from it.

A client is either *behind* (it just came, was too slow, or the stream broke off) or follows. To catch up it gets the
entries after its `Last-Event-ID` when that is still possible, else a reset; what the reader hands out meanwhile waits
in the client's buffer, so nothing is missed and nothing comes twice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import orjson
import structlog

from consumers.clients import BLOCK_MS, connect_reader, faults_named
from consumers.runner import Backoff
from contracts.errors import TransientError
from contracts.keys import Keys
from contracts.ports import Reader
from ops.gateway.coalescing import coalesced
from ops.gateway.event import Event, View
from ops.gateway.reset import Resets
from ops.gateway.stream import FIRST, StreamId, entry_body, entry_kind, format_id, stream_id

log = structlog.get_logger("gateway")

HEARTBEAT_S = 15.0
RETRY_S = 0.25
READ_COUNT = 500
REPLAY_LIMIT = 5000  # a client that missed more gets a reset, which is smaller
BUFFER_BYTES = 16 * 2**20  # per client; the events themselves are shared by all
COALESCE_FROM = 50  # events that wait: a client this slow gets the newest of each cell instead
ALERTS_KEPT = 100  # for a client that is behind


class Client:
    """What waits to be sent to one client."""

    def __init__(self) -> None:
        self.is_behind = True
        self._after = FIRST  # entries up to this one it has already
        self._events: deque[Event] = deque()
        self._bytes = 0
        self._news = asyncio.Event()

    def push(self, event: Event) -> None:
        """Add an event; a client whose buffer is full falls behind instead. Nobody is shown an alert again, so even
        a client that is behind keeps it."""
        if self.is_behind and event.kind != "alert":
            return
        if self._events and self._bytes + len(event.body) > BUFFER_BYTES:
            self.fall_behind()
            return
        self._events.append(event)
        self._bytes += len(event.body)
        self._news.set()

    def fall_behind(self) -> None:
        """Drop what waits: the client needs a new start."""
        self._keep_alerts()
        self.is_behind = True
        self._news.set()

    def start_over(self) -> None:
        """From now on events are kept."""
        self._keep_alerts()
        self._after = FIRST
        self.is_behind = False

    def skip_to(self, entry: StreamId) -> None:
        """The client has everything up to this entry by other means."""
        self._after = entry

    async def take(self, timeout_s: float) -> list[Event]:
        """What waits, after waiting for it; empty after the timeout or when the client fell behind."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        except TimeoutError:
            return []
        self._news.clear()
        if self.is_behind:
            return []
        events = [event for event in self._events if event.id is None or event.id > self._after]
        self._events.clear()
        self._bytes = 0
        return coalesced(events) if len(events) >= COALESCE_FROM else events

    def _keep_alerts(self) -> None:
        alerts = [event for event in self._events if event.kind == "alert"][-ALERTS_KEPT:]
        self._events = deque(alerts)
        self._bytes = sum(len(event.body) for event in alerts)
        if not alerts:
            self._news.clear()


class Follower:
    """The published stream of one symbol and its clients."""

    def __init__(self, redis_url: str, client: Any, reader: Reader, keys: Keys, symbol: str) -> None:
        self.symbol = symbol
        self.is_connected = False
        self.events = 0
        self.resets = 0
        self._redis_url = redis_url
        self._client = client
        self._stream = keys.model_stream(symbol)
        self._state = keys.model_state(symbol)
        self._source = Resets(redis_url, client, reader, keys, symbol)
        self._clients: set[Client] = set()
        self._position: StreamId | None = None  # of the last entry handed out; None before the first contact
        self._order: tuple[bytes, int] | None = None  # its generation and seq
        self._told: dict[str, Event] = {}  # kind -> newest event of the gateway's own
        self._writing = asyncio.Lock()  # a reset is written down

    @property
    def client_count(self) -> int:
        """How many clients are connected."""
        return len(self._clients)

    # --- the one reader

    async def run(self, stop: asyncio.Event) -> None:
        """Follow until stopped; while the server is away clients wait."""
        backoff = Backoff()
        reader: Any = connect_reader(self._redis_url)
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
        with faults_named(self._redis_url):
            if self._position is None:
                newest = await reader.xrevrange(self._stream, "+", "-", count=1)
                self._position = stream_id(newest[0][0]) if newest else FIRST
            position = format_id(self._position)
            reply = await reader.xread({self._stream: position}, count=READ_COUNT, block=BLOCK_MS)
        for entry, fields in reply[0][1] if reply else ():
            self._hand_out(stream_id(entry), fields)

    def _hand_out(self, entry: StreamId, fields: dict[bytes, bytes]) -> None:
        event = event_of(entry, fields)
        self._position = entry
        if event is None:
            return
        order = (fields[b"generation"], event.seq)
        continues = self._order is None or order == (self._order[0], self._order[1] + 1)
        self._order = order
        self.events += 1
        for client in self._clients:
            if continues:
                client.push(event)
            else:
                client.fall_behind()  # entries are gone: trimmed while we were away, or another history

    def tell(self, event: Event) -> None:
        """Hand out an event of the gateway's own; clients that come later are greeted with the newest of its kind."""
        if event.kind != "alert":  # nobody is alerted to what is over
            self._told[event.kind] = event
        for client in self._clients:
            client.push(event)

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
        client = Client()
        self._clients.add(client)
        resume = last_event_id
        quiet_s = 0.0
        try:
            while True:
                if client.is_behind:
                    caught_up = await self._catch_up(client, resume)
                    if caught_up is not None:
                        resume, quiet_s = None, 0.0
                        yield [*caught_up, *self._told.values()]
                        continue
                    await asyncio.sleep(RETRY_S)  # nothing is published yet, or the server is away
                    quiet_s += RETRY_S
                else:
                    waiting = await client.take(HEARTBEAT_S)
                    quiet_s = 0.0 if waiting else quiet_s + HEARTBEAT_S
                    if waiting:
                        yield waiting
                if quiet_s >= HEARTBEAT_S:
                    quiet_s = 0.0
                    yield []
        finally:
            self._clients.discard(client)

    async def _catch_up(self, client: Client, resume: StreamId | None) -> list[Event] | None:
        """What brings a client up to some entry, from where its buffer goes on; None if that is not possible now."""
        if self._position is None:
            return None
        client.start_over()
        position = self._position
        try:
            missed = await self._missed(resume) if resume is not None else None
            if missed is not None:
                client.skip_to(missed[0])
                return missed[1]
            reset = await self._source.at_or_after(position)
        except TransientError:
            reset = None
        if reset is None:
            client.fall_behind()
            return None
        self.resets += 1
        client.skip_to(reset.id)
        return [reset.event, *reset.models]

    async def _missed(self, resume: StreamId) -> tuple[StreamId, list[Event]] | None:
        """The entries after `resume`; None unless it is still there, of this epoch and generation, and not long ago."""
        own = format_id(resume)
        with faults_named(self._redis_url):
            async with self._client.pipeline(transaction=True) as pipeline:
                pipeline.xrange(self._stream, own, own)
                pipeline.xrange(self._stream, f"({own}", "+", count=REPLAY_LIMIT + 1)
                pipeline.hmget(self._state, "epoch", "generation")
                known, entries, (epoch, generation) = await pipeline.execute()
        if not known or len(entries) > REPLAY_LIMIT or not _belongs(known[0][1], epoch, generation):
            return None
        events = [event_of(stream_id(entry), fields) for entry, fields in entries]
        last = stream_id(entries[-1][0]) if entries else resume
        return last, [event for event in events if event is not None]


def event_of(entry: StreamId, fields: Mapping[bytes, bytes]) -> Event | None:
    """The event of a stream entry; None for one that is not ours."""
    kind, body = entry_kind(fields), entry_body(fields)
    return Event(entry, kind, body, int(fields[b"seq"])) if kind and body is not None else None


def _belongs(fields: dict[bytes, bytes], epoch: bytes | None, generation: bytes | None) -> bool:
    try:
        named = orjson.loads(fields[b"data"])["epoch"]
    except (KeyError, TypeError, ValueError):
        return False
    return epoch is not None and named == epoch.decode() and fields.get(b"generation") == generation
