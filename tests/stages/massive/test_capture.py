"""Captures: lossless, in order, bounded parts, and readable whatever killed them."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.broker import Broker
from consumers.runner import ended
from contracts.errors import DataError, FatalError
from contracts.keys import Keys
from ops import recording as recording_module
from ops.capture import Capture, Tally
from ops.capture_file import (
    FRAME,
    HEADER,
    LOST,
    PAGE,
    PartWriter,
    Record,
    parts_of,
    read_capture,
    read_part,
)
from ops.recording import Recording
from tests.waiting import wait_until_async

KEYS = Keys()
SYMBOLS = ("SPX", "NDX")
STREAM = KEYS.capture_stream("SPX")

payloads = st.lists(st.binary(max_size=50), max_size=20)


def frames(file: Path) -> list[bytes]:
    return [record.payload for record in read_capture(file) if record.kind == FRAME]


# --- the format


@settings(max_examples=25)  # each one waits for the disk
@given(payloads)
def test_records_come_back_byte_for_byte(tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes]) -> None:
    file = tmp_path_factory.mktemp("capture") / "day"
    writer = PartWriter(file, 0, 5.25, SYMBOLS)
    records = [Record(FRAME, 5.5 + n, {"feed": "options:0", "n": n}, raw) for n, raw in enumerate(payloads)]
    for number, record in enumerate(records):
        writer.add(record)
        if number % 3 == 0:
            writer.flush()
    writer.close()
    assert list(read_capture(file)) == records


def test_a_part_begins_with_what_it_is_and_any_gzip_reads_it(tmp_path: Path) -> None:
    writer = PartWriter(tmp_path / "day", 0, 5.25, SYMBOLS)
    writer.add(Record(PAGE, 6.0, {"path": "/v1/marketstatus/now"}, b'{"market":"open"}'))
    writer.close()
    assert gzip.decompress((tmp_path / "day").read_bytes()).decode() == (
        '{"kind":"capture","ts":5.25,"bytes":0,"format":"marketswarm-capture","version":1,"part":0,'
        '"symbols":["SPX","NDX"]}\n\n'
        '{"kind":"page","ts":6.0,"bytes":17,"path":"/v1/marketstatus/now"}\n{"market":"open"}\n'
    )


def test_parts_are_read_in_order(tmp_path: Path) -> None:
    for part in range(12):
        writer = PartWriter(tmp_path / "day", part, 1.0, SYMBOLS)
        writer.add(Record(FRAME, 1.0, {}, str(part).encode()))
        writer.close()
    assert frames(tmp_path / "day") == [str(part).encode() for part in range(12)]


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_a_file_torn_anywhere_reads_up_to_its_last_whole_second(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    file = tmp_path_factory.mktemp("capture") / "day"
    writer = PartWriter(file, 0, 1.0, SYMBOLS)
    for number in range(30):
        writer.add(Record(FRAME, 1.0, {}, b"x" * number))
        if number % 10 == 9:
            writer.flush()
    writer.close()
    whole = file.read_bytes()
    file.write_bytes(whole[: cut % (len(whole) + 1)])
    found = frames(file)
    assert found == [b"x" * number for number in range(len(found))] and len(found) % 10 == 0


def test_a_part_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "day").write_text("mine")
    with pytest.raises(FatalError, match="cannot write"):
        PartWriter(tmp_path / "day", 0, 1.0, SYMBOLS)


def test_what_is_no_capture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FatalError, match="no capture at"):
        list(read_capture(tmp_path / "missing"))
    (tmp_path / "other").write_bytes(gzip.compress(Record("diary", 1.0).encode()))
    with pytest.raises(FatalError, match="is no capture"):
        list(read_capture(tmp_path / "other"))
    (tmp_path / "text").write_text("hello")
    with pytest.raises(DataError, match="damaged"):
        list(read_capture(tmp_path / "text"))
    newer = Record(HEADER, 1.0, {"format": "marketswarm-capture", "version": 2})
    (tmp_path / "newer").write_bytes(gzip.compress(newer.encode()))
    with pytest.raises(FatalError, match="version 2"):
        list(read_capture(tmp_path / "newer"))


# --- from the massive stage to the file


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether somebody captures is looked at every 20 ms."""
    monkeypatch.setattr(recording_module, "LOOK_EVERY_S", 0.02)


class Scene:
    """A recording process and captures, as tasks."""

    def __init__(self, redis_url: str, file: Path) -> None:
        self.file = file
        self.stop = asyncio.Event()
        self._url = redis_url
        self._brokers: list[Broker] = []
        self.recording = Recording(self._broker("one"), KEYS, "SPX")
        self.feed = self.recording.of_feed("options:0")
        self.task = asyncio.create_task(self.recording.work(asyncio.Event()))
        self.captures: list[asyncio.Task[None]] = []

    def _broker(self, name: str) -> Broker:
        self._brokers.append(Broker(self._url, "capture", name, KEYS.cursor("capture", "SPX")))
        return self._brokers[-1]

    async def begin(self, name: str = "captor", **options: Any) -> Capture:
        """Start a capture; returns once everything is copied for it."""
        capture = Capture(self._broker(name), KEYS, SYMBOLS, self.file, **{"part_bytes": 2**28, **options})
        task = asyncio.create_task(capture.run(self.stop))
        self.captures.append(task)
        await wait_until_async(lambda: task.done() or self._copies_for(name), "copying has begun")
        return capture

    async def _copies_for(self, name: str) -> bool:
        """Not for the capture before it, whose end may not be noticed yet."""
        (owner,) = await self._brokers[0].values(KEYS.lease("capture", "SPX"))
        return owner == name.encode() and self.recording._is_on

    async def end(self) -> None:
        self.stop.set()
        await asyncio.gather(*self.captures, return_exceptions=True)
        await ended(self.task)
        for broker in self._brokers:
            await broker.close()


