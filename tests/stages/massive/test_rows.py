"""Provider rows: strict about who a contract is, tolerant of everything the wire leaves out."""

from __future__ import annotations

import pytest

from contracts.snapshot import ChainRow, ChainSnapshot, decode_snapshot, encode_snapshot
from contracts.symbology import CALL, PUT, settlement_ts
from stages.massive.rows import (
    ReadRow,
    Refused,
    eligibility,
    last_settlement_ts,
    read_row,
    read_surface,
    seconds,
)
from tests.stages.massive.chains import EXPIRATION, MORNING, QUOTE_NS, both_sides, detailed, wire_row


def row_of(raw: object, market_ts: float = MORNING) -> ChainRow:
    read = read_row(raw, EXPIRATION, market_ts)
    assert isinstance(read, ReadRow), read
    return read.row


def test_a_full_row_keeps_every_value() -> None:
    row = row_of(wire_row())
    assert row == ChainRow(
        id="O:SPXW260116C06850000", root="SPXW", type=CALL, strike=6850.0, settlement="pm", exercise="european",
        multiplier=100, eligible=1, bid=10.0, ask=10.2, bid_size=0, ask_size=14, quote_ts=1_768_570_200.123457,
        last=10.1, last_size=2, last_ts=1_768_570_200.123457, volume=36, iv=0.12, delta=0.5, gamma=0.004,
        theta=-3.0, vega=1.25, oi=8133.0, fmv=None,
    )  # fmt: skip
    assert isinstance(row.bid, float) and isinstance(row.oi, float)


def test_whole_doubles_come_as_ints_and_leave_as_doubles() -> None:
    row = row_of(wire_row(last_quote={"bid": 3, "ask": 4, "bid_size": 7.0}))
    assert (row.bid, row.ask, row.bid_size, row.quote_ts) == (3.0, 4.0, 7, None)
    assert isinstance(row.bid_size, int)


@pytest.mark.parametrize("name", ["day", "greeks", "last_quote", "last_trade", "underlying_asset", "open_interest"])
@pytest.mark.parametrize("nothing", [None, {}])
def test_absent_and_empty_objects_are_unknown(name: str, nothing: object) -> None:
    raw = wire_row()
    del raw[name]
    row = row_of(raw if nothing is None else {**raw, name: nothing})
    unknown = {
        "day": (row.volume,),
        "greeks": (row.delta, row.gamma, row.theta, row.vega),
        "last_quote": (row.bid, row.ask, row.bid_size, row.ask_size, row.quote_ts),
        "last_trade": (row.last, row.last_size, row.last_ts),
        "underlying_asset": (),
        "open_interest": (row.oi,),
    }[name]
    assert set(unknown) <= {None}
    assert row_of(wire_row()).strike == row.strike


@pytest.mark.parametrize("price", [-0.05, 0.005, 10.001, float("nan"), float("inf"), 1e9, "10", True, 10**400])
@pytest.mark.parametrize("side", ["bid", "ask"])
def test_one_bad_side_drops_the_whole_quote(side: str, price: object) -> None:
    quote = {"bid": 10, "ask": 10.2, "bid_size": 1, "ask_size": 1, "last_updated": QUOTE_NS, side: price}
    read = read_row(wire_row(last_quote=quote), EXPIRATION, MORNING)
    assert isinstance(read, ReadRow)
    assert read.dropped == ("bad_quotes",)
    assert {read.row.bid, read.row.ask, read.row.bid_size, read.row.ask_size, read.row.quote_ts} == {None}
    assert read.row.last == 10.1


def test_a_bad_trade_price_drops_the_trade_only() -> None:
    read = read_row(wire_row(last_trade={"price": 1.234, "size": 1}), EXPIRATION, MORNING)
    assert isinstance(read, ReadRow)
    assert read.dropped == ("bad_trades",)
    assert (read.row.last, read.row.last_size, read.row.last_ts) == (None, None, None)
    assert read.row.bid == 10.0


def test_cents_that_no_double_holds_exactly_are_prices() -> None:
    for cents in range(0, 3000, 7):
        row = row_of(wire_row(last_quote={"bid": cents / 100, "ask": 1234.56}))
        assert row.bid == cents / 100


def test_a_zero_bid_is_a_price_and_an_unknown_one_is_not() -> None:
    assert row_of(wire_row(last_quote={"bid": 0, "ask": 0.05})).bid == 0.0
    assert row_of(wire_row(last_quote={"ask": 0.05})).bid is None


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (detailed(wire_row(), ticker=None), "ticker"),
        (detailed(wire_row(), ticker="O:SPXW211022C000150000000000000000"), "ticker"),
        (wire_row(details=None), "ticker"),
        ("no row", "ticker"),
        (detailed(wire_row(), strike_price=6855), "strike"),
        (detailed(wire_row(), strike_price="6850"), "strike"),
        (detailed(wire_row(), contract_type=PUT), "type"),
        (detailed(wire_row(), contract_type="other"), "type"),
        (detailed(wire_row(), expiration_date="2026-01-17"), "expiration"),
        (wire_row(expiration="2026-01-23"), "expiration"),
        (detailed(wire_row(), shares_per_contract=0), "multiplier"),
        (detailed(wire_row(), shares_per_contract=33.5), "multiplier"),
    ],
)
def test_a_row_whose_identity_is_in_doubt_is_refused(raw: object, reason: str) -> None:
    assert read_row(raw, EXPIRATION, MORNING) == Refused(reason)


