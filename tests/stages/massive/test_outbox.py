"""The outbox: reading never waits, memory is bounded, and nothing newest is lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from consumers.broker import Broker
from contracts.errors import FatalError, TransientError
from contracts.keys import Keys
from contracts.ports import Waiting
from stages.massive import outbox as outbox_module
from stages.massive.high_water import HighWater
from stages.massive.outbox import Outbox
from tests.waiting import wait_until_async

KEYS = Keys()
STREAM = KEYS.ws_stream("SPX")
CONTRACTS = 20


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits in the stream is looked at every 10 ms."""
    monkeypatch.setattr(outbox_module, "LOOK_EVERY_S", 0.01)


@dataclass
class Stream:
    """A stream whose readers may lag: `waiting` is what it says of itself."""

    entries: list[dict[str, bytes | str]] = field(default_factory=list)
    waiting: Waiting = field(default_factory=Waiting)
    faults: list[Exception] = field(default_factory=list)
    looks: int = 0
    open: asyncio.Event = field(default_factory=asyncio.Event)

    async def append(self, stream: str, entries: Iterable[dict[str, bytes | str]]) -> None:
        assert stream == STREAM
        await self.open.wait()
        if self.faults:
            raise self.faults.pop(0)
        self.entries += entries

    async def look(self) -> Waiting:
        self.looks += 1
        return self.waiting

    @property
    def raw(self) -> list[dict[str, bytes | str]]:
        return [entry for entry in self.entries if "conflated" not in entry]

    @property
    def conflated(self) -> list[dict[str, bytes | str]]:
        return [entry for entry in self.entries if "conflated" in entry]

    def newest(self) -> dict[str, int]:
        """The time of the newest event of each contract."""
        found: dict[str, int] = {}
        for entry in self.entries:
            for event in json.loads(bytes(entry["payload"])):  # type: ignore[arg-type]
                found[event["sym"]] = max(found.get(event["sym"], 0), event["t"])
        return found


def frame(number: int) -> bytes:
    """One quote; contracts take turns."""
    return json.dumps([{"ev": "Q", "sym": f"O:{number % CONTRACTS}", "t": number, "q": number}]).encode()


@asynccontextmanager
async def running(stream: Stream | None = None, **options: Any) -> AsyncIterator[tuple[Outbox, Stream]]:
    stream = stream or Stream()
    if not options.pop("shut", False):
        stream.open.set()
    outbox = Outbox(stream, STREAM, waiting=stream.look, **options)
    task = asyncio.create_task(outbox.run())
    try:
        yield outbox, stream
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, FatalError):
            await task


async def test_frames_go_untouched_and_in_order() -> None:
    async with running() as (outbox, stream):
        for number in range(1000):
            outbox.put(1000.0 + number, frame(number))
        await wait_until_async(lambda: len(stream.entries) == 1000, "all are appended")
    assert stream.entries[7] == {"ts": "1007.0", "payload": frame(7)}
    assert [entry["payload"] for entry in stream.entries] == [frame(number) for number in range(1000)]


async def test_above_the_high_water_mark_events_are_conflated_and_held_back() -> None:
    async with running(high_water=HighWater(entries=100)) as (outbox, stream):
        stream.waiting = Waiting(100, 0)
        await wait_until_async(lambda: outbox.activity.conflating, "it conflates")
        for number in range(1000):
            outbox.put(float(number), frame(number))
        await wait_until_async(lambda: outbox.activity.conflated == 1000 - CONTRACTS, "all gave way but the newest")
        assert stream.entries == []
        stream.waiting = Waiting(80, 0)  # room for one round, not yet for raw frames
        await wait_until_async(lambda: stream.conflated, "the newest are appended")
        assert stream.newest() == {f"O:{n % CONTRACTS}": n for n in range(1000 - CONTRACTS, 1000)}
        (entry,) = stream.entries
        assert (entry["conflated"], entry["dropped"]) == (str(CONTRACTS), str(1000 - CONTRACTS))
        assert (entry["ts"], entry["since"]) == ("999.0", "0.0")
        assert outbox.activity.conflating


