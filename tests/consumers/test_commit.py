"""The contract of a commit, held by the script on a real server and by its twin in memory alike.

Every guard is seen to hold and to refuse with nothing written; every write is seen to do what it says.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consumers.broker import Broker
from contracts.commit import (
    AddMembers,
    AddScores,
    Advance,
    Applied,
    Commit,
    Count,
    CountMerged,
    CountValue,
    Delete,
    DropFields,
    DropMembers,
    Emit,
    EpochMarks,
    FeedWatermark,
    FieldBelow,
    FieldIs,
    Flag,
    Guard,
    KeysExist,
    Merge,
    MergeRow,
    Patch,
    Publish,
    PushItem,
    RaiseField,
    Refused,
    Renew,
    Sample,
    SetFields,
    SetNewest,
    SetValue,
    StartsWith,
    ValueIs,
    Write,
    dirty_field,
    watermark_field,
)
from contracts.keys import Keys, Layer, Stat
from contracts.planes import (
    HEADER_BYTES,
    QUOTE_ROW,
    QUOTE_ROW_VERSION_AT,
    RANK_CHAIN,
    RANK_WS,
    empty_quotes,
    empty_trades,
    pack_rows,
    unpack_header,
    unpack_rows,
)
from contracts.versions import Versions, complete_to
from stages.staging.records import FMV, QUOTE, TRADE, Record, fmv_record, quote_record, trade_record
from tests.consumers.stores import InMemory, OnServer, Store

KEYS = Keys()
TTL_MS = 60_000

# names from the key table, by the type they stand for in these tests
HASH = KEYS.job("SPX")
VALUE = KEYS.clock("SPX")
OTHER_VALUE = KEYS.spot("SPX")
SET = KEYS.dirty("SPX")
ZSET = KEYS.latency(Stat.HYDRATE, "SPX")
LIST = KEYS.timeline("SPX")
STREAM = KEYS.epoch_stream("SPX")
ABSENT = KEYS.tick("SPX")

EPOCH = "SPX:1768500000:1f3a"
PLANE = "SPXW:2026-01-16"
LAYER = KEYS.plane(EPOCH, PLANE, Layer.QUOTES)
TRADES = KEYS.plane(EPOCH, PLANE, Layer.TRADES)
VERSIONS = KEYS.versions(EPOCH)
WATERMARK = KEYS.watermark("SPX")
MARKS = EpochMarks(KEYS.dirty("SPX"), KEYS.clean("SPX"), EPOCH)
DIRTY_FLAG = Flag(KEYS.epoch_stream("SPX"), {"flag": "dirty"})
COMPUTED_FLAG = Flag(KEYS.strategy_stream("SPX"), {"flag": "computed"})
ROWS = 3


def contract_key(row: int) -> str:
    """The readable HASH of a row of the board used here."""
    return KEYS.contract(EPOCH, f"O:SPXW260116C{6900000 + row * 5000:08d}")


@pytest.fixture(params=["server", "memory"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """The store under test: a test that asks for it runs against both."""
    if request.param == "memory":
        yield InMemory()
        return
    url = request.getfixturevalue("redis_url")
    with asyncio.Runner() as loop:
        broker = Broker(url, "staging", "one", KEYS.cursor("staging", "SPX"))
        on_server = OnServer(url, broker, loop)
        yield on_server
        on_server.close()
        loop.run(broker.close())


def write(store: Store, *writes: Write) -> Applied:
    """Apply writes without guards."""
    outcome = store.commit(Commit(writes=writes))
    assert isinstance(outcome, Applied)
    return outcome


# --- guards

HOLDS: list[tuple[str, tuple[Write, ...], Guard]] = [
    ("a field that is the value", (SetFields(HASH, {"a": "x"}),), FieldIs(HASH, "a", "x")),
    ("a field that is a number", (SetFields(HASH, {"a": 7}),), FieldIs(HASH, "a", 7)),
    ("a field that is bytes", (SetFields(HASH, {"a": b"\xff\x00"}),), FieldIs(HASH, "a", b"\xff\x00")),
    ("an absent field of a hash", (SetFields(HASH, {"b": "x"}),), FieldIs(HASH, "a", None)),
    ("a field of an absent hash", (), FieldIs(HASH, "a", None)),
    ("an empty field that is empty", (SetFields(HASH, {"a": ""}),), FieldIs(HASH, "a", "")),
    ("a field below the limit", (SetFields(HASH, {"a": 6}),), FieldBelow(HASH, "a", 7)),
    ("an absent field below any limit", (), FieldBelow(HASH, "a", -1e9)),
    ("an empty field below any limit", (SetFields(HASH, {"a": ""}),), FieldBelow(HASH, "a", -1e9)),
    ("a lease that is ours", (SetValue(VALUE, "me"),), ValueIs(VALUE, "me")),
    ("keys of every type exist", (
        SetValue(VALUE, "x"), SetFields(HASH, {"a": 1}), AddMembers(SET, ("m",)), AddScores(ZSET, {"m": 1.0}, TTL_MS),
        PushItem(LIST, "i", 9), Emit(STREAM, {"f": "x"}),
    ), KeysExist((VALUE, HASH, SET, ZSET, LIST, STREAM))),
    ("no key at all exists", (), KeysExist(())),
    ("a value that starts with the head", (SetValue(VALUE, b"\x00headed"),), StartsWith(VALUE, b"\x00head")),
]  # fmt: skip

REFUSES: list[tuple[str, tuple[Write, ...], Guard]] = [
    ("a field that is something else", (SetFields(HASH, {"a": "x"}),), FieldIs(HASH, "a", "y")),
    ("a field that is absent", (SetFields(HASH, {"b": "x"}),), FieldIs(HASH, "a", "x")),
    ("a field that should be absent", (SetFields(HASH, {"a": "x"}),), FieldIs(HASH, "a", None)),
    ("an empty field that should be absent", (SetFields(HASH, {"a": ""}),), FieldIs(HASH, "a", None)),
    ("an absent field that should be empty", (), FieldIs(HASH, "a", "")),
    ("a field that is a longer text", (SetFields(HASH, {"a": "x"}),), FieldIs(HASH, "a", "xx")),
    ("a field at the limit", (SetFields(HASH, {"a": 7}),), FieldBelow(HASH, "a", 7)),
    ("a field above the limit, compared as a number", (SetFields(HASH, {"a": 10}),), FieldBelow(HASH, "a", 9)),
    ("a lease that is another's", (SetValue(VALUE, "you"),), ValueIs(VALUE, "me")),
    ("a lease that ran out", (), ValueIs(VALUE, "me")),
    ("one key of two is absent", (SetValue(VALUE, "x"),), KeysExist((VALUE, ABSENT))),
    ("a hash that lost its last field", (SetFields(HASH, {"a": 1}), DropFields(HASH, ("a",))), KeysExist((HASH,))),
    ("a value with another head", (SetValue(VALUE, b"tail"),), StartsWith(VALUE, b"head")),
    ("a value shorter than the head", (SetValue(VALUE, b"he"),), StartsWith(VALUE, b"head")),
    ("an absent value has no head", (), StartsWith(VALUE, b"head")),
]  # fmt: skip


@pytest.mark.parametrize(("before", "guard"), [case[1:] for case in HOLDS], ids=[case[0] for case in HOLDS])
def test_a_guard_holds(store: Store, before: tuple[Write, ...], guard: Guard) -> None:
    write(store, *before)
    assert store.commit(Commit(guards=(guard,), writes=(SetValue(OTHER_VALUE, "written"),))) == Applied(0)
    assert store.string(OTHER_VALUE) == b"written"


@pytest.mark.parametrize(("before", "guard"), [case[1:] for case in REFUSES], ids=[case[0] for case in REFUSES])
def test_a_guard_refuses_and_nothing_is_written(store: Store, before: tuple[Write, ...], guard: Guard) -> None:
    write(store, *before)
    untouched = store.dump()
    assert store.commit(Commit(guards=(guard,), writes=(SetValue(OTHER_VALUE, "written"),))) == Refused(guard)
    assert store.dump() == untouched


def test_the_refusal_names_the_first_guard_that_does_not_hold(store: Store) -> None:
    guards = (FieldIs(HASH, "a", None), FieldIs(HASH, "a", "x"), ValueIs(VALUE, "me"))
    assert store.commit(Commit(guards=guards)) == Refused(guards[1])


def test_a_guard_over_thousands_of_keys_sees_the_one_that_is_missing(store: Store) -> None:
    names = tuple(KEYS.job(f"S{chr(65 + n % 26)}{chr(65 + n // 26 % 26)}{chr(65 + n // 676)}") for n in range(2500))
    write(store, *(SetFields(name, {"a": 1}) for name in names))
    assert store.commit(Commit(guards=(KeysExist(names),))) == Applied(0)
    assert isinstance(store.commit(Commit(guards=(KeysExist((*names, ABSENT)),))), Refused)


# --- plain writes


def test_set_value_replaces_text_and_bytes(store: Store) -> None:
    write(store, SetValue(VALUE, "old"))
    write(store, SetValue(VALUE, b"\x00\xffnew"))
    assert store.string(VALUE) == b"\x00\xffnew"


def test_a_derived_value_is_written_like_any_other(store: Store) -> None:
    write(store, SetValue(VALUE, b"\x00derived", TTL_MS, derived=True))
    assert store.string(VALUE) == b"\x00derived"


def test_values_of_any_size_go_into_one_commit(store: Store) -> None:
    """Large ones travel beside the body of a commit, small ones in it."""
    values = {KEYS.spot("A"): b"", KEYS.spot("B"): b"b" * 5000, KEYS.spot("C"): b"1", KEYS.spot("D"): b"\xff" * 2048}
    write(store, *(SetValue(key, value) for key, value in values.items()), SetValue(VALUE, "t" * 5000))
    assert store.dump() == values | {VALUE: b"t" * 5000}


def test_patch_replaces_runs_of_bytes_and_leaves_the_rest(store: Store) -> None:
    write(store, SetValue(VALUE, b"0123456789"))
    write(store, Patch(VALUE, ((1, b"ab"), (7, b"\xff"))))
    assert store.string(VALUE) == b"0ab3456\xff89"


def test_set_fields_adds_and_replaces_and_writes_numbers_as_python_does(store: Store) -> None:
    write(store, SetFields(HASH, {"kept": "1", "replaced": "old"}))
    write(store, SetFields(HASH, {"replaced": b"\xffnew", "whole": 2**53 - 1, "real": 0.1 + 0.2}))
    expected = {"kept": b"1", "replaced": b"\xffnew", "whole": b"9007199254740991", "real": b"0.30000000000000004"}
    assert store.fields(HASH) == expected


def test_drop_fields_removes_those_and_no_others(store: Store) -> None:
    write(store, SetFields(HASH, {"a": 1, "b": 2, "c": 3}), DropFields(HASH, ("a", "b", "never")))
    assert store.fields(HASH) == {"c": b"3"}


def test_count_adds_to_counters_that_start_at_zero(store: Store) -> None:
    write(store, Count(HASH, {"a": 2, "b": 1}))
    write(store, Count(HASH, {"a": 3, "c": -1}))
    assert store.fields(HASH) == {"a": b"5", "b": b"1", "c": b"-1"}


def test_count_value_adds_to_a_number_of_its_own(store: Store) -> None:
    write(store, CountValue(VALUE, 3), CountValue(VALUE, 4))
    assert store.string(VALUE) == b"7"


def test_raise_field_never_lowers(store: Store) -> None:
    for number in (5.0, 9.0, 10.5, 2.0):
        write(store, RaiseField(HASH, "top", number))
    assert store.fields(HASH) == {"top": b"10.5"}


def test_raise_field_replaces_an_empty_field(store: Store) -> None:
    write(store, SetFields(HASH, {"top": ""}), RaiseField(HASH, "top", 0.5))
    assert store.fields(HASH) == {"top": b"0.5"}


def test_delete_removes_keys_of_any_type(store: Store) -> None:
    write(store, SetValue(VALUE, "x"), SetFields(HASH, {"a": 1}), AddMembers(SET, ("m",)), SetValue(OTHER_VALUE, "y"))
    write(store, Delete((VALUE, HASH, SET, ABSENT)))
    assert store.dump() == {OTHER_VALUE: b"y"}


def test_members_are_added_once_and_dropped(store: Store) -> None:
    write(store, AddMembers(SET, ("a", "b")), AddMembers(SET, ("b", "c")), DropMembers(SET, ("a", "never")))
    assert store.members(SET) == {"b", "c"}


def test_scores_are_set_by_the_thousand(store: Store) -> None:
    scores = {f"O:SPXW260116C{n:08d}": n / 2 for n in range(3000)}
    write(store, AddScores(KEYS.geometry(EPOCH, "2026-01-16"), scores, TTL_MS))
    assert store.scores(KEYS.geometry(EPOCH, "2026-01-16")) == scores


@pytest.mark.parametrize("count", [1500, 9000])
def test_any_number_of_members_and_fields_is_written(store: Store, count: int) -> None:
    """A script unpacks a list onto its stack: more than the stack holds must go in parts."""
    names = tuple(f"n{n}" for n in range(count))
    write(store, AddMembers(SET, names), SetFields(HASH, dict.fromkeys(names, "x")))
    assert (len(store.members(SET)), len(store.fields(HASH))) == (count, count)
    write(store, DropMembers(SET, names[1:]), DropFields(HASH, names[1:]))
    assert (store.members(SET), store.fields(HASH)) == ({"n0"}, {"n0": b"x"})


def test_writes_with_nothing_in_them_change_nothing_and_do_not_fail(store: Store) -> None:
    """A script that fails half way is not rolled back, so an empty write must be harmless."""
    empty = (
        SetFields(HASH, {}), DropFields(HASH, ()), Count(HASH, {}), Delete(()), Renew((), TTL_MS), AddMembers(SET, ()),
        DropMembers(SET, ()), AddScores(ZSET, {}, TTL_MS), Patch(VALUE, ()),
    )  # fmt: skip
    write(store, *empty, SetValue(OTHER_VALUE, "reached"))
    assert store.dump() == {OTHER_VALUE: b"reached"}


def test_push_item_keeps_the_newest(store: Store) -> None:
    for item in ("a", "b", "c"):
        write(store, PushItem(LIST, item, 2))
    assert store.items(LIST) == ["c", "b"]


def test_samples_go_round_a_ring_of_1024(store: Store) -> None:
    write(store, *(Sample(ZSET, HASH, float(n)) for n in range(1030)))
    scores = store.scores(ZSET)
    assert len(scores) == 1024
    assert (min(scores.values()), max(scores.values())) == (6.0, 1029.0)
    assert store.fields(HASH)["samples"] == b"1030"


def test_samples_of_the_same_size_are_all_kept(store: Store) -> None:
    write(store, *(Sample(ZSET, HASH, 1.5) for _ in range(3)))
    assert len(store.scores(ZSET)) == 3


def test_emit_appends_in_order(store: Store) -> None:
    write(store, Emit(STREAM, {"n": 1, "x": b"\xff"}), Emit(STREAM, {"n": 2}))
    assert store.entries(STREAM) == [{"n": b"1", "x": b"\xff"}, {"n": b"2"}]


def test_writes_take_effect_in_the_order_given(store: Store) -> None:
    write(store, SetValue(VALUE, "first"), Delete((VALUE,)), SetValue(VALUE, "last"))
    assert store.string(VALUE) == b"last"


# --- spot: the newest, ties by value


def spot(ts: float, value: float) -> SetNewest:
    """A spot as staging writes it."""
    return SetNewest(VALUE, ts, value, json.dumps({"ts": ts, "value": value}).encode())


@pytest.mark.parametrize(
    ("offers", "wins"),
    [
        ([(1.0, 10.0), (2.0, 9.0)], (2.0, 9.0)),
        ([(2.0, 9.0), (1.0, 10.0)], (2.0, 9.0)),
        ([(2.0, 9.0), (2.0, 10.0)], (2.0, 10.0)),
        ([(2.0, 10.0), (2.0, 9.0)], (2.0, 10.0)),
        ([(1768500000.123, 6900.25), (1768500000.122, 6900.5)], (1768500000.123, 6900.25)),
    ],
)
def test_set_newest_keeps_the_later_and_at_a_tie_the_larger(
    store: Store, offers: list[tuple[float, float]], wins: tuple[float, float]
) -> None:
    for offer in offers:
        write(store, spot(*offer))
    assert store.string(VALUE) == spot(*wins).body


# --- merging rows


def quote(ms: int, seq: int, bid: int, ask: int, rank: int = RANK_WS, size: int = 1) -> Record:
    """A quote in cents."""
    return quote_record(ms, rank, seq, bid, ask, size, size)


def row_of(record: Record, row: int = 0) -> MergeRow:
    """The record, offered for a row."""
    return MergeRow(record.group.offset(row), record.packed, contract_key(row), record.fields)


def merge(*rows: MergeRow) -> Merge:
    """Rows of the quotes layer, flagged as staging does."""
    return Merge(LAYER, rows, VERSIONS, PLANE, WATERMARK, DIRTY_FLAG, MARKS)


def lay_out(store: Store, *, tiles: int = 1) -> None:
    """A plane of empty quotes at version 1 and its trades; tiles at 1 (clean), or at 0 (not computed yet)."""
    clean = tiles == 1
    write(
        store,
        SetValue(LAYER, pack_rows(empty_quotes(ROWS), 1), TTL_MS),
        SetValue(TRADES, pack_rows(empty_trades(ROWS), 1), TTL_MS),
        SetFields(VERSIONS, {f"{PLANE}|quotes": 1, f"{PLANE}|tiles": tiles, "lagging": 0 if clean else 1}, TTL_MS),
        *(SetFields(contract_key(row), {"id": row}, TTL_MS) for row in range(ROWS)),
        AddMembers(MARKS.clean if clean else MARKS.dirty, (EPOCH,)),
    )


def stored_quote(store: Store, row: int = 0) -> bytes:
    """The bytes of a row's quote."""
    blob = store.string(LAYER)
    assert blob is not None
    return blob[QUOTE.offset(row) : QUOTE.offset(row) + QUOTE.size]


