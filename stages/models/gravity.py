"""Dealer Gravity: where the front plane's price is drawn to, once a minute (models.md 4).

`gravity_of` is a function of the model's own published `inputs`, so anyone can compute it again.
"""

from __future__ import annotations

import math

import numpy as np

from contracts.analytics import AnalyticsCut, Moment
from contracts.geometry import Plane
from contracts.plan import BUTTERFLY, Plan, points
from contracts.planes import UNKNOWN
from contracts.symbology import CALL, PUT
from stages.models.board import NO_VOLATILITY, NOT_COMPUTED, Floats, Json, Mask, number, numbers
from stages.models.liquidity import View, head_of
from stages.models.session import SessionProfile, is_opening

TOO_FEW_STRIKES = "fewer_than_8_strikes"  # with a pin density
NO_ACCEPTANCE = "no_acceptance"  # spot and volume were at none of the strikes with a pin density

OPENING, SESSION = "opening", "session"  # whether the session's time and volume count yet

COLUMNS = ("strikes", "mid", "net", "time", "volume")

LEAST_STRIKES = 8
MINUTE_S = 60
LOW, HIGH = 0.16, 0.84
_HALF_CENTS = 200  # a dollar in the unit of mid2

Mids = dict[float, Floats]  # width -> mid per strike, NaN where there is none


def minute_of(ts: float) -> int:
    """The minute an instant lies in, counted from the epoch: the one before it has closed."""
    return math.floor(ts / MINUTE_S)


def gravity_model(moment: Moment, inputs: Json) -> Json:
    """The message `massive:gravity:model:{U}`: best, low and high are strikes, confidence 0 to 1.

    `mass` is the pin density's sum over strikes before it is normalised: near 1 where all legs quote two-sided.
    """
    return {
        **head_of("gravity", moment),
        "minute_ts": minute_of(moment.ts) * MINUTE_S,
        **gravity_of(inputs),
        "inputs": inputs,
    }


def history_point(model: Json) -> Json:
    """What the minute history keeps of a model."""
    names = ("symbol", "epoch", "tick", "ts", "minute_ts", "reason", "best", "low", "high", "confidence")
    return {name: model[name] for name in names}


# --- inputs


def gravity_inputs(
    view: View,
    front: Plane | None,
    plan: Plan | None,
    cut: AnalyticsCut | None,
    rate: float,
    session: SessionProfile,
    ts: float,
) -> Json:
    """Everything a minute's gravity is computed from: numbers of the tick, and columns by strike of the front plane.

    `mid` is the fly of the out-of-the-money side at the width chosen; `net` GEX over all planes; `time` and
    `volume` the session's. What is not known is null; `reason` says why there is nothing to compute.
    """
    inputs: Json = {
        **view.inputs,
        "reason": view.reason,
        "acceptance": OPENING if is_opening(ts) else SESSION,
        "previous_best": session.best,
        **dict.fromkeys(("forward", "discount", "width", "coherence", "greatest_net")),
        **{name: [] for name in COLUMNS},
    }
    if view.reason or front is None:
        return inputs
    if plan is None or cut is None:
        return {**inputs, "reason": NOT_COMPUTED}
    row = cut.plane[0]
    forward, years = number(row["forward"]), number(row["years"])
    if forward is None or years is None:
        return {**inputs, "reason": NO_VOLATILITY}
    mids = _mids(plan, cut, forward)
    strikes = plan.strikes_milli / 1000
    width = _width(mids, np.abs(strikes - view.spot) <= view.sigma)
    mid = np.full(len(strikes), np.nan) if width is None else mids[width]
    milli = plan.strikes_milli.tolist()
    net_at = dict(zip(view.strikes.tolist(), view.net.tolist(), strict=True))
    return {
        **inputs,
        "forward": forward,
        "discount": math.exp(-rate * years),
        "width": width,
        "coherence": number(row["coherence"]),
        "greatest_net": float(np.abs(view.net).max()),
        "strikes": [points(strike) for strike in milli],
        "mid": numbers(mid, np.isfinite(mid)),
        "net": [net_at.get(strike) for strike in strikes.tolist()],
        "time": [session.time_s.get(strike) for strike in milli],
        "volume": [session.volume.get(strike) for strike in milli],
    }


def _mids(plan: Plan, cut: AnalyticsCut, forward: float) -> Mids:
    """Mid debit of the fly of the out-of-the-money side, by width and strike: calls from the forward up, else puts."""
    found = np.full((len(plan.widths_milli), len(plan.strikes_milli)), np.nan)
    for side in (CALL, PUT):
        block = plan.block(BUTTERFLY, side)
        strike, mid2 = plan.strike_milli[block], cut.cells[0, block]
        use = ((strike / 1000 >= forward) == (side == CALL)) & (mid2 != UNKNOWN)
        at = np.searchsorted(plan.strikes_milli, strike[use])
        found[np.searchsorted(plan.widths_milli, plan.width_milli[block][use]), at] = mid2[use] / _HALF_CENTS
    return {points(width): mids for width, mids in zip(plan.widths_milli.tolist(), found, strict=True)}