def test_what_details_leave_out_contradicts_nothing() -> None:
    row = row_of({"details": {"ticker": "O:SPXW260116P06852500"}})
    assert (row.type, row.strike, row.multiplier, row.exercise) == (PUT, 6852.5, 100, "european")


def test_settlement_and_exercise_come_from_the_series_unless_told() -> None:
    assert row_of(wire_row(root="SPX")).settlement == "am"
    told = row_of(detailed(wire_row(root="SPY"), exercise_style="bermudan"))
    assert (told.settlement, told.exercise) == ("pm", "bermudan")
    assert row_of(detailed(wire_row(root="SPY"), exercise_style="other")).exercise == "american"


def test_eligibility_follows_the_market_clock() -> None:
    opening, close = settlement_ts("SPX", EXPIRATION), settlement_ts("SPXW", EXPIRATION)
    assert eligibility("SPX", EXPIRATION, 100, opening - 1) == 1
    assert eligibility("SPX", EXPIRATION, 100, opening) == "expired"
    assert eligibility("SPXW", EXPIRATION, 100, opening) == 1
    assert eligibility("SPXW", EXPIRATION, 100, close) == "expired"
    assert eligibility("SDS1", EXPIRATION, 100, opening) == "adjusted"
    assert eligibility("SPY", EXPIRATION, 10, opening) == "adjusted"


def test_eligibility_is_that_of_the_market_time() -> None:
    rows = both_sides([6850], root="SPX") + both_sides([6850])
    surface = read_surface(EXPIRATION, rows, MORNING)
    later = read_surface(EXPIRATION, rows, settlement_ts("SPX", EXPIRATION))
    assert {row.eligible for row in surface.rows} == {1}
    assert {(row.root, row.eligible) for row in later.rows} == {("SPX", "expired"), ("SPXW", 1)}


def test_the_last_series_settles_an_expiration() -> None:
    assert last_settlement_ts("SPX", EXPIRATION) == settlement_ts("SPXW", EXPIRATION)
    assert last_settlement_ts("VIX", EXPIRATION) == settlement_ts("VIX", EXPIRATION)
    assert last_settlement_ts("SPY", EXPIRATION) == settlement_ts("SPY", EXPIRATION)


def test_rows_are_sorted_and_keep_both_roots_of_a_strike() -> None:
    raw = both_sides([6860, 6850]) + both_sides([6855, 6850], root="SPX")
    surface = read_surface(EXPIRATION, raw, MORNING)
    assert [(row.root, row.strike, row.type) for row in surface.rows] == [
        ("SPX", 6850.0, CALL), ("SPX", 6850.0, PUT), ("SPX", 6855.0, CALL), ("SPX", 6855.0, PUT),
        ("SPXW", 6850.0, CALL), ("SPXW", 6850.0, PUT), ("SPXW", 6860.0, CALL), ("SPXW", 6860.0, PUT),
    ]  # fmt: skip
    assert (surface.missing, surface.counts) == ("", {})


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_two_rows_of_a_contract_the_newer_quote_stays(order: tuple[int, int]) -> None:
    older = wire_row(last_quote={"bid": 1, "ask": 2, "last_updated": QUOTE_NS})
    newer = wire_row(last_quote={"bid": 3, "ask": 4, "last_updated": QUOTE_NS + 1_000_000})
    pair = [older, newer]
    surface = read_surface(EXPIRATION, [pair[order[0]], pair[order[1]], wire_row(kind=PUT)], MORNING)
    assert [row.bid for row in surface.rows] == [3.0, 10.0]
    assert surface.counts == {"duplicate_rows": 1}


def test_what_was_left_out_is_counted() -> None:
    raw = [
        *both_sides([6850]),
        detailed(wire_row(6855), strike_price=1),
        wire_row(6860, last_quote={"bid": -1, "ask": 1}),
        wire_row(6865, last_trade={"price": 0.001}),
    ]
    surface = read_surface(EXPIRATION, raw, MORNING)
    assert len(surface.rows) == 4
    assert surface.counts == {
        "refused_rows": 1, "refused_strike": 1, "bad_quotes": 1, "bad_trades": 1, "one_sided_strikes": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "missing"),
    [([wire_row()], "no puts"), ([wire_row(kind=PUT)], "no calls"), ([], "no calls and no puts")],
)
def test_half_a_surface_says_what_is_missing(raw: list[object], missing: str) -> None:
    assert read_surface(EXPIRATION, raw, MORNING).missing == missing


def test_rows_survive_the_snapshot() -> None:
    surface = read_surface(EXPIRATION, both_sides([6850, 6852.5]), MORNING)
    snapshot = ChainSnapshot(MORNING, "SPX", EXPIRATION, 6850, 50, surface.rows)
    assert decode_snapshot(encode_snapshot(snapshot)) == snapshot


@pytest.mark.parametrize(
    ("stamp", "expected"),
    [
        (1_768_570_200_123_456_789, 1_768_570_200.123457),
        (1_768_570_200_123, 1_768_570_200.123),
        (1_768_570_200, 1_768_570_200.0),
        (0, None), (-1, None), (None, None), ("soon", None),
    ],
)  # fmt: skip
def test_stamps_by_magnitude(stamp: object, expected: float | None) -> None:
    assert seconds(stamp) == expected
