"""(f) and (g): implied volatility, ours and two libraries', and what a tick and a quote compute of a board.

The options are those of a market: five terms from the last hour to two years, strikes within four deviations. Each
library is called once per option, as its interface has it; the prices it works from are the same.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from datetime import time as clock_time

import numpy as np
import numpy.typing as npt

from contracts.analytics import Moment, decode_cut
from contracts.compiled import compiled_epoch
from contracts.geometry import Listing, build_geometry
from contracts.keys import Keys
from contracts.messages import Tick
from contracts.planes import empty_chain, empty_quotes, empty_trades, pack_rows
from contracts.symbology import series_of
from ops.bench.board import SYMBOL
from ops.mock import trading_days
from ops.mock.synthetic import SyntheticSource
from stages.calculate import black
from stages.calculate.cuts import compute_cuts
from stages.calculate.exposure import Conventions
from stages.calculate.tiles import compute_tiles, dirty_rows, recompute_cells, touched_cells
from stages.models.board import gather
from stages.models.build import Memory, build_documents
from stages.models.profile import gamma_profiles

Floats = npt.NDArray[np.float64]

RATE = 0.04
FORWARD = 7000.0
YEARS = (60 / 525_600, 1 / 365, 30 / 365, 0.5, 2.0)
OPTIONS = 4000  # of each term
REPEATS = 5
BOARDS = (1_000, 5_000, 20_000)
WIDTHS = (20.0, 25.0, 30.0, 35.0, 40.0, 45.0, 50.0)


def measure_solvers(report: Callable[[str], None]) -> dict[str, float]:
    """Median options per second of each solver."""
    chains = [_chain(years, seed) for seed, years in enumerate(YEARS)]
    solvers = {"ours": _ours, "quantlib": _quantlib, "vollib": _vollib}
    rates: dict[str, list[float]] = {name: [] for name in solvers}
    for _ in range(REPEATS):  # alternating, so that a slow moment of the machine is everybody's
        for name, solve in solvers.items():
            started = time.perf_counter()
            for years, strike, price in chains:
                solve(years, strike, price)
            rates[name].append(OPTIONS * len(chains) / (time.perf_counter() - started))
    medians = {name: statistics.median(found) for name, found in rates.items()}
    for name, rate in medians.items():
        report(f"volatility  {name:9} {rate:12,.0f} options/s")
    report("volatility  ours is " + ", ".join(f"{medians['ours'] / medians[n]:.2f} x {n}" for n in list(medians)[1:]))
    return medians


def measure_tick(report: Callable[[str], None]) -> dict[int, dict[str, float]]:
    """Median milliseconds by contracts of a board: cuts of a tick, profile, documents; tiles of a plane, of a quote."""
    found = {}
    for size in BOARDS:
        arguments, contracts = _board(size)
        steps = _steps(*arguments)
        found[contracts] = {name: _median_ms(work) for name, work in steps.items()}
        figures = ", ".join(f"{name} {ms:.3f} ms" for name, ms in found[contracts].items())
        report(f"tick        {contracts:6,} contracts: {figures}")
    return found


def _steps(
    epoch: str, listing: bytes, tick: Tick, conventions: Conventions, *layers: list[bytes]
) -> dict[str, Callable[[], object]]:
    """What a tick does for a board, and what one quote does to its first plane, as functions to be timed."""
    moment = Moment(SYMBOL, epoch, 1, 1, tick.market_ts, None, tick.spot, tick.spot_ts)
    compiled = compiled_epoch(epoch, listing)
    planes = compiled.geometry.planes
    quotes, chains, trades = layers
    blobs = [cut for cut in compute_cuts(epoch, listing, tick, conventions, quotes, chains, trades) if cut]
    cuts = [decode_cut(blob) for blob in blobs]
    board = gather(compiled.geometry, {plane.id: cut for plane, cut in zip(planes, cuts, strict=True)})
    plan, rows, cells = compiled.plans[planes[0].id], cuts[0].quotes.copy(), cuts[0].cells
    rows["row_version"][len(rows) // 2] = 2
    return {
        "cuts": lambda: compute_cuts(epoch, listing, tick, conventions, quotes, chains, trades),
        "profile": lambda: gamma_profiles(board, tick.spot, RATE),
        "documents": lambda: build_documents(Keys(), listing, moment, blobs, RATE, Memory()),
        "one plane": lambda: compute_tiles(plan, rows),
        "one quote": lambda: recompute_cells(plan, rows, cells, touched_cells(plan, dirty_rows(rows, 1))),
    }


def _median_ms(work: Callable[[], object]) -> float:
    """After once for the caches."""
    work()
    elapsed = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        elapsed.append(1000 * (time.perf_counter() - started))
    return statistics.median(elapsed)


def _chain(years: float, seed: int) -> tuple[float, Floats, Floats]:
    """Years, strikes and prices of out-of-the-money options."""
    draw = np.random.default_rng(seed)
    sigma = draw.uniform(0.08, 0.6, OPTIONS)
    strike = FORWARD * np.exp(draw.uniform(-4, 4, OPTIONS) * sigma * math.sqrt(years))
    return years, strike, black.price(FORWARD, strike, years, sigma, math.exp(-RATE * years), strike >= FORWARD)


def _ours(years: float, strike: Floats, price: Floats) -> object:
    return black.implied_volatility(price, FORWARD, strike, years, math.exp(-RATE * years))


def _quantlib(years: float, strike: Floats, price: Floats) -> object:
    import QuantLib

    solve, call, put = QuantLib.blackFormulaImpliedStdDev, QuantLib.Option.Call, QuantLib.Option.Put
    discount = math.exp(-RATE * years)
    return [
        solve(call if k >= FORWARD else put, k, FORWARD, p, discount)
        for k, p in zip(strike.tolist(), price.tolist(), strict=True)
    ]


def _vollib(years: float, strike: Floats, price: Floats) -> object:
    from vollib.black.implied_volatility import implied_volatility

    return [
        implied_volatility(p, FORWARD, k, RATE, years, "c" if k >= FORWARD else "p")
        for k, p in zip(strike.tolist(), price.tolist(), strict=True)
    ]


_Arguments = tuple[str, bytes, Tick, Conventions, list[bytes], list[bytes], list[bytes]]


def _board(size: int) -> tuple[_Arguments, int]:
    """The arguments of `compute_cuts` for a synthetic board, and how many contracts it has."""
    source = SyntheticSource((SYMBOL,), 1, size)
    ts = trading_days.at(trading_days.first_morning(1), clock_time(11, 40))
    listing, spots = source.listing(ts), source.spots(ts)
    fair = source.valuation(listing, spots, ts)
    interest = source.facts(listing, ts).open_interest
    bid, ask = source.quotes(listing, fair)
    rows = (
        Listing(one.root, one.expiration, one.strike_milli, one.type, one.cid, "pm", series_of(one.root).exercise, 100)
        for one in listing.contracts
    )
    geometry = build_geometry(SYMBOL, rows, WIDTHS)
    quotes, chains, trades = [], [], []
    for plane in geometry.planes:
        at = [listing.row_of[row.cid] for row in plane.rows]
        quoted, chain = empty_quotes(len(at)), empty_chain(len(at))
        quoted["quote"]["bid"], quoted["quote"]["ask"] = bid[at], ask[at]
        chain["greeks"]["gamma"], chain["greeks"]["delta"] = fair.gamma[at], fair.delta[at]
        chain["interest"]["oi"] = interest[at]
        quotes.append(pack_rows(quoted, 1))
        chains.append(pack_rows(chain, 1))
        trades.append(pack_rows(empty_trades(len(at)), 1))
    epoch = f"{SYMBOL}:{size}:0000"
    tick = Tick(SYMBOL, epoch, 1, ts, float(spots[0]), ts)
    return (epoch, geometry.encode(), tick, Conventions(), quotes, chains, trades), len(listing)