def version_of(store: Store, layer: str) -> int:
    return int(store.fields(VERSIONS).get(f"{PLANE}|{layer}", b"0"))


BASE = quote(1000, 5, 100, 110)


@pytest.mark.parametrize(
    ("offered", "wins"),
    [
        (quote(1001, 1, 90, 95), True),
        (quote(999, 9, 90, 95), False),
        (quote(1000, 6, 90, 95), True),
        (quote(1000, 4, 120, 130), False),
        (quote(1000, 9, 120, 130, RANK_CHAIN), False),
        (quote(1001, -1, 90, 95, RANK_CHAIN), True),
        (quote(1000, 5, 101, 110), True),
        (quote(1000, 5, 99, 120), False),
        (BASE, False),
    ],
    ids=[
        "a later time wins", "an earlier time loses", "at equal time a larger sequence wins",
        "at equal time a smaller sequence loses", "at equal time the chain loses to the feed, whatever its sequence",
        "a later chain wins", "at equal stamps larger values win", "at equal stamps smaller values lose",
        "the same again changes nothing",
    ],
)  # fmt: skip
def test_which_of_two_records_stays(store: Store, offered: Record, wins: bool) -> None:
    lay_out(store)
    write(store, merge(row_of(BASE)))
    assert write(store, merge(row_of(offered))) == Applied(int(wins))
    assert stored_quote(store) == (offered.packed if wins else BASE.packed)


