"""The broker beside commits: reads at one moment, groups, leases, and faults named by who must act."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis
import structlog

from consumers import broker as broker_module
from consumers.broker import Broker
from consumers.clients import hide_password
from consumers.memory import MemoryStore
from contracts.commit import AddMembers, AddScores, Commit, EntryId, PushItem, SetFields, SetValue, Write
from contracts.errors import FatalError, TransientError
from contracts.keys import Keys, Stat
from contracts.ports import (
    Backlog,
    CountExisting,
    GetBacklog,
    GetFields,
    GetHead,
    GetItems,
    GetMemoryPolicy,
    GetQuantiles,
    GetValue,
    Quantiles,
    Read,
)
from ops.stage_process import warn_if_evicting
from tests.waiting import wait_until_async

KEYS = Keys()
STREAM = KEYS.ws_stream("SPX")
CURSOR = KEYS.cursor("staging", "SPX")
LEASE = KEYS.lease("tick", "SPX")


@pytest.fixture
async def one(redis_url: str) -> AsyncIterator[Broker]:
    """A consumer."""
    broker = Broker(redis_url, "staging", "one", CURSOR)
    yield broker
    await broker.close()


@pytest.fixture
async def two(redis_url: str) -> AsyncIterator[Broker]:
    """Another of the same group."""
    broker = Broker(redis_url, "staging", "two", CURSOR)
    yield broker
    await broker.close()


# --- reads: the server and its twin in memory answer alike

SCORES, NO_SCORES = KEYS.latency(Stat.EPOCH, "SPX"), KEYS.latency(Stat.WS, "SPX")
STATE: tuple[Write, ...] = (
    SetValue(KEYS.spot("SPX"), b"\x000123456789"),
    SetFields(KEYS.job("SPX"), {"a": 1, "b": b"\xff"}),
    PushItem(KEYS.timeline("SPX"), "old", 9),
    PushItem(KEYS.timeline("SPX"), "new", 9),
    AddMembers(KEYS.dirty("SPX"), ("x",)),
    AddScores(SCORES, {str(number): number / 4 for number in range(1, 201)}, 60_000),
)
VALUE, FIELDS, ITEMS, SET = KEYS.spot("SPX"), KEYS.job("SPX"), KEYS.timeline("SPX"), KEYS.dirty("SPX")
ABSENT = KEYS.tick("SPX")

READS: list[tuple[Read, object]] = [
    (GetValue(VALUE), b"\x000123456789"),
    (GetValue(ABSENT), None),
    (GetHead(VALUE, 3), b"\x0001"),
    (GetHead(VALUE, 99), b"\x000123456789"),
    (GetHead(ABSENT, 3), b""),
    (GetFields(FIELDS), {b"a": b"1", b"b": b"\xff"}),
    (GetFields(ABSENT), {}),
    (GetItems(ITEMS, 0, -1), [b"new", b"old"]),
    (GetItems(ITEMS, 0, 0), [b"new"]),
    (GetItems(ITEMS, 1, -1), [b"old"]),
    (GetItems(ITEMS, 5, -1), []),
    (GetItems(ABSENT, 0, -1), []),
    (CountExisting((VALUE, FIELDS, ABSENT, SET, VALUE)), 4),
    (CountExisting(()), 0),
    (GetMemoryPolicy(), "noeviction"),
    (GetQuantiles(SCORES), Quantiles(200, 25.0, 49.5, 50.0)),
    (GetQuantiles(NO_SCORES), None),
    (GetValue(VALUE), b"\x000123456789"),
]


async def test_every_kind_of_read_answers_alike_on_the_server_and_in_memory(one: Broker) -> None:
    memory = MemoryStore()
    await one.commit(Commit(writes=STATE))
    memory.commit(Commit(writes=STATE))
    reads = [read for read, _ in READS]
    expected = [found for _, found in READS]
    assert await one.read(*reads) == expected
    assert await memory.read(*reads) == expected


async def test_values_and_fields_answer_alike_too(one: Broker) -> None:
    memory = MemoryStore()
    await one.commit(Commit(writes=STATE))
    memory.commit(Commit(writes=STATE))
    for store in (one, memory):
        assert await store.values(VALUE, ABSENT, VALUE) == [b"\x000123456789", None, b"\x000123456789"]
        assert (await store.fields(FIELDS), await store.fields(ABSENT)) == ({b"a": b"1", b"b": b"\xff"}, {})


async def backlog(broker: Broker) -> Backlog:
    """What waits on the stream for the group of the broker."""
    (found,) = await broker.read(GetBacklog(STREAM, KEYS.parked(STREAM), broker.group))
    assert isinstance(found, Backlog)
    return found


async def test_of_a_stream_that_is_not_there_nothing_waits(one: Broker, client: Any) -> None:
    found = await backlog(one)
    assert found == Backlog(server_ms=found.server_ms)
    assert abs(found.server_ms / 1000 - client.time()[0]) < 5


async def test_the_oldest_entry_waits_unread_then_pending_until_it_is_acknowledged(one: Broker, client: Any) -> None:
    client.xadd(STREAM, {"ts": "1.5", "payload": "[]"}, id="1-0")
    client.xadd(STREAM, {"ts": "2.5", "payload": "[]"}, id="2-0")
    assert (await backlog(one)).groups == ()
    assert (await backlog(one)).waiting_id == "1-0"  # nobody reads at all
    await one.ensure_group(STREAM)
    waiting = []
    for step in ("unread", "pending", "one done", "all done"):
        if step == "pending":
            await one.read_new(STREAM, 10)
        if step.endswith("done"):
            client.xack(STREAM, "staging", "1-0" if step == "one done" else "2-0")
        found = await backlog(one)
        waiting.append((found.waiting_id, found.waiting_ts))
    assert waiting == [("1-0", 1.5), ("1-0", 1.5), ("2-0", 2.5), ("", None)]


async def test_a_waiting_entry_may_have_no_time_or_be_deleted(one: Broker, client: Any) -> None:
    await one.ensure_group(STREAM)
    client.xadd(STREAM, {"ts": "soon"}, id="1-0")
    assert (await backlog(one)).waiting_ts is None
    await one.read_new(STREAM, 1)
    client.xdel(STREAM, "1-0")
    assert ((await backlog(one)).waiting_id, (await backlog(one)).waiting_ts) == ("1-0", None)


async def test_groups_newest_id_and_parked_entries_of_a_stream_are_told(one: Broker, client: Any) -> None:
    await one.ensure_group(STREAM)
    client.xgroup_create(STREAM, "foreign", "0")
    client.xadd(STREAM, {"ts": "1"}, id="7-3")
    client.xdel(STREAM, "7-3")
    for reason in ("one", "two"):
        client.xadd(KEYS.parked(STREAM), {"reason": reason})
    found = await backlog(one)
    assert (set(found.groups), found.last_id, found.parked) == ({"staging", "foreign"}, "7-3", 2)


async def test_all_reads_of_one_call_see_the_same_moment(one: Broker, two: Broker) -> None:
    """A writer moves two values together; nobody ever sees one without the other."""
    stop = asyncio.Event()

    async def write() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            await two.commit(Commit(writes=(SetValue(VALUE, str(n)), SetFields(FIELDS, {"n": n}))))

    task = asyncio.create_task(write())
    await wait_until_async(lambda: one.values(VALUE), "something is written")
    seen = set()
    for _ in range(200):
        value, fields = await one.read(GetValue(VALUE), GetFields(FIELDS))
        assert isinstance(fields, dict)
        assert fields.get(b"n") == value
        seen.add(value)
    stop.set()
    await task
    assert len(seen) > 5


# --- entries


async def test_appended_entries_are_read_in_order_and_once(one: Broker, two: Broker) -> None:
    await one.ensure_group(STREAM)
    await one.append(STREAM, [{"n": str(n)} for n in range(5)])
    first, second = await one.read_new(STREAM, 3), await two.read_new(STREAM, 3)
    assert [entry.fields[b"n"] for entry in (*first, *second)] == [b"0", b"1", b"2", b"3", b"4"]


async def test_own_pending_entries_are_read_again_and_those_of_others_not(one: Broker, two: Broker) -> None:
    await one.ensure_group(STREAM)
    await one.append(STREAM, [{"n": "0"}, {"n": "1"}])
    mine, theirs = await one.read_new(STREAM, 1), await two.read_new(STREAM, 1)
    assert await one.read_pending(STREAM, 9) == mine
    assert await two.read_pending(STREAM, 9) == theirs


async def test_a_pending_entry_that_was_deleted_comes_without_fields(one: Broker, client: Any) -> None:
    await one.ensure_group(STREAM)
    await one.append(STREAM, [{"n": "0"}])
    (entry,) = await one.read_new(STREAM, 1)
    client.xdel(STREAM, entry.id)
    (found,) = await one.read_pending(STREAM, 9)
    assert (found.id, found.fields) == (entry.id, {})


async def test_a_group_that_exists_is_left_as_it_is(one: Broker, two: Broker) -> None:
    await one.ensure_group(STREAM)
    await one.append(STREAM, [{"n": "0"}])
    await one.read_new(STREAM, 1)
    await two.ensure_group(STREAM)
    assert len(await one.read_pending(STREAM, 9)) == 1


async def test_renewal_resets_the_idle_time_of_own_entries_alone(one: Broker, two: Broker, client: Any) -> None:
    await one.ensure_group(STREAM)
    await one.append(STREAM, [{"n": "0"}, {"n": "1"}])
    mine, theirs = (await one.read_new(STREAM, 1))[0].id, (await two.read_new(STREAM, 1))[0].id
    for entry_id, owner in ((mine, "one"), (theirs, "two")):
        client.xclaim(STREAM, "staging", owner, 0, [entry_id], idle=50_000)
    await one.renew(STREAM, [mine, theirs])
    rows = {row["message_id"].decode(): row for row in client.xpending_range(STREAM, "staging", "-", "+", 9)}
    assert rows[mine]["time_since_delivered"] < 10_000 < rows[theirs]["time_since_delivered"]
    assert (rows[mine]["consumer"], rows[theirs]["consumer"]) == (b"one", b"two")


async def test_renewal_of_an_entry_that_is_acknowledged_does_not_bring_it_back(one: Broker, client: Any) -> None:
    await one.ensure_group(STREAM)
    await one.append(STREAM, [{"n": "0"}])
    (entry,) = await one.read_new(STREAM, 1)
    await one.commit(Commit((EntryId(STREAM, entry.id),)))
    await one.renew(STREAM, [entry.id])
    assert client.xpending(STREAM, "staging")["pending"] == 0


async def test_claims_take_idle_entries_in_scans_of_a_hundred(one: Broker, two: Broker, client: Any) -> None:
    await one.ensure_group(STREAM)
    await one.append(STREAM, [{"n": str(n)} for n in range(150)])
    ids = [entry.id for entry in await two.read_new(STREAM, 150)]
    client.xclaim(STREAM, "staging", "two", 0, ids, idle=50_000)
    cursor, first = await one.claim_idle(STREAM, 10_000, "0-0")
    _, second = await one.claim_idle(STREAM, 10_000, cursor)
    assert (first, second) == (100, 50)


async def test_dead_consumers_are_removed_only_when_they_own_nothing(one: Broker, client: Any) -> None:
    await one.ensure_group(STREAM)
    await one.append(STREAM, [{"n": "0"}])
    client.xreadgroup("staging", "owner", {STREAM: ">"})
    client.xreadgroup("staging", "idler", {STREAM: ">"})
    await one.read_pending(STREAM, 1)
    await wait_until_async(lambda: _forgotten(one, client), "the idler is gone")
    names = {row["name"] for row in client.xinfo_consumers(STREAM, "staging")}
    assert b"owner" in names
    assert client.xpending(STREAM, "staging")["pending"] == 1


async def _forgotten(broker: Broker, client: Any) -> bool:
    await broker.forget_dead(STREAM, 1)
    return b"idler" not in {row["name"] for row in client.xinfo_consumers(STREAM, "staging")}


async def test_a_consumer_that_owns_something_does_not_leave(one: Broker, client: Any) -> None:
    """Removing it would destroy its pending entries."""
    await one.ensure_group(STREAM)
    await one.append(STREAM, [{"n": "0"}])
    await one.read_new(STREAM, 1)
    await one.leave(STREAM)
    assert client.xpending(STREAM, "staging")["pending"] == 1


# --- leases


async def test_a_lease_has_one_owner(one: Broker, two: Broker) -> None:
    assert await one.take_lease(LEASE, 50_000)
    assert not await two.take_lease(LEASE, 50_000)
    assert await one.take_lease(LEASE, 50_000), "its owner renews it"


async def test_a_lease_runs_out(one: Broker, two: Broker, client: Any) -> None:
    await one.take_lease(LEASE, 50_000)
    assert 0 < client.pttl(LEASE) <= 50_000
    await one.take_lease(LEASE, 50)
    await wait_until_async(lambda: two.take_lease(LEASE, 50_000), "the next takes it")
    assert not await one.take_lease(LEASE, 50_000)


async def test_a_lease_is_given_back_by_its_owner_alone(one: Broker, two: Broker) -> None:
    await one.take_lease(LEASE, 50_000)
    await two.drop_lease(LEASE)
    assert not await two.take_lease(LEASE, 50_000)
    await one.drop_lease(LEASE)
    assert await two.take_lease(LEASE, 50_000)


# --- faults


async def test_a_server_that_is_not_there_is_a_transient_fault_without_the_password() -> None:
    broker = Broker("redis://user:secret@127.0.0.1:1/0", "staging", "one", CURSOR)
    with pytest.raises(TransientError, match="is not available") as raised:
        await broker.ping()
    assert "secret" not in str(raised.value)
    await broker.close()


async def test_a_refused_login_is_for_a_person_to_fix(one: Broker, redis_url: str, client: Any) -> None:
    client.acl_setuser("visitor", enabled=True, passwords=["+right"], categories=["+@all"], keys=["*"])
    address = redis_url.split("://", 1)[1]
    broker = Broker(f"redis://visitor:wrong@{address}", "staging", "one", CURSOR)
    try:
        with pytest.raises(FatalError, match="check REDIS_URL") as raised:
            await broker.ping()
        assert "wrong" not in str(raised.value)
    finally:
        await broker.close()
        client.acl_deluser("visitor")


def test_an_address_that_is_none_is_for_a_person_to_fix() -> None:
    with pytest.raises(FatalError, match="REDIS_URL"):
        Broker("localhost:6379", "staging", "one", CURSOR)


async def test_a_group_that_is_gone_is_a_transient_fault(one: Broker) -> None:
    with pytest.raises(TransientError, match="NOGROUP"):
        await one.read_new(STREAM, 1)


async def test_entries_can_be_read_by_several_sources_at_once(one: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stream has a reading connection of its own: one that blocks does not hold up the others."""
    monkeypatch.setattr(broker_module, "BLOCK_MS", 9000)
    other = KEYS.chain_stream("SPX")
    await one.ensure_group(STREAM)
    await one.ensure_group(other)
    blocked = asyncio.create_task(one.read_new(STREAM, 1))
    await one.append(other, [{"n": "0"}])
    assert len(await one.read_new(other, 1)) == 1
    assert not blocked.done()
    await one.append(STREAM, [{"n": "0"}])
    assert len(await blocked) == 1


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://:secret@host", "redis://***@host"),
        ("rediss://user:p@ss@host:1", "rediss://***@host:1"),
    ],
)
def test_urls_are_shown_without_login(url: str, shown: str) -> None:
    assert hide_password(url) == shown


async def test_a_server_that_may_evict_keys_is_told_about(one: Broker, redis_url: str) -> None:
    client: Any = redis.Redis.from_url(redis_url)
    with structlog.testing.capture_logs() as before:
        await warn_if_evicting(one)
    client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with structlog.testing.capture_logs() as told:
            await warn_if_evicting(one)
    finally:
        client.config_set("maxmemory-policy", "noeviction")
        client.close()
    assert before == []
    assert [(line["event"], line["policy"]) for line in told] == [("server_may_evict", "allkeys-lru")]
