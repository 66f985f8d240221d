"""What the provider tells, copied to the capture stream while somebody captures (`ops/capture.py`).

Never in the way: frames and pages go into a bounded queue, a task of its own appends them. What is lost here (the
server is away, the capture too slow) shows as a jump in the numbers of the frames.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TypeAlias

from consumers.broker import Broker
from contracts.errors import TransientError
from contracts.keys import Keys
from stages.massive.outbox import FrameRecorder

CAPTURE = "capture"  # the lease of the one who captures: while it is held, everything is copied
KEEP_ENTRIES = 100_000
QUEUE_ENTRIES = 20_000
BATCH = 256
LOOK_EVERY_S = 0.5

_Entry: TypeAlias = "dict[str, bytes | str]"


class Recording:
    """Copies frames and pages of one process to the capture of the first `symbol`, whatever partition they are of."""

    def __init__(self, broker: Broker, keys: Keys, symbol: str) -> None:
        self._broker = broker
        self._stream = keys.capture_stream(symbol)
        self._lease = keys.lease(CAPTURE, symbol)
        self._is_on = False
        self._queue: deque[_Entry] = deque(maxlen=QUEUE_ENTRIES)

    def of_feed(self, feed: str) -> FrameRecorder:
        """Records the frames of a feed by this name."""

        def record(number: int, ts: float, payload: bytes) -> None:
            if self._is_on:
                about = {"kind": "frame", "feed": feed, "owner": self._broker.consumer, "n": str(number)}
                self._queue.append({**about, "ts": repr(ts), "payload": payload})

        return record

    async def page(self, path: str, ts: float, body: bytes) -> None:
        """Record an answer of the provider's REST interface."""
        if self._is_on:
            self._queue.append({"kind": "page", "path": path, "ts": repr(ts), "payload": body})

    async def work(self, stop: asyncio.Event) -> None:
        """Look whether somebody captures, and append what is queued, until stopped."""
        loop = asyncio.get_running_loop()
        look_at = loop.time()
        while not stop.is_set():
            with suppress(TransientError):
                if loop.time() >= look_at:
                    look_at = loop.time() + LOOK_EVERY_S
                    (owner,) = await self._broker.values(self._lease)
                    self._is_on = owner is not None
                await self._append()
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.05)
        with suppress(TransientError):
            await self._append()

    async def _append(self) -> None:
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
            try:
                await self._broker.append(self._stream, batch, KEEP_ENTRIES)
            except TransientError:
                self._queue.extendleft(reversed(batch))
                raise
