"""Between a socket and its stream: reading never waits, memory is bounded, and nothing newest is lost.

The reader puts frames into a bounded queue. Two tasks empty it: one appends them untouched, in batches; the other
conflates them instead (`stages/massive/conflation.py`) while the stream is above its high-water mark, because its
readers lag, or while the queue fills up, because the server is slow or away. Conflated events are appended as
ordinary frames as soon as there is room for them.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import structlog

from contracts.errors import TransientError
from contracts.ports import Waiting
from stages.massive.conflation import ConflatedFrame, Conflation
from stages.massive.high_water import HighWater, Level

log = structlog.get_logger("feed")

QUEUE_FRAMES = 10_000
QUEUE_BYTES = 64 * 2**20
APPEND_FRAMES = 256
APPEND_EVERY_S = 0.002  # at most: frames that come faster than that go together
CONFLATE_FRAMES = 256  # at a time: more than a reader takes in one turn, or the queue would overflow
LOOK_EVERY_S = 0.25
LONGEST_BACKOFF_S = 5.0

# what waits in the stream for its readers
AskWaiting: TypeAlias = "Callable[[], Awaitable[Waiting]]"

# sees every frame as it comes: number on its feed, receive time (epoch seconds), bytes
FrameRecorder: TypeAlias = "Callable[[int, float, bytes], None]"

Frame: TypeAlias = "tuple[float, bytes]"  # receive time and bytes


class FrameStream(Protocol):
    """Where frames go; the broker is one."""

    async def append(self, stream: str, entries: Iterable[dict[str, bytes | str]]) -> None:
        """Append entries in one round trip, at least once."""
        ...


class Sink(Protocol):
    """What a feed puts its frames into: an outbox, or one per underlying (`stages/massive/split.py`)."""

    @property
    def activity(self) -> OutboxActivity:
        """What became of the frames."""
        ...

    def put(self, ts: float, payload: bytes) -> None:
        """Queue a frame; never waits."""
        ...

    async def run(self) -> None:
        """Work until cancelled."""
        ...

    async def drain(self, timeout_s: float) -> None:
        """Append what is left, if it goes quickly."""
        ...


@dataclass
class OutboxActivity:
    """What became of the frames; for analytics and probes. Local facts, not state."""

    frames: int = 0  # received
    bytes: int = 0
    appended: int = 0
    conflated: int = 0  # events that gave way to newer ones
    dropped: int = 0  # frames given up without a newer one being known: a gap
    conflating: bool = False
    queued_most: int = 0


class Outbox:
    """The frames of one feed on their way to `stream` of `frames`; `waiting` tells what waits there.

    `recorder` sees every frame, before anything is conflated.
    """

    def __init__(
        self,
        frames: FrameStream,
        stream: str,
        *,
        waiting: AskWaiting | None = None,
        high_water: HighWater | None = None,
        recorder: FrameRecorder | None = None,
        queue_frames: int = QUEUE_FRAMES,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        self.activity = OutboxActivity()
        self._frames = frames
        self._stream = stream
        self._waiting = waiting
        self._level = Level(high_water or HighWater())
        self._recorder = recorder
        self._queue: deque[Frame] = deque()
        self._queued_bytes = 0
        self._most_frames = queue_frames
        self._most_bytes = queue_bytes
        self._conflation = Conflation()
        self._filled = asyncio.Event()
        self._crowded = asyncio.Event()
        self._append_at = 0.0
        self._has_room = True  # in the stream, for one more round of conflated events

    def put(self, ts: float, payload: bytes) -> None:
        """Queue a frame received at `ts`; never waits. A full queue gives up its oldest frames."""
        activity = self.activity
        activity.frames += 1
        activity.bytes += len(payload)
        if self._recorder is not None:
            self._recorder(activity.frames, ts, payload)
        self._queue.append((ts, payload))
        self._queued_bytes += len(payload)
        while len(self._queue) > self._most_frames or (self._queued_bytes > self._most_bytes and len(self._queue) > 1):
            self._pop(1)
            activity.dropped += 1
        self._filled.set()
        if self._needs_relief:
            self._crowded.set()

    async def run(self) -> None:
        """Work until cancelled; what is left then is for `drain`."""
        work = (self._append_frames(), self._relieve(), self._look())
        tasks = [asyncio.create_task(one) for one in work]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def drain(self, timeout_s: float) -> None:
        """Append what is left, if the server takes it within so many seconds."""
        with suppress(TimeoutError, TransientError):
            async with asyncio.timeout(timeout_s):
                while self._conflation:
                    await self._append_conflated()
                while self._queue:
                    await self._append_batch()

    # --- appending

    async def _append_frames(self) -> None:
        """Write what there is, for ever; a server that is away is waited for."""
        delay = first = 0.05
        while True:
            try:
                await self._append_some()
                delay = first
            except TransientError as error:
                log.warning("frames_wait", queued=len(self._queue), held=len(self._conflation), reason=str(error))
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))
                delay = min(LONGEST_BACKOFF_S, delay * 2)

    async def _append_some(self) -> None:
        conflating = self.activity.conflating
        if self._conflation and (self._has_room or not conflating):
            await self._append_conflated()
            self._has_room = False
        elif self._queue and not conflating:
            await asyncio.sleep(max(0.0, self._append_at - time.monotonic()))
            self._append_at = time.monotonic() + APPEND_EVERY_S
            await self._append_batch()
        else:
            self._filled.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._filled.wait(), LOOK_EVERY_S)

    async def _append_batch(self) -> None:
        batch = self._pop(APPEND_FRAMES)
        if not batch:
            return
        try:
            await self._frames.append(self._stream, [_raw_entry(ts, payload) for ts, payload in batch])
        except BaseException:  # also cancellation: whoever appends the rest has it again
            self._put_back(batch)
            raise
        self.activity.appended += len(batch)

    async def _append_conflated(self) -> None:
        """One round of all that is held."""
        frames = list(self._conflation.frames())
        try:
            await self._frames.append(self._stream, [_conflated_entry(frame) for frame in frames])
        except BaseException:
            for frame in frames:
                self._conflation.put_back(frame)
            raise
        self.activity.appended += len(frames)

    # --- relief

    async def _look(self) -> None:
        """Decide from what waits in the stream whether to conflate, and whether there is room for what is held."""
        while self._waiting is not None:
            with suppress(TransientError):
                self._level.note(time.monotonic(), await self._waiting())
                self._has_room = not self._level.is_full
                self._set_conflating(self._level.is_high)
            await asyncio.sleep(LOOK_EVERY_S)

    def _set_conflating(self, conflating: bool) -> None:
        if conflating != self.activity.conflating:
            log.warning("conflating" if conflating else "conflating_ended", queued=len(self._queue))
        self.activity.conflating = conflating
        self._filled.set()
        self._crowded.set()

    async def _relieve(self) -> None:
        """Conflate what is queued while the stream is full, and what is too much for the queue at any time."""
        while True:
            await self._crowded.wait()
            self._crowded.clear()
            while self._needs_relief:
                self.activity.queued_most = max(self.activity.queued_most, len(self._queue))
                self._conflate(self._pop(CONFLATE_FRAMES))
                await asyncio.sleep(0)

    @property
    def _needs_relief(self) -> bool:
        return bool(self._queue) and (self.activity.conflating or self._is_filling_up)

    @property
    def _is_filling_up(self) -> bool:
        return 2 * len(self._queue) > self._most_frames or 2 * self._queued_bytes > self._most_bytes

    def _conflate(self, batch: Iterable[Frame]) -> None:
        for ts, payload in batch:
            self.activity.conflated += self._conflation.take(ts, payload)

    # --- the queue

    def _pop(self, count: int) -> list[Frame]:
        """The oldest frames, at most so many."""
        batch = [self._queue.popleft() for _ in range(min(count, len(self._queue)))]
        self._queued_bytes -= sum(len(payload) for _, payload in batch)
        return batch

    def _put_back(self, batch: Sequence[Frame]) -> None:
        """To where they were, or among the conflated when the queue has filled up meanwhile."""
        if self._is_filling_up:
            self._conflate(batch)
            return
        self._queue.extendleft(reversed(batch))
        self._queued_bytes += sum(len(payload) for _, payload in batch)


def _raw_entry(ts: float, payload: bytes) -> dict[str, bytes | str]:
    return {"ts": repr(ts), "payload": payload}


def _conflated_entry(frame: ConflatedFrame) -> dict[str, bytes | str]:
    """An ordinary frame with, beside it, how many events it holds, how many it stands for, and since when."""
    return {
        "ts": repr(frame.ts),
        "payload": frame.payload,
        "conflated": str(frame.events),
        "dropped": str(frame.dropped),
        "since": repr(frame.since),
    }
