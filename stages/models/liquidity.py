"""Liquidity Intent: where dealers' gamma stands around spot, as a bias, an index and a quadrant (models.md 4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from contracts.analytics import MODEL_VERSION, Moment
from stages.models.board import NO_EXPOSURES, NO_FRONT_PLANE, NO_SPOT, NO_VOLATILITY, Floats, Json

NO_SIDES = "no_net_beside_spot"  # nothing above or below spot to compare
NO_STRIKE_NEAR = "no_strike_within_1sigma"

TRAIL_POINTS = 120
TRAIL_STEP_S = 30

Point = list[float]  # ts, bias, lfi
Trail = Sequence[Point]


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What the derived models see of a tick's GEX model. `sigma` is em_1sigma of the front plane, index points.

    `reason` is why nothing can be derived: no spot, no front plane, no sigma, no net exposure. Strikes without any
    summed contract are not in `strikes`; a side without any adds 0 to `net`.
    """

    spot: float
    sigma: float
    strikes: Floats
    net: Floats
    flip: float | None
    magnet: float | None
    reason: str | None
    inputs: Json


def view_of(gex: Json) -> View:
    """The view of a GEX model, with the inputs every derived model names."""
    front, spot = gex["front"], gex["spot"]
    plane = gex["planes"].get(front, {})
    sigma = plane.get("em_1sigma")
    strikes = np.array([row[0] for row in gex["by_strike"]], np.float64)
    net = np.array([(row[1] or 0.0) + (row[2] or 0.0) for row in gex["by_strike"]], np.float64)
    flip, magnet = gex["levels"]["flip"]["value"], gex["levels"]["magnet"]["value"]
    inputs = {
        "planes": {name: body["version"] for name, body in gex["planes"].items()},
        "front": front,
        "spot": spot,
        "sigma": sigma,
        "flip": flip,
        "magnet": magnet,
    }
    reason = None
    if spot is None:
        reason = NO_SPOT
    elif front is None:
        reason = NO_FRONT_PLANE
    elif not sigma:
        reason = NO_VOLATILITY
    elif not np.abs(net).sum():
        reason = NO_EXPOSURES
    return View(spot or math.nan, sigma or math.nan, strikes, net, flip, magnet, reason, inputs)


def head_of(model: str, moment: Moment) -> Json:
    """What every derived model begins with."""
    return {
        "model": model,
        "model_version": MODEL_VERSION,
        "symbol": moment.symbol,
        "epoch": moment.epoch,
        "seq": moment.seq,
        "tick": moment.tick,
        "ts": moment.ts,
        "complete_to": moment.complete_to,
    }


def liquidity_model(moment: Moment, view: View, trail: Trail) -> Json:
    """The message `massive:liquidity:model:{U}`: bias -100 to 100, lfi 0 to 100, quadrant, trail of the last hour.

    The trail has one point `[ts, bias, lfi]` per half minute of market time; a tick without a value adds none.
    """
    parts: Json = dict.fromkeys(("imbalance", "centre", "r1", "c1", "c2", "flip_closeness"))
    reason = view.reason or _fill(parts, view)
    bias = lfi = quadrant = None
    if reason is None:
        closeness = parts["flip_closeness"]
        bias = _clamp(100 * (0.6 * parts["imbalance"] + 0.4 * parts["centre"]) - 50 * closeness, -100.0, 100.0)
        steadiness = 0.5 * 50 * (1 + parts["r1"]) + 0.3 * 100 * parts["c2"] + 0.2 * 100 * parts["c1"]
        lfi = _clamp(steadiness - 30 * closeness, 0.0, 100.0)
        quadrant = _quadrant(bias, lfi)
        trail = extended(trail, [moment.ts, bias, lfi])
    return {
        **head_of("liquidity", moment),
        "reason": reason,
        "bias": bias,
        "lfi": lfi,
        "quadrant": quadrant,
        "trail": list(trail),
        "inputs": {**view.inputs, **parts},
    }


def extended(trail: Trail, point: Point) -> list[Point]:
    """The trail with a point, if it is the first of its half minute; points of a clock since set back are dropped."""
    known = [one for one in trail if one[0] <= point[0]]
    is_first = not known or math.floor(point[0] / TRAIL_STEP_S) > math.floor(known[-1][0] / TRAIL_STEP_S)
    return [*known, point][-TRAIL_POINTS:] if is_first else known


def _fill(parts: Json, view: View) -> str | None:
    """The ratios behind bias and index, or why there are none."""
    distance = view.strikes - view.spot
    above, below = float(view.net[distance > 0].sum()), float(view.net[distance < 0].sum())
    positive, negative = max(0.0, above) + max(0.0, below), -min(0.0, above) - min(0.0, below)
    if positive + negative == 0:
        return NO_SIDES
    size = np.abs(view.net)
    whole = float(size.sum())
    near, around = np.abs(distance) <= view.sigma, np.abs(distance) <= 2 * view.sigma
    within = float(size[near].sum())
    parts["imbalance"] = (positive - negative) / (positive + negative)
    parts["centre"] = _clamp(float((size * distance).sum()) / (whole * view.sigma), -1.0, 1.0)
    parts["c1"], parts["c2"] = within / whole, float(size[around].sum()) / whole
    parts["flip_closeness"] = 0.0
    if view.flip is not None:
        parts["flip_closeness"] = _clamp(1 - abs(view.spot - view.flip) / (0.5 * view.sigma), 0.0, 1.0)
    if within == 0:
        return NO_STRIKE_NEAR
    parts["r1"] = float(view.net[near].sum()) / within
    return None


def _quadrant(bias: float, lfi: float) -> str:
    if lfi >= 50:
        return "Pin / Mean Reversion" if bias >= 0 else "False Breakout Risk"
    return "Air-Pocket Expansion" if bias >= 0 else "Downside Acceleration"


def _clamp(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
