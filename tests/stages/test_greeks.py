"""Own greeks of a plane: volatility by strike, interpolation, the delta of later, the expected move; and a market
whose true volatilities are known."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.analytics import MINUTES_PER_YEAR, ForwardSource
from contracts.geometry import Listing, Plane, build_geometry
from contracts.planes import Array, empty_quotes
from contracts.symbology import CALL, PUT, series_of
from ops.mock import pricing, trading_days
from ops.mock.listing import tick_cents
from ops.mock.synthetic import SyntheticSource
from stages.calculate import black
from stages.calculate.columns import Columns, Floats, compile_columns
from stages.calculate.forward import Forward
from stages.calculate.greeks import (
    Surface,
    between_strikes,
    delta_later,
    expected_move,
    fit_surface,
    own_greeks,
    years_of,
)
from tests.stages.boards import Contract, both_sides, plane_of, quotes_of

STRIKES = (90, 95, 100, 105, 110)
COLUMNS = compile_columns(plane_of(both_sides(STRIKES)))
RATE = 0.04
DAY_MINUTES = 1440.0


def surface_of(
    *volatility: float, forward: float = 101.0, minutes: float = 30 * DAY_MINUTES, spot: float = 100.0
) -> Surface:
    """A surface of five strikes."""
    said = Forward(forward, math.nan, ForwardSource.NEAREST, 1)
    return Surface(spot, minutes, RATE, said, np.array(volatility or (0.30, 0.25, 0.20, 0.22, 0.26)))


def fitted(quotes: Mapping[Contract, tuple[float | None, float | None]], spot: float = 100.0) -> Surface:
    plane = plane_of(both_sides(STRIKES))
    return fit_surface(compile_columns(plane), quotes_of(plane, quotes), spot, 30 * DAY_MINUTES, RATE)


def known(values: Floats) -> list[bool]:
    return [math.isfinite(value) for value in values.tolist()]


# --- time


@pytest.mark.parametrize(("minutes", "counted"), [(0.01, 1), (0.99, 1), (1, 1), (1.5, 1.5), (390, 390)])
def test_time_is_minutes_of_the_year_and_at_least_one(minutes: float, counted: float) -> None:
    assert years_of(minutes) == counted / 525_600


# --- volatility by strike


def test_the_out_of_the_money_side_tells_the_volatility() -> None:
    puts: dict[Contract, tuple[float | None, float | None]] = {(PUT, 90): (0.5, 0.6), (PUT, 95): (1.1, 1.3)}
    found = fitted(puts | {(CALL, 100): (3.0, 3.2), (CALL, 105): (1.2, 1.3), (CALL, 110): (0.4, 0.5)})
    assert found.forward.source is ForwardSource.SPOT
    assert known(found.volatility) == [True, True, False, True, True]  # at 100 the put is out of the money
    price = black.price(
        found.forward.value, np.array([95.0]), found.years, found.volatility[1:2], found.discount, np.array([False])
    )
    assert price[0] == pytest.approx(1.2, rel=1e-12)


@pytest.mark.parametrize("quote", [(0.0, 0.6), (None, 0.6), (0.5, None), (0.5, 0.0), (0.7, 0.6), (0.0, 0.0)])
def test_a_side_that_is_not_quoted_both_ways_tells_none(quote: tuple[float | None, float | None]) -> None:
    assert known(fitted({(PUT, 90): quote, (PUT, 95): (1.1, 1.3)}).volatility)[:2] == [False, True]


def test_the_in_the_money_side_does_not_step_in() -> None:
    assert not known(fitted({(CALL, 90): (10.4, 10.6)}).volatility)[0]


def test_a_price_beyond_what_the_option_can_be_worth_tells_none() -> None:
    assert not known(fitted({(PUT, 90): (95.0, 96.0)}).volatility)[0]


def test_between_strikes_volatility_is_linear() -> None:
    found = between_strikes(COLUMNS, surface_of(0.30, math.nan, 0.20, 0.22, 0.26), np.array([90.0, 95.0, 102.5, 110.0]))
    assert found == pytest.approx([0.30, 0.25, 0.21, 0.26])


def test_beyond_the_outermost_volatility_there_is_none() -> None:
    surface = surface_of(math.nan, 0.25, 0.20, 0.22, math.nan)
    assert known(between_strikes(COLUMNS, surface, np.array([94.9, 95.0, 105.0, 105.1]))) == [False, True, True, False]


@pytest.mark.parametrize(
    ("volatility", "any_known"), [([math.nan] * 5, False), ([math.nan] * 2 + [0.2] + [math.nan] * 2, True)]
)
def test_few_volatilities_are_no_error(volatility: list[float], *, any_known: bool) -> None:
    assert known(between_strikes(COLUMNS, surface_of(*volatility), np.array([100.0]))) == [any_known]


# --- greeks


def test_greeks_are_those_of_black_76_at_the_volatility_of_the_strike() -> None:
    surface = surface_of()
    found = own_greeks(COLUMNS, surface)
    expected = black.greeks(
        100.0, 101.0, COLUMNS.strike, 30 / 365, np.repeat(surface.volatility, 2), surface.discount, COLUMNS.is_call
    )
    for name in ("delta", "gamma", "vanna"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-12)


def test_a_strike_in_a_gap_gets_greeks_but_no_volatility_of_its_own() -> None:
    found = own_greeks(COLUMNS, surface_of(0.30, math.nan, 0.20, 0.22, math.nan))
    assert known(found.iv) == [True] * 2 + [False] * 2 + [True] * 4 + [False] * 2
    assert found.sigma[2:4] == pytest.approx([0.25, 0.25])
    assert known(found.gamma) == [True] * 8 + [False] * 2
    later = delta_later(COLUMNS, surface_of(0.30, math.nan, 0.20, 0.22, math.nan), found, found.delta)
    assert known(later) == known(found.delta)


@given(st.lists(st.floats(0.05, 2.0), min_size=5, max_size=5), st.floats(1.0, 1000 * DAY_MINUTES), st.floats(90, 110))
def test_both_sides_of_a_strike_share_gamma_and_their_deltas_differ_by_the_forward_s(
    volatility: list[float], minutes: float, forward: float
) -> None:
    surface = surface_of(*volatility, forward=forward, minutes=minutes)
    found = own_greeks(COLUMNS, surface)
    calls, puts = slice(0, None, 2), slice(1, None, 2)
    assert found.gamma[calls].tolist() == found.gamma[puts].tolist()
    assert found.delta[calls] - found.delta[puts] == pytest.approx(surface.discount * forward / 100.0, rel=1e-12)


# --- the delta of later


def test_the_delta_of_later_has_fifteen_minutes_less_and_everything_else_the_same() -> None:
    surface = surface_of(minutes=390.0)
    own = own_greeks(COLUMNS, surface)
    sooner = own_greeks(COLUMNS, surface_of(minutes=375.0))
    assert delta_later(COLUMNS, surface, own, own.delta) == pytest.approx(sooner.delta, abs=1e-15)


def test_of_a_delta_that_is_not_ours_the_change_is() -> None:
    surface = surface_of(minutes=390.0)
    own = own_greeks(COLUMNS, surface)
    change = delta_later(COLUMNS, surface, own, own.delta) - own.delta
    theirs = np.linspace(-0.5, 0.5, 10)
    assert delta_later(COLUMNS, surface, own, theirs) - theirs == pytest.approx(change, abs=1e-15)


@pytest.mark.parametrize("minutes", [0.5, 1.0, 15.0])
def test_what_settles_within_fifteen_minutes_has_its_intrinsic_delta(minutes: float) -> None:
    surface = surface_of(minutes=minutes)  # spot is 100
    own = own_greeks(COLUMNS, surface)
    later = delta_later(COLUMNS, surface, own, own.delta)
    assert later.tolist() == [1, 0, 1, 0, 0.5, -0.5, 0, -1, 0, -1]


def test_without_a_delta_now_there_is_none_later() -> None:
    for minutes in (10.0, 390.0):
        surface = surface_of(math.nan, 0.25, 0.20, 0.22, math.nan, minutes=minutes)
        own = own_greeks(COLUMNS, surface)
        assert known(delta_later(COLUMNS, surface, own, own.delta)) == [False] * 2 + [True] * 6 + [False] * 2


def test_a_contract_with_sixteen_minutes_left_still_has_a_minute_later() -> None:
    surface = surface_of(minutes=15.5)
    own = own_greeks(COLUMNS, surface)
    last = own_greeks(COLUMNS, surface_of(minutes=1.0))
    assert delta_later(COLUMNS, surface, own, own.delta) == pytest.approx(last.delta, abs=1e-15)


# --- the expected move


def test_the_expected_move_is_at_the_forward() -> None:
    found = expected_move(COLUMNS, surface_of())
    assert found.sigma == pytest.approx(0.20 + 0.02 / 5)
    assert found.one_sigma == pytest.approx(101.0 * found.sigma * math.sqrt(30 / 365))


@given(st.floats(0.03, 0.6), st.floats(1.0, 90 * DAY_MINUTES))
def test_the_straddle_is_0_7979_of_the_move_to_first_order(sigma: float, minutes: float) -> None:
    surface = surface_of(*[sigma] * 5, minutes=minutes)
    found = expected_move(COLUMNS, surface)
    ratio = found.straddle / (found.one_sigma * surface.discount)
    assert ratio == pytest.approx(0.79788456, rel=sigma**2 * surface.years / 24 + 1e-8)


@pytest.mark.parametrize("forward", [89.9, 110.1])
def test_a_forward_outside_all_volatilities_has_no_expected_move(forward: float) -> None:
    found = expected_move(COLUMNS, surface_of(forward=forward))
    assert known(np.array([found.sigma, found.one_sigma, found.straddle])) == [False] * 3


# --- a market whose volatilities are known


class KnownPlane:
    """A plane of the synthetic market with its quotes, and what is true of it."""

    def __init__(self, plane: Plane, quotes: Array, spot: float, minutes: float, level: float, tick: Floats) -> None:
        self.columns: Columns = compile_columns(plane)
        self.quotes = quotes
        self.surface = fit_surface(self.columns, quotes, spot, minutes, pricing.RATE)
        years = years_of(minutes)
        self.forward = spot * math.exp((pricing.RATE - pricing.DIVIDEND_YIELD) * years)
        strikes = self.columns.strikes
        self.sigma = pricing.smile(
            np.log(strikes / self.forward), np.full(len(strikes), years), np.full(len(strikes), level)
        )
        self.sigma_forward = float(pricing.smile(np.zeros(1), np.array([years]), np.array([level]))[0])
        is_call = strikes >= self.surface.forward.value
        rows = np.where(is_call, self.columns.calls, self.columns.puts)
        bid, ask = (quotes["quote"][side][rows] / 100.0 for side in ("bid", "ask"))
        self.quoted = bid > 0
        self.bid_volatility, self.ask_volatility = (
            black.implied_volatility(
                np.where(self.quoted, side, np.nan), self.surface.forward.value, strikes, years, self.surface.discount
            )
            for side in (bid, ask)
        )
        self.tick = tick[rows] / 100.0
        truth = black.greeks(spot, self.forward, strikes, years, self.sigma, self.surface.discount, is_call)
        self.vega, self.delta = truth.vega, truth.delta


def known_planes(symbol: str, clock: time, seed: int = 3) -> Iterator[KnownPlane]:
    """Every live plane of a symbol at a time of the first day."""
    source = SyntheticSource((symbol,), seed, 4000)
    ts = trading_days.at(trading_days.first_morning(seed), clock)
    listing, spots = source.listing(ts), source.spots(ts)
    bid, ask = source.quotes(listing, source.valuation(listing, spots, ts))
    tick = tick_cents(ask, listing.penny)
    rows = [
        Listing(one.root, one.expiration, one.strike_milli, one.type, one.cid, "", series_of(one.root).exercise, 100)
        for one in listing.contracts
    ]
    level = {"SPX": 0.115, "NDX": 0.165, "SPY": 0.115}[symbol]
    for plane in build_geometry(symbol, rows).planes:
        minutes = (plane.settlement_ts - ts) / 60.0
        if minutes > 0:
            at = [listing.row_of[row.cid] for row in plane.rows]
            quotes = empty_quotes(len(at))
            quotes["quote"]["bid"], quotes["quote"]["ask"] = bid[at], ask[at]
            yield KnownPlane(plane, quotes, float(spots[0]), minutes, level, tick[at].astype(np.float64))


CLOCKS = [time(9, 40), time(11, 40), time(15, 0), time(15, 58)]


@pytest.mark.parametrize("clock", CLOCKS, ids=str)
@pytest.mark.parametrize("symbol", ["SPX", "NDX", "SPY"])
def test_the_true_surface_lies_between_the_volatilities_of_bid_and_ask(symbol: str, clock: time) -> None:
    compared = 0
    for plane in known_planes(symbol, clock):
        quoted, sigma = plane.quoted, plane.sigma
        assert (plane.bid_volatility <= sigma)[quoted].all()
        assert (sigma <= plane.ask_volatility)[quoted].all()
        compared += int(quoted.sum())
    assert compared > 300


@pytest.mark.parametrize("clock", CLOCKS, ids=str)
@pytest.mark.parametrize("symbol", ["SPX", "NDX", "SPY"])
def test_the_true_surface_is_within_half_a_tick_of_the_volatility_of_the_mid(symbol: str, clock: time) -> None:
    for plane in known_planes(symbol, clock):
        # the forward is estimated from rounded mids too: what it is off moves a price by delta times that
        moved = np.abs(plane.delta * (plane.surface.forward.value - plane.forward))
        error = np.abs(plane.surface.volatility - plane.sigma) * plane.vega
        assert (error <= 0.5 * plane.tick + 1.01 * moved + 1e-9)[plane.quoted].all()
        assert moved.max() < 0.5 * plane.tick.max()


@pytest.mark.parametrize("clock", CLOCKS, ids=str)
@pytest.mark.parametrize("symbol", ["SPX", "NDX", "SPY"])
def test_the_expected_move_is_within_half_a_percent(symbol: str, clock: time) -> None:
    compared = 0
    for plane in known_planes(symbol, clock):
        true = plane.forward * plane.sigma_forward * math.sqrt(plane.surface.years)
        if np.diff(plane.columns.strikes).min() <= true:  # else no two strikes are within a move of each other
            assert expected_move(plane.columns, plane.surface).one_sigma == pytest.approx(true, rel=0.005)
            compared += 1
    assert compared >= 5


def test_years_and_the_market_s_agree() -> None:
    assert MINUTES_PER_YEAR == pricing.MINUTES_PER_YEAR
