"""Records: what a field group's bytes and its readable fields say, and which of two is newer."""

from __future__ import annotations

import math
import struct
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import DataError
from contracts.planes import RANK_CHAIN, RANK_WS, UNKNOWN
from contracts.symbology import NEW_YORK
from stages.staging.records import (
    CONTRACT_FIELDS,
    EMPTY_ROWS,
    FMV,
    GREEKS,
    GROUPS,
    INTEREST,
    INTEREST_FROM,
    QUOTE,
    ROW_TYPES,
    TRADE,
    VOLUME,
    Group,
    Record,
    cents,
    chain_records,
    count,
    dollars_text,
    fields_of,
    fmv_record,
    interest_record,
    interest_session_ts,
    is_latched,
    is_newer,
    is_told,
    mid_text,
    put_record,
    quote_record,
    seconds_text,
    trade_record,
    volume_record,
)
from tests.pipeline import NOW, chain_row
from tests.stages.staging.small_board import NOW_MS

# --- values


@pytest.mark.parametrize(
    ("dollars", "whole"),
    [(0.0, 0), (0.01, 1), (0.29, 29), (1.1, 110), (10.07, 1007), (4999.99, 499999), (None, UNKNOWN)],
)
def test_a_price_is_whole_cents(dollars: float | None, whole: int) -> None:
    assert cents(dollars) == whole


@pytest.mark.parametrize("dollars", [-0.01, 10.001, 0.005, 1e6, math.inf, math.nan])
def test_a_price_that_is_no_whole_number_of_cents_is_refused(dollars: float) -> None:
    with pytest.raises(DataError, match="price"):
        cents(dollars)


@given(st.integers(0, 99_999_999))
def test_every_price_in_cents_survives_the_way_through_dollars(whole: int) -> None:
    assert cents(whole / 100) == whole
    assert cents(float(dollars_text(whole))) == whole


@pytest.mark.parametrize(("size", "found"), [(0, 0), (7.0, 7), (2**31 - 1, 2**31 - 1), (None, UNKNOWN)])
def test_a_size_is_a_whole_number(size: float | None, found: int) -> None:
    assert count(size) == found


@pytest.mark.parametrize("size", [-1, 2**31, math.inf, math.nan])
def test_an_impossible_size_is_refused(size: float) -> None:
    with pytest.raises(DataError, match="size"):
        count(size)


@pytest.mark.parametrize(
    ("bid", "ask", "text"),
    [(100, 110, "1.050"), (100, 111, "1.055"), (1, 2, "0.015"), (0, 10, ""), (10, 0, ""), (UNKNOWN, 10, "")],
)
def test_a_mid_needs_two_sides_above_zero(bid: int, ask: int, text: str) -> None:
    assert mid_text(bid, ask) == text


@given(st.integers(1, 10**8), st.integers(1, 10**8))
def test_a_mid_is_exact(bid: int, ask: int) -> None:
    whole, _, part = mid_text(bid, ask).partition(".")
    assert int(whole) * 1000 + int(part) == (bid + ask) * 5


@pytest.mark.parametrize(("ms", "text"), [(0, ""), (-1, ""), (1, "0.001"), (1_768_500_000_123, "1768500000.123")])
def test_a_time_is_told_in_seconds_and_none_is_empty(ms: int, text: str) -> None:
    assert seconds_text(ms) == text


# --- layout


@pytest.mark.parametrize("group", GROUPS, ids=[group.name for group in GROUPS])
def test_a_packed_record_is_what_the_documented_dtype_reads(group: Group) -> None:
    kind = ROW_TYPES[group.layer]
    assert kind.fields is not None
    assert kind.fields[group.name][1] == group.at
    assert kind.fields[group.name][0].itemsize == group.size == len(_example(group).packed)
    rows = EMPTY_ROWS[group.layer](3)
    put_record(rows, 1, _example(group))
    assert rows[group.name][1].tobytes() == _example(group).packed
    assert rows.tobytes()[group.offset(1) - 32 :][: group.size] == _example(group).packed


def _example(group: Group) -> Record:
    found = chain_records(chain_row(6900, fmv=10.25), 3, NOW)
    return next(record for record in found if record.group is group)


def test_a_quote_reads_back_by_name() -> None:
    kind = ROW_TYPES[QUOTE.layer].fields
    assert kind is not None
    record = quote_record(NOW_MS, RANK_WS, 7, 100, 110, 3, 4)
    found = np.frombuffer(record.packed, kind["quote"][0])[0]
    names = ("ms", "rank", "seq", "bid", "ask", "bid_size", "ask_size")
    assert [int(found[name]) for name in names] == [NOW_MS, RANK_WS, 7, 100, 110, 3, 4]


# --- fields


