"""`marketswarm capture`: raw inputs from the capture stream into files (`ops/capture_file.py`).

While it holds its lease the massive processes copy every frame and REST answer to the stream (`ops/recording.py`).
Entries are deleted from there once they are on the disk, so a capture that is killed and started again within the
lease's grace goes on where it stopped.
"""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import suppress
from pathlib import Path

import structlog

from consumers.broker import Broker, RawEntry
from contracts.errors import FatalError, TransientError
from contracts.keys import Keys
from contracts.settings import Settings
from ops.capture_file import FRAME, LOST, PAGE, PartWriter, Record, parts_of, read_part
from ops.recording import CAPTURE
from ops.stage_process import consumer_name
from ops.wiring import keys_of

log = structlog.get_logger("capture")

LEASE_MS = 15_000
FLUSH_EVERY_S = 1.0
PART_S = 3600.0
READ_ENTRIES = 500
EVERYTHING = f"{2**53}-0"
REMEMBERED = 50_000  # numbers of a feed's newest frames: what the stream has twice is written once


class Tally:
    """Numbers of the frames of one feed and owner: which are new, and how many are missing before one."""

    def __init__(self) -> None:
        self._newest = 0
        self._seen: dict[int, None] = {}

    def is_new(self, number: int) -> bool:
        """Whether this frame was not seen before."""
        if number in self._seen:
            return False
        self._seen[number] = None
        if len(self._seen) > REMEMBERED:
            del self._seen[next(iter(self._seen))]
        return True

    def missing_before(self, number: int) -> int:
        """How many frames are missing between the newest so far and this one; nothing is known before the first."""
        missing = number - self._newest - 1 if self._newest else 0
        self._newest = max(self._newest, number)
        return max(0, missing)


class Capture:
    """Moves entries of the capture stream to the parts of `file`, until stopped."""

    def __init__(
        self, broker: Broker, keys: Keys, symbols: tuple[str, ...], file: Path, part_bytes: int, part_s: float = PART_S
    ) -> None:
        self.records = 0
        self.lost = 0
        self._broker = broker
        self._stream = keys.capture_stream(symbols[0])
        self._lease = keys.lease(CAPTURE, symbols[0])
        self._symbols = symbols
        self._file = file
        self._part_bytes = part_bytes
        self._part_s = part_s
        self._tallies: dict[tuple[str, str], Tally] = {}
        self._writer: PartWriter | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Hold the lease, write, flush, delete. FatalError when somebody else captures."""
        cursor = durable = last_id(self._file)
        if not await self._broker.take_lease(self._lease, LEASE_MS):
            raise FatalError("another capture is running: stop it first")
        if not parts_of(self._file):
            await self._broker.drop_up_to(self._stream, EVERYTHING)  # what an earlier capture left is not ours
        flush_at = time.monotonic() + FLUSH_EVERY_S
        try:
            while not stop.is_set():
                with suppress(TransientError):
                    cursor = await self._take(cursor)
                if time.monotonic() >= flush_at:
                    flush_at = time.monotonic() + FLUSH_EVERY_S
                    durable = await self._make_durable(cursor, durable)
            for _ in range(REMEMBERED):  # what came before we stopped
                before, cursor = cursor, await self._take(cursor)
                if cursor == before:
                    break
        finally:
            with suppress(TransientError):
                await self._make_durable(cursor, durable)
                await self._broker.drop_lease(self._lease)
            if self._writer is not None:
                self._writer.close()

    async def _take(self, cursor: str) -> str:
        entries = await self._broker.newest_entries(self._stream, cursor, READ_ENTRIES)
        for entry in entries:
            self._add(entry)
        if not entries:
            await asyncio.sleep(0.05)
        return entries[-1].id if entries else cursor

    def _add(self, entry: RawEntry) -> None:
        fields = {name.decode(): value for name, value in entry.fields.items()}
        payload, ts = fields["payload"], float(fields["ts"])
        writer = self._writer_at(ts)
        if fields["kind"] != FRAME.encode():
            writer.add(Record(PAGE, ts, {"path": fields["path"].decode(), "id": entry.id}, payload))
            self.records += 1
            return
        feed, number = fields["feed"].decode(), int(fields["n"])
        tally = self._tallies.setdefault((feed, fields["owner"].decode()), Tally())
        if not tally.is_new(number):
            return
        if missing := tally.missing_before(number):
            self.lost += missing
            log.warning("frames_lost", feed=feed, frames=missing)
            writer.add(Record(LOST, ts, {"feed": feed, "frames": missing}))
        writer.add(Record(FRAME, ts, {"feed": feed, "n": number, "id": entry.id}, payload))
        self.records += 1

    def _writer_at(self, ts: float) -> PartWriter:
        writer = self._writer
        if writer is not None and (writer.size >= self._part_bytes or ts - writer.ts >= self._part_s):
            writer.close()
            writer = None
        if writer is None:
            writer = self._writer = PartWriter(self._file, len(parts_of(self._file)), ts, self._symbols)
            log.info("capturing", file=str(self._file), part=len(parts_of(self._file)) - 1)
        return writer

    async def _make_durable(self, cursor: str, durable: str) -> str:
        """Sync the file, then delete from the stream what is in it; keep the lease."""
        if self._writer is not None:
            await asyncio.to_thread(self._writer.flush)
        with suppress(TransientError):
            if not await self._broker.take_lease(self._lease, LEASE_MS):
                raise FatalError("another capture took over while the server was away")
            if cursor != durable:
                await self._broker.drop_up_to(self._stream, cursor)
                return cursor
        return durable


def last_id(file: Path) -> str:
    """The stream id of the last record of a capture; `0-0` when there is none."""
    for path in reversed(parts_of(file)):
        ids = [record.fields["id"] for record in read_part(path) if "id" in record.fields]
        if ids:
            found: str = ids[-1]
            return found
    return "0-0"


def run_capture(settings: Settings, redis_url: str, file: Path, part_bytes: int) -> None:
    """Capture until SIGINT or SIGTERM."""
    asyncio.run(_until_signalled(settings, redis_url, file, part_bytes))


async def _until_signalled(settings: Settings, redis_url: str, file: Path, part_bytes: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    keys, symbols = keys_of(settings), settings.massive_symbols
    broker = Broker(redis_url, CAPTURE, consumer_name(CAPTURE), keys.cursor(CAPTURE, symbols[0]))
    capture = Capture(broker, keys, symbols, file, part_bytes)
    try:
        await capture.run(stop)
    finally:
        await broker.close()
    print(f"{capture.records} records captured, {capture.lost} frames lost")
