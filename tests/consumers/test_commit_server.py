"""What a commit means on a server alone: ownership of entries, lifetimes, the durable cursor, the feed watermark."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis

from consumers.broker import Broker
from contracts.commit import (
    AddScores,
    Applied,
    Commit,
    Count,
    EntryId,
    FeedWatermark,
    FieldIs,
    Lost,
    PushItem,
    Refused,
    Renew,
    SetFields,
    SetValue,
)
from contracts.keys import Keys
from tests.servers import embedded_server

KEYS = Keys()
STREAM = KEYS.ws_stream("SPX")
CURSOR = KEYS.cursor("staging", "SPX")
WATERMARK = KEYS.watermark("SPX")
HASH = KEYS.job("SPX")
WRITTEN = Count(HASH, {"written": 1})


@pytest.fixture
async def one(redis_url: str) -> AsyncIterator[Broker]:
    """The first consumer of the group, which exists."""
    broker = Broker(redis_url, "staging", "one", CURSOR)
    await broker.ensure_group(STREAM)
    yield broker
    await broker.close()


@pytest.fixture
async def two(redis_url: str, one: Broker) -> AsyncIterator[Broker]:
    """The second consumer of the same group."""
    broker = Broker(redis_url, "staging", "two", CURSOR)
    yield broker
    await broker.close()


def append(client: Any, count: int, first_ts: float = 1.0) -> list[str]:
    """Frames received a second apart; their ids."""
    return [client.xadd(STREAM, {"ts": repr(first_ts + n), "payload": "[]"}).decode() for n in range(count)]


async def take(broker: Broker, count: int) -> list[str]:
    """Read that many new entries as this consumer."""
    found = [entry.id for entry in await broker.read_new(STREAM, count)]
    assert len(found) == count
    return found


def finishing(*ids: str) -> Commit:
    """A commit that acknowledges entries and leaves a trace."""
    return Commit(tuple(EntryId(STREAM, one) for one in ids), writes=(WRITTEN,))


def pending(client: Any) -> list[str]:
    return [row["message_id"].decode() for row in client.xpending_range(STREAM, "staging", "-", "+", 1000)]


# --- ownership


async def test_entries_of_our_own_are_acknowledged_with_the_writes(one: Broker, client: Any) -> None:
    append(client, 3)
    ids = await take(one, 3)
    assert await one.commit(finishing(*ids[:2])) == Applied(0)
    assert pending(client) == ids[2:]
    assert client.hget(HASH, "written") == b"1"


async def test_an_entry_owned_by_another_refuses_and_names_those_still_ours(
    one: Broker, two: Broker, client: Any
) -> None:
    append(client, 4)
    ids = await take(one, 4)
    client.xclaim(STREAM, "staging", "two", 0, [ids[1]])
    assert await one.commit(finishing(*ids)) == Lost(frozenset({ids[0], ids[2], ids[3]}))
    assert pending(client) == ids
    assert client.exists(HASH) == 0


async def test_an_equal_count_of_other_entries_is_no_ownership(one: Broker, two: Broker, client: Any) -> None:
    """We own two entries of the span and name two, but one of them is the other consumer's."""
    append(client, 3)
    ids = await take(one, 3)
    client.xclaim(STREAM, "staging", "two", 0, [ids[2]])
    assert await one.commit(finishing(ids[0], ids[2])) == Lost(frozenset({ids[0]}))
    assert await one.commit(finishing(ids[0], ids[1])) == Applied(0)


async def test_an_entry_that_is_acknowledged_already_is_not_ours(one: Broker, client: Any) -> None:
    """The reply of a commit was lost and it is sent again: it must not count twice."""
    append(client, 1)
    ids = await take(one, 1)
    assert await one.commit(finishing(*ids)) == Applied(0)
    assert await one.commit(finishing(*ids)) == Lost(frozenset())
    assert client.hget(HASH, "written") == b"1"


async def test_ownership_is_seen_through_thousands_of_other_pending_entries(one: Broker, client: Any) -> None:
    append(client, 1500)
    ids = await take(one, 1500)
    assert await one.commit(finishing(ids[0], ids[-1])) == Applied(0)
    assert len(pending(client)) == 1000  # as many as were asked for


