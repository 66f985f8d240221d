"""The runner on a real server, with stages so small that only the runner is under test."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import pytest
import redis

from consumers import broker as broker_module
from consumers import runner as runner_module
from consumers.broker import Broker, RawEntry
from consumers.runner import Backoff, Runner
from contracts.commit import Commit, Count, FieldIs, Guard
from contracts.errors import DataError, FatalError, NewerSchemaError, TransientError
from contracts.keys import Keys, Stat
from contracts.messages import PlaneDirty, decode, encode
from contracts.ports import Reader
from contracts.stage import Entry, Source, Stage
from contracts.topology import StageName, streams_of
from tests.waiting import wait_until_async

KEYS = Keys()
ROW = streams_of(StageName.STAGING)[1]
STREAM = KEYS.ws_stream("SPX")
GROUP = str(StageName.STAGING)
SEEN = KEYS.job("SPX")  # how often each entry took effect
CURSOR = KEYS.cursor(GROUP, "SPX")
CLAIM_IDLE_MS = 300
CLAIM_LATE_MS = 1000  # where nothing is to be claimed although the machine may be busy elsewhere for a while

Entries = Sequence[Entry[str]]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweeps and blocking reads by the tenth of a second, so that tests need not wait for them."""
    monkeypatch.setattr(runner_module, "SWEEP_EVERY_S", 0.05)
    monkeypatch.setattr(broker_module, "BLOCK_MS", 100)


async def _nothing(reader: Reader, entries: Entries) -> None:
    """The state of a stage that needs none."""


def count_each(state: object, entries: Entries) -> list[Commit]:
    """Count every entry by its name, and acknowledge."""
    counts = Counter(entry.message for entry in entries)
    return [Commit(tuple(entry.id for entry in entries), writes=(Count(SEEN, counts),))]


def name_of(fields: Any) -> str:
    """The name of an entry; entries called `poison` cannot be decoded."""
    name: str = fields[b"name"].decode()
    if name.startswith("poison"):
        raise DataError(f"{name} is no name")
    return name


@dataclass
class Tiny:
    """A stage of one source; what a test does not care about counts and acknowledges."""

    decode: Callable[[Any], Any] = name_of
    load: Callable[[Reader, Entries], Awaitable[Any]] = _nothing
    step: Callable[[Any, Entries], Sequence[Commit]] = count_each
    partition: Callable[[Any], str] = lambda message: "all"
    batch: int = 10
    concurrent: bool = False
    in_background: Callable[[Any], bool] | None = None

    def stage(self) -> Stage:
        source: Source[Any, Any] = Source(
            ROW,
            STREAM,
            self.batch,
            self.decode,
            self.partition,
            self.load,
            self.step,
            self.concurrent,
            self.in_background,
        )
        return Stage(StageName.STAGING, (source,))


@dataclass
class Worker:
    """A consumer at work."""

    runner: Runner
    broker: Broker
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    async def drain(self, timeout_s: float = 5.0) -> None:
        """SIGTERM: finish what was begun, and end."""
        self.stop.set()
        assert self.task is not None
        await asyncio.wait_for(self.task, timeout_s)

    async def kill(self) -> None:
        """SIGKILL: end wherever it is, leaving everything as it stands."""
        assert self.task is not None
        self.stop.set()  # Python 3.11 may swallow a cancellation: what misses it sees this
        self.task.cancel()
        for background in self.runner._background.values():
            for task in background._tasks:
                task.cancel()
        await asyncio.wait({self.task}, timeout=5.0)
        assert self.task.done(), "it did not end"
        if not self.task.cancelled():
            self.task.exception()


Start = Callable[..., Worker]


@pytest.fixture
async def start(redis_url: str) -> AsyncIterator[Start]:
    """Starts consumers; all end with the test."""
    workers: list[Worker] = []

    def begin(tiny: Tiny, consumer: str = "one", *, claim_idle_ms: int = 60_000, journal: bool = False) -> Worker:
        broker = Broker(redis_url, GROUP, consumer, CURSOR)
        runner = Runner(tiny.stage(), broker, KEYS, "SPX", claim_idle_ms=claim_idle_ms, journal=journal)
        worker = Worker(runner, broker)
        worker.task = asyncio.create_task(runner.run(worker.stop))
        workers.append(worker)
        return worker

    yield begin
    for worker in workers:
        await worker.kill()
        await worker.broker.close()


def add(client: Any, *names: str) -> list[str]:
    """Append entries by name; their ids."""
    return [client.xadd(STREAM, {"name": name}).decode() for name in names]


def seen(client: Any) -> dict[str, int]:
    return {name.decode(): int(count) for name, count in client.hgetall(SEEN).items()}


