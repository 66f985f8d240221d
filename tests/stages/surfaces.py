"""Cuts priced from a known volatility surface, by the textbook, without calculate's tick: the models' test input.

Everything is written out plainly, one contract at a time, so that it can be an oracle of the vectorised models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from contracts.analytics import EXPOSURE_ROW, PLANE_ROW, AnalyticsCut, ForwardSource, Moment, Reason, Source
from contracts.geometry import Geometry, Plane, build_geometry
from contracts.plan import compile_plan
from contracts.planes import Array, empty_chain, empty_quotes
from contracts.symbology import CALL
from stages.calculate.tiles import compute_tiles
from tests.stages.boards import both_sides, moment_of

RATE = 0.04
NORMAL = NormalDist()
MOMENT = moment_of()

Sigma = Callable[[float], float]
Interest = Callable[[str, float], float]  # side, strike -> contracts


def flat_sigma(strike: float) -> float:
    """20 % at every strike."""
    return 0.2


def smile(strike: float) -> float:
    """Dearer below 100."""
    return 0.2 * (1.0 + 0.004 * max(100.0 - strike, 0.0))


def more_puts_below(side: str, strike: float) -> float:
    """Calls above 100, puts below it: net gamma is positive above and negative below."""
    return 1000.0 if (side == CALL) == (strike >= 100.0) else 50.0


def even(side: str, strike: float) -> float:
    """A hundred of each."""
    return 100.0


@dataclass(frozen=True)
class Market:
    """Spot, surface and open interest of a board, at one moment."""

    spot: float = 100.0
    sigma: Sigma = smile
    interest: Interest = more_puts_below
    carry: float = 0.0  # of the forward, per year
    moment: Moment = MOMENT

    def forward(self, years: float) -> float:
        return self.spot * math.exp(self.carry * years)


def unknown_plane_row() -> Array:
    """A plane of which nothing is known."""
    row = np.zeros(1, PLANE_ROW)
    for name in PLANE_ROW.names or ():
        if PLANE_ROW[name].kind == "f":
            row[name] = np.nan
    row["forward_source"] = ForwardSource.NONE
    return row


def unknown_exposures(count: int) -> Array:
    """Contracts of which nothing is known."""
    rows = np.zeros(count, EXPOSURE_ROW)
    for name in EXPOSURE_ROW.names or ():
        if EXPOSURE_ROW[name].kind == "f":
            rows[name] = np.nan
    rows["source"], rows["reason"] = Source.NONE, Reason.NO_IV
    return rows


def years_of(plane: Plane, ts: float) -> float:
    """T by the clock, at least a minute."""
    return max((plane.settlement_ts - ts) / 60, 1.0) / 525_600


def black_price(is_call: bool, forward: float, strike: float, years: float, sigma: float) -> float:
    """The textbook price."""
    sign, deviation = (1 if is_call else -1), sigma * math.sqrt(years)
    d1 = math.log(forward / strike) / deviation + deviation / 2
    value = forward * NORMAL.cdf(sign * d1) - strike * NORMAL.cdf(sign * (d1 - deviation))
    return math.exp(-RATE * years) * sign * value


def spot_delta(is_call: bool, spot: float, forward: float, strike: float, years: float, sigma: float) -> float:
    """Delta with respect to spot."""
    deviation = sigma * math.sqrt(years)
    d1 = math.log(forward / strike) / deviation + deviation / 2
    sign = 1 if is_call else -1
    return sign * math.exp(-RATE * years) * NORMAL.cdf(sign * d1) * forward / spot


def spot_gamma(spot: float, forward: float, strike: float, years: float, sigma: float) -> float:
    """Gamma with respect to spot, models.md 1."""
    deviation = sigma * math.sqrt(years)
    d1 = math.log(forward / strike) / deviation + deviation / 2
    return math.exp(-RATE * years) * NORMAL.pdf(d1) / (forward * deviation) * (forward / spot) ** 2


def priced_cut(plane: Plane, market: Market, widths: tuple[float, ...] = (5.0,)) -> AnalyticsCut:
    """The cut of a plane that quotes a cent around the surface everywhere."""
    years, count = years_of(plane, market.moment.ts), len(plane.rows)
    forward, spot = market.forward(years), market.spot
    quotes, chain, exposures, row = (
        empty_quotes(count),
        empty_chain(count),
        unknown_exposures(count),
        unknown_plane_row(),
    )
    for n, contract in enumerate(plane.rows):
        strike, is_call = contract.strike_milli / 1000, contract.type == CALL
        sigma, interest = market.sigma(strike), market.interest(contract.type, strike)
        fair = round(black_price(is_call, forward, strike, years, sigma) * 100)
        quotes["quote"]["bid"][n], quotes["quote"]["ask"][n] = max(fair - 1, 0), fair + 1
        chain["interest"]["oi"][n] = interest
        gamma = spot_gamma(spot, forward, strike, years, sigma)
        delta = spot_delta(is_call, spot, forward, strike, years, sigma)
        later = max(years - 15 / 525_600, 1 / 525_600)
        bump = 1e-5
        exposures[n]["iv"], exposures[n]["gamma"], exposures[n]["delta"] = sigma, gamma, delta
        exposures[n]["vanna"] = (spot_delta(is_call, spot, forward, strike, years, sigma + bump) - delta) / bump
        exposures[n]["delta_15m"] = spot_delta(is_call, spot, forward, strike, later, sigma)
        exposures[n]["gamma_oi"] = gamma * interest * contract.multiplier
        sign = 1 if is_call else -1
        exposures[n]["gex"] = sign * gamma * interest * contract.multiplier * spot * spot * 0.01
        exposures[n]["source"], exposures[n]["reason"] = Source.OWN, Reason.KEPT
    sigma = market.sigma(forward)
    deviation = sigma * math.sqrt(years)
    row["years"], row["forward"], row["coherence"], row["sigma_forward"] = years, forward, 0.1, sigma
    row["em_1sigma"], row["forward_source"], row["strikes_used"] = forward * deviation, ForwardSource.PARITY, 5
    row["straddle"] = 2 * black_price(True, forward, forward, years, sigma)
    cells = compute_tiles(compile_plan(plane, widths), quotes)
    return AnalyticsCut(market.moment.tick, 41, 1768000001.5, quotes, chain, cells, exposures, row)


def priced_board(
    market: Market,
    strikes: Sequence[float] = tuple(range(60, 141)),
    expirations: Sequence[str] = ("2026-01-16", "2026-01-20"),
    widths: tuple[float, ...] = (1.0, 2.0, 5.0),
) -> tuple[Geometry, Mapping[str, AnalyticsCut]]:
    """A geometry with a cut for every plane."""
    rows = [row for expiration in expirations for row in both_sides(strikes, expiration=expiration)]
    geometry = build_geometry("SPX", rows, widths)
    return geometry, {plane.id: priced_cut(plane, market, widths) for plane in geometry.planes}