def test_the_feed_beats_the_chain_at_equal_time_in_either_order(store: Store) -> None:
    feed, chain = quote(1000, -1, 90, 95, RANK_WS), quote(1000, -1, 200, 210, RANK_CHAIN)
    for order in ((feed, chain), (chain, feed)):
        store.wipe()
        lay_out(store)
        write(store, *(merge(row_of(record)) for record in order))
        assert stored_quote(store) == feed.packed


def test_a_value_without_a_time_fills_an_empty_group_only(store: Store) -> None:
    lay_out(store)
    assert write(store, merge(row_of(quote(0, -1, 90, 95, RANK_CHAIN)))) == Applied(1)
    write(store, merge(row_of(BASE)))
    assert write(store, merge(row_of(quote(0, -1, 90, 95, RANK_CHAIN)))) == Applied(0)


def test_values_tie_as_unsigned_words_so_unknown_is_largest(store: Store) -> None:
    """Any fixed order would do; both stores must have the same one."""
    lay_out(store)
    unknown = quote(1000, 5, -(2**31), 110)
    write(store, merge(row_of(BASE)))
    assert write(store, merge(row_of(unknown))) == Applied(1)
    assert write(store, merge(row_of(BASE))) == Applied(0)


def test_floats_tie_by_their_bytes(store: Store) -> None:
    lay_out(store)
    one, two = fmv_record(1000, RANK_WS, 1.5), fmv_record(1000, RANK_WS, 1.25)
    for order in ((one, two), (two, one)):
        write(store, *(Merge(TRADES, (row_of(record),)) for record in order))
    blob = store.string(TRADES)
    assert blob is not None
    assert blob[FMV.offset(0) : FMV.offset(0) + FMV.size] == one.packed


