"""Exposure of one contract: gamma * open interest * multiplier * S^2 * 0.01, and why a contract is left out."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.analytics import ForwardSource, Reason, Source, TickFlag
from contracts.geometry import Plane
from contracts.planes import UNKNOWN, Array, empty_quotes
from contracts.symbology import CALL, PUT
from stages.calculate import black
from stages.calculate.columns import compile_columns
from stages.calculate.exposure import Conventions, GammaMode, compute_exposures
from tests.stages.boards import AN_HOUR_BEFORE, Contract, both_sides, chain_of, listing, plane_of, quotes_of, row_of

BOARD = plane_of(both_sides([100]))
CHAIN = chain_of(BOARD, {(CALL, 100): (0.02, 300), (PUT, 100): (0.02, 500)})


def exposures_of(
    board: Plane,
    chain: Array,
    spot: float | None = 50.0,
    market_ts: float = AN_HOUR_BEFORE,
    mode: GammaMode = "auto",
    *,
    include_ineligible: bool = False,
) -> Array:
    """The rows of a board that nobody quotes."""
    conventions, quotes = Conventions(mode), empty_quotes(len(board.rows))
    columns = compile_columns(board)
    return compute_exposures(
        columns, quotes, chain, spot, market_ts, conventions, include_ineligible=include_ineligible
    )[0]


def call_with(gamma: float | None, open_interest: float | None, mode: GammaMode) -> Array:
    """The row of one call."""
    board = plane_of([listing(CALL, 100)])
    chain = chain_of(board, {(CALL, 100): (gamma, open_interest)})
    return exposures_of(board, chain, mode=mode)


def test_a_call_adds_and_a_put_subtracts_dollars_per_percent() -> None:
    # 0.02 * 300 * 100 * 50^2 * 0.01 = 15,000 and 0.02 * 500 * 100 * 50^2 * 0.01 = 25,000
    rows = exposures_of(BOARD, CHAIN)
    assert rows["gex"].tolist() == [15_000.0, -25_000.0]


def test_gamma_times_open_interest_carries_no_sign() -> None:
    rows = exposures_of(BOARD, CHAIN)
    assert rows["gamma_oi"].tolist() == [600.0, 1000.0]


def test_the_multiplier_counts() -> None:
    board = plane_of([listing(CALL, 100, multiplier=10)])
    rows = exposures_of(board, chain_of(board, {(CALL, 100): (0.02, 300)}))
    assert rows["gex"].tolist() == [1_500.0]


def test_without_spot_only_the_dollars_are_unknown() -> None:
    rows = exposures_of(BOARD, CHAIN, None)
    assert np.isnan(rows["gex"]).all()
    assert rows["gamma_oi"].tolist() == [600.0, 1000.0]
    assert rows["reason"].tolist() == [Reason.KEPT, Reason.KEPT]


@pytest.mark.parametrize(
    ("mode", "gamma", "source", "reason"),
    [
        ("provider", 0.02, Source.VENUE, Reason.KEPT),
        ("provider", 0.0, Source.VENUE, Reason.KEPT),
        ("provider", None, Source.NONE, Reason.NO_IV),
        ("auto", 0.02, Source.VENUE, Reason.KEPT),
        ("auto", 0.0, Source.NONE, Reason.NO_IV),  # a gamma of four decimals: this one was rounded away
        ("auto", None, Source.NONE, Reason.NO_IV),
        ("own", 0.02, Source.NONE, Reason.NO_IV),
        ("provider", -0.1, Source.NONE, Reason.NO_IV),
    ],
)
def test_which_gamma_is_used(mode: GammaMode, gamma: float | None, source: Source, reason: Reason) -> None:
    row = call_with(gamma, 300, mode)[0]
    assert (row["source"], row["reason"]) == (source, reason)


def test_a_provider_gamma_of_zero_contributes_zero() -> None:
    assert call_with(0.0, 300, "provider")["gex"].tolist() == [0.0]


def test_a_contract_without_open_interest_is_left_out() -> None:
    row = call_with(0.02, None, "provider")[0]
    assert row["reason"] == Reason.NO_OI
    assert row["source"] == Source.VENUE
    assert np.isnan(row["gex"])


def test_open_interest_of_zero_is_known() -> None:
    row = call_with(0.02, 0, "provider")[0]
    assert (row["reason"], row["gex"]) == (Reason.KEPT, 0.0)


@pytest.mark.parametrize(("eligible", "reason"), [("adjusted", Reason.ADJUSTED), ("expired", Reason.EXPIRED)])
def test_an_ineligible_contract_is_left_out_unless_asked_for(eligible: str, reason: Reason) -> None:
    board = plane_of([listing(CALL, 100, eligible=eligible)])
    chain = chain_of(board, {(CALL, 100): (0.02, 300)})
    assert exposures_of(board, chain)["reason"].tolist() == [reason]
    kept = exposures_of(board, chain, include_ineligible=True)
    assert (kept["reason"].tolist(), kept["gex"].tolist()) == ([Reason.KEPT], [15_000.0])


def test_a_plane_that_settled_since_its_board_was_made_is_expired() -> None:
    at_settlement = BOARD.settlement_ts
    assert set(exposures_of(BOARD, CHAIN, 50.0, at_settlement)["reason"].tolist()) == {Reason.EXPIRED}
    assert set(exposures_of(BOARD, CHAIN, 50.0, at_settlement - 1)["reason"].tolist()) == {Reason.KEPT}


def test_an_adjusted_contract_stays_adjusted_when_its_plane_settles() -> None:
    board = plane_of([listing(CALL, 100, eligible="adjusted")])
    rows = exposures_of(board, chain_of(board, {}), 50.0, board.settlement_ts)
    assert rows["reason"].tolist() == [Reason.ADJUSTED]


def test_the_same_inputs_give_the_same_bytes() -> None:
    missing = chain_of(BOARD, {(CALL, 100): (None, None)})
    rows = [exposures_of(BOARD, missing).tobytes() for _ in range(2)]
    assert rows[0] == rows[1]


# --- own greeks


STRIKES = range(900, 1101, 10)
LADDER = plane_of(both_sides(STRIKES))
LADDER_SPOT, LADDER_SIGMA, LADDER_GAMMA = 1000.0, 1.0, 0.0123
WINGS = (900, 1100)


def ladder_quotes(plane: Plane = LADDER, without: Collection[float] = (), minutes: float = 450.0) -> Array:
    """Quotes of a plane around Black-76 at 100 %, a cent wide; some strikes without a bid."""
    years = minutes / 525_600
    prices: dict[Contract, tuple[float | None, float | None]] = {}
    for row in plane.rows:
        strike = row.strike_milli / 1000
        is_call = np.array([row.type == CALL])
        fair = black.price(LADDER_SPOT, np.array([strike]), years, np.array([LADDER_SIGMA]), 1.0, is_call)[0]
        bid = 0.0 if strike in without else math.floor(fair * 100) / 100
        prices[row.type, strike] = (bid, math.floor(fair * 100) / 100 + 0.01)
    return quotes_of(plane, prices)


def ladder_chain(gamma: float | None, plane: Plane = LADDER) -> Array:
    """Every contract with this gamma of the provider and open interest of 10."""
    return chain_of(plane, {(row.type, row.strike_milli / 1000): (gamma, 10) for row in plane.rows})


def ladder(
    mode: GammaMode = "auto",
    gamma: float | None = LADDER_GAMMA,
    quotes: Array | None = None,
    market_ts: float = AN_HOUR_BEFORE,
    plane: Plane = LADDER,
) -> tuple[Array, Array]:
    """Rows and plane row of the ladder, 450 minutes before it settles."""
    quotes = ladder_quotes(plane) if quotes is None else quotes
    chain, conventions = ladder_chain(gamma, plane), Conventions(mode, rate=0.0)
    return compute_exposures(compile_columns(plane), quotes, chain, LADDER_SPOT, market_ts, conventions)


def near(rows: Array) -> Array:
    """Rows of the strikes within 30 points of spot, where a cent is little."""
    strike = np.array([row.strike_milli / 1000 for row in LADDER.rows])
    return rows[np.abs(strike - LADDER_SPOT) <= 30]


@pytest.mark.parametrize(
    ("mode", "gamma", "source"),
    [
        ("auto", LADDER_GAMMA, Source.VENUE),
        ("auto", 0.0, Source.OWN),
        ("auto", None, Source.OWN),
        ("provider", LADDER_GAMMA, Source.VENUE),
        ("provider", None, Source.NONE),
        ("own", LADDER_GAMMA, Source.OWN),
    ],
)
def test_own_greeks_step_in_where_the_provider_s_are_not_used(
    mode: GammaMode, gamma: float | None, source: Source
) -> None:
    rows = near(ladder(mode, gamma)[0])
    assert set(rows["source"].tolist()) == {source}
    assert set(rows["reason"].tolist()) == {Reason.NO_IV if source is Source.NONE else Reason.KEPT}


def test_own_volatility_is_known_whichever_gamma_is_used() -> None:
    for mode in ("provider", "auto", "own"):
        assert near(ladder(mode)[0])["iv"] == pytest.approx(LADDER_SIGMA, abs=0.005)


def test_own_gamma_is_that_of_the_quotes() -> None:
    rows = near(ladder("own")[0])
    columns, years = compile_columns(LADDER), 450 / 525_600
    true = black.greeks(LADDER_SPOT, LADDER_SPOT, columns.strike, years, np.array(LADDER_SIGMA), 1.0, columns.is_call)
    assert rows["gamma"] == pytest.approx(near(true.gamma), rel=0.02)  # type: ignore[arg-type]
    assert rows["gex"] == pytest.approx(near(columns.sign) * rows["gamma"] * 10 * 100 * 1e6 * 0.01)  # type: ignore[arg-type]


def test_a_strike_without_quotes_between_others_is_interpolated_and_says_so() -> None:
    rows, _ = ladder("own", quotes=ladder_quotes(without=[1000]))
    call = rows[row_of(LADDER, CALL, 1000)]
    assert (call["source"], call["reason"]) == (Source.INTERP, Reason.KEPT)
    assert np.isnan(call["iv"])
    assert call["gamma"] > 0


def test_a_wing_without_quotes_is_left_out() -> None:
    rows, _ = ladder("own", quotes=ladder_quotes(without=WINGS))
    wing = rows[row_of(LADDER, PUT, 900)]
    assert (wing["source"], wing["reason"]) == (Source.NONE, Reason.NO_IV)
    assert np.isnan([wing[name] for name in ("iv", "gamma", "delta", "vanna", "delta_15m", "gex")]).all()


def test_the_provider_s_delta_is_used_with_its_gamma_and_ours_where_it_gave_none() -> None:
    chain = ladder_chain(LADDER_GAMMA)
    chain["greeks"]["delta"][row_of(LADDER, CALL, 1000)] = 0.4321
    conventions = Conventions(rate=0.0)
    columns = compile_columns(LADDER)
    rows, _ = compute_exposures(columns, ladder_quotes(), chain, LADDER_SPOT, AN_HOUR_BEFORE, conventions)
    assert rows["delta"][row_of(LADDER, CALL, 1000)] == 0.4321
    assert rows["delta"][row_of(LADDER, PUT, 1000)] == pytest.approx(-0.5, abs=0.01)


def test_the_plane_s_row_tells_forward_time_and_expected_move() -> None:
    _, (row,) = ladder()
    assert row["years"] == 450 / 525_600
    assert (row["forward_source"], row["strikes_used"]) == (ForwardSource.NEAREST, 1)  # 990 and 1010 are too far
    assert row["forward"] == pytest.approx(LADDER_SPOT, abs=0.02)
    assert row["sigma_forward"] == pytest.approx(LADDER_SIGMA, abs=0.005)
    assert row["em_1sigma"] == pytest.approx(row["forward"] * row["sigma_forward"] * math.sqrt(row["years"]))
    assert row["straddle"] == pytest.approx(0.7979 * row["em_1sigma"], rel=1e-4)
    assert row["flags"] == 0


def test_without_spot_a_plane_knows_its_time_only() -> None:
    columns = compile_columns(LADDER)
    rows, (row,) = compute_exposures(columns, ladder_quotes(), ladder_chain(None), None, AN_HOUR_BEFORE)
    assert row["years"] == 450 / 525_600
    assert row["forward_source"] == ForwardSource.NONE
    assert np.isnan([row[name] for name in ("forward", "coherence", "sigma_forward", "em_1sigma", "straddle")]).all()
    assert set(rows["reason"].tolist()) == {Reason.NO_IV}


@pytest.mark.parametrize(("seconds", "years", "flags"), [(60, 60, 0), (59, 60, TickFlag.NEAR_EXPIRY), (90, 90, 0)])
def test_the_last_minute_counts_as_one_and_is_flagged(seconds: float, years: float, flags: int) -> None:
    _, (row,) = ladder(market_ts=LADDER.settlement_ts - seconds)
    assert (row["years"], row["flags"]) == (years / 60 / 525_600, flags)


def test_a_settled_plane_has_no_numbers_of_its_own() -> None:
    rows, (row,) = ladder("own", market_ts=LADDER.settlement_ts)
    assert set(rows["reason"].tolist()) == {Reason.EXPIRED}
    assert row["forward_source"] == ForwardSource.NONE
    for values in (rows, row):
        for name in values.dtype.names or ():
            assert values.dtype[name].kind != "f" or np.isnan(values[name]).all()


def test_strikes_that_disagree_flag_their_plane() -> None:
    plane = plane_of(both_sides([996, 1000, 1004]))
    quotes = ladder_quotes(plane)
    assert ladder(quotes=quotes, plane=plane)[1]["flags"].tolist() == [0]
    for side in ("bid", "ask"):
        quotes["quote"][side][row_of(plane, PUT, 1004)] += 150
    assert ladder(quotes=quotes, plane=plane)[1]["flags"].tolist() == [TickFlag.INCOHERENT]


def test_a_quote_older_than_the_newest_of_its_plane_is_stale() -> None:
    quotes = ladder_quotes()
    quotes["quote"]["ms"] = 1_000_000
    quotes["quote"]["ms"][:4] = [940_000, 939_999, 0, -1]  # a minute, a bit more, without a time, never quoted
    flags = ladder(quotes=quotes)[0]["flags"].tolist()
    assert flags[:5] == [0, TickFlag.STALE, 0, 0, 0]


# --- laws


@given(st.permutations(range(len(LADDER.rows))))
def test_the_order_of_contracts_changes_nothing(order: list[int]) -> None:
    shuffled = replace(LADDER, rows=tuple(LADDER.rows[n] for n in order))
    rows, row = ladder("own")
    again, row_again = ladder("own", quotes=ladder_quotes()[order], plane=shuffled)
    assert again.tobytes() == rows[order].tobytes()
    assert row_again.tobytes() == row.tobytes()


@given(
    st.lists(st.tuples(*[st.sampled_from([UNKNOWN, 0, 1, 5, 500, 10_000, 2**31 - 1])] * 2), min_size=6, max_size=6),
    st.lists(st.sampled_from([None, 0.0, 0.01, -0.1, math.inf]), min_size=6, max_size=6),
    st.lists(st.sampled_from([None, 0.0, 10.0, -1.0]), min_size=6, max_size=6),
    st.sampled_from([None, 0.5, 100.0, 1e6]),
    st.sampled_from([-3600.0, 0.0, 0.001, 59.0, 899.0, 3600.0, 1e8]),
    st.sampled_from(["provider", "auto", "own"]),
)
def test_whatever_is_quoted_every_number_is_finite_or_absent_with_a_reason(
    quoted: list[tuple[int, int]],
    gamma: list[float | None],
    interest: list[float | None],
    spot: float | None,
    seconds_left: float,
    mode: GammaMode,
) -> None:
    plane = plane_of(both_sides([95, 100, 105]))
    quotes = empty_quotes(6)
    quotes["quote"]["bid"], quotes["quote"]["ask"] = zip(*quoted, strict=True)
    contracts = [(row.type, row.strike_milli / 1000) for row in plane.rows]
    chain = chain_of(plane, dict(zip(contracts, zip(gamma, interest, strict=True), strict=True)))
    market_ts = plane.settlement_ts - seconds_left
    rows, row = compute_exposures(compile_columns(plane), quotes, chain, spot, market_ts, Conventions(mode))
    for values in (rows, row):
        for name in values.dtype.names or ():
            assert not np.isinf(values[name]).any()
            absent = values[name][np.isnan(values[name])]
            assert absent.tobytes() == np.full(len(absent), np.nan).tobytes()  # one NaN, the same bits
    kept = rows["reason"] == Reason.KEPT
    assert np.isfinite(rows["gamma_oi"][kept]).all() and np.isnan(rows["gamma_oi"][~kept]).all()
    assert np.isfinite(rows["gex"][kept]).all() == (spot is not None) or not kept.any()
    assert (rows["source"][kept] != Source.NONE).all()
    assert (rows["reason"] == Reason.EXPIRED).all() == (seconds_left <= 0)


@pytest.mark.parametrize("strikes", [[], [100]], ids=["empty", "a single strike"])
def test_the_smallest_planes_are_no_error(strikes: list[float]) -> None:
    plane = Plane("SPXW:2026-01-16", "SPXW", "2026-01-16", tuple(both_sides(strikes)))
    rows, (row,) = ladder("own", plane=plane)
    assert len(rows) == 2 * len(strikes)
    assert row["forward_source"] == ForwardSource.SPOT
    assert np.isnan(row["em_1sigma"])
