"""OCC tickers, parsed from the right, and the instants at which series settle."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import DataError
from contracts.symbology import (
    CALL,
    PUT,
    OptionTicker,
    days_to_expiration,
    format_ticker,
    is_adjusted,
    new_york_date,
    parse_ticker,
    plane_id,
    provider_underlying,
    series_of,
    settlement_ts,
)


@pytest.mark.parametrize(
    ("cid", "root", "expiration", "kind", "strike"),
    [
        ("O:SPXW260107C06850000", "SPXW", "2026-01-07", CALL, 6850.0),
        ("O:SPX260116P06850000", "SPX", "2026-01-16", PUT, 6850.0),
        ("O:NDXP260107C25500000", "NDXP", "2026-01-07", CALL, 25500.0),
        ("O:SPY260107P00652500", "SPY", "2026-01-07", PUT, 652.5),
        ("O:F260116C00012500", "F", "2026-01-16", CALL, 12.5),
        ("O:SDS1260116C00020000", "SDS1", "2026-01-16", CALL, 20.0),
        ("O:BRKB260116C00480000", "BRKB", "2026-01-16", CALL, 480.0),
        ("O:X991231C00000001", "X", "2099-12-31", CALL, 0.001),
    ],
)
def test_a_ticker_is_read_from_the_right(cid: str, root: str, expiration: str, kind: str, strike: float) -> None:
    found = parse_ticker(cid)
    assert (found.cid, found.root, found.expiration, found.type, found.strike) == (cid, root, expiration, kind, strike)


def test_the_digit_of_an_adjusted_root_is_no_part_of_the_date() -> None:
    assert parse_ticker("O:SDS1260116C00020000").plane == "SDS1:2026-01-16"


@pytest.mark.parametrize(
    "cid",
    [
        "", "O:", "SPXW260107C06850000", "O:260107C06850000", "O:SPXW260107X06850000", "O:SPXW260107c06850000",
        "O:SPXW261307C06850000", "O:SPXW260230C06850000", "O:SPXW26010ZC06850000", "O:SPXW260107C0685000Z",
        "O:SPXW260107C6850000", "O:spxw260107C06850000", "O:SPX W260107C06850000", "O:TOOLONG260107C06850000",
        "O:SPXW260107C06850000\n", "O:SPXW\uff12\uff160107C06850000", "O:SPXW260107C\u06606850000", "I:SPX",
    ],
)  # fmt: skip
def test_what_is_no_ticker_is_refused_by_name(cid: str) -> None:
    with pytest.raises(DataError, match="not an option ticker"):
        parse_ticker(cid)


roots = st.from_regex(r"[A-Z]{1,5}[0-9]?", fullmatch=True)
days = st.dates(date(2000, 1, 1), date(2099, 12, 31)).map(date.isoformat)
kinds = st.sampled_from([CALL, PUT])
strikes = st.integers(0, 99_999_999)


@given(roots, days, kinds, strikes)
def test_parsing_is_the_inverse_of_formatting(root: str, expiration: str, kind: str, strike_milli: int) -> None:
    cid = format_ticker(root, expiration, kind, strike_milli)
    assert parse_ticker(cid) == OptionTicker(cid, root, expiration, kind, strike_milli)


@given(st.text(max_size=25))
def test_any_text_is_a_ticker_or_a_data_error(text: str) -> None:
    for cid in (text, "O:" + text):
        try:
            found = parse_ticker(cid)
        except DataError:
            continue
        assert format_ticker(found.root, found.expiration, found.type, found.strike_milli) == cid


# --- series


@pytest.mark.parametrize(
    ("root", "underlying", "settlement", "exercise"),
    [
        ("SPX", "SPX", "am", "european"), ("SPXW", "SPX", "pm", "european"), ("NDX", "NDX", "am", "european"),
        ("NDXP", "NDX", "pm", "european"), ("RUTW", "RUT", "pm", "european"), ("XSP", "XSP", "pm", "european"),
        ("SPY", "SPY", "pm", "american"), ("SDS1", "SDS", "pm", "american"),
    ],
)  # fmt: skip
def test_a_root_tells_underlying_settlement_and_exercise(
    root: str, underlying: str, settlement: str, exercise: str
) -> None:
    found = series_of(root)
    assert (found.underlying, found.settlement, found.exercise) == (underlying, settlement, exercise)


@pytest.mark.parametrize(("root", "adjusted"), [("SDS1", True), ("SPXW", False), ("", False)])
def test_a_root_that_ends_in_a_digit_is_adjusted(root: str, *, adjusted: bool) -> None:
    assert is_adjusted(root) is adjusted


def test_indices_are_named_with_their_prefix_to_the_provider() -> None:
    assert [provider_underlying(one) for one in ("SPX", "NDX", "SPY")] == ["I:SPX", "I:NDX", "SPY"]


def test_planes_of_one_day_differ_by_root() -> None:
    assert plane_id("SPX", "2026-01-16") != plane_id("SPXW", "2026-01-16") == "SPXW:2026-01-16"


# --- instants


def utc(*parts: int) -> float:
    return datetime(*parts, tzinfo=UTC).timestamp()  # type: ignore[arg-type,misc]


@pytest.mark.parametrize(
    ("root", "expiration", "instant"),
    [
        ("SPX", "2026-01-16", utc(2026, 1, 16, 14, 30)),
        ("SPXW", "2026-01-16", utc(2026, 1, 16, 21, 0)),
        ("SPX", "2026-07-17", utc(2026, 7, 17, 13, 30)),
        ("SPXW", "2026-07-17", utc(2026, 7, 17, 20, 0)),
        ("SPXW", "2026-03-06", utc(2026, 3, 6, 21, 0)),
        ("SPXW", "2026-03-09", utc(2026, 3, 9, 20, 0)),
        ("SPXW", "2026-10-30", utc(2026, 10, 30, 20, 0)),
        ("SPXW", "2026-11-02", utc(2026, 11, 2, 21, 0)),
        ("SPY", "2026-01-16", utc(2026, 1, 16, 21, 0)),
        ("SPXW", "2026-11-27", utc(2026, 11, 27, 18, 0)),
        ("SPY", "2025-07-03", utc(2025, 7, 3, 17, 0)),
        ("VIX", "2026-11-27", utc(2026, 11, 27, 14, 30)),
    ],
    ids=[
        "AM in winter", "PM in winter", "AM in summer", "PM in summer", "before clocks go forward", "after",
        "before clocks go back", "after", "stocks", "PM, early close", "stocks, early close",
        "AM, early close",
    ],
)  # fmt: skip
def test_settlement_is_an_instant_in_new_york(root: str, expiration: str, instant: float) -> None:
    assert settlement_ts(root, expiration) == instant


def test_the_day_is_new_york_s() -> None:
    assert new_york_date(utc(2026, 1, 16, 4, 59)).isoformat() == "2026-01-15"
    assert new_york_date(utc(2026, 1, 16, 5, 0)).isoformat() == "2026-01-16"


@pytest.mark.parametrize(
    ("instant", "left"),
    [(utc(2026, 1, 16, 15), 0), (utc(2026, 1, 16, 4), 1), (utc(2026, 1, 9, 15), 7), (utc(2026, 1, 17, 15), -1)],
)
def test_days_to_expiration_are_calendar_days(instant: float, left: int) -> None:
    assert days_to_expiration("2026-01-16", instant) == left