def once(*names: str) -> dict[str, int]:
    return dict.fromkeys(names, 1)


def numbered(count: int, first: int = 0) -> list[str]:
    return [f"n{n}" for n in range(first, first + count)]


def pending(client: Any) -> list[tuple[str, str]]:
    """(id, owner) of entries that were read and not finished."""
    try:
        rows = client.xpending_range(STREAM, GROUP, "-", "+", 1000)
    except redis.ResponseError:  # no group yet
        return []
    return [(row["message_id"].decode(), row["consumer"].decode()) for row in rows]


def parked(client: Any) -> list[dict[str, str]]:
    found = client.xrange(Keys.parked(STREAM))
    return [{name.decode(): value.decode() for name, value in fields.items()} for _, fields in found]


async def until_seen(client: Any, expected: dict[str, int]) -> None:
    """Wait for the effects, and see that they are exactly these."""
    await wait_until_async(lambda: set(seen(client)) >= set(expected), f"all of {len(expected)} entries took effect")
    assert seen(client) == expected


# --- the way of an entry


async def test_every_entry_takes_effect_once_and_is_acknowledged(start: Start, client: Any) -> None:
    names = numbered(57)
    add(client, *names)
    worker = start(Tiny())
    await until_seen(client, once(*names))
    assert pending(client) == []
    await worker.drain()
    assert worker.runner.activity.entries == 57


async def test_consumers_of_a_group_share_the_work(start: Start, client: Any) -> None:
    workers = [start(Tiny(batch=2), f"c{n}") for n in range(3)]
    names = numbered(120)
    for name in names:
        add(client, name)
        await asyncio.sleep(0)
    await until_seen(client, once(*names))
    for worker in workers:
        await worker.drain()
    assert sum(worker.runner.activity.entries for worker in workers) == 120


async def test_partitions_of_a_read_are_committed_apart(start: Start, client: Any) -> None:
    batches: list[list[str]] = []

    def step(state: object, entries: Entries) -> list[Commit]:
        batches.append([entry.message for entry in entries])
        return count_each(state, entries)

    add(client, "a1", "b1", "a2", "b2")
    start(Tiny(step=step, partition=lambda name: name[0]))
    await until_seen(client, once("a1", "a2", "b1", "b2"))
    assert batches == [["a1", "a2"], ["b1", "b2"]]


async def test_a_step_may_finish_in_several_commits(start: Start, client: Any) -> None:
    def step(state: object, entries: Entries) -> list[Commit]:
        return [Commit(writes=(Count(SEEN, {"chunk": 1}),)), *count_each(state, entries)]

    add(client, "a", "b")
    start(Tiny(step=step))
    await until_seen(client, once("a", "b", "chunk"))


async def test_a_step_that_leaves_entries_is_taken_again(start: Start, client: Any) -> None:
    """Switch, then carry: the second part sees what the first did."""

    def step(state: object, entries: Entries) -> list[Commit]:
        return count_each(state, entries[:1])

    add(client, "a", "b", "c")
    worker = start(Tiny(step=step))
    await until_seen(client, once("a", "b", "c"))
    await worker.drain()
    assert worker.runner.activity.commits == 3


async def test_a_refused_commit_loads_and_steps_again(start: Start, client: Any) -> None:
    loads: list[int] = []

    async def load(reader: Reader, entries: Entries) -> bytes | None:
        found = (await reader.fields(KEYS.tick("SPX"))).get(b"epoch")
        loads.append(int(found or 0))
        if len(loads) == 1:  # the world moves on between load and commit
            client.hset(KEYS.tick("SPX"), "epoch", 1)
        return found

    def step(state: bytes | None, entries: Entries) -> list[Commit]:
        guard: Guard = FieldIs(KEYS.tick("SPX"), "epoch", state)
        return [Commit(tuple(entry.id for entry in entries), (guard,), (Count(SEEN, {"done": 1}),))]

    add(client, "a")
    worker = start(Tiny(load=load, step=step))
    await until_seen(client, once("done"))
    assert (loads, worker.runner.activity.refused) == ([0, 1], 1)