async def test_when_the_readers_have_caught_up_frames_are_raw_again() -> None:
    async with running(high_water=HighWater(entries=100)) as (outbox, stream):
        stream.waiting = Waiting(100, 0)
        await wait_until_async(lambda: outbox.activity.conflating, "it conflates")
        for number in range(100):
            outbox.put(float(number), frame(number))
        await wait_until_async(lambda: outbox.activity.conflated, "events gave way")
        stream.waiting = Waiting(49, 0)
        await wait_until_async(lambda: not outbox.activity.conflating and stream.conflated, "it is over")
        outbox.put(100.0, frame(100))
        await wait_until_async(lambda: stream.raw, "raw again")
    assert stream.newest() == {f"O:{n % CONTRACTS}": n for n in range(81, 101)}


async def test_many_bytes_are_too_much_as_well() -> None:
    async with running(high_water=HighWater(entries=100, bytes=1000)) as (outbox, stream):
        stream.waiting = Waiting(1, 1000)
        await wait_until_async(lambda: outbox.activity.conflating, "it conflates")


async def test_while_readers_lag_but_go_on_they_get_a_round_at_a_time() -> None:
    """Room for a round is found at each look; without pacing every single event would be a round."""
    async with running(high_water=HighWater(entries=100)) as (outbox, stream):
        stream.waiting = Waiting(100, 0)
        await wait_until_async(lambda: outbox.activity.conflating, "it conflates")
        stream.waiting = Waiting(90, 0)
        for number in range(2000):
            outbox.put(float(number), frame(number))
            if number % 10 == 0:
                await asyncio.sleep(0)
        await wait_until_async(lambda: len(stream.newest()) == CONTRACTS, "the newest came")
        assert len(stream.conflated) <= stream.looks and not stream.raw


async def test_a_server_that_is_away_costs_no_newest_value() -> None:
    """The queue fills up; what is too much for it is conflated, and comes first when the server is back."""
    async with running(queue_frames=100, shut=True) as (outbox, stream):
        for number in range(3000):
            outbox.put(float(number), frame(number))
            if number % 20 == 0:
                await asyncio.sleep(0.001)
        assert outbox.activity.dropped == 0 and outbox.activity.conflated > 2000
        stream.open.set()
        await wait_until_async(lambda: len(stream.newest()) == CONTRACTS, "the newest came")
        await wait_until_async(lambda: min(stream.newest().values()) >= 2980, "every newest one")


async def test_a_reader_that_always_has_more_does_not_outrun_the_relief() -> None:
    async with running(queue_frames=1000, shut=True) as (outbox, _):
        for number in range(20_000):
            outbox.put(float(number), frame(number))
            if number % 100 == 0:  # as many as a socket has at hand
                await asyncio.sleep(0)
        assert outbox.activity.dropped == 0


async def test_a_queue_that_nobody_empties_gives_up_its_oldest_frames() -> None:
    stream = Stream()
    outbox = Outbox(stream, STREAM, queue_frames=10, queue_bytes=10**6)
    for number in range(25):
        outbox.put(float(number), frame(number))
    assert (outbox.activity.frames, outbox.activity.dropped) == (25, 15)
    stream.open.set()
    await outbox.drain(1.0)
    assert [entry["ts"] for entry in stream.entries] == [f"{number}.0" for number in range(15, 25)]


async def test_a_queue_is_bounded_in_bytes() -> None:
    outbox = Outbox(Stream(), STREAM, queue_bytes=1000)
    for number in range(10):
        outbox.put(float(number), b"x" * 300)
    assert outbox.activity.dropped == 7


async def test_a_fault_puts_frames_back_where_they_were() -> None:
    stream = Stream(faults=[TransientError("away"), TransientError("still away")])
    async with running(stream) as (outbox, _):
        for number in range(5):
            outbox.put(float(number), frame(number))
        await wait_until_async(lambda: len(stream.entries) == 5, "they are there")
    assert [entry["ts"] for entry in stream.entries] == [f"{number}.0" for number in range(5)]
    assert outbox.activity.appended == 5


