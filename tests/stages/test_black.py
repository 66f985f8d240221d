"""Black-76 against QuantLib, vollib and finite differences, and volatilities that give back their prices."""

from __future__ import annotations

import math

import numpy as np
import pytest
import QuantLib
from hypothesis import assume, given
from hypothesis import strategies as st
from vollib.black.implied_volatility import implied_volatility as vollib_volatility

from stages.calculate import black
from stages.calculate.black import Floats, Mask

MINUTE = 1 / 525_600
RATE = 0.04
BOTH = np.array([True, False])

terms = st.floats(MINUTE, 3.0)
volatilities = st.floats(0.03, 2.0)
deviations = st.floats(-4.0, 4.0)  # of the strike from the forward
spots = st.floats(20.0, 25_000.0)


def discount(years: float) -> float:
    return math.exp(-RATE * years)


def strike_at(forward: float, years: float, sigma: float, deviation: float) -> float:
    return forward * math.exp(deviation * sigma * math.sqrt(years))


def prices(forward: float, strike: float, years: float, sigma: float) -> Floats:
    """Call and put."""
    return black.price(forward, np.full(2, strike), years, np.full(2, sigma), discount(years), BOTH)


def greeks(spot: float, forward: float, strike: float, years: float, sigma: float) -> black.Greeks:
    """Of call and put."""
    return black.greeks(spot, forward, np.full(2, strike), years, np.full(2, sigma), discount(years), BOTH)


def quantlib(kind: int, forward: float, strike: float, years: float, sigma: float) -> QuantLib.BlackCalculator:
    payoff = QuantLib.PlainVanillaPayoff(kind, strike)
    return QuantLib.BlackCalculator(payoff, forward, sigma * math.sqrt(years), discount(years))


KINDS = (QuantLib.Option.Call, QuantLib.Option.Put)


def market(
    count: int, forward: float, years: float, rng: np.random.Generator, sigmas: tuple[float, float] = (0.05, 1.5)
) -> tuple[Floats, Floats, Mask]:
    """Strikes, volatilities and sides of out-of-the-money options up to six deviations from the forward."""
    sigma = rng.uniform(*sigmas, count)
    strike = forward * np.exp(rng.uniform(-6, 6, count) * sigma * math.sqrt(years))
    return strike, sigma, strike >= forward


# --- prices and greeks


@given(spots, terms, volatilities, deviations, st.floats(0.95, 1.05))
def test_prices_and_greeks_are_quantlib_s(
    spot: float, years: float, sigma: float, deviation: float, carry: float
) -> None:
    forward = spot * carry
    strike = strike_at(forward, years, sigma, deviation)
    ours, price = greeks(spot, forward, strike, years, sigma), prices(forward, strike, years, sigma)
    for side, kind in enumerate(KINDS):
        theirs = quantlib(kind, forward, strike, years, sigma)
        assert price[side] == pytest.approx(theirs.value(), rel=1e-9, abs=1e-12 * forward)
        assert ours.delta[side] == pytest.approx(theirs.delta(spot), rel=1e-9, abs=1e-12)
        assert ours.gamma[side] == pytest.approx(theirs.gamma(spot), rel=1e-6, abs=1e-12)
        assert ours.vega[side] == pytest.approx(theirs.vega(years), rel=1e-9, abs=1e-12)


@given(terms, st.floats(0.05, 2.0), st.floats(-3.0, 3.0), st.floats(0.95, 1.05))
def test_greeks_are_finite_differences(years: float, sigma: float, deviation: float, carry: float) -> None:
    spot = 7000.0
    strike = strike_at(spot * carry, years, sigma, deviation)
    found = greeks(spot, spot * carry, strike, years, sigma)
    step = 1e-4 * spot * sigma * math.sqrt(years)  # the forward moves with spot
    up, down = ((spot + by, (spot + by) * carry, strike, years, sigma) for by in (step, -step))
    slope = (prices(*up[1:]) - prices(*down[1:])) / (2 * step)
    assert slope == pytest.approx(found.delta, rel=1e-4, abs=1e-5)
    curve = (greeks(*up).delta - greeks(*down).delta) / (2 * step)
    assert curve == pytest.approx(found.gamma, rel=1e-4, abs=1e-6 * found.gamma.max() + 1e-9)
    more, less = ((spot, spot * carry, strike, years, sigma * by) for by in (1.0001, 0.9999))
    by_volatility = (prices(*more[1:]) - prices(*less[1:])) / (0.0002 * sigma)
    assert by_volatility == pytest.approx(found.vega, rel=1e-4, abs=1e-4 * spot * math.sqrt(years))
    by_volatility = (greeks(*more).delta - greeks(*less).delta) / (0.0002 * sigma)
    assert by_volatility == pytest.approx(found.vanna, rel=1e-4, abs=1e-5)


