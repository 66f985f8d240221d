"""`marketswarm gex FILE`: gamma exposure of a chain file, through the steps of the pipeline, without a server."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from contracts.analytics import AnalyticsCut, Moment
from contracts.geometry import Plane, build_geometry
from contracts.keys import Layer
from contracts.settings import Settings
from contracts.snapshot import ChainRow, ChainSnapshot
from contracts.symbology import ineligibility, new_york_date, series_of
from ops.chain_file import ChainFile, ChainFileContract, read_chain_file
from stages.calculate.columns import compile_columns
from stages.calculate.exposure import Conventions, GammaMode, compute_exposures
from stages.calculate.plan import compile_plan
from stages.calculate.tiles import compute_tiles
from stages.massive.window import Windows, WindowSettings, at_the_money_sigma, latched, plan_windows
from stages.models.gex import gex_model
from stages.staging.chain import listings_of, snapshot_records
from stages.staging.records import EMPTY_ROWS, put_record

FETCH = 1


def run_gex(
    file: Path, as_json: bool, gamma: GammaMode, all_strikes: bool, include_expired: bool, settings: Settings
) -> None:
    """Print net, calls, puts (US dollars per 1 % move) and the walls of a chain file."""
    model = gex_of(read_chain_file(file), gamma, settings, all_strikes=all_strikes, include_expired=include_expired)
    figures = summary(model)
    print(json.dumps(figures) if as_json else "\n".join(f"{name:10} {value}" for name, value in figures.items()))


def summary(model: dict[str, Any]) -> dict[str, Any]:
    """The figures traders compare first."""
    walls = {name: model["levels"][name]["value"] for name in ("call_wall", "put_wall")}
    why = {"reason": model["reason"]} if model["net"] is None else {}
    return {name: model[name] for name in ("net", "calls", "puts")} | walls | why


def gex_of(
    chain: ChainFile, gamma: GammaMode, settings: Settings, *, all_strikes: bool, include_expired: bool
) -> dict[str, Any]:
    """The published gamma exposure model of a chain file at the file's own time."""
    snapshots = list(snapshots_of(chain, settings, all_strikes=all_strikes))
    geometry = build_geometry(chain.symbol, (row for snapshot in snapshots for row in listings_of(snapshot)))
    by_expiration = {snapshot.expiration: snapshot for snapshot in snapshots}
    conventions = Conventions(gamma, settings.massive_rate, settings.massive_stale_sec)
    cuts = {
        plane.id: _cut(plane, by_expiration[plane.expiration], chain, conventions, include_expired)
        for plane in geometry.planes
    }
    moment = Moment(chain.symbol, f"{chain.symbol}:file", 0, FETCH, chain.ts, None, chain.spot, chain.ts)
    return dict(orjson.loads(orjson.dumps(gex_model(moment, geometry, cuts, settings.massive_rate))))


def snapshots_of(chain: ChainFile, settings: Settings, *, all_strikes: bool) -> Iterator[ChainSnapshot]:
    """A chain file as the snapshots the massive stage would publish; unless `all_strikes`, within its window."""
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
        iv=contract.iv,
        delta=contract.delta,
        gamma=contract.gamma,
        theta=contract.theta,
        vega=contract.vega,
        oi=contract.oi,
    )


def _cut(
    plane: Plane, snapshot: ChainSnapshot, chain: ChainFile, conventions: Conventions, include_expired: bool
) -> AnalyticsCut:
    quotes, greeks = EMPTY_ROWS[Layer.QUOTES](len(plane.rows)), EMPTY_ROWS[Layer.CHAIN](len(plane.rows))
    rows = {Layer.QUOTES: quotes, Layer.CHAIN: greeks}
    for number, record in snapshot_records(plane, snapshot, FETCH)[0]:
        if record.group.layer in rows:
            put_record(rows[record.group.layer], number, record)
    columns = compile_columns(plane)
    exposures, row = compute_exposures(
        columns, quotes, greeks, chain.spot, chain.ts, conventions, include_ineligible=include_expired
    )
    cells = compute_tiles(compile_plan(plane, ()), quotes)
    return AnalyticsCut(FETCH, 1, 0.0, quotes, greeks, cells, exposures, row)
