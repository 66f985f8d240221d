"""Black-76 prices and greeks on an arbitrage-free volatility smile, whole arrays at a time.

Units: strikes, spots and prices in dollars, time in years of 365 days, volatility as a fraction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ops.mock.noise import BoolArray, FloatArray

RATE = 0.04
DIVIDEND_YIELD = 0.012
MINUTES_PER_YEAR = 525_600.0

# The smile's shape (SSVI with power 1/2): with curvature^2 (1 + |skew|) below 4 no butterfly is negative.
_SKEW = -0.65
_CURVATURE = 0.75

# At-the-money volatility by term: higher for years, and for the last day, whose hours are all trading hours.
# Total variance still rises with time, so no calendar spread is negative.
_LONG_TERM = 0.35
_LAST_DAY = 0.8

# The normal distribution as a table: interpolation errs by less than 1e-9 and needs no further library.
_GRID = np.linspace(-9.0, 9.0, 150_001)
_CUMULATIVE = np.array([0.5 * math.erfc(-x / math.sqrt(2.0)) for x in _GRID])


@dataclass(frozen=True, slots=True)
class Valuation:
    """Fair values of options, one element each. Theta is per day, vega per volatility point."""

    price: FloatArray
    iv: FloatArray
    delta: FloatArray
    gamma: FloatArray
    theta: FloatArray
    vega: FloatArray


def normal_cdf(x: FloatArray) -> FloatArray:
    """Cumulative standard normal distribution."""
    return np.asarray(np.interp(x, _GRID, _CUMULATIVE))


def years_between(ts: float, settlement: FloatArray) -> FloatArray:
    """Years from an instant to settlement instants (epoch seconds), at least one minute."""
    minutes = np.maximum((settlement - ts) / 60.0, 1.0)
    return minutes / MINUTES_PER_YEAR


def smile(log_moneyness: FloatArray, years: FloatArray, level: FloatArray) -> FloatArray:
    """Implied volatility at ln(strike / forward); `level` is the at-the-money volatility of a few weeks."""
    term = 1.0 + _LONG_TERM * (1.0 - np.exp(-2.0 * years)) + _LAST_DAY * np.exp(-years * 365.0 / 1.5)
    at_the_money = level * term
    theta = at_the_money**2 * years
    slope = _CURVATURE / np.sqrt(theta) * log_moneyness
    total = 0.5 * theta * (1.0 + _SKEW * slope + np.sqrt((slope + _SKEW) ** 2 + 1.0 - _SKEW**2))
    return np.asarray(np.sqrt(total / years))


def value(spot: FloatArray, strike: FloatArray, years: FloatArray, level: FloatArray, is_call: BoolArray) -> Valuation:
    """Fair value and greeks with respect to spot, volatility taken from the smile."""
    discount = np.exp(-RATE * years)
    forward = spot * np.exp((RATE - DIVIDEND_YIELD) * years)
    log_moneyness = np.log(strike / forward)
    iv = smile(log_moneyness, years, level)
    deviation = iv * np.sqrt(years)
    d1 = -log_moneyness / deviation + 0.5 * deviation
    sign = np.where(is_call, 1.0, -1.0)
    above, reached = normal_cdf(sign * d1), normal_cdf(sign * (d1 - deviation))
    density = np.exp(-0.5 * d1 * d1) / math.sqrt(2.0 * math.pi)
    price = discount * sign * (forward * above - strike * reached)
    carry = sign * discount * (DIVIDEND_YIELD * forward * above - RATE * strike * reached)
    decay = discount * forward * density * iv / (2.0 * np.sqrt(years))
    return Valuation(
        price=np.maximum(price, 0.0),
        iv=iv,
        delta=sign * discount * above * forward / spot,
        gamma=discount * density * forward / (deviation * spot * spot),
        theta=(carry - decay) / 365.0,
        vega=discount * forward * density * np.sqrt(years) / 100.0,
    )
