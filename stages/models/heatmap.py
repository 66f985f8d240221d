"""The heatmap model of one tick: strategy prices over strike x width x plane (models.md 2 and 6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.analytics import MODEL_VERSION, AnalyticsCut, ForwardSource, Moment
from contracts.geometry import Geometry, Plane
from contracts.plan import SIDES, SINGLE, STRATEGIES, Plan, points, width_axis
from contracts.planes import UNKNOWN, Ints
from contracts.symbology import days_to_expiration
from stages.models.board import NOT_COMPUTED, Json, number

# published field, its row of the cells, and what one dollar is in that row's unit
_PRICES = (("mid", 0, 200), ("buy", 1, 100), ("sell", 2, 100))
_FLAGS = 3


def heatmap_model(
    moment: Moment, geometry: Geometry, plans: Mapping[str, Plan], cuts: Mapping[str, AnalyticsCut]
) -> Json:
    """The message `massive:heatmap:model:{U}` from the cuts of the planes, by plane id.

    Prices are dollars with at most three decimals, in matrices [strike][width] over the plane's `strikes` and
    `widths` (single: [strike]). Null where there is no cell, and where a cell has no price. `flags` beside the
    prices are those of the event path; the tick path's stand in the plane's `flags` and, per contract, `row_flags`.
    A plane without a cut is published without prices, with its reason.
    """
    return {
        "model": "heatmap",
        "model_version": MODEL_VERSION,
        "symbol": moment.symbol,
        "epoch": moment.epoch,
        "seq": moment.seq,
        "tick": moment.tick,
        "ts": moment.ts,
        "complete_to": moment.complete_to,
        "spot": moment.spot,
        "widths": [points(milli) for milli in width_axis(geometry.widths).tolist()],
        "planes": {
            plane.id: _plane(plane, plans[plane.id], cuts.get(plane.id), moment.ts) for plane in geometry.planes
        },
    }


def strategy_view(model: Json, strategy: str) -> Json:
    """The message `massive:heatmap:model:{U}:{STRATEGY}`: the same model with one strategy."""
    others = set(STRATEGIES) - {strategy}
    planes = {
        plane: {key: value for key, value in body.items() if key not in others}
        for plane, body in model["planes"].items()
    }
    return {**model, "planes": planes}


def _plane(plane: Plane, plan: Plan, cut: AnalyticsCut | None, ts: float) -> Json:
    message: Json = {
        "root": plane.root,
        "expiration": plane.expiration,
        "dte": days_to_expiration(plane.expiration, ts),
        "settlement": plane.rows[0].settlement,
        "version": cut.version if cut else None,
        "strikes": plan.strikes,
    }
    if cut is None:
        return {**message, "reason": NOT_COMPUTED}
    row = cut.plane[0]
    message |= {
        "forward": number(row["forward"]),
        "forward_source": ForwardSource(int(row["forward_source"])).name.lower(),
        "coherence": number(row["coherence"]),
        "flags": int(row["flags"]),
        "row_flags": _row_flags(plan, cut),
    }
    for strategy in STRATEGIES:
        message[strategy] = {side: _matrices(plan, cut.cells, strategy, side) for side in SIDES}
    return message


def _row_flags(plan: Plan, cut: AnalyticsCut) -> Json:
    """The tick path's flags of each contract, by side and strike; null where that side is not listed."""
    message: Json = {}
    for side in SIDES:
        # a single at K has one leg: its row
        block = plan.block(SINGLE, side)
        strike_at = np.searchsorted(plan.strikes_milli, plan.strike_milli[block])
        message[side] = _scatter((len(plan.strikes_milli),), strike_at, cut.exposures["flags"][plan.legs[0, block]])
    return message


def _matrices(plan: Plan, cells: Ints, strategy: str, side: str) -> Json:
    """mid, buy, sell and flags of one strategy and side, each [strike][width], or [strike] for singles."""
    block = plan.block(strategy, side)
    strike_at = np.searchsorted(plan.strikes_milli, plan.strike_milli[block])
    if strategy == SINGLE:
        shape: tuple[int, ...] = (len(plan.strikes_milli),)
        slot = strike_at
    else:
        shape = (len(plan.strikes_milli), len(plan.widths_milli))
        slot = strike_at * shape[1] + np.searchsorted(plan.widths_milli, plan.width_milli[block])
    message: Json = {}
    for name, row, dollar in _PRICES:
        values = cells[row, block]
        priced = values != UNKNOWN
        # dividing integers rounds correctly, so the shortest decimal form has at most three decimals
        message[name] = _scatter(shape, slot[priced], values[priced] / dollar)
    message["flags"] = _scatter(shape, slot, cells[_FLAGS, block])
    return message


def _scatter(shape: tuple[int, ...], slots: npt.NDArray[np.intp], values: npt.NDArray[Any]) -> list[Any]:
    """Nested lists of plain numbers with `values` at the flat positions `slots`, None elsewhere."""
    matrix = np.full(shape, None, object)
    matrix.reshape(-1)[slots] = values
    nested: list[Any] = matrix.tolist()
    return nested
