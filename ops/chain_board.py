"""A chain file as a board: its geometry, rows and cut at the file's own moment, by the steps of the pipeline."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from contracts.analytics import AnalyticsCut, Moment
from contracts.compiled import CompiledEpoch
from contracts.geometry import Plane, build_geometry
from contracts.keys import Layer
from contracts.planes import UNKNOWN_COUNT
from contracts.settings import Settings
from contracts.snapshot import ChainRow, ChainSnapshot
from contracts.symbology import ineligibility, new_york_date, series_of
from ops.chain_file import ChainFile, ChainFileContract
from stages.calculate.columns import compile_columns
from stages.calculate.exposure import Conventions, GammaMode, compute_exposures
from stages.calculate.tiles import compute_tiles
from stages.massive.window import Windows, WindowSettings, at_the_money_sigma, latched, plan_windows
from stages.models.build import Memory, Models, build_models
from stages.staging.chain import listings_of, snapshot_records
from stages.staging.records import EMPTY_ROWS, put_record
from stages.staging.widths import default_widths

FETCH = 1


@dataclass(frozen=True, slots=True, eq=False)
class ChainBoard:
    """A board at one moment; cuts in the order of its planes."""

    moment: Moment
    compiled: CompiledEpoch
    cuts: tuple[AnalyticsCut, ...]
    rate: float

    def models(self) -> Models:
        """The models that the pipeline would publish at this moment, remembering nothing of the time before."""
        return build_models(self.compiled.listing, self.moment, self.cuts, self.rate, Memory())


def make_board(
    chain: ChainFile,
    settings: Settings,
    gamma: GammaMode,
    *,
    all_strikes: bool = False,
    include_expired: bool = False,
) -> ChainBoard:
    """The board of a chain file; unless `all_strikes`, within the window that would be fetched around spot."""
    snapshots = {one.expiration: one for one in snapshots_of(chain, settings, all_strikes=all_strikes)}
    listings = [row for snapshot in snapshots.values() for row in listings_of(snapshot)]
    widths = default_widths(chain.symbol, build_geometry(chain.symbol, listings), chain.spot, settings.massive_widths)
    geometry = build_geometry(chain.symbol, listings, widths)
    compiled = CompiledEpoch(f"{chain.symbol}:file", geometry.encode())
    conventions = Conventions(gamma, settings.massive_rate, settings.massive_stale_sec)
    cuts = tuple(
        _cut(compiled, plane, snapshots[plane.expiration], chain, conventions, include_expired)
        for plane in compiled.geometry.planes
    )
    moment = Moment(chain.symbol, compiled.epoch, 0, FETCH, chain.ts, None, chain.spot, chain.ts)
    return ChainBoard(moment, compiled, cuts, settings.massive_rate)


def snapshots_of(chain: ChainFile, settings: Settings, *, all_strikes: bool) -> Iterator[ChainSnapshot]:
    """A chain file as the snapshots the massive stage would publish."""
    by_expiration: dict[str, list[ChainRow]] = {}
    for contract in chain.contracts:
        by_expiration.setdefault(contract.expiration, []).append(_row(contract, chain.ts))
    window = WindowSettings(settings.massive_chain_sigma, settings.massive_chain_window_points)
    kept = {} if all_strikes or window.unlimited else _windows(chain, by_expiration, window)
    for expiration, rows in sorted(by_expiration.items()):
        low, high = kept.get(expiration, (0.0, math.inf))
        inside = tuple(row for row in rows if low <= row.strike <= high)
        yield ChainSnapshot(chain.ts, chain.symbol, expiration, round(chain.spot), 0, inside)


def _windows(
    chain: ChainFile, by_expiration: dict[str, list[ChainRow]], settings: WindowSettings
) -> Mapping[str, tuple[float, float]]:
    sigmas = {expiration: at_the_money_sigma(rows, chain.spot) for expiration, rows in by_expiration.items()}
    known = latched(Windows(), {expiration: sigma for expiration, sigma in sigmas.items() if sigma is not None})
    # a new session keeps nothing of the one before; the file is one moment of one session
    session = replace(known, session=new_york_date(chain.ts).isoformat())
    return plan_windows(session, chain.symbol, by_expiration, chain.spot, chain.ts, settings).kept


def _row(contract: ChainFileContract, ts: float) -> ChainRow:
    series = series_of(contract.root)
    return ChainRow(
        contract.cid,
        contract.root,
        contract.type,
        contract.strike_milli / 1000,
        series.settlement,
        series.exercise,
        100,
        ineligibility(contract.root, contract.expiration, 100, ts) or 1,
        contract.bid,
        contract.ask,
        contract.bid_size,
        contract.ask_size,
        ts,
        volume=contract.volume,
        iv=contract.iv,
        delta=contract.delta,
        gamma=contract.gamma,
        theta=contract.theta,
        vega=contract.vega,
        oi=contract.oi,
    )


def _cut(
    compiled: CompiledEpoch,
    plane: Plane,
    snapshot: ChainSnapshot,
    chain: ChainFile,
    conventions: Conventions,
    include_expired: bool,
) -> AnalyticsCut:
    rows = {layer: EMPTY_ROWS[layer](len(plane.rows)) for layer in (Layer.QUOTES, Layer.TRADES, Layer.CHAIN)}
    for number, record in snapshot_records(plane, snapshot, FETCH)[0]:
        put_record(rows[record.group.layer], number, record)
    quotes, greeks = rows[Layer.QUOTES], rows[Layer.CHAIN]
    exposures, row = compute_exposures(
        compile_columns(plane), quotes, greeks, chain.spot, chain.ts, conventions, include_ineligible=include_expired
    )
    volume = rows[Layer.TRADES]["volume"]["volume"]
    exposures["volume"] = np.where(volume == UNKNOWN_COUNT, np.nan, volume)
    cells = compute_tiles(compiled.plans[plane.id], quotes)
    return AnalyticsCut(FETCH, 1, 0.0, quotes, greeks, cells, exposures, row)