@pytest.mark.parametrize(
    ("key", "held", "counted"),
    [
        (KEYS.active("SPX"), False, {b"stale_epoch_refusals": b"1"}),
        (KEYS.active("SPX"), True, {b"fences": b"1"}),
        (KEYS.building("SPX"), True, {b"fences": b"1"}),
        (KEYS.tick("SPX"), False, {}),
    ],
    ids=["the epoch changed", "a promotion lost to another epoch", "a promotion lost to another builder", "another"],
)
async def test_what_is_refused_because_the_board_moved_on_is_counted(
    start: Start, client: Any, key: str, *, held: bool, counted: dict[bytes, bytes]
) -> None:
    """By the runner, in a commit of its own: a refused commit writes nothing."""
    tries: list[int] = []

    def step(state: object, entries: Entries) -> list[Commit]:
        tries.append(1)
        ids = tuple(entry.id for entry in entries)
        if len(tries) == 1:
            return [Commit(() if held else ids, (FieldIs(key, "SPX", "gone"),), holds=ids if held else ())]
        return count_each(state, entries)

    add(client, "a")
    start(Tiny(step=step))
    await until_seen(client, once("a"))
    assert client.hgetall(KEYS.analytics(Stat.EPOCH, "SPX")) == counted


async def test_a_builder_whose_entry_another_owns_is_a_fence(start: Start, client: Any) -> None:
    def step(state: object, entries: Entries) -> list[Commit]:
        ids = tuple(entry.id for entry in entries)
        client.xclaim(STREAM, GROUP, "another", 0, [one.id for one in ids])
        return [Commit(holds=ids)]

    add(client, "a")
    worker = start(Tiny(step=step))
    await wait_until_async(lambda: client.hgetall(KEYS.analytics(Stat.EPOCH, "SPX")) == {b"fences": b"1"}, "a fence")
    assert worker.runner.activity.lost == 1


# --- poison


async def test_an_entry_that_cannot_be_decoded_is_parked_alone(start: Start, client: Any) -> None:
    (_, bad, _) = add(client, "a", "poison", "b")
    start(Tiny())
    await until_seen(client, once("a", "b"))
    await wait_until_async(lambda: not pending(client), "everything is acknowledged")
    assert parked(client) == [{"reason": "poison is no name", "id": bad, "name": "poison"}]


@pytest.mark.parametrize("where", ["load", "step"])
async def test_a_batch_is_halved_until_the_entry_at_fault_is_alone(start: Start, client: Any, where: str) -> None:
    tried: list[int] = []

    def check(entries: Entries) -> None:
        tried.append(len(entries))
        if any(entry.message == "bad" for entry in entries):
            raise DataError("one of these is bad")

    async def load(reader: Reader, entries: Entries) -> None:
        if where == "load":
            check(entries)

    def step(state: object, entries: Entries) -> list[Commit]:
        if where == "step":
            check(entries)
        return count_each(state, entries)

    names = numbered(13)
    ids = add(client, *names[:5], "bad", *names[5:])
    start(Tiny(load=load, step=step, batch=14))
    await until_seen(client, once(*names))
    await wait_until_async(lambda: not pending(client), "everything is acknowledged")
    assert parked(client) == [{"reason": "one of these is bad", "id": ids[5], "name": "bad"}]
    assert tried == [14, 7, 3, 4, 2, 2, 1, 1, 7]


async def test_a_bad_batch_without_a_bad_entry_is_worked_in_parts_and_nothing_parked(start: Start, client: Any) -> None:
    """Only what is bad alone is poison."""

    def step(state: object, entries: Entries) -> list[Commit]:
        if len(entries) > 2:
            raise DataError("too many")
        return count_each(state, entries)

    names = numbered(8)
    add(client, *names)
    start(Tiny(step=step))
    await until_seen(client, once(*names))
    assert parked(client) == []


async def test_entries_are_never_parked_for_coming_often(start: Start, client: Any) -> None:
    """Kills, claims and reconnects raise the delivery count of the innocent."""
    client.xgroup_create(STREAM, GROUP, "0", mkstream=True)
    (entry_id,) = add(client, "innocent")
    client.xreadgroup(GROUP, "dead", {STREAM: ">"})
    client.xclaim(STREAM, GROUP, "dead", 0, [entry_id], retrycount=1000)
    start(Tiny(), "claimer", claim_idle_ms=CLAIM_IDLE_MS)
    await until_seen(client, once("innocent"))
    assert parked(client) == []


async def test_poison_that_another_consumer_owns_by_now_is_not_parked_by_us(start: Start, client: Any) -> None:
    """Parking is a commit: reason, payload and acknowledgement go together or not at all."""
    (entry_id,) = add(client, "theirs")

    def stolen_meanwhile(fields: Any) -> str:
        client.xclaim(STREAM, GROUP, "two", 0, [entry_id])
        raise DataError("bad")

    worker = start(Tiny(decode=stolen_meanwhile))
    await wait_until_async(lambda: pending(client) == [(entry_id, "two")], "it was claimed")
    await worker.drain()
    assert parked(client) == []
    assert pending(client) == [(entry_id, "two")]
    assert worker.runner.activity.parked == 0