def test_the_fields_of_a_record_come_back_from_its_bytes() -> None:
    """The carry has bytes alone, and writes the same readable HASH."""
    for group in GROUPS:
        record = _example(group)
        assert fields_of(group, record.packed) == record.fields, group.name


@given(
    st.integers(0, 2**45),
    st.integers(-1, 2**53),
    st.integers(0, 10**8) | st.just(UNKNOWN),
    st.integers(0, 10**8) | st.just(UNKNOWN),
    st.integers(0, 2**31 - 1) | st.just(UNKNOWN),
)
def test_the_fields_of_any_quote_come_back_from_its_bytes(ms: int, seq: int, bid: int, ask: int, size: int) -> None:
    record = quote_record(ms, RANK_WS, seq, bid, ask, size, size)
    assert fields_of(QUOTE, record.packed) == record.fields


def test_unknown_is_an_empty_field() -> None:
    fields = dict(
        zip(*[iter(quote_record(0, RANK_CHAIN, -1, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN).fields)] * 2, strict=True)
    )
    assert set(fields.values()) == {""}


def test_all_fields_of_records_are_fields_of_the_contract() -> None:
    told = {name for group in GROUPS for name in _example(group).fields[::2]}
    assert told <= set(CONTRACT_FIELDS)


# --- newer

STAMPS = [(1000, RANK_CHAIN, 9), (1000, RANK_WS, -1), (1000, RANK_WS, 4), (1001, RANK_CHAIN, -1), (1001, RANK_WS, 0)]


def test_stamps_are_ordered_by_time_then_source_then_sequence() -> None:
    packed = [trade_record(ms, rank, seq, 5, 5).packed for ms, rank, seq in STAMPS]
    for older, newer in pairwise(packed):
        assert is_newer(newer, older)
        assert not is_newer(older, newer)


def test_a_record_is_not_newer_than_itself() -> None:
    packed = quote_record(5, RANK_WS, 1, 2, 3, 4, 5).packed
    assert not is_newer(packed, packed)


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
def test_at_equal_stamps_the_bytes_give_a_strict_order(a: bytes, b: bytes, c: bytes) -> None:
    stamp = struct.pack("<qiiq", 5, 1, 0, 5)
    one, two, three = stamp + a, stamp + b, stamp + c
    assert is_newer(one, two) + is_newer(two, one) == (a != b)
    if is_newer(one, two) and is_newer(two, three):
        assert is_newer(one, three)


@pytest.mark.parametrize("group", GROUPS, ids=[group.name for group in GROUPS])
def test_anything_is_newer_than_an_empty_group(group: Group) -> None:
    rows = EMPTY_ROWS[group.layer](1)
    assert is_newer(
        struct.pack("<qiiq", 0, RANK_CHAIN, 0, -1) + b"\0" * (group.size - 24), rows[group.name][0].tobytes()
    )


# --- chain rows


def groups_of(**values: Any) -> dict[str, tuple[int, int, int]]:
    """The stamps of a row's groups: (ms, rank, seq) by name."""
    found = chain_records(chain_row(6900, **values), 3, NOW)
    return {one.group.name: struct.unpack_from("<qi4xq", one.packed) for one in found}


def test_each_group_of_a_chain_row_has_a_stamp_of_its_own() -> None:
    found = groups_of(fmv=10.25)
    assert found == {
        "quote": (NOW_MS - 10_000, RANK_CHAIN, -1),
        "trade": (NOW_MS - 20_000, RANK_CHAIN, -1),
        "volume": (NOW_MS, RANK_CHAIN, -1),
        "fmv": (NOW_MS, RANK_CHAIN, -1),
        "greeks": (3, RANK_CHAIN, -1),
        "interest": (3, RANK_CHAIN, -1),
    }


def test_a_value_without_a_time_has_stamp_zero() -> None:
    found = groups_of(quote_ts=None, last_ts=None)
    assert (found["quote"][0], found["trade"][0]) == (0, 0)


@pytest.mark.parametrize(
    ("absent", "group"),
    [
        ({"bid": None, "ask": None}, QUOTE),
        ({"last": None}, TRADE),
        ({"volume": None}, VOLUME),
        ({}, FMV),
        ({"iv": None, "delta": None, "gamma": None, "theta": None, "vega": None}, GREEKS),
        ({"oi": None}, INTEREST),
    ],
    ids=["quote", "trade", "volume", "fmv", "greeks", "interest"],
)
def test_a_group_that_is_absent_makes_no_record(absent: dict[str, Any], group: Group) -> None:
    assert group.name not in groups_of(**absent)
    assert len(groups_of(**absent)) == 5 - bool(absent)


def test_one_side_alone_is_a_quote() -> None:
    assert "quote" in groups_of(bid=None)


def test_a_greek_that_is_absent_is_unknown_among_the_others() -> None:
    record = next(one for one in chain_records(chain_row(6900, gamma=None), 3, NOW) if one.group is GREEKS)
    fields = dict(zip(record.fields[::2], record.fields[1::2], strict=True))
    assert (fields["gamma"], fields["delta"]) == ("", "0.5")