def test_the_readable_hash_follows_the_record_that_won_and_only_that(store: Store) -> None:
    lay_out(store)
    write(store, merge(row_of(BASE)), merge(row_of(quote(999, 9, 1, 2))))
    found = store.fields(contract_key(0))
    assert (found["bid"], found["ask"], found["mid"], found["ts"]) == (b"1.00", b"1.10", b"1.050", b"1.000")
    assert found["id"] == b"0"


def test_groups_of_a_row_are_independent(store: Store) -> None:
    lay_out(store)
    trade = trade_record(10, RANK_WS, 1, 105, 3)
    write(store, Merge(TRADES, (row_of(trade, 1),)))
    blob = store.string(TRADES)
    assert blob is not None
    assert blob[TRADE.offset(1) : TRADE.offset(1) + TRADE.size] == trade.packed
    empty = pack_rows(empty_trades(ROWS), 1)
    assert blob[: TRADE.offset(1)] == empty[: TRADE.offset(1)]
    assert blob[TRADE.offset(1) + TRADE.size :] == empty[TRADE.offset(1) + TRADE.size :]


def test_a_layer_without_a_flag_moves_no_version(store: Store) -> None:
    lay_out(store)
    write(store, Merge(TRADES, (row_of(trade_record(10, RANK_WS, 1, 105, 3)),)))
    assert version_of(store, "quotes") == 1
    assert store.entries(DIRTY_FLAG.stream) == []