async def test_the_reason_of_parking_survives_fields_of_the_same_name(start: Start, client: Any) -> None:
    """A foreign writer may call its fields as it likes."""
    entry_id = client.xadd(STREAM, {"name": "poison", "reason": "mine", "id": "7"}).decode()
    start(Tiny())
    await wait_until_async(lambda: parked(client), "it is parked")
    (found,) = parked(client)
    assert (found["reason"], found["id"]) == ("poison is no name", entry_id)
    assert {"mine", "7"} <= set(found.values())


async def test_a_message_of_a_newer_schema_stops_the_consumer_and_stays(start: Start, client: Any) -> None:
    """The message is fine; the program is too old."""
    fields = encode(PlaneDirty("SPX", "e", "p"))
    new = client.xadd(STREAM, {**fields, "v": 2}).decode()
    old = client.xadd(STREAM, fields).decode()

    def counted(state: object, entries: Any) -> list[Commit]:
        return [Commit(tuple(entry.id for entry in entries), writes=(Count(SEEN, {"done": 1}),))]

    worker = start(Tiny(decode=lambda entry: decode(entry, (PlaneDirty,)), step=counted))
    assert worker.task is not None
    with pytest.raises(ExceptionGroup) as raised:
        await asyncio.wait_for(worker.task, 5.0)
    assert raised.group_contains(NewerSchemaError, match="update it")
    assert parked(client) == []
    assert {entry for entry, _ in pending(client)} == {new, old}
    assert seen(client) == {}


# --- faults that pass


async def test_a_transient_fault_is_retried_until_it_passes(start: Start, client: Any) -> None:
    tries: list[int] = []

    async def load(reader: Reader, entries: Entries) -> None:
        tries.append(len(entries))
        if len(tries) < 4:
            raise TransientError("the provider is away")

    add(client, "a", "b")
    worker = start(Tiny(load=load))
    await wait_until_async(lambda: worker.runner.activity.waiting_for, "the fault is told")
    assert worker.runner.activity.waiting_for == "the provider is away"
    await until_seen(client, once("a", "b"))
    assert tries == [2, 2, 2, 2]
    await wait_until_async(lambda: not worker.runner.activity.waiting_for, "the fault is over")
    assert (worker.runner.activity.faults, parked(client)) == (3, [])


async def test_a_fault_of_one_concurrent_partition_is_retried_and_leaves_the_others_alone(
    start: Start, client: Any
) -> None:
    failed: list[str] = []

    async def load(reader: Reader, entries: Entries) -> None:
        if entries[0].message == "slow" and len(failed) < 2:
            failed.append("slow")
            raise TransientError("away")

    add(client, "slow", "fast")
    start(Tiny(load=load, partition=lambda name: name, concurrent=True))
    await until_seen(client, once("slow", "fast"))
    assert failed == ["slow", "slow"]


async def test_concurrent_partitions_do_not_wait_for_each_other(start: Start, client: Any) -> None:
    release = asyncio.Event()

    async def load(reader: Reader, entries: Entries) -> None:
        if entries[0].message == "slow":
            await release.wait()

    add(client, "slow", "fast")
    start(Tiny(load=load, partition=lambda name: name, concurrent=True))
    await until_seen(client, once("fast"))
    release.set()
    await until_seen(client, once("slow", "fast"))


async def test_a_fatal_error_ends_the_runner(start: Start, client: Any) -> None:
    async def load(reader: Reader, entries: Entries) -> None:
        raise FatalError("fix the key")

    ids = add(client, "a")
    worker = start(Tiny(load=load))
    assert worker.task is not None
    with pytest.raises(ExceptionGroup) as raised:
        await asyncio.wait_for(worker.task, 5.0)
    assert raised.group_contains(FatalError, match="fix the key")
    assert pending(client) == [(ids[0], "one")]


# --- long work in the background