async def test_held_entries_must_be_owned_and_stay_pending(one: Broker, two: Broker, client: Any) -> None:
    """A chunk of a promotion does not acknowledge yet, but a builder that lost its entry writes nothing."""
    append(client, 1)
    ids = await take(one, 1)
    chunk = Commit(holds=(EntryId(STREAM, ids[0]),), writes=(WRITTEN,))
    assert await one.commit(chunk) == Applied(0)
    assert pending(client) == ids
    client.xclaim(STREAM, "staging", "two", 0, ids)
    assert await one.commit(chunk) == Lost(frozenset())
    assert client.hget(HASH, "written") == b"1"


async def test_ids_are_compared_as_numbers_not_as_text(one: Broker, client: Any) -> None:
    for entry_id in ("9-1", "10-1", "10-10", "10-9000"):
        client.xadd(STREAM, {"ts": "1", "payload": "[]"}, id=entry_id)
    ids = await take(one, 4)
    assert await one.commit(finishing(*sorted(ids))) == Applied(0)
    assert pending(client) == []


async def test_a_refused_guard_leaves_the_entries_pending(one: Broker, client: Any) -> None:
    append(client, 1)
    ids = await take(one, 1)
    guard = FieldIs(HASH, "a", "x")
    commit = Commit((EntryId(STREAM, ids[0]),), (guard,), (WRITTEN,))
    assert await one.commit(commit) == Refused(guard)
    assert pending(client) == ids
    assert client.hget(CURSOR, STREAM) is None


async def test_one_commit_finishes_entries_of_two_streams(one: Broker, client: Any) -> None:
    other = KEYS.chain_stream("SPX")
    await one.ensure_group(other)
    append(client, 1)
    client.xadd(other, {"type": "x"})
    frame, chain = (await take(one, 1))[0], (await one.read_new(other, 1))[0].id
    assert await one.commit(Commit((EntryId(STREAM, frame), EntryId(other, chain)))) == Applied(0)
    assert client.xpending(STREAM, "staging")["pending"] == client.xpending(other, "staging")["pending"] == 0


# --- lifetimes


async def test_writes_give_keys_their_lifetime(one: Broker, client: Any) -> None:
    value, fields, scores = KEYS.had_ws_updates("SPX:1:abcd"), KEYS.versions("SPX:1:abcd"), "epoch:SPX:1:abcd:geometry:"
    scores += "2026-01-16"
    writes = (SetValue(value, "0", 50_000), SetFields(fields, {"a": 1}, 50_000), AddScores(scores, {"m": 1.0}, 50_000))
    await one.commit(Commit(writes=writes))
    for key in (value, fields, scores):
        assert 40_000 < client.pttl(key) <= 50_000


async def test_a_derived_value_has_its_lifetime_too(one: Broker, client: Any) -> None:
    key = KEYS.heatmap_model("SPX")
    await one.commit(Commit(writes=(SetValue(key, "{}", 50_000, derived=True),)))
    assert 40_000 < client.pttl(key) <= 50_000


async def test_renewal_lengthens_what_exists_and_invents_nothing(one: Broker, client: Any) -> None:
    there, gone = KEYS.had_ws_updates("SPX:1:abcd"), KEYS.had_ws_updates("SPX:2:abcd")
    client.set(there, "0", px=5_000)
    await one.commit(Commit(writes=(Renew((there, gone), 50_000),)))
    assert client.pttl(there) > 40_000
    assert client.exists(gone) == 0


async def test_derived_values_stay_out_of_the_append_only_file() -> None:
    """They can be recomputed, and whole-plane writes would fill it; what is no derived value is logged."""
    body = b"x" * 100_000
    with embedded_server("--appendfsync", "always") as url:
        broker, client = Broker(url, "staging", "one", CURSOR), redis.Redis.from_url(url)

        async def logged(*, derived: bool) -> int:
            before: Any = client.info("persistence")
            writes = (
                SetValue(KEYS.heatmap_model("SPX"), body, 50_000, derived),
                PushItem(KEYS.timeline("SPX"), "x", 9),
            )
            await broker.commit(Commit(writes=writes))
            after: Any = client.info("persistence")
            return int(after["aof_current_size"] - before["aof_current_size"])

        assert await logged(derived=False) > len(body)
        assert 0 < await logged(derived=True) < 1000
        client.close()
        await broker.close()


# --- the durable cursor


async def test_a_group_that_was_lost_starts_again_at_its_cursor(one: Broker, client: Any) -> None:
    append(client, 3)
    ids = await take(one, 3)
    await one.commit(finishing(*ids[:2]))
    client.xgroup_destroy(STREAM, "staging")
    await one.ensure_group(STREAM)
    assert [entry.id for entry in await one.read_new(STREAM, 10)] == ids[2:]


