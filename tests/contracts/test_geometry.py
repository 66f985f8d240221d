"""Geometry: a contract set is the same set in any order, and its rows never move."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.geometry import Listing, build_geometry, decode_geometry
from contracts.symbology import CALL, PUT, format_ticker, series_of


def listing(root: str, expiration: str, strike_milli: int, kind: str, eligible: str = "") -> Listing:
    cid = format_ticker(root, expiration, kind, strike_milli)
    series = series_of(root)
    return Listing(root, expiration, strike_milli, kind, cid, series.settlement, series.exercise, 100, eligible)


listings = st.lists(
    st.builds(
        listing,
        st.sampled_from(["SPX", "SPXW"]),
        st.sampled_from(["2026-01-16", "2026-01-20", "2026-02-20"]),
        st.sampled_from([6_850_000, 6_852_500, 6_900_000, 12_000_000]),
        st.sampled_from([CALL, PUT]),
        st.sampled_from(["", "expired"]),
    ),
    min_size=1,
    max_size=20,
    unique_by=lambda row: row.cid,
)


@given(listings, st.data())
def test_the_order_of_contracts_makes_no_difference(rows: list[Listing], data: st.DataObject) -> None:
    one, other = build_geometry("SPX", rows), build_geometry("SPX", data.draw(st.permutations(rows)))
    assert one == other
    assert one.hash == other.hash
    assert one.encode() == other.encode()


@given(listings, st.lists(st.floats(1, 500), max_size=3).map(tuple))
def test_what_is_encoded_decodes_to_the_same(rows: list[Listing], widths: tuple[float, ...]) -> None:
    geometry = build_geometry("SPX", rows, widths)
    found = decode_geometry(geometry.encode())
    assert found == geometry
    assert found.hash == geometry.hash


@given(listings, st.data())
def test_a_contract_more_is_another_geometry(rows: list[Listing], data: st.DataObject) -> None:
    left_out = data.draw(st.sampled_from(rows))
    rest = [row for row in rows if row != left_out]
    assert build_geometry("SPX", rest).hash != build_geometry("SPX", rows).hash


@pytest.mark.parametrize("change", [{"eligible": "adjusted"}, {"multiplier": 10}])
def test_eligibility_and_multiplier_are_part_of_the_identity(change: dict[str, object]) -> None:
    row = listing("SPXW", "2026-01-16", 6_900_000, CALL)
    changed = msgspec.structs.replace(row, **change)
    assert build_geometry("SPX", [row]).hash != build_geometry("SPX", [changed]).hash


def test_widths_are_no_part_of_the_identity() -> None:
    geometry = build_geometry("SPX", [listing("SPXW", "2026-01-16", 6_900_000, CALL)])
    assert replace(geometry, widths=(5.0,)).hash == geometry.hash


@given(listings)
def test_every_contract_has_one_row_and_is_found_there(rows: list[Listing]) -> None:
    geometry = build_geometry("SPX", rows)
    assert len(geometry.row_of) == geometry.contract_count == len(rows)
    for row in rows:
        plane, number = geometry.row_of[row.cid]
        assert geometry.planes[plane].rows[number] == row
        assert geometry.plane_of[geometry.planes[plane].id] is geometry.planes[plane]


@given(listings)
def test_rows_go_by_strike_with_calls_before_puts(rows: list[Listing]) -> None:
    for plane in build_geometry("SPX", rows).planes:
        places = [(row.strike_milli, row.type) for row in plane.rows]
        assert places == sorted(places)


def test_planes_go_by_settlement_and_roots_of_one_day_are_apart() -> None:
    days = [("SPXW", "2026-01-20"), ("SPXW", "2026-01-16"), ("SPX", "2026-01-16")]
    geometry = build_geometry("SPX", [listing(root, day, 6_900_000, CALL) for root, day in days])
    assert [plane.id for plane in geometry.planes] == ["SPX:2026-01-16", "SPXW:2026-01-16", "SPXW:2026-01-20"]
    assert geometry.expirations == ("2026-01-16", "2026-01-20")


def test_counts_are_of_listed_excluded_and_distinct_strikes() -> None:
    rows = [
        listing("SPXW", "2026-01-16", 6_900_000, CALL),
        listing("SPXW", "2026-01-16", 6_900_000, PUT, "adjusted"),
        listing("SPX", "2026-01-16", 6_905_000, PUT),
    ]
    geometry = build_geometry("SPX", rows)
    assert (geometry.contract_count, geometry.excluded_count, geometry.strike_count) == (3, 1, 2)