class Long:
    """A stage in which entries called `long...` take until they are released, in the background."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.begun: list[str] = []
        self.working = 0
        self.tiny = Tiny(
            load=self.load,
            partition=lambda name: name if name.startswith("long") else "quick",
            in_background=lambda name: bool(name.startswith("long")),
        )

    async def load(self, reader: Reader, entries: Entries) -> None:
        if entries[0].message.startswith("long"):
            assert self.working == 0, "one after the other"
            self.working += 1
            self.begun.append(entries[0].message)
            try:
                await self.release.wait()
            finally:
                self.working -= 1


async def test_quick_work_does_not_wait_for_long_work(start: Start, client: Any) -> None:
    long = Long()
    add(client, "long", "quick1")
    start(long.tiny)
    await until_seen(client, once("quick1"))
    add(client, "quick2")
    await until_seen(client, once("quick1", "quick2"))
    long.release.set()
    await until_seen(client, once("quick1", "quick2", "long"))


async def test_long_work_is_done_in_order_one_after_the_other(start: Start, client: Any) -> None:
    long = Long()
    names = [f"long{n}" for n in range(4)]
    add(client, *names)
    start(long.tiny)
    await wait_until_async(lambda: long.begun, "the first has begun")
    long.release.set()
    await until_seen(client, once(*names))
    assert long.begun == names


async def test_long_work_is_not_begun_again_when_pending_entries_are_read_again(start: Start, client: Any) -> None:
    """A fault elsewhere, or a claim, makes the runner look through what it has not finished."""
    long = Long()
    failures = [TransientError("away"), TransientError("away")]

    async def load(reader: Reader, entries: Entries) -> None:
        if entries[0].message == "quick" and failures:
            raise failures.pop()
        await Long.load(long, reader, entries)

    long.tiny.load = load
    add(client, "long", "quick")
    start(long.tiny)
    await until_seen(client, once("quick"))
    long.release.set()
    await until_seen(client, once("quick", "long"))
    assert long.begun == ["long"]


async def test_a_fault_of_long_work_is_retried(start: Start, client: Any) -> None:
    failures = [TransientError("the worker died"), TransientError("again")]

    async def load(reader: Reader, entries: Entries) -> None:
        if failures:
            raise failures.pop()

    add(client, "long")
    start(Tiny(load=load, in_background=lambda name: True))
    await until_seen(client, once("long"))
    assert not failures
    assert parked(client) == []


async def test_long_work_waits_longer_after_every_fault(
    start: Start, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def wait(self: Backoff, stop: asyncio.Event, at_least_s: float = 0.0) -> None:
        self._delay = min(runner_module.MAX_BACKOFF_S, self._delay * 2 or 0.05)
        waits.append(max(self._delay, at_least_s))

    monkeypatch.setattr(Backoff, "wait", wait)
    failures = [TransientError("wait", 7.0), TransientError("away"), TransientError("away")]

    async def load(reader: Reader, entries: Entries) -> None:
        if failures:
            raise failures.pop()

    add(client, "long")
    start(Tiny(load=load, in_background=lambda name: True))
    await until_seen(client, once("long"))
    assert waits == [0.05, 0.1, 7.0]


async def test_long_work_of_one_partition_does_not_wait_for_another_s(start: Start, client: Any) -> None:
    """One consumer that has both: the next fetch of a symbol must not wait for the slow one of another."""
    release = asyncio.Event()

    async def load(reader: Reader, entries: Entries) -> None:
        if entries[0].message == "slow":
            await release.wait()

    add(client, "slow", "fast1")
    start(Tiny(load=load, partition=lambda name: name[:4], concurrent=True, in_background=lambda name: True))
    await until_seen(client, once("fast1"))
    add(client, "fast2")
    await until_seen(client, once("fast1", "fast2"))
    release.set()
    await until_seen(client, once("fast1", "fast2", "slow"))


async def test_poison_among_long_work_is_parked(start: Start, client: Any) -> None:
    async def load(reader: Reader, entries: Entries) -> None:
        if any(entry.message == "bad" for entry in entries):
            raise DataError("bad")

    add(client, "long1", "bad", "long2")
    start(Tiny(load=load, in_background=lambda name: True))
    await until_seen(client, once("long1", "long2"))
    await wait_until_async(lambda: [one["name"] for one in parked(client)] == ["bad"], "it is parked")


async def test_a_fatal_error_of_long_work_ends_the_runner(start: Start, client: Any) -> None:
    async def load(reader: Reader, entries: Entries) -> None:
        raise FatalError("fix the plan")

    add(client, "long")
    worker = start(Tiny(load=load, in_background=lambda name: True))
    assert worker.task is not None
    with pytest.raises(ExceptionGroup) as raised:
        await asyncio.wait_for(worker.task, 5.0)
    assert raised.group_contains(FatalError, match="fix the plan")


async def test_long_work_that_outlasts_a_drain_is_left_to_another(
    start: Start, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fetch that waits for its request budget must not hold up a stop."""
    monkeypatch.setattr(runner_module, "DRAIN_S", 0.1)
    long = Long()
    ids = add(client, "long")
    worker = start(long.tiny)
    await wait_until_async(lambda: long.begun, "it has begun")
    await worker.drain()
    assert pending(client) == [(ids[0], "one")]


async def test_long_work_keeps_its_entries(start: Start, client: Any) -> None:
    long = Long()
    ids = add(client, "long1", "long2")
    one = start(long.tiny, "one", claim_idle_ms=CLAIM_LATE_MS)
    await wait_until_async(lambda: long.begun, "it has begun")
    await asyncio.sleep(1.5 * CLAIM_LATE_MS / 1000)  # that nothing happens can only be waited for
    assert pending(client) == [(ids[0], "one"), (ids[1], "one")]
    assert one.runner.activity.claimed == 0
    long.release.set()
    await until_seen(client, once("long1", "long2"))