records = st.builds(
    quote,
    st.sampled_from([0, 1, 1000, 1001, 2**41]),
    st.sampled_from([-1, 0, 7, 2**53 - 1]),
    st.sampled_from([-(2**31), 0, 100, 101]),
    st.sampled_from([0, 110, 2**31 - 1]),
    st.sampled_from([RANK_CHAIN, RANK_WS]),
    st.integers(0, 2),
)


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[tuple[int, Record]], list[list[tuple[int, Record]]]]:
    """Some records, and a way they arrive: in another order, some twice, cut into commits."""
    offered = draw(st.lists(st.tuples(st.integers(0, ROWS - 1), records), min_size=1, max_size=8))
    again = draw(st.lists(st.sampled_from(offered), max_size=4))
    arriving = draw(st.permutations([*offered, *again]))
    cuts = sorted(draw(st.sets(st.integers(1, len(arriving)), max_size=3)))
    bounds = [0, *cuts, len(arriving)]
    parts = [list(arriving[a:b]) for a, b in pairwise(bounds) if a < b]
    return offered, parts


def values_and_hashes(store: Store) -> tuple[list[bytes], list[dict[str, bytes]]]:
    return [stored_quote(store, row) for row in range(ROWS)], [store.fields(contract_key(row)) for row in range(ROWS)]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(deliveries())
def test_order_redelivery_and_cuts_make_no_difference(
    store: Store, delivery: tuple[list[tuple[int, Record]], list[list[tuple[int, Record]]]]
) -> None:
    """Newest-wins is a join: the same bytes and the same readable HASH, whatever the way there."""
    offered, parts = delivery
    store.wipe()
    lay_out(store)
    write(store, merge(*(row_of(record, row) for row, record in offered)))
    expected = values_and_hashes(store)
    store.wipe()
    lay_out(store)
    for part in parts:
        write(store, merge(*(row_of(record, row) for row, record in part)))
    assert values_and_hashes(store) == expected


# --- row versions and flags


def test_a_changed_row_gets_the_next_plane_version_and_the_others_keep_theirs(store: Store) -> None:
    lay_out(store)
    write(store, merge(row_of(BASE, 1)))
    write(store, merge(row_of(quote(1001, 1, 90, 95), 2)))
    blob = store.string(LAYER)
    assert blob is not None
    assert unpack_rows(blob, QUOTE_ROW)["row_version"].tolist() == [0, 2, 3]
    assert int(unpack_header(blob)["version"]) == version_of(store, "quotes") == 3


def test_all_rows_of_one_commit_share_one_version(store: Store) -> None:
    lay_out(store)
    write(store, merge(row_of(BASE, 0), row_of(BASE, 2)))
    blob = store.string(LAYER)
    assert blob is not None
    assert unpack_rows(blob, QUOTE_ROW)["row_version"].tolist() == [2, 0, 2]


@pytest.mark.parametrize(
    "same_prices", [quote(2000, 9, 100, 110), quote(2000, 9, 100, 110, size=44)], ids=["newer stamp", "other sizes"]
)
def test_a_newer_quote_with_the_same_prices_is_stored_but_makes_nothing_dirty(
    store: Store, same_prices: Record
) -> None:
    lay_out(store)
    write(store, merge(row_of(BASE)))
    before = store.entries(DIRTY_FLAG.stream)
    assert write(store, merge(row_of(same_prices))) == Applied(1)
    assert stored_quote(store) == same_prices.packed
    assert version_of(store, "quotes") == 2
    assert store.entries(DIRTY_FLAG.stream) == before


