"""A plane as its own prices see it: volatility by strike, and the greeks and expected move that follow from it.

Definitions: models.md section 1, "Greeks". Fitted from scratch at each tick, so nothing depends on what came before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from contracts.analytics import MINUTES_PER_YEAR
from contracts.planes import Array
from stages.calculate import black
from stages.calculate.columns import Columns, Floats
from stages.calculate.forward import Forward, at_rows, mid_prices, parity_forward

SHORTEST_MINUTES = 1.0
LATER_MINUTES = 15.0


@dataclass(frozen=True, slots=True, eq=False)
class Surface:
    """One live plane at one moment. `volatility` is per strike of the plane, NaN where its price gives none."""

    spot: float
    minutes_left: float  # to settlement, above 0
    rate: float  # per year
    forward: Forward
    volatility: Floats

    @property
    def years(self) -> float:
        """T."""
        return years_of(self.minutes_left)

    @property
    def discount(self) -> float:
        """DF."""
        return discount_of(self.rate, self.years)


@dataclass(frozen=True, slots=True, eq=False)
class OwnGreeks:
    """Per contract in geometry order, with respect to spot; NaN where unknown.

    `iv` is its strike's own volatility; `sigma` the one the greeks were computed with: `iv`, or interpolated in strike.
    """

    iv: Floats
    sigma: Floats
    delta: Floats
    gamma: Floats
    vanna: Floats


@dataclass(frozen=True, slots=True)
class ExpectedMove:
    """At the forward: volatility per square root of a year, the rest in points; NaN if no volatilities surround it."""

    sigma: float
    one_sigma: float
    straddle: float


def years_of(minutes: float) -> float:
    """Minutes to settlement in years of 525,600 minutes, at least one minute."""
    return max(minutes, SHORTEST_MINUTES) / MINUTES_PER_YEAR


def discount_of(rate: float, years: float) -> float:
    """`exp(-r T)`."""
    return math.exp(-rate * years)


def fit_surface(columns: Columns, quotes: Array, spot: float, minutes_left: float, rate: float) -> Surface:
    """Forward by parity, and the volatility of each strike from the mid of its out-of-the-money side."""
    years = years_of(minutes_left)
    discount = discount_of(rate, years)
    mids = mid_prices(quotes)
    forward = parity_forward(columns, mids, spot, discount)
    strikes = columns.strikes
    prices = np.where(strikes >= forward.value, at_rows(mids, columns.calls), at_rows(mids, columns.puts))
    volatility = black.implied_volatility(prices, forward.value, strikes, years, discount)
    return Surface(spot, minutes_left, rate, forward, volatility)


def between_strikes(columns: Columns, surface: Surface, strikes: Floats) -> Floats:
    """Volatility at any strikes, linear between the neighbours that have one; NaN beyond the outermost."""
    known = np.flatnonzero(np.isfinite(surface.volatility))
    if not len(known):
        return np.full(len(strikes), np.nan)
    return np.interp(strikes, columns.strikes[known], surface.volatility[known], left=np.nan, right=np.nan)


def own_greeks(columns: Columns, surface: Surface) -> OwnGreeks:
    """Greeks per contract from the volatility of its strike."""
    sigma = at_rows(between_strikes(columns, surface, columns.strikes), columns.strike_of)
    found = black.greeks(
        surface.spot, surface.forward.value, columns.strike, surface.years, sigma, surface.discount, columns.is_call
    )
    iv = at_rows(surface.volatility, columns.strike_of)
    return OwnGreeks(iv, sigma, found.delta, found.gamma, found.vanna)


def delta_later(columns: Columns, surface: Surface, own: OwnGreeks, delta: Floats) -> Floats:
    """Delta after 15 minutes of market time, everything else unchanged, of contracts whose delta is now `delta`.

    Whosever that delta is, its change is our own. A contract that settles by then has its intrinsic delta: 1 in the
    money (puts -1), a half at the money, else 0.
    """
    minutes = surface.minutes_left - LATER_MINUTES
    if minutes <= 0:
        in_the_money = np.heaviside(columns.sign * (surface.spot - columns.strike), 0.5)
        return np.where(np.isnan(delta), np.nan, columns.sign * in_the_money)
    years, forward = years_of(minutes), surface.forward.value
    discount = discount_of(surface.rate, years)
    later = black.delta(surface.spot, forward, columns.strike, years, own.sigma, discount, columns.is_call)
    changed: Floats = delta + (later - own.delta)
    return changed


def expected_move(columns: Columns, surface: Surface) -> ExpectedMove:
    """`sigma_F` interpolated in strike at F, `F sigma_F sqrt(T)`, and the Black-76 straddle struck at F."""
    forward, years = surface.forward.value, surface.years
    sigma = float(between_strikes(columns, surface, np.array([forward]))[0])
    straddle = black.straddle(forward, years, sigma, surface.discount)
    return ExpectedMove(sigma, forward * sigma * math.sqrt(years), straddle)