@given(spots, terms, volatilities, deviations, st.floats(0.95, 1.05))
def test_call_and_put_obey_parity(spot: float, years: float, sigma: float, deviation: float, carry: float) -> None:
    forward = spot * carry
    strike = strike_at(forward, years, sigma, deviation)
    call, put = prices(forward, strike, years, sigma)
    assert call - put == pytest.approx(discount(years) * (forward - strike), rel=1e-9, abs=1e-11 * forward)
    found = greeks(spot, forward, strike, years, sigma)
    assert found.delta[0] - found.delta[1] == pytest.approx(discount(years) * carry, rel=1e-12)
    for same in (found.gamma, found.vega, found.vanna):
        assert same[0] == same[1]


@given(terms, volatilities, deviations, st.floats(0.01, 100.0))
def test_everything_scales_with_the_currency(years: float, sigma: float, deviation: float, scale: float) -> None:
    strike = strike_at(100.0, years, sigma, deviation)
    small = greeks(101.0, 100.0, strike, years, sigma)
    large = greeks(101.0 * scale, 100.0 * scale, strike * scale, years, sigma)
    price = prices(100.0 * scale, strike * scale, years, sigma)
    assert price == pytest.approx(scale * prices(100.0, strike, years, sigma), rel=1e-6, abs=1e-12 * scale)
    assert large.delta == pytest.approx(small.delta, rel=1e-6, abs=1e-12)
    assert large.gamma * scale == pytest.approx(small.gamma, rel=1e-6, abs=1e-12)


@given(st.floats(20, 25_000), terms, st.floats(0.03, 0.5))
def test_a_straddle_at_the_forward_is_0_7979_of_the_expected_move(forward: float, years: float, sigma: float) -> None:
    deviation = sigma * math.sqrt(years)
    straddle = black.straddle(forward, years, sigma, discount(years))
    assert straddle == pytest.approx(prices(forward, forward, years, sigma).sum(), rel=1e-9)
    first_order = math.sqrt(2 / math.pi) * forward * deviation * discount(years)
    assert straddle == pytest.approx(first_order, rel=deviation**2 / 24 + 1e-9)
    assert math.sqrt(2 / math.pi) == pytest.approx(0.7979, abs=5e-5)


# --- implied volatility


@pytest.mark.parametrize("years", [MINUTE, 10 * MINUTE, 1 / 365, 30 / 365, 1.0, 3.0])
@pytest.mark.parametrize("forward", [5.0, 700.0, 25_000.0])
def test_volatilities_give_back_those_the_prices_were_made_with(years: float, forward: float) -> None:
    strike, sigma, is_call = market(4000, forward, years, np.random.default_rng(1))
    price = black.price(forward, strike, years, sigma, discount(years), is_call)
    vega = black.greeks(forward, forward, strike, years, sigma, discount(years), is_call).vega
    found = black.implied_volatility(price, forward, strike, years, discount(years))
    told = vega > 1.0  # more than a cent per volatility point
    assert np.abs(found - sigma)[told].max(initial=0.0) < 1e-9