@pytest.mark.parametrize("other", [quote(2000, 9, 101, 110), quote(2000, 9, 100, 111)], ids=["bid", "ask"])
def test_a_change_of_either_side_makes_the_plane_dirty(store: Store, other: Record) -> None:
    lay_out(store)
    write(store, merge(row_of(BASE)), tiles_at(2))
    write(store, merge(row_of(other)))
    assert version_of(store, "quotes") == 3
    assert len(store.entries(DIRTY_FLAG.stream)) == 2


def test_a_record_that_loses_makes_nothing_dirty(store: Store) -> None:
    lay_out(store)
    write(store, merge(row_of(BASE)))
    write(store, merge(row_of(quote(1, 1, 1, 2))))
    assert version_of(store, "quotes") == 2
    assert len(store.entries(DIRTY_FLAG.stream)) == 1


def test_a_plane_is_flagged_once_when_it_goes_from_clean_to_dirty(store: Store) -> None:
    lay_out(store)
    for n in range(4):
        write(store, merge(row_of(quote(1000 + n, 1, 100 + n, 110))))
    assert store.entries(DIRTY_FLAG.stream) == [{"flag": b"dirty"}]
    assert store.fields(VERSIONS)["lagging"] == b"1"
    assert (store.members(MARKS.dirty), store.members(MARKS.clean)) == ({EPOCH}, set())


def test_a_plane_that_was_never_computed_is_not_flagged_by_updates(store: Store) -> None:
    """Until `promoted`, nobody downstream starts on a new board."""
    lay_out(store, tiles=0)
    write(store, merge(row_of(BASE)))
    assert store.entries(DIRTY_FLAG.stream) == []
    assert store.fields(VERSIONS)["lagging"] == b"1"


def test_a_version_carries_the_watermark_of_the_feed_it_includes(store: Store) -> None:
    lay_out(store)
    write(store, SetFields(WATERMARK, {"ts": "1768500000.250000"}), merge(row_of(BASE)))
    blob = store.string(LAYER)
    assert blob is not None
    assert float(unpack_header(blob)["watermark"]) == 1768500000.25
    assert store.fields(VERSIONS)[f"{PLANE}|quotes_wm"] == b"1768500000.250000"


# --- advancing a derived layer


def tiles_at(version: int, watermark: float = 5.0) -> Advance:
    """Tiles computed from the quotes of a version."""
    return Advance(
        VERSIONS, PLANE, "tiles", "quotes", version, watermark, DIRTY_FLAG, "published", COMPUTED_FLAG, MARKS
    )


def published_at(version: int) -> Advance:
    """Cells published from the tiles of a version."""
    return Advance(VERSIONS, PLANE, "published", "tiles", version, 5.0, COMPUTED_FLAG)


def test_advance_records_version_and_watermark(store: Store) -> None:
    lay_out(store, tiles=0)
    write(store, tiles_at(1, 1768500000.25))
    found = store.fields(VERSIONS)
    assert (found[f"{PLANE}|tiles"], found[f"{PLANE}|tiles_wm"]) == (b"1", b"1768500000.250000")


def test_advancing_level_with_the_source_makes_the_epoch_clean(store: Store) -> None:
    lay_out(store)
    write(store, merge(row_of(BASE)))
    write(store, tiles_at(2))
    assert store.fields(VERSIONS)["lagging"] == b"0"
    assert (store.members(MARKS.dirty), store.members(MARKS.clean)) == (set(), {EPOCH})
    assert len(store.entries(DIRTY_FLAG.stream)) == 1


def test_advancing_behind_the_source_flags_again_and_stays_dirty(store: Store) -> None:
    lay_out(store)
    write(store, merge(row_of(BASE)), merge(row_of(quote(1001, 1, 90, 95))))
    write(store, tiles_at(2))
    assert store.entries(DIRTY_FLAG.stream) == [{"flag": b"dirty"}] * 2
    assert store.fields(VERSIONS)["lagging"] == b"1"
    assert (store.members(MARKS.dirty), store.members(MARKS.clean)) == ({EPOCH}, set())


def test_an_epoch_is_clean_only_when_its_last_plane_is(store: Store) -> None:
    lay_out(store)
    other = "SPXW:2026-01-20"
    write(store, merge(row_of(BASE)))
    write(store, SetFields(VERSIONS, {"lagging": 2, f"{other}|quotes": 4, f"{other}|tiles": 3}))
    write(store, tiles_at(2))
    assert store.members(MARKS.clean) == set()
    write(store, replace(tiles_at(4), plane=other))
    assert store.members(MARKS.clean) == {EPOCH}


def test_remaking_lost_tiles_of_a_clean_plane_does_not_count_twice(store: Store) -> None:
    lay_out(store)
    write(store, tiles_at(1))
    assert store.fields(VERSIONS)["lagging"] == b"0"


