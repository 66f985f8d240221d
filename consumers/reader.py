"""Read what is published: the cells of every plane as numpy arrays, kept current by the stream of diffs.

A reader first gives what is published now, then one update per entry of `massive:model:stream:{U}`. It verifies that
nothing is missing (`seq`, `generation`, `from` and `to`, the versions of ticks, `crc`) and starts from Redis again when
something is: after a promotion, a restart of the server, or an absence longer than the stream is kept, the next update
is a `reset`. While the server is away it waits.

    >>> from consumers.reader import open_surface
    >>> with open_surface(redis_url, "SPX") as reader:
    ...     surface = next(reader).surface            # what is published now
    ...     gex = surface.models["gex"]               # models are dicts, of the same epoch
    ...     plane = next(iter(surface.planes.values()))
    ...     fly = plane.grid("butterfly", "call")     # arrays [strike][width]
    >>> fly.mid2.shape == (len(fly.strikes), len(fly.widths))
    True
    >>> float(fly.dollars("mid").max()) <= float(fly.widths[-1])   # masked where there is no price
    True
    >>> list(plane.frame().columns)                   # with pandas
    ['strategy', 'side', 'strike', 'width', 'mid2', 'buy', 'sell', 'flags']

`async with SurfaceReader(redis_url, "SPX") as reader: async for update in reader: ...` is the same without a thread.
A program that was away goes on where it stopped: `since=` takes the last `Surface` it held (plain values, keep it by
pickle). One that keeps no arrays follows entries alone, from an entry id, with `EventReader`.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import orjson

from consumers.broker import Broker
from consumers.clients import BLOCK_MS, Commands, connect_reader, faults_named
from consumers.published import EMPTY_STREAM, PublishedState
from consumers.runner import Backoff
from consumers.surface import MODELS, Event, GapError, Surface, Update, fold, joined
from contracts.errors import TransientError
from contracts.keys import Keys

T = TypeVar("T")

READ_COUNT = 500
RETRY_S = 0.1
NOTHING = ("", 0)  # follows nothing


@dataclass(frozen=True, slots=True)
class Position:
    """An entry of the stream, and its place in the order of publication."""

    id: str
    generation: str
    seq: int


class EventReader:
    """The entries of one symbol's published stream, in order, each once.

    `after`: an entry id (of the last entry that was seen), or a `Position`; None starts with what comes next. Where
    entries are missing, or the stream is another one than before, comes an event of type `gap` with empty data. While
    the server is away it waits.
    """

    def __init__(
        self, redis_url: str, symbol: str, *, keys: Keys | None = None, after: Position | str | None = None
    ) -> None:
        self._url = redis_url
        self._stream = (keys or Keys()).model_stream(symbol)
        self._client: Any = connect_reader(redis_url)
        self._after = after
        self._position = ""  # id of the last entry given out; empty before the first contact
        self._order: tuple[str, int] | None = None  # its generation and seq; None: whatever comes is the next
        self._read: asyncio.Task[list[Event]] | None = None
        self._waiting: deque[Event] = deque()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._read is not None:
            self._read.cancel()
        await self._client.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._waiting:
            self._waiting.extend(await patiently(self._fetch))
        event = self._waiting[0]
        if self._order is not None and (event.generation, event.seq) != (self._order[0], self._order[1] + 1):
            self._order = None
            return Event(event.id, "gap", event.seq, event.generation, b"")
        self._position, self._order = event.id, (event.generation, event.seq)
        return self._waiting.popleft()

    def go_on(self, after: Position) -> None:
        """Go on after another entry, and forget what was read ahead."""
        self._position, self._order = after.id, (after.generation, after.seq)
        self._waiting.clear()

    async def _fetch(self) -> list[Event]:
        if self._read is None:
            self._read = asyncio.ensure_future(self._fetched())
        # who stops waiting leaves the read to the next call: a cancelled blocking read would break its connection
        try:
            return await asyncio.shield(self._read)
        finally:
            if self._read.done():
                self._read = None

    async def _fetched(self) -> list[Event]:
        with faults_named(self._url):
            if not self._position:
                await self._start()
            position = self._position
            reply = await self._client.xread({self._stream: position}, count=READ_COUNT, block=BLOCK_MS)
        if self._position != position:
            return []  # told to go on elsewhere while this was read
        entries = reply[0][1] if reply else []
        found = (Event.of(entry_id.decode(), fields) for entry_id, fields in entries)
        return [event for event in found if event is not None]

    async def _start(self) -> None:
        """After the entry that was named, else at the end of the stream."""
        if isinstance(self._after, Position):
            self.go_on(self._after)
            return
        if self._after is None:
            newest = await self._client.xrevrange(self._stream, "+", "-", count=1)
            self._position = newest[0][0].decode() if newest else EMPTY_STREAM.decode()
            return
        entries = await self._client.xrange(self._stream, self._after, self._after)
        event = Event.of(self._after, entries[0][1]) if entries else None
        self._position = self._after
        # an entry that is gone cannot be told from one that never was: what follows may have a gap before it
        self._order = (event.generation, event.seq) if event else NOTHING


class SurfaceReader:
    """The surface of one symbol after each entry of its published stream.

    The first update is a `reset` (what is published now), unless `since`, the last surface a program held, can still be
    followed from. Where entries are missing the next update is a `reset` again.
    """

    def __init__(self, redis_url: str, symbol: str, *, keys: Keys | None = None, since: Surface | None = None) -> None:
        self.symbol = symbol
        self.surface = since
        self.gaps = 0
        self._keys = keys or Keys()
        after = Position(since.entry_id, since.generation, since.seq) if since else None
        self._events = EventReader(redis_url, symbol, keys=self._keys, after=after)
        self._commands = Commands(redis_url)
        self._broker = Broker(redis_url, "reader", f"reader-{secrets.token_hex(4)}", "")
        models = {name: self._keys.model(name, symbol) for name in MODELS}
        self._published = PublishedState(self._commands, self._broker, self._keys, symbol, models)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._events.__aexit__()
        await self._commands.close()
        await self._broker.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Update:
        """The next update; may be waited for with a time limit, nothing is lost when it passes."""
        while self.surface is not None:
            event = await anext(self._events)
            if event.type == "gap":
                self._missed()
                break
            try:
                update = fold(self.surface, event, self.symbol)
            except GapError:
                self._missed()
                break
            self.surface = update.surface
            return update
        return await self._join()

    def _missed(self) -> None:
        self.surface = None
        self.gaps += 1

    async def _join(self) -> Update:
        """What is published now, as soon as something whole is."""
        while True:
            surface = await patiently(self._now)
            if surface is not None:
                self._events.go_on(Position(surface.entry_id, surface.generation, surface.seq))
                self.surface = surface
                return Update("reset", surface)
            await asyncio.sleep(RETRY_S)

    async def _now(self) -> Surface | None:
        published = await self._published.read()
        if published is None:
            return None
        return joined(
            published.compiled,
            published.last.decode(),
            published.state,
            [one.version for one in published.tiles],
            [one.cells for one in published.tiles],
            published.complete_to,
            published.ts,
            {name: orjson.loads(body) for name, body in published.models.items()},
        )


class OpenSurface:
    """`SurfaceReader` without async, for scripts and notebooks: it runs in a thread of its own."""

    def __init__(self, redis_url: str, symbol: str, *, keys: Keys | None, since: Surface | None) -> None:
        self._make = partial(SurfaceReader, redis_url, symbol, keys=keys, since=since)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"reader-{symbol}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._reader = self._run(self._made())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._reader.__aexit__())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def surface(self) -> Surface | None:
        """The surface after the last update."""
        return self._reader.surface

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Update:
        return self._run(self._next())

    def next(self, timeout_s: float) -> Update | None:
        """The next update; None if there is none within so many seconds, and then nothing is lost."""
        return self._run(self._next_within(timeout_s))

    async def _made(self) -> SurfaceReader:
        return self._make()

    async def _next(self) -> Update:
        return await anext(self._reader)

    async def _next_within(self, timeout_s: float) -> Update | None:
        try:
            return await asyncio.wait_for(self._next(), timeout_s)
        except TimeoutError:
            return None

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def open_surface(redis_url: str, symbol: str, *, keys: Keys | None = None, since: Surface | None = None) -> OpenSurface:
    """A reader for `with`: iterate over it, or ask for `next(timeout_s)`."""
    return OpenSurface(redis_url, symbol, keys=keys, since=since)


async def patiently(read: Callable[[], Awaitable[T]]) -> T:
    """The result of a read, waiting for as long as the server is away."""
    backoff, never = Backoff(), asyncio.Event()
    while True:
        try:
            return await read()
        except TransientError:
            await backoff.wait(never)