@pytest.mark.parametrize("bad", [{"bid": 10.001}, {"ask": -1.0}, {"last": 1e7}, {"bid_size": -4}])
def test_an_impossible_value_refuses_the_row(bad: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        list(chain_records(chain_row(6900, **bad), 3, NOW))


def test_volume_and_fair_value_are_told_as_they_are() -> None:
    assert volume_record(NOW_MS, RANK_WS, 2**40).fields == ("volume", str(2**40))
    assert fmv_record(NOW_MS, RANK_WS, 0.1 + 0.2).fields == ("fmv", "0.30000000000000004", "fmv_ts", "1768500000.000")


# --- open interest

NEW_YORK_0730 = {"winter": 1_768_566_600.0, "summer": 1_784_201_400.0}  # 2026-01-16, 2026-07-16


@pytest.mark.parametrize("season", NEW_YORK_0730)
def test_open_interest_belongs_to_the_session_that_begins_after_the_provider_settled(season: str) -> None:
    """07:30 in New York: the provider flips between the values of two days until 07:00."""
    begins = NEW_YORK_0730[season]
    assert interest_session_ts(begins) == interest_session_ts(begins + 86_399) == begins
    assert interest_session_ts(begins - 1) == interest_session_ts(begins - 3420) == begins - 86_400


@pytest.mark.parametrize("day", ["2026-03-08", "2026-11-01"], ids=["spring forward", "fall back"])
def test_a_session_begins_at_the_same_hour_when_clocks_change(day: str) -> None:
    noon = datetime.fromisoformat(f"{day}T12:00:00").replace(tzinfo=NEW_YORK)
    for at in (noon, noon + timedelta(days=1)):
        found = datetime.fromtimestamp(interest_session_ts(at.timestamp()), NEW_YORK)
        assert (found.date(), found.time()) == (at.date(), INTEREST_FROM)


BEGINS = NEW_YORK_0730["winter"]


@pytest.mark.parametrize(
    ("stored", "applied_fetch", "latched"),
    [
        (interest_record(3, 500.0, BEGINS), 3, True),
        (interest_record(3, 0.0, BEGINS), 3, True),
        (interest_record(3, 500.0, BEGINS - 86_400), 3, False),
        (interest_record(3, math.nan, BEGINS), 3, False),
        (interest_record(4, 500.0, BEGINS), 3, False),
    ],
    ids=["of this session", "zero", "of another session", "unknown", "of a fetch that never finished"],
)
def test_open_interest_is_latched_within_a_session(stored: Record, applied_fetch: int, *, latched: bool) -> None:
    assert is_latched(interest_record(5, 700.0, BEGINS), stored.packed, applied_fetch) is latched


def test_nothing_else_is_latched() -> None:
    one = quote_record(NOW_MS, RANK_CHAIN, -1, 1, 2, 3, 4)
    assert not is_latched(one, one.packed, 9)


# --- what is another value


@pytest.mark.parametrize(
    ("one", "other", "differs"),
    [
        (quote_record(5, RANK_CHAIN, -1, 1, 2, 3, 4), quote_record(9, RANK_WS, 7, 1, 2, 3, 4), False),
        (quote_record(5, RANK_CHAIN, -1, 1, 2, 3, 4), quote_record(5, RANK_CHAIN, -1, 1, 2, 3, 5), True),
        (interest_record(5, 7.0, BEGINS), interest_record(6, 7.0, BEGINS + 86_400), False),
        (interest_record(5, 7.0, BEGINS), interest_record(5, 8.0, BEGINS), True),
        (volume_record(5, RANK_CHAIN, 7), volume_record(6, RANK_CHAIN, 7), False),
    ],
    ids=["quote told again", "another size", "interest told again", "another interest", "volume told again"],
)
def test_a_value_changes_when_it_says_something_else_not_when_it_is_said_again(
    one: Record, other: Record, *, differs: bool
) -> None:
    assert other.changes_value(one.packed) is differs


def test_greeks_of_a_later_snapshot_with_the_same_numbers_are_the_same_value() -> None:
    first, second = (
        next(one for one in chain_records(chain_row(6900), fetch, NOW + fetch) if one.group is GREEKS)
        for fetch in (1, 2)
    )
    assert second.newer_than(first.packed) and not second.changes_value(first.packed)


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_a_group_nobody_told_of_is_known_as_such(group: Group) -> None:
    empty = EMPTY_ROWS[group.layer](1)[group.name][0].tobytes()
    assert not is_told(empty)
    found = {one.group.name: one for one in chain_records(chain_row(6900, fmv=1.0, quote_ts=None), 1, NOW)}
    assert is_told(found[group.name].packed)