def test_the_next_layer_is_flagged_when_it_was_level_and_only_then(store: Store) -> None:
    lay_out(store)
    write(store, SetFields(VERSIONS, {f"{PLANE}|published": 1}), merge(row_of(BASE)))
    write(store, tiles_at(2))
    assert store.entries(COMPUTED_FLAG.stream) == [{"flag": b"computed"}]
    write(store, merge(row_of(quote(1001, 1, 90, 95))))
    write(store, tiles_at(3))
    assert store.entries(COMPUTED_FLAG.stream) == [{"flag": b"computed"}]
    write(store, published_at(2))
    assert store.entries(COMPUTED_FLAG.stream) == [{"flag": b"computed"}] * 2
    write(store, published_at(3))
    assert store.entries(COMPUTED_FLAG.stream) == [{"flag": b"computed"}] * 2


# --- how long a change waits


def sampled(advance: Advance) -> Advance:
    """The same, and the wait of the oldest change is sampled."""
    return replace(advance, latency=ZSET, counter=HASH)


def waits_since(store: Store) -> int | None:
    """Since when (server's time, µs) the oldest change waits; None if none does."""
    found = store.fields(VERSIONS).get(dirty_field(PLANE))
    return int(found) if found is not None else None


def wait_longer(store: Store, seconds: float) -> None:
    """As if the oldest change had come so much earlier."""
    since = waits_since(store)
    assert since is not None
    write(store, SetFields(VERSIONS, {dirty_field(PLANE): since - round(seconds * 1e6)}))


def test_the_first_change_of_a_level_plane_starts_to_wait_and_others_wait_with_it(store: Store) -> None:
    lay_out(store)
    write(store, merge(row_of(BASE)))
    first = waits_since(store)
    write(store, merge(row_of(quote(1001, 1, 90, 95))))
    assert first is not None and waits_since(store) == first


def test_when_it_is_computed_its_wait_is_sampled_and_nothing_waits(store: Store) -> None:
    lay_out(store)
    write(store, merge(row_of(BASE)))
    wait_longer(store, 1.5)
    write(store, sampled(tiles_at(2)))
    assert store.scores(ZSET) == {"1": pytest.approx(1500.0, abs=500)}
    assert store.fields(HASH) == {"samples": b"1"}
    assert waits_since(store) is None


def test_what_changed_meanwhile_waits_from_then_on(store: Store) -> None:
    lay_out(store)
    write(store, merge(row_of(BASE)), merge(row_of(quote(1001, 1, 90, 95))))
    wait_longer(store, 1.5)
    before = waits_since(store)
    write(store, sampled(tiles_at(2)))
    now = waits_since(store)
    assert before is not None and now is not None and now - before >= 1_500_000
    assert len(store.scores(ZSET)) == 1


def test_tiles_of_a_new_board_or_made_again_are_no_sample(store: Store) -> None:
    lay_out(store, tiles=0)
    write(store, sampled(tiles_at(1)))
    write(store, sampled(tiles_at(1)))
    assert store.scores(ZSET) == {}


# --- up to when what is published is complete


def feed_up_to(store: Store, ts: float) -> FeedWatermark:
    """Every frame received until then is in, and none waits."""
    stream = KEYS.ws_stream("SPX")
    if isinstance(store, OnServer) and not store.client.exists(stream):
        store.client.xgroup_create(stream, "staging", "0", mkstream=True)
    return FeedWatermark(WATERMARK, stream, "staging", ts)


def published_to(store: Store) -> float:
    return float(store.fields(VERSIONS).get(watermark_field(PLANE, "published"), b"0"))


def test_a_published_plane_that_changes_was_complete_up_to_the_watermark_before(store: Store) -> None:
    lay_out(store)
    write(store, published_at(1), feed_up_to(store, 10.0))
    write(store, feed_up_to(store, 20.0))  # frames that changed nothing here
    write(store, feed_up_to(store, 30.0), merge(row_of(BASE)))
    assert published_to(store) == 20.0
    assert float(store.fields(VERSIONS)[watermark_field(PLANE, "quotes")]) == 30.0


def test_a_change_in_an_earlier_chunk_of_its_batch_counts_from_the_watermark_of_then(store: Store) -> None:
    lay_out(store)
    write(store, published_at(1), feed_up_to(store, 20.0))
    write(store, merge(row_of(BASE)))
    write(store, feed_up_to(store, 30.0))
    assert published_to(store) == 20.0


@pytest.mark.parametrize("tiles", [1, 2], ids=["computed not even", "computed"])
def test_a_plane_that_is_not_published_to_its_last_change_stays_as_complete_as_it_was(store: Store, tiles: int) -> None:
    lay_out(store)
    write(store, published_at(1), feed_up_to(store, 20.0), merge(row_of(BASE)))
    before = published_to(store)
    write(store, tiles_at(tiles), feed_up_to(store, 40.0))
    write(store, merge(row_of(quote(1001, 1, 90, 95))))
    assert published_to(store) == before


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["quiet", "change", "chunked", "compute", "publish"]), max_size=20))
def test_up_to_when_everything_is_complete_never_steps_back(store: Store, acts: list[str]) -> None:
    store.wipe()
    lay_out(store)
    write(store, published_at(1), feed_up_to(store, 100.0))
    told = []
    for n, act in enumerate(acts):
        change = merge(row_of(quote(1000 + n, 1, 100 + n, 5000)))
        if act == "quiet":
            write(store, feed_up_to(store, 101.0 + n))
        elif act == "change":
            write(store, feed_up_to(store, 101.0 + n), change)
        elif act == "chunked":
            write(store, change)
        elif act == "compute":
            blob = store.string(LAYER)
            assert blob is not None
            header = unpack_header(blob)
            write(store, tiles_at(int(header["version"]), float(header["watermark"])))
        else:
            watermark = float(store.fields(VERSIONS).get(watermark_field(PLANE, "tiles"), b"0"))
            write(store, replace(published_at(version_of(store, "tiles")), watermark=watermark))
        fields = {name.encode(): value for name, value in store.fields(VERSIONS).items()}
        told.append(complete_to(Versions(fields), (PLANE,), float(store.fields(WATERMARK)["ts"])) or 0.0)
    assert told == sorted(told)