def _width(mids: Mids, is_near: Mask) -> float | None:
    """The narrowest width with prices within 1 sigma of spot and no negative one there, else the widest with any."""
    priced = {width: row for width, row in mids.items() if np.isfinite(row).any()}
    for width, row in priced.items():
        near = row[is_near & np.isfinite(row)]
        if len(near) and not (near < 0).any():
            return width
    return max(priced, default=None)


# --- the model


def gravity_of(inputs: Json) -> Json:
    """reason, best, high, low, confidence, its parts and the mass, from the published inputs alone."""
    nothing: Json = dict.fromkeys(("best", "high", "low", "confidence", "confidence_parts", "mass"))
    if inputs["reason"]:
        return {"reason": inputs["reason"], **nothing}
    density = pin_density(inputs)
    support = density > 0
    mass = float(density.sum())
    if support.sum() < LEAST_STRIKES:
        return {"reason": TOO_FEW_STRIKES, **nothing, "mass": mass or None}
    strikes, spot, sigma = _column(inputs, "strikes")[support], inputs["spot"], inputs["sigma"]
    net = np.nan_to_num(_column(inputs, "net"))  # a strike without exposure pulls no more than its density
    field = (density / mass * _acceptance(inputs) * (1 + np.maximum(0.0, net) / inputs["greatest_net"]))[support]
    if not field.any():
        return {"reason": NO_ACCEPTANCE, **nothing, "mass": mass}
    field = _smoothed(field, strikes, sigma / 4)
    field /= field.sum()
    best = _best(field, strikes, spot, sigma)
    parts = _confidence_parts(inputs, field, best)
    known = [part for part in parts.values() if part is not None]
    reached = np.cumsum(field)
    return {
        "reason": None,
        "best": best,
        "high": _plain(strikes[min(int(np.searchsorted(reached, HIGH)), len(strikes) - 1)]),
        "low": _plain(strikes[int(np.searchsorted(reached, LOW))]),
        "confidence": sum(known) / len(known),
        "confidence_parts": parts,
        "mass": mass,
    }


def pin_density(inputs: Json) -> Floats:
    """p(K): the risk-neutral mass at each strike that the flies' mids say, not normalised; 0 without a price."""
    strikes, mid = _column(inputs, "strikes"), np.nan_to_num(_column(inputs, "mid"))
    step = np.zeros(len(strikes))
    step[1:-1] = (strikes[2:] - strikes[:-2]) / 2  # the outermost strikes are the centre of no fly
    width = inputs["width"] or np.nan
    density: Floats = np.nan_to_num(np.maximum(0.0, mid) / (width * inputs["discount"]) * step / width)
    return density


def _acceptance(inputs: Json) -> Floats:
    """a(K): the session's spot time and volume at each strike, as shares of the greatest; 1 in the opening."""
    time, volume = _column(inputs, "time"), _column(inputs, "volume")
    if inputs["acceptance"] == OPENING:
        return np.ones(len(time))
    return 0.5 * _share(time) + 0.5 * _share(volume)


def _share(values: Floats) -> Floats:
    """Values over the greatest; if nothing is known of any, it tells no strike from another."""
    known = np.nan_to_num(values)
    return known / known.max() if known.any() else np.ones(len(values))


def _smoothed(field: Floats, strikes: Floats, width: float) -> Floats:
    """Each strike's mass spread over its neighbours by a Gaussian, none of it lost at the ends."""
    kernel = np.exp(-((strikes[:, None] - strikes[None, :]) ** 2) / (2 * width**2))
    spread: Floats = (kernel * (field / kernel.sum(axis=0))).sum(axis=1)
    return spread


def _best(field: Floats, strikes: Floats, spot: float, sigma: float) -> float:
    """The strike of greatest field near spot; ties: nearest spot, then the lower one."""
    # in logarithms, because far strikes of a short day would all come out as 0
    with np.errstate(divide="ignore"):
        weighted = np.log(field) - (strikes - spot) ** 2 / (2 * sigma**2)
    tied = strikes[weighted == weighted.max()]
    return _plain(tied[np.argmin(np.abs(tied - spot))])


def _confidence_parts(inputs: Json, field: Floats, best: float) -> dict[str, float | None]:
    """The parts whose mean is the confidence; null what is not known, such as the best before the first."""
    spot, sigma = inputs["spot"], inputs["sigma"]
    magnet, coherence, previous = inputs["magnet"], inputs["coherence"], inputs["previous_best"]
    positive = field[field > 0]
    entropy = float(-(positive * np.log(positive)).sum())
    return {
        "concentration": min(max(1 - entropy / math.log(len(field)), 0.0), 1.0),
        "magnet": None if magnet is None else math.exp(-abs(best - magnet) / sigma),
        "coherence": None if coherence is None else math.exp(-coherence / max(1.0, 0.0003 * spot)),
        "persistence": None if previous is None else math.exp(-abs(best - previous) / (0.25 * sigma)),
    }


def _column(inputs: Json, name: str) -> Floats:
    return np.array([np.nan if value is None else value for value in inputs[name]], np.float64)


def _plain(strike: float) -> float:
    """A strike as published everywhere: an int where whole."""
    return points(round(float(strike) * 1000))