async def test_long_work_of_a_killed_worker_is_done_by_another(start: Start, client: Any) -> None:
    long = Long()
    add(client, "long")
    killed = start(long.tiny, "one")
    await wait_until_async(lambda: long.begun, "it has begun")
    await killed.kill()
    start(Tiny(), "two", claim_idle_ms=CLAIM_IDLE_MS)
    await until_seen(client, once("long"))


async def test_a_stopped_worker_finishes_long_work_that_it_began(start: Start, client: Any) -> None:
    long = Long()
    add(client, "long")
    worker = start(long.tiny)
    await wait_until_async(lambda: long.begun, "it has begun")
    worker.stop.set()
    long.release.set()
    await worker.drain()
    assert seen(client) == once("long")
    assert pending(client) == []


# --- restarts and claims


async def test_own_pending_entries_come_first_after_a_restart(start: Start, client: Any) -> None:
    client.xgroup_create(STREAM, GROUP, "0", mkstream=True)
    add(client, "left1", "left2")
    client.xreadgroup(GROUP, "one", {STREAM: ">"})
    add(client, "new")
    order: list[str] = []

    def step(state: object, entries: Entries) -> list[Commit]:
        order.extend(entry.message for entry in entries)
        return count_each(state, entries)

    start(Tiny(step=step))
    await until_seen(client, once("left1", "left2", "new"))
    assert order == ["left1", "left2", "new"]


async def test_a_worker_killed_in_the_middle_loses_and_doubles_nothing(start: Start, client: Any) -> None:
    reached = asyncio.Event()

    async def stuck(reader: Reader, entries: Entries) -> None:
        reached.set()
        await asyncio.Event().wait()

    names = numbered(20)
    add(client, *names)
    first = start(Tiny(load=stuck, batch=5), "one")
    await reached.wait()
    await first.kill()
    start(Tiny(), "one")
    await until_seen(client, once(*names))


async def test_entries_of_a_dead_consumer_are_claimed_by_another(start: Start, client: Any) -> None:
    client.xgroup_create(STREAM, GROUP, "0", mkstream=True)
    add(client, "orphan1", "orphan2")
    client.xreadgroup(GROUP, "dead", {STREAM: ">"})
    began = monotonic()
    worker = start(Tiny(), "two", claim_idle_ms=CLAIM_IDLE_MS)
    await until_seen(client, once("orphan1", "orphan2"))
    assert CLAIM_IDLE_MS / 1000 * 0.5 < monotonic() - began < CLAIM_IDLE_MS / 1000 + 1.5
    assert worker.runner.activity.claimed == 2


async def test_more_orphans_than_one_scan_takes_are_all_claimed(start: Start, client: Any) -> None:
    client.xgroup_create(STREAM, GROUP, "0", mkstream=True)
    names = numbered(350)
    add(client, *names)
    client.xreadgroup(GROUP, "dead", {STREAM: ">"}, count=350)
    start(Tiny(batch=200), "two", claim_idle_ms=CLAIM_IDLE_MS)
    await until_seen(client, once(*names))