async def test_the_cursor_stays_before_what_anybody_still_works_on(one: Broker, two: Broker, client: Any) -> None:
    append(client, 4)
    mine, theirs = await take(one, 2), await take(two, 2)
    await two.commit(finishing(*theirs))
    client.xgroup_destroy(STREAM, "staging")
    await one.ensure_group(STREAM)
    assert [entry.id for entry in await one.read_new(STREAM, 10)] == [*mine, *theirs]


async def test_entries_acknowledged_out_of_order_do_not_come_again(one: Broker, two: Broker, client: Any) -> None:
    """The later half is finished first; once all is done, the cursor is behind all of it."""
    append(client, 4)
    mine, theirs = await take(one, 2), await take(two, 2)
    await two.commit(finishing(*theirs))
    await one.commit(finishing(*mine))
    client.xgroup_destroy(STREAM, "staging")
    await one.ensure_group(STREAM)
    client.xadd(STREAM, {"ts": "9", "payload": "[]"}, id="*")
    assert len(await one.read_new(STREAM, 10)) == 1


async def test_the_cursor_never_goes_back(one: Broker, client: Any) -> None:
    """Redelivered old entries are finished after newer ones were."""
    append(client, 3)
    ids = await take(one, 3)
    await one.commit(finishing(*ids))
    at = client.hget(CURSOR, STREAM)
    client.xgroup_setid(STREAM, "staging", "0")
    again = await take(one, 1)
    await one.commit(finishing(*again))
    assert client.hget(CURSOR, STREAM) == at


async def test_the_cursor_before_the_first_id_of_a_millisecond_is_in_the_one_before(one: Broker, client: Any) -> None:
    client.xadd(STREAM, {"ts": "1", "payload": "[]"}, id="1000-5")
    client.xadd(STREAM, {"ts": "1", "payload": "[]"}, id="2000-0")
    client.xadd(STREAM, {"ts": "1", "payload": "[]"}, id="3000-0")
    ids = await take(one, 3)
    await one.commit(finishing(ids[0], ids[2]))
    client.xgroup_destroy(STREAM, "staging")
    await one.ensure_group(STREAM)
    assert [entry.id for entry in await one.read_new(STREAM, 10)] == ["2000-0", "3000-0"]


# --- the feed watermark


async def finish_frames(broker: Broker, ids: list[str], newest_ts: float) -> None:
    """Acknowledge frames as hydration does."""
    entries = tuple(EntryId(STREAM, one) for one in ids)
    watermark = FeedWatermark(WATERMARK, STREAM, "staging", newest_ts)
    assert await broker.commit(Commit(entries, writes=(watermark,))) == Applied(0)


async def test_with_nothing_pending_the_watermark_is_the_newest_frame(one: Broker, client: Any) -> None:
    append(client, 3)
    await finish_frames(one, await take(one, 3), 3.0)
    assert float(client.hget(WATERMARK, "ts")) == 3.0


async def test_a_frame_another_consumer_works_on_holds_the_watermark_back(
    one: Broker, two: Broker, client: Any
) -> None:
    append(client, 4)
    mine, theirs = await take(one, 2), await take(two, 2)
    await finish_frames(two, theirs, 4.0)
    assert 0.999 < float(client.hget(WATERMARK, "ts")) < 1.0
    await finish_frames(one, mine, 2.0)
    assert float(client.hget(WATERMARK, "ts")) == 4.0


async def test_a_watermark_never_falls_when_an_older_frame_is_claimed_late(
    one: Broker, two: Broker, client: Any
) -> None:
    append(client, 1, first_ts=9.0)
    await finish_frames(one, await take(one, 1), 9.0)
    append(client, 2, first_ts=5.0)
    (late, later) = await take(two, 2)
    await finish_frames(two, [later], 6.0)
    assert float(client.hget(WATERMARK, "ts")) == 9.0
    await finish_frames(two, [late], 5.0)
    assert float(client.hget(WATERMARK, "ts")) == 9.0


async def test_a_pending_frame_whose_entry_was_deleted_does_not_fail_the_commit(one: Broker, client: Any) -> None:
    append(client, 2)
    ids = await take(one, 2)
    client.xdel(STREAM, ids[0])
    await finish_frames(one, ids[1:], 2.0)
    assert pending(client) == ids[:1]