# --- flags


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["update", "compute"]), max_size=12), st.data())
def test_at_most_one_flag_per_plane_is_outstanding(store: Store, acts: list[str], data: st.DataObject) -> None:
    """Whoever computes takes a flag, reads a version, and commits after any number of further updates."""
    store.wipe()
    lay_out(store)
    flags = taken = clock = 0
    for act in acts:
        if act == "update":
            clock += 1
            write(store, merge(row_of(quote(1000 + clock, 1, clock, 5000))))
        elif flags > taken:
            read = version_of(store, "quotes")
            for _ in range(data.draw(st.integers(0, 2))):
                clock += 1
                write(store, merge(row_of(quote(1000 + clock, 1, clock, 5000))))
            write(store, tiles_at(read))
            taken += 1
        flags = len(store.entries(DIRTY_FLAG.stream))
        behind = version_of(store, "tiles") < version_of(store, "quotes")
        assert flags - taken == int(behind)
        assert store.members(MARKS.dirty) == ({EPOCH} if behind else set())
        assert store.members(MARKS.clean) == (set() if behind else {EPOCH})


# --- publishing and counting


def publish(kind: str, data: bytes = b"{}") -> Publish:
    return Publish(KEYS.model_stream("SPX"), KEYS.model_state("SPX"), kind, data, TTL_MS)


def test_published_events_are_numbered_without_gaps_in_one_generation(store: Store) -> None:
    write(store, publish("reset"), publish("diff", b'{"a":1}'))
    write(store, publish("tick"))
    events = store.entries(KEYS.model_stream("SPX"))
    assert [(event["type"], event["seq"]) for event in events] == [(b"reset", b"1"), (b"diff", b"2"), (b"tick", b"3")]
    assert events[1]["data"] == b'{"a":1}'
    assert len({event["generation"] for event in events}) == 1
    assert store.fields(KEYS.model_state("SPX"))["generation"] == events[0]["generation"]


def test_a_refused_publication_uses_no_number(store: Store) -> None:
    write(store, publish("reset"))
    assert isinstance(store.commit(Commit(guards=(FieldIs(HASH, "a", "x"),), writes=(publish("diff"),))), Refused)
    write(store, publish("tick"))
    assert [event["seq"] for event in store.entries(KEYS.model_stream("SPX"))] == [b"1", b"2"]


def test_updates_are_counted_applied_or_older_and_never_both(store: Store) -> None:
    lay_out(store)
    rows = merge(row_of(BASE, 0), row_of(BASE, 1), row_of(quote(0, -1, 1, 2, RANK_CHAIN), 1))
    assert write(store, rows, CountMerged(HASH, 5)) == Applied(0)
    assert store.fields(HASH) == {"applied": b"2", "older": b"3"}


def test_rows_that_won_in_earlier_chunks_are_counted_by_the_last(store: Store) -> None:
    lay_out(store)
    first = write(store, merge(row_of(BASE, 0), row_of(BASE, 1)))
    assert first == Applied(2)
    last = store.commit(Commit(writes=(merge(row_of(BASE, 2)), CountMerged(HASH, 4))), first.merged)
    assert last == Applied(0)
    assert store.fields(HASH) == {"applied": b"3", "older": b"1"}


def test_rows_that_no_count_took_yet_are_passed_on(store: Store) -> None:
    """A batch of many entries is acknowledged, and counted, in several commits."""
    lay_out(store)
    rows = merge(*(row_of(BASE, row) for row in range(ROWS)))
    left = write(store, rows, CountMerged(HASH, 2))
    assert left == Applied(1)
    assert store.commit(Commit(writes=(CountMerged(HASH, 2),)), left.merged) == Applied(0)
    assert store.fields(HASH) == {"applied": b"3", "older": b"1"}


def test_the_watermark_of_a_feed_never_falls(store: Store) -> None:
    stream = KEYS.ws_stream("SPX")
    if isinstance(store, OnServer):
        store.client.xgroup_create(stream, "staging", "0", mkstream=True)
    for ts in (1768500000.25, 1768500001.5, 1768500000.75):
        write(store, FeedWatermark(WATERMARK, stream, "staging", ts))
    assert store.fields(WATERMARK) == {"newest": b"1768500001.500000", "ts": b"1768500001.500000"}


def test_row_versions_lie_right_behind_the_quote() -> None:
    """The script writes them there without knowing the dtype."""
    fields = QUOTE_ROW.fields
    assert fields is not None
    assert fields["row_version"][1] == QUOTE_ROW_VERSION_AT == QUOTE.size
    assert QUOTE.offset(0) == HEADER_BYTES
    assert struct.calcsize("<qiiqiiii") == QUOTE.size