def test_volatilities_are_those_of_quantlib_and_vollib() -> None:
    forward, compared = 7000.0, 0
    for years in (MINUTE, 390 * MINUTE, 30 / 365, 2.0):
        strike, sigma, is_call = market(200, forward, years, np.random.default_rng(2))
        df = discount(years)
        price = black.price(forward, strike, years, sigma, df, is_call)
        vega = black.greeks(forward, forward, strike, years, sigma, df, is_call).vega
        found = black.implied_volatility(price, forward, strike, years, df)
        for n in np.flatnonzero(vega > 1.0).tolist():
            kind = KINDS[0 if is_call[n] else 1]
            near = 1.1 * sigma[n] * math.sqrt(years)
            deviation = QuantLib.blackFormulaImpliedStdDev(kind, strike[n], forward, price[n], df, 0.0, near, 1e-13, 99)
            # its own error: 7e-9 in the last minute
            assert found[n] == pytest.approx(deviation / math.sqrt(years), abs=1e-7)
            flag = "c" if is_call[n] else "p"
            theirs = vollib_volatility(price[n], forward, strike[n], RATE, years, flag)
            assert found[n] == pytest.approx(theirs, abs=1e-9)
            compared += 1
    assert compared > 400


@given(st.floats(1.0, 25_000.0), st.floats(1.0, 25_000.0), terms, st.floats(0.001, 25_000.0))
def test_any_price_gives_a_volatility_with_that_price_or_none(
    forward: float, strike: float, years: float, price: float
) -> None:
    df = discount(years)
    found = black.implied_volatility(np.array([price]), forward, np.array([strike]), years, df)
    is_possible = price / df < min(forward, strike) * (1 - 1e-9)
    assert bool(np.isfinite(found[0])) == is_possible or abs(price / df / min(forward, strike) - 1) < 1e-8
    if is_possible:
        back = black.price(forward, np.array([strike]), years, found, df, np.array([strike >= forward]))
        assert back[0] == pytest.approx(price, abs=1e-9 * min(forward, strike))


@pytest.mark.parametrize("price", [0.0, -1.0, np.nan, np.inf, 100.0, 120.0, 1e-12])
def test_a_price_that_no_volatility_gives_has_none(price: float) -> None:
    assert np.isnan(black.implied_volatility(np.array([price]), 100.0, np.array([110.0]), 0.1, 1.0))[0]


def test_the_last_minute_far_out_has_a_volatility() -> None:
    # five points of a cent each side at 30 deviations: the kind of quote that is left at 15:59
    found = black.implied_volatility(np.array([0.05]), 7000.0, np.array([7100.0]), MINUTE, 1.0)
    back = black.price(7000.0, np.array([7100.0]), MINUTE, found, 1.0, np.array([True]))
    assert back[0] == pytest.approx(0.05, rel=1e-9)


@given(st.permutations(range(64)))
def test_a_volatility_depends_on_its_own_option_alone(order: list[int]) -> None:
    strike, sigma, is_call = market(64, 7000.0, 0.1, np.random.default_rng(3))
    price = black.price(7000.0, strike, 0.1, sigma, 1.0, is_call)
    found = black.implied_volatility(price, 7000.0, strike, 0.1, 1.0)
    shuffled = black.implied_volatility(price[order], 7000.0, strike[order], 0.1, 1.0)
    assert shuffled.tobytes() == found[order].tobytes()
    alone = [black.implied_volatility(price[n : n + 1], 7000.0, strike[n : n + 1], 0.1, 1.0) for n in range(64)]
    assert np.concatenate(alone).tobytes() == found.tobytes()


@given(st.floats(20.0, 25_000.0), terms, volatilities, deviations)
def test_both_sides_of_a_strike_have_one_volatility(
    forward: float, years: float, sigma: float, deviation: float
) -> None:
    """Parity turns the in-the-money side into the other one: its time value tells the same volatility."""
    strike = strike_at(forward, years, sigma, deviation)
    call, put = prices(forward, strike, years, sigma)
    other = (
        put + discount(years) * (forward - strike) if strike >= forward else call - discount(years) * (forward - strike)
    )
    own = call if strike >= forward else put
    vega = greeks(forward, forward, strike, years, sigma).vega[0]
    assume(vega > 1.0 and min(own, other) > 0)
    found = black.implied_volatility(np.array([own, other]), forward, np.full(2, strike), years, discount(years))
    assert found[0] == pytest.approx(found[1], abs=1e-9 + 1e-11 * forward / vega)
