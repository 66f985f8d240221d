"""The heatmap model of one tick: strategy prices over strike x width x plane (models.md 2 and 6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any

import numpy as np
import orjson

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


def encode_heatmap(model: Json) -> dict[str, bytes]:
    """The JSON of the model under "", and of each view under its strategy, every matrix encoded once."""
    planes = {
        plane: {
            name: orjson.Fragment(orjson.dumps(value)) if name in STRATEGIES else value for name, value in body.items()
        }
        for plane, body in model["planes"].items()
    }
    encoded = {**model, "planes": planes}
    views = {strategy: orjson.dumps(strategy_view(encoded, strategy)) for strategy in STRATEGIES}
    return {"": orjson.dumps(encoded), **views}


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
    row, layout = cut.plane[0], _layout_of(plan)
    message |= {
        "forward": number(row["forward"]),
        "forward_source": ForwardSource(int(row["forward_source"])).name.lower(),
        "coherence": number(row["coherence"]),
        "flags": int(row["flags"]),
        "row_flags": _row_flags(layout, cut),
    }
    for strategy in STRATEGIES:
        message[strategy] = {side: _matrices(layout, cut.cells, strategy, side) for side in SIDES}
    return message


def _row_flags(layout: _Layout, cut: AnalyticsCut) -> Json:
    """The tick path's flags of each contract, by side and strike; null where that side is not listed."""
    message: Json = {}
    for side in SIDES:
        # a single has one leg: its row
        rows = layout.plan.legs[0, layout.plan.block(SINGLE, side)]
        message[side] = layout.spread(SINGLE, side, cut.exposures["flags"][rows].tolist())
    return message


def _matrices(layout: _Layout, cells: Ints, strategy: str, side: str) -> Json:
    """mid, buy, sell and flags of one strategy and side, each [strike][width], or [strike] for singles."""
    block = layout.plan.block(strategy, side)
    message: Json = {}
    for name, row, dollar in _PRICES:
        values = cells[row, block]
        # dividing integers rounds correctly, so the shortest decimal form has at most three decimals
        dollars: list[float | None] = (values / dollar).tolist()
        for unpriced in np.flatnonzero(values == UNKNOWN).tolist():
            dollars[unpriced] = None
        message[name] = layout.spread(strategy, side, dollars)
    message["flags"] = layout.spread(strategy, side, cells[_FLAGS, block].tolist())
    return message


class _Layout:
    """Where the cells of a plan stand on its axes. It never changes, and a tick moves some hundred thousand values."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._cells = {(strategy, side): self._cell_at(strategy, side) for strategy in STRATEGIES for side in SIDES}

    def spread(self, strategy: str, side: str, values: Sequence[Any]) -> list[Any]:
        """The values of a block's cells in nested lists over the axes, None where there is no cell."""
        flat = list(self._cells[strategy, side]((*values, None)))
        if strategy == SINGLE:
            return flat
        columns = len(self.plan.widths_milli)
        return [flat[row * columns : (row + 1) * columns] for row in range(len(self.plan.strikes_milli))]

    def _cell_at(self, strategy: str, side: str) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
        """Picks from the block's values, and one None after them, the one at each position of the axes."""
        plan, block = self.plan, self.plan.block(strategy, side)
        strike = np.searchsorted(plan.strikes_milli, plan.strike_milli[block])
        columns = 1 if strategy == SINGLE else len(plan.widths_milli)
        column = 0 if strategy == SINGLE else np.searchsorted(plan.widths_milli, plan.width_milli[block])
        at = np.full(len(plan.strikes_milli) * columns, len(strike))
        at[strike * columns + column] = np.arange(len(strike))
        return _picker(at.tolist())


@lru_cache(maxsize=128)
def _layout_of(plan: Plan) -> _Layout:
    return _Layout(plan)


def _picker(positions: list[int]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    if len(positions) > 1:
        return itemgetter(*positions)  # picks a hundred thousand values in a millisecond
    return lambda values: tuple(values[position] for position in positions)