async def test_a_fault_puts_conflated_events_back() -> None:
    async with running(high_water=HighWater(entries=100)) as (outbox, stream):
        stream.waiting = Waiting(100, 0)
        await wait_until_async(lambda: outbox.activity.conflating, "it conflates")
        for number in range(100):
            outbox.put(float(number), frame(number))
        await wait_until_async(lambda: outbox.activity.conflated == 80, "events gave way")
        stream.faults.append(TransientError("away"))
        stream.waiting = Waiting(0, 0)
        await wait_until_async(lambda: stream.conflated, "they are there")
    assert not stream.faults and stream.newest() == {f"O:{n % CONTRACTS}": n for n in range(80, 100)}


async def test_the_recorder_sees_every_frame_before_anything_is_conflated() -> None:
    seen: list[tuple[int, float, bytes]] = []
    async with running(
        high_water=HighWater(entries=100), recorder=lambda number, ts, payload: seen.append((number, ts, payload))
    ) as (outbox, stream):
        stream.waiting = Waiting(100, 0)
        await wait_until_async(lambda: outbox.activity.conflating, "it conflates")
        for number in range(50):
            outbox.put(float(number), frame(number))
    assert seen == [(number + 1, float(number), frame(number)) for number in range(50)]


async def test_a_server_that_refuses_us_ends_it() -> None:
    stream = Stream(faults=[FatalError("check REDIS_URL")])
    stream.open.set()
    outbox = Outbox(stream, STREAM)
    outbox.put(0.0, frame(0))
    with pytest.raises(FatalError, match="check REDIS_URL"):
        await asyncio.wait_for(outbox.run(), 5.0)


async def test_a_stopped_staging_fills_the_stream_to_the_mark_and_no_further(redis_url: str, client: Any) -> None:
    """The real server: nobody reads and nothing is trimmed; afterwards the newest of each contract is there."""
    broker = Broker(redis_url, "massive", "one", KEYS.cursor("massive", "SPX"))

    async def waiting() -> Waiting:
        return await broker.waiting(STREAM, "staging", trimmed=True)

    outbox = Outbox(broker, STREAM, waiting=waiting, high_water=HighWater(entries=500))
    task = asyncio.create_task(outbox.run())
    for number in range(20_000):
        outbox.put(float(number), frame(number))
        if number % 50 == 0:
            await asyncio.sleep(0.001)
    await wait_until_async(lambda: outbox.activity.conflating and not outbox._queue, "all that came gave way")
    held = client.xlen(STREAM)
    client.xtrim(STREAM, maxlen=0)  # staging is back and has read everything
    await wait_until_async(lambda: not outbox.activity.conflating, "it is over")

    def newest() -> set[int]:
        found = [event for _, fields in client.xrange(STREAM) for event in json.loads(fields[b"payload"])]
        return {event["t"] for event in found if event["t"] >= 20_000 - CONTRACTS}

    await wait_until_async(lambda: newest() == set(range(20_000 - CONTRACTS, 20_000)), "the newest are appended")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert 500 <= held < 2500 and outbox.activity.dropped == 0
    client.delete(STREAM)
    await broker.close()


async def test_with_a_journal_only_what_waits_is_counted(redis_url: str, client: Any) -> None:
    """A journal keeps its input streams whole: their length says nothing about their readers."""
    broker = Broker(redis_url, "massive", "one", KEYS.cursor("massive", "SPX"))
    client.xgroup_create(STREAM, "staging", "0", mkstream=True)
    assert await broker.waiting(STREAM, "staging", trimmed=False) == Waiting()
    for number in range(30):
        client.xadd(STREAM, {"payload": frame(number)})
    ((_, rows),) = client.xreadgroup("staging", "reader", {STREAM: ">"}, count=20)
    client.xack(STREAM, "staging", *[entry_id for entry_id, _ in rows[:15]])
    assert (await broker.waiting(STREAM, "staging", trimmed=False)).entries == 15
    assert (await broker.waiting(STREAM, "staging", trimmed=True)).entries == 30
    await broker.close()
