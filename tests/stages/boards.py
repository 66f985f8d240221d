"""Small hand-made boards for the tests of the pure stages: planes, quotes and chains in dollars."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from contracts.analytics import AnalyticsCut, Moment
from contracts.geometry import Geometry, Listing, Plane, build_geometry
from contracts.plan import Plan, cell_labels, compile_plan
from contracts.planes import UNKNOWN, Array, empty_chain, empty_quotes
from contracts.symbology import CALL, PUT, format_ticker, settlement_ts
from stages.calculate.columns import compile_columns
from stages.calculate.exposure import Conventions, GammaMode, compute_exposures
from stages.calculate.tiles import compute_tiles

ROOT = "SPXW"
EXPIRATION = "2026-01-16"
SESSION_START = settlement_ts("SPX", EXPIRATION) - 7200  # 07:30 in New York: open interest is of today
AN_HOUR_BEFORE = settlement_ts("SPX", EXPIRATION) - 3600  # 08:30 in New York: SPXW has until 16:00

Contract = tuple[str, float]  # side, strike


def listing(
    kind: str,
    strike: float,
    root: str = ROOT,
    expiration: str = EXPIRATION,
    eligible: str = "",
    multiplier: int = 100,
) -> Listing:
    """One listed contract."""
    milli = round(strike * 1000)
    cid = format_ticker(root, expiration, kind, milli)
    settlement = "am" if root == "SPX" else "pm"
    return Listing(root, expiration, milli, kind, cid, settlement, "european", multiplier, eligible)


def both_sides(strikes: Iterable[float], root: str = ROOT, expiration: str = EXPIRATION) -> list[Listing]:
    """A call and a put at every strike."""
    return [listing(kind, strike, root, expiration) for strike in strikes for kind in (CALL, PUT)]


def plane_of(rows: Iterable[Listing]) -> Plane:
    """The one plane these contracts make up."""
    (plane,) = build_geometry("SPX", rows).planes
    return plane


def row_of(plane: Plane, kind: str, strike: float) -> int:
    """The row of a contract."""
    return next(n for n, row in enumerate(plane.rows) if (row.type, row.strike_milli) == (kind, round(strike * 1000)))


def cell_of(plan: Plan, strategy: str, side: str, strike: float, width: float = 0) -> int:
    """The number of a cell."""
    return cell_labels(plan).index([strategy, side, strike, width])


def quotes_of(plane: Plane, prices: Mapping[Contract, tuple[float | None, float | None]]) -> Array:
    """Rows with bid and ask in dollars; contracts not named, and None, are unknown."""
    quotes = empty_quotes(len(plane.rows))
    for (kind, strike), sides in prices.items():
        row = row_of(plane, kind, strike)
        for name, dollars in zip(("bid", "ask"), sides, strict=True):
            quotes["quote"][name][row] = UNKNOWN if dollars is None else round(dollars * 100)
    return quotes


def chain_of(plane: Plane, values: Mapping[Contract, tuple[float | None, float | None]]) -> Array:
    """Rows with gamma and open interest; contracts not named, and None, are unknown."""
    chain = empty_chain(len(plane.rows))
    for (kind, strike), (gamma, open_interest) in values.items():
        row = row_of(plane, kind, strike)
        chain["greeks"]["gamma"][row] = np.nan if gamma is None else gamma
        chain["interest"]["oi"][row] = np.nan if open_interest is None else open_interest
        chain["greeks"]["chain_ts"][row] = AN_HOUR_BEFORE
        chain["interest"]["asof"][row] = SESSION_START
    return chain


def moment_of(spot: float | None = 100.0, ts: float = AN_HOUR_BEFORE) -> Moment:
    """A tick an hour before the AM settlement."""
    return Moment("SPX", "SPX:1768000000:1f3a", 7, 3, ts, 1768000001.5, spot, ts)


def cut_of(
    plane: Plane,
    widths: tuple[float, ...] = (5,),
    quotes: Array | None = None,
    chain: Array | None = None,
    moment: Moment | None = None,
    gamma_mode: GammaMode = "provider",
) -> AnalyticsCut:
    """What calculate's tick would store for this plane."""
    moment = moment or moment_of()
    quotes = empty_quotes(len(plane.rows)) if quotes is None else quotes
    chain = empty_chain(len(plane.rows)) if chain is None else chain
    cells = compute_tiles(compile_plan(plane, widths), quotes)
    conventions = Conventions(gamma_mode)
    exposures, row = compute_exposures(compile_columns(plane), quotes, chain, moment.spot, moment.ts, conventions)
    return AnalyticsCut(moment.tick, 41, 1768000001.5, quotes, chain, cells, exposures, row)


def plans_of(geometry: Geometry) -> dict[str, Plan]:
    """The compiled plan of every plane."""
    return {plane.id: compile_plan(plane, geometry.widths) for plane in geometry.planes}