async def test_entries_claimed_while_pending_ones_are_being_read_are_not_overlooked(
    start: Start, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reply says that nothing is pending; by the time it is looked at, the sweep has claimed something."""
    client.xgroup_create(STREAM, GROUP, "0", mkstream=True)
    (entry_id,) = add(client, "orphan")
    client.xreadgroup(GROUP, "dead", {STREAM: ">"})
    client.xclaim(STREAM, GROUP, "dead", 0, [entry_id], idle=120_000)
    read_pending, claim_idle = Broker.read_pending, Broker.claim_idle
    replied = asyncio.Event()

    async def slowly(self: Broker, stream: str, count: int) -> list[RawEntry]:
        found = await read_pending(self, stream, count)
        replied.set()
        await wait_until_async(lambda: worker.runner.activity.claimed, "the sweep has claimed")
        return found

    async def then(self: Broker, stream: str, idle_ms: int, cursor: str) -> tuple[str, int]:
        await replied.wait()
        return await claim_idle(self, stream, idle_ms, cursor)

    monkeypatch.setattr(Broker, "read_pending", slowly)
    monkeypatch.setattr(Broker, "claim_idle", then)
    worker = start(Tiny(), "two", claim_idle_ms=60_000)
    await wait_until_async(lambda: seen(client) == once("orphan"), "the claimed entry took effect")


async def test_a_slow_worker_keeps_its_entries(start: Start, client: Any) -> None:
    """It renews what it works on, for as long as it takes."""
    release = asyncio.Event()

    async def slow(reader: Reader, entries: Entries) -> None:
        await release.wait()

    ids = add(client, "slow")
    one = start(Tiny(load=slow), "one", claim_idle_ms=CLAIM_LATE_MS)
    await wait_until_async(lambda: pending(client) == [(ids[0], "one")], "one has it")
    other = start(Tiny(), "two", claim_idle_ms=CLAIM_LATE_MS)
    await asyncio.sleep(1.5 * CLAIM_LATE_MS / 1000)  # that nothing happens can only be waited for
    assert pending(client) == [(ids[0], "one")]
    assert one.runner.activity.claimed + other.runner.activity.claimed == 0
    release.set()
    await until_seen(client, once("slow"))


async def test_a_renewal_that_swallows_its_cancellation_does_not_stop_the_consumer(
    start: Start, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`asyncio.wait_for` of Python 3.11, through which redis-py sends, does that when the send is done just then."""
    renewing = asyncio.Event()

    async def swallow(self: Broker, stream: str, ids: Sequence[str]) -> None:
        if not renewing.is_set():
            renewing.set()
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    async def load(reader: Reader, entries: Entries) -> None:
        if entries[0].message == "slow":
            await renewing.wait()

    monkeypatch.setattr(Broker, "renew", swallow)
    add(client, "slow")
    start(Tiny(load=load), claim_idle_ms=200)
    await until_seen(client, once("slow"))
    add(client, "next")
    await until_seen(client, once("slow", "next"))


async def test_an_entry_claimed_away_is_left_to_its_new_owner_and_the_rest_finished(start: Start, client: Any) -> None:
    """The batch shrinks to what is still ours."""
    ids: list[str] = []

    async def load(reader: Reader, entries: Entries) -> None:
        if len(entries) == 3:
            client.xclaim(STREAM, GROUP, "two", 0, [ids[1]])

    ids += add(client, "a", "taken", "c")
    worker = start(Tiny(load=load))
    await until_seen(client, once("a", "c"))
    assert pending(client) == [(ids[1], "two")]
    assert worker.runner.activity.lost == 1


# --- the server


async def test_connections_killed_under_load_lose_and_double_nothing(start: Start, client: Any) -> None:
    worker = start(Tiny(batch=3))
    names = numbered(300)
    for first in range(0, 300, 30):
        add(client, *names[first : first + 30])
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await asyncio.sleep(0.01)
    await until_seen(client, once(*names))

    def cut_off() -> int:
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        return worker.runner.activity.faults

    await wait_until_async(cut_off, "it noticed")
    add(client, "last")
    await until_seen(client, once(*names, "last"))
    assert pending(client) == []


async def test_a_blocked_read_that_the_server_ends_is_tried_again(start: Start, client: Any) -> None:
    """A server that becomes a replica answers blocked readers with UNBLOCKED."""
    worker = start(Tiny())
    add(client, "a")
    await until_seen(client, once("a"))

    def unblock_one() -> bool:
        readers = [one for one in client.client_list() if one["cmd"] == "xreadgroup"]
        return any(client.execute_command("CLIENT", "UNBLOCK", one["id"], "ERROR") for one in readers)

    await wait_until_async(unblock_one, "a blocked reader was unblocked with an error")
    add(client, "b")
    await until_seen(client, once("a", "b"))
    assert worker.task is not None
    assert not worker.task.done()


async def test_scripts_that_the_server_forgot_are_sent_again(start: Start, client: Any) -> None:
    start(Tiny())
    add(client, "a")
    await until_seen(client, once("a"))
    client.script_flush()
    add(client, "b")
    await until_seen(client, once("a", "b"))


async def test_a_lost_group_is_made_again_and_nothing_acknowledged_comes_back(start: Start, client: Any) -> None:
    start(Tiny(batch=2))
    names = numbered(10)
    add(client, *names)
    await until_seen(client, once(*names))
    client.xgroup_destroy(STREAM, GROUP)
    more = numbered(10, first=10)
    add(client, *more)
    await until_seen(client, once(*names, *more))


async def test_a_flushed_server_is_worked_on_from_the_beginning(start: Start, client: Any) -> None:
    start(Tiny())
    add(client, "a")
    await until_seen(client, once("a"))
    client.flushdb()
    add(client, "b")
    await until_seen(client, once("b"))


async def test_a_runner_waits_for_a_server_that_is_not_there(redis_url: str) -> None:
    broker = Broker("redis://:secret@127.0.0.1:1/0", GROUP, "one", CURSOR)
    runner = Runner(Tiny().stage(), broker, KEYS, "SPX", claim_idle_ms=1000, journal=False)
    stop = asyncio.Event()
    task = asyncio.create_task(runner.run(stop))
    await wait_until_async(lambda: runner.activity.faults > 1, "it was tried again")
    assert "is not available" in runner.activity.waiting_for
    assert "secret" not in runner.activity.waiting_for
    stop.set()
    await asyncio.wait_for(task, 5.0)
    await broker.close()


# --- bounds


async def test_streams_are_trimmed_to_what_is_acknowledged(start: Start, client: Any) -> None:
    start(Tiny())
    names = numbered(40)
    add(client, *names)
    await until_seen(client, once(*names))
    await wait_until_async(lambda: client.xlen(STREAM) <= 1, "the stream is trimmed")


async def test_trimming_never_drops_an_unread_or_pending_entry(start: Start, client: Any) -> None:
    hold = asyncio.Event()

    async def load(reader: Reader, entries: Entries) -> None:
        if "held" in [entry.message for entry in entries]:
            await hold.wait()

    worker = start(Tiny(load=load, batch=1))
    add(client, "done", "held", "unread1", "unread2")
    await until_seen(client, once("done"))
    await wait_until_async(lambda: client.xlen(STREAM) == 3, "what is done is gone")
    assert await worker.broker.trim(STREAM) == 0
    assert client.xlen(STREAM) == 3
    hold.set()
    await until_seen(client, once("done", "held", "unread1", "unread2"))


async def test_with_the_journal_nothing_is_trimmed_and_the_order_of_effects_is_told(start: Start, client: Any) -> None:
    ids = add(client, "a", "b", "c")
    start(Tiny(batch=2), journal=True)
    await until_seen(client, once("a", "b", "c"))
    journal = [fields for _, fields in client.xrange(KEYS.journal_stream("SPX"))]
    assert [entry[b"ids"].decode().split(",") for entry in journal] == [ids[:2], ids[2:]]
    assert {(entry[b"stage"], entry[b"stream"]) for entry in journal} == {(b"staging", STREAM.encode())}
    assert client.xlen(STREAM) == 3


async def test_parked_entries_are_in_the_journal_too(start: Start, client: Any) -> None:
    ids = add(client, "poison")
    start(Tiny(), journal=True)
    await wait_until_async(lambda: client.xlen(KEYS.journal_stream("SPX")), "the journal has it")
    assert client.xrange(KEYS.journal_stream("SPX"))[0][1][b"ids"].decode() == ids[0]


# --- stopping


async def test_a_stopped_worker_finishes_what_it_began(start: Start, client: Any) -> None:
    reached, release = asyncio.Event(), asyncio.Event()

    async def load(reader: Reader, entries: Entries) -> None:
        reached.set()
        await release.wait()

    add(client, "begun")
    worker = start(Tiny(load=load, batch=1))
    await reached.wait()
    add(client, "later")
    worker.stop.set()
    release.set()
    await worker.drain()
    assert seen(client) == once("begun")
    assert pending(client) == []


async def test_a_worker_that_waits_for_something_stops_at_once(start: Start, client: Any) -> None:
    async def load(reader: Reader, entries: Entries) -> None:
        raise TransientError("away", retry_after_s=60.0)

    ids = add(client, "a")
    worker = start(Tiny(load=load))
    await wait_until_async(lambda: worker.runner.activity.faults, "it waits")
    await worker.drain()
    assert pending(client) == [(ids[0], "one")]


async def test_a_worker_whose_commits_are_refused_for_ever_stops_too(start: Start, client: Any) -> None:
    """The keys of an epoch are gone and no chain comes: SIGTERM must still end it."""

    def step(state: object, entries: Entries) -> list[Commit]:
        return [Commit(tuple(entry.id for entry in entries), (FieldIs(SEEN, "never", "x"),))]

    ids = add(client, "a")
    worker = start(Tiny(step=step))
    await wait_until_async(lambda: worker.runner.activity.refused > 50, "it is refused again and again")
    await worker.drain()
    assert pending(client) == [(ids[0], "one")]


async def test_a_stopped_worker_gives_the_sweep_to_the_next_at_once(start: Start, client: Any) -> None:
    lease = KEYS.lease(f"sweep:{GROUP}", "SPX")
    worker = start(Tiny())
    await wait_until_async(lambda: client.get(lease) == b"one", "it holds the sweep")
    await worker.drain()
    assert client.get(lease) is None


async def test_a_stopped_worker_that_owns_nothing_leaves_the_group(start: Start, client: Any) -> None:
    add(client, "a")
    worker = start(Tiny())
    await until_seen(client, once("a"))
    await worker.drain()
    assert client.xinfo_consumers(STREAM, GROUP) == []
