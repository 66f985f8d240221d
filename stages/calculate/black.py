"""Black-76 on whole arrays: prices, greeks with respect to spot, and implied volatility (models.md section 1).

Units: prices, forward, strike and spot in points, `years` of 525,600 minutes, volatility as a fraction per square
root of a year, `discount` the factor exp(-r T). Arguments broadcast; NaN in is NaN out, without a warning.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import erfcx, ndtr, ndtri

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_ROOT_2 = math.sqrt(2.0)
_ROOT_2_PI = math.sqrt(2.0 * math.pi)
_LOG_ROOT_2_PI = math.log(_ROOT_2_PI)
_HALLEY_STEPS = 3  # reach rounding error wherever a price tells a volatility (test_black.py)
_LEAST_PRICE = 1e-12  # of the forward; no market quotes less


@dataclass(frozen=True, slots=True, eq=False)
class Greeks:
    """Derivatives with respect to spot and volatility, one element per option.

    `delta` per point of spot, `gamma` delta per point, `vega` price per 1.00 of volatility, `vanna` delta per 1.00.
    """

    delta: Floats
    gamma: Floats
    vega: Floats
    vanna: Floats


def price(forward: float, strike: Floats, years: float, sigma: Floats, discount: float, is_call: Mask) -> Floats:
    """Black-76 value of an option: `DF (+-F N(+-d1) -+ K N(+-d2))`."""
    sign = np.where(is_call, 1.0, -1.0)
    deviation = sigma * math.sqrt(years)
    d1 = _d1(forward, strike, deviation)
    value: Floats = discount * sign * (forward * ndtr(sign * d1) - strike * ndtr(sign * (d1 - deviation)))
    return value


def straddle(forward: float, years: float, sigma: float, discount: float) -> float:
    """Black-76 value of the call and the put struck at the forward: 0.7979 F sigma sqrt(T) DF to first order."""
    return 2.0 * discount * forward * math.erf(sigma * math.sqrt(years) / (2.0 * _ROOT_2))


def delta(
    spot: float, forward: float, strike: Floats, years: float, sigma: Floats, discount: float, is_call: Mask
) -> Floats:
    """Delta with respect to spot, the forward moving in proportion: `+-DF N(+-d1) F/S`."""
    sign = np.where(is_call, 1.0, -1.0)
    found: Floats = sign * discount * (forward / spot) * ndtr(sign * _d1(forward, strike, sigma * math.sqrt(years)))
    return found


def greeks(
    spot: float, forward: float, strike: Floats, years: float, sigma: Floats, discount: float, is_call: Mask
) -> Greeks:
    """Greeks with respect to spot, the forward moving in proportion.

    `gamma = DF n(d1)/(F sigma sqrt(T)) (F/S)^2`, `vega = DF F n(d1) sqrt(T)`, `vanna = -DF (F/S) n(d1) d2/sigma`.
    """
    deviation = sigma * math.sqrt(years)
    d1 = _d1(forward, strike, deviation)
    density = np.exp(-0.5 * d1 * d1) / _ROOT_2_PI
    carry = forward / spot
    return Greeks(
        delta=delta(spot, forward, strike, years, sigma, discount, is_call),
        gamma=discount * density / (forward * deviation) * (carry * carry),
        vega=discount * forward * density * math.sqrt(years),
        vanna=-discount * carry * density * (d1 - deviation) / sigma,
    )


def implied_volatility(price: Floats, forward: float, strike: Floats, years: float, discount: float) -> Floats:
    """Volatility that gives the out-of-the-money option (call where K >= F, else put) at each strike this price.

    NaN where none does: a price of 0 (its intrinsic value) or less, or one that no volatility reaches. Error below
    1e-9 where vega is above a cent per volatility point.

    With x = -|ln(F/K)| and s = sigma sqrt(T), h = x/s, t = s/2, both sides' price over DF min(F, K) is
    `c = N(h + t) - exp(-x) N(h - t)`. Its logarithm is concave in s, so steps from a lower bound cannot diverge;
    written with erfcx it neither underflows nor cancels far out of the money. The bound is the larger of the root at
    x = 0 and the root of `N(h + t) = c`. The number of steps is fixed: same price, same bits, whatever came before.
    """
    c = price / (discount * np.minimum(forward, strike))
    c = np.where((c > _LEAST_PRICE) & (c < 1.0), c, np.nan)
    x = -np.abs(np.log(forward / strike))
    target = np.log(c) + 0.5 * x + _LOG_ROOT_2_PI
    d1 = ndtri(c)
    s = np.maximum(-2.0 * ndtri(0.5 * (1.0 - c)), d1 + np.sqrt(d1 * d1 - 2.0 * x))
    for _ in range(_HALLEY_STEPS):
        s = _halley_step(x, s, target)
    sigma: Floats = s / math.sqrt(years)
    return sigma


def _halley_step(x: Floats, s: Floats, target: Floats) -> Floats:
    """One step towards ln c(s) = ln c; `mills` is c over dc/ds."""
    h, t = x / s, 0.5 * s
    mills = 0.5 * _ROOT_2_PI * (erfcx(-(h + t) / _ROOT_2) - erfcx(-(h - t) / _ROOT_2))
    newton = (target + 0.5 * (h * h + t * t) - np.log(mills)) * mills
    curvature = h * h / s - 0.5 * t - 1.0 / mills  # second over first derivative of ln c
    stepped: Floats = s + newton / (1.0 + 0.5 * curvature * newton)
    return stepped


def _d1(forward: float, strike: Floats, deviation: Floats) -> Floats:
    found: Floats = np.log(forward / strike) / deviation + 0.5 * deviation
    return found