@pytest.fixture
async def scene(redis_url: str, tmp_path: Path) -> AsyncIterator[Scene]:
    """Nobody captures yet."""
    found = Scene(redis_url, tmp_path / "day")
    yield found
    await found.end()


async def test_frames_and_pages_are_captured_as_they_came_in_order(scene: Scene, client: Any) -> None:
    capture = await scene.begin()
    odd = b'[{"ev":"Q" , "bp":1.10, "x":"\xc3\xa9\\u00e9\n"}]'
    scene.feed(1, 1000.25, odd)
    await scene.recording.page("/v3/snapshot/options/I:SPX?limit=250", 1000.5, b'{"results": []}')
    scene.feed(2, 1000.75, b"[]")
    await wait_until_async(lambda: capture.records == 3, "all captured")
    scene.stop.set()
    await scene.captures[0]
    records = list(read_capture(scene.file))
    assert [(one.kind, one.ts, one.payload) for one in records] == [
        (FRAME, 1000.25, odd), (PAGE, 1000.5, b'{"results": []}'), (FRAME, 1000.75, b"[]"),
    ]  # fmt: skip
    assert records[0].fields["feed"] == "options:0" and records[2].fields["n"] == 2
    assert records[1].fields["path"] == "/v3/snapshot/options/I:SPX?limit=250"
    assert client.xlen(STREAM) == 0


async def test_nothing_is_copied_while_nobody_captures(scene: Scene) -> None:
    scene.feed(1, 1000.0, b"before")
    capture = await scene.begin()
    scene.feed(2, 1001.0, b"during")
    await wait_until_async(lambda: capture.records, "something is captured")
    scene.stop.set()
    await wait_until_async(lambda: not scene.recording._is_on, "copying has ended")
    scene.feed(3, 1002.0, b"after")
    assert not scene.recording._queue
    await scene.captures[0]
    assert frames(scene.file) == [b"during"]


async def test_what_is_on_the_disk_leaves_the_stream(scene: Scene, client: Any) -> None:
    await scene.begin()
    for number in range(1, 1001):
        scene.feed(number, 1000.0, b"[]")
    await wait_until_async(lambda: scene.file.exists() and len(frames(scene.file)) == 1000, "it is on the disk")
    await wait_until_async(lambda: client.xlen(STREAM) == 0, "it left the stream")


async def test_a_killed_capture_goes_on_where_it_stopped(scene: Scene, client: Any) -> None:
    await scene.begin()
    scene.feed(1, 1000.0, b"one")
    await wait_until_async(lambda: scene.file.exists() and len(frames(scene.file)) == 1, "the first is on the disk")
    victim = scene.captures[0]
    victim.cancel()
    await asyncio.wait({victim})
    client.delete(KEYS.lease("capture", "SPX"))
    client.xadd(
        STREAM, {"kind": "frame", "feed": "options:0", "owner": "one", "n": 2, "ts": "1001.0", "payload": b"two"}
    )
    scene.stop = asyncio.Event()
    await scene.begin("heir")
    scene.feed(3, 1002.0, b"three")
    await wait_until_async(lambda: frames(scene.file) == [b"one", b"two", b"three"], "nothing lost, nothing twice")
    assert len(parts_of(scene.file)) == 2


async def test_frames_that_come_twice_are_written_once_and_missing_ones_are_told(scene: Scene) -> None:
    await scene.begin()
    for number in (1, 2, 2, 1, 6, 7):
        scene.feed(number, 1000.0, str(number).encode())
    await wait_until_async(lambda: scene.file.exists() and len(frames(scene.file)) == 4, "each once")
    assert frames(scene.file) == [b"1", b"2", b"6", b"7"]
    (lost,) = [record for record in read_capture(scene.file) if record.kind == LOST]
    assert lost.fields == {"feed": "options:0", "frames": 3}


@pytest.mark.parametrize("options", [{"part_bytes": 1}, {"part_s": 10.0}])
async def test_parts_change_by_size_and_by_time(scene: Scene, options: dict[str, Any]) -> None:
    await scene.begin(**options)
    for number in range(1, 4):
        scene.feed(number, 1000.0 + 20 * number, str(number).encode())
        wanted: Callable[[], bool] = lambda number=number: (  # type: ignore[misc]  # noqa: E731
            scene.file.exists() and len(frames(scene.file)) == number
        )
        await wait_until_async(wanted, "it is on the disk")
    assert len(parts_of(scene.file)) == 3
    for path in parts_of(scene.file):
        assert next(read_part(path)).kind == HEADER


async def test_there_is_one_capture_at_a_time(scene: Scene) -> None:
    await scene.begin()
    await scene.begin("rival")
    with pytest.raises(FatalError, match="another capture is running"):
        await scene.captures[1]


def test_a_tally_remembers_long_enough() -> None:
    tally, started = Tally(), time.process_time()
    assert all(tally.is_new(number) for number in range(1, 60_000))
    assert not tally.is_new(59_000) and time.process_time() - started < 5.0
