"""The GEX model of one tick: gamma exposure over roots, by strike and by expiration (models.md 3 and 6).

Built from the cuts of all planes. Sums run in one fixed order (planes by settlement, contracts by strike,
calls before puts), and totals are the sums of `by_strike` in its order: the same cuts give the same bits.
This version covers the sums and the levels that need the provider's gamma only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.analytics import MODEL_VERSION, AnalyticsCut, Moment, Reason, Source
from contracts.geometry import Geometry, Plane
from contracts.symbology import CALL, days_to_expiration
from stages.calculate.plan import points

UNIT = "usd_per_1pct"
SIGN_CONVENTION = "calls+ puts-"
T_CONVENTION = "minutes to settlement / 525600, at least 1 minute"
MINUTES_PER_YEAR = 525_600

NO_SPOT = "no_spot"
NO_EXPOSURES = "no_exposures"  # every contract was left out: `dropped` says why
NO_CANDIDATE = "no_candidate"  # no strike on that side of spot carries any
NOT_COMPUTED = "not_computed"

Json = dict[str, Any]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def gex_model(moment: Moment, geometry: Geometry, cuts: Mapping[str, AnalyticsCut], rate: float) -> Json:
    """The message `massive:gex:model:{U}` from the cuts of the planes, by plane id.

    Values are US dollars of delta per 1 % move (`gamma_oi`: gamma times contracts times multiplier). `calls`
    and `puts` are the sums of `by_strike`, `net` is calls + puts, `abs` calls - puts. In `by_strike` a side
    without any summed contract adds 0. Without spot or exposures values are null and `reason` says why.
    """
    contracts = _gather(geometry, cuts)
    summed = contracts.summed(moment)
    strikes, calls, puts = _by_strike(contracts, summed)
    reason = NO_SPOT if moment.spot is None else None if len(strikes) else NO_EXPOSURES
    total_calls, total_puts = _sum_in_order(calls), _sum_in_order(puts)
    return {
        "model": "gex",
        "model_version": MODEL_VERSION,
        "symbol": moment.symbol,
        "epoch": moment.epoch,
        "seq": moment.seq,
        "tick": moment.tick,
        "ts": moment.ts,
        "complete_to": moment.complete_to,
        "asof_quote": _newest_quote(cuts),
        "asof_spot": moment.spot_ts,
        "oi_asof": _newest_open_interest(cuts),
        "spot": moment.spot,
        "unit": UNIT,
        "sign_convention": SIGN_CONVENTION,
        "weight": "oi",
        "t_convention": T_CONVENTION,
        "rate": rate,
        "scope": _scope(geometry, contracts),
        "planes": {plane.id: _plane(plane, cuts.get(plane.id), moment.ts) for plane in geometry.planes},
        "greek_src": _count(contracts.source[contracts.in_scope], Source),
        "dropped": _count(contracts.reason[contracts.reason != Reason.KEPT], Reason, skip=Reason.KEPT),
        "reason": reason,
        "net": None if reason else total_calls + total_puts,
        "calls": None if reason else total_calls,
        "puts": None if reason else total_puts,
        "abs": None if reason else total_calls - total_puts,
        "gamma_oi": _sum_in_order(contracts.gamma_oi[contracts.kept]) if contracts.kept.any() else None,
        "by_strike": [
            [points(strike), call, put]
            for strike, call, put in zip(strikes.tolist(), calls.tolist(), puts.tolist(), strict=True)
        ],
        "by_expiration": _by_expiration(contracts, summed, moment.ts),
        "levels": _levels(strikes, calls, puts, moment.spot, reason),
    }


def gex_sides(moment: Moment, geometry: Geometry, cuts: Mapping[str, AnalyticsCut]) -> dict[str, Json]:
    """The messages `massive:gex:model:{U}:calls` and `...:puts`, keyed by side.

    Signed exposure summed over roots; only strikes with a summed contract of that side appear.
    """
    contracts = _gather(geometry, cuts)
    summed = contracts.summed(moment)
    head = {"ts": moment.ts, "symbol": moment.symbol, "epoch": moment.epoch, "unit": UNIT}
    return {
        "calls": {**head, "expirations": _side_by_expiration(contracts, summed & contracts.is_call)},
        "puts": {**head, "expirations": _side_by_expiration(contracts, summed & ~contracts.is_call)},
    }


@dataclass(frozen=True, slots=True, eq=False)
class _Contracts:
    """Every contract of the planes that have a cut, as columns, in geometry order."""

    expirations: tuple[str, ...]  # ascending
    expiration: npt.NDArray[np.int64]  # number in `expirations`
    strike_milli: npt.NDArray[np.int64]
    is_call: Mask
    open_interest: Floats
    gex: Floats
    gamma_oi: Floats
    source: npt.NDArray[np.int32]
    reason: npt.NDArray[np.int32]

    @property
    def kept(self) -> Mask:
        """Contracts with open interest and greeks."""
        kept: Mask = self.reason == Reason.KEPT
        return kept

    @property
    def in_scope(self) -> Mask:
        """Contracts the model is about, with or without usable data."""
        excluded: Mask = np.isin(self.reason, (Reason.ADJUSTED, Reason.EXPIRED))
        return ~excluded

    def summed(self, moment: Moment) -> Mask:
        """Contracts whose exposure enters the sums."""
        return self.kept if moment.spot is not None else np.zeros_like(self.kept)

    def known_interest(self, where: Mask) -> float:
        """Open interest of some contracts, those without any left out (contracts, a whole number)."""
        return float(self.open_interest[where & (self.open_interest > 0)].sum())


def _gather(geometry: Geometry, cuts: Mapping[str, AnalyticsCut]) -> _Contracts:
    planes = [(plane, cuts[plane.id]) for plane in geometry.planes if plane.id in cuts]
    expirations = tuple(sorted({plane.expiration for plane, _ in planes}))
    number = {expiration: n for n, expiration in enumerate(expirations)}
    exposures = [cut.exposures for _, cut in planes]
    rows = [row for plane, _ in planes for row in plane.rows]
    return _Contracts(
        expirations=expirations,
        expiration=np.repeat(
            np.array([number[plane.expiration] for plane, _ in planes], np.int64),
            np.array([len(plane.rows) for plane, _ in planes], np.int64),
        ),
        strike_milli=np.array([row.strike_milli for row in rows], np.int64),
        is_call=np.array([row.type == CALL for row in rows], np.bool_),
        open_interest=_column([cut.chain["interest"]["oi"] for _, cut in planes]),
        gex=_column([rows["gex"] for rows in exposures]),
        gamma_oi=_column([rows["gamma_oi"] for rows in exposures]),
        source=_column([rows["source"] for rows in exposures]).astype(np.int32),
        reason=_column([rows["reason"] for rows in exposures]).astype(np.int32),
    )


def _column(parts: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0)


def _sum_in_order(values: Floats) -> float:
    """One addition after the other, as any client does it; `np.sum` adds in an order of its own."""
    return float(np.add.accumulate(values)[-1]) if len(values) else 0.0


def _by_strike(contracts: _Contracts, summed: Mask) -> tuple[npt.NDArray[np.int64], Floats, Floats]:
    """Strikes ascending with at least one summed contract, their calls and their puts."""
    strikes, at = np.unique(contracts.strike_milli[summed], return_inverse=True)
    gex, is_call = contracts.gex[summed], contracts.is_call[summed]
    # bincount adds in the order of its input
    calls: Floats = np.bincount(at[is_call], gex[is_call], len(strikes)).astype(np.float64)
    puts: Floats = np.bincount(at[~is_call], gex[~is_call], len(strikes)).astype(np.float64)
    return strikes, calls, puts


def _by_expiration(contracts: _Contracts, summed: Mask, ts: float) -> Json:
    message: Json = {}
    for number, expiration in enumerate(contracts.expirations):
        here = contracts.expiration == number
        if not (here & contracts.in_scope).any():
            continue
        here &= summed
        calls = _sum_in_order(contracts.gex[here & contracts.is_call])
        puts = _sum_in_order(contracts.gex[here & ~contracts.is_call])
        known = bool(here.any())
        message[expiration] = {
            "dte": days_to_expiration(expiration, ts),
            "net": calls + puts if known else None,
            "calls": calls if known else None,
            "puts": puts if known else None,
        }
    return message


def _side_by_expiration(contracts: _Contracts, side: Mask) -> Json:
    message: Json = {}
    for number, expiration in enumerate(contracts.expirations):
        here = side & (contracts.expiration == number)
        strikes, at = np.unique(contracts.strike_milli[here], return_inverse=True)
        values = np.bincount(at, contracts.gex[here], len(strikes))
        if len(strikes):
            message[expiration] = {
                str(points(strike)): value for strike, value in zip(strikes.tolist(), values.tolist(), strict=True)
            }
    return message


def _levels(
    strikes: npt.NDArray[np.int64], calls: Floats, puts: Floats, spot: float | None, reason: str | None
) -> Json:
    """The levels of models.md 3; `strength` is the unsigned exposure at the level."""
    above = below = np.zeros(len(strikes), np.bool_)
    if spot is not None:
        above, below = strikes / 1000 >= spot, strikes / 1000 <= spot
    anywhere = np.ones(len(strikes), np.bool_)
    wanted = {
        "call_wall": ("strike >= spot of greatest call GEX", above, calls),
        "put_wall": ("strike <= spot of greatest |put GEX|", below, -puts),
        "abs_gamma": ("strike of greatest calls + |puts| GEX", anywhere, calls - puts),
        "magnet": ("strike of greatest |net GEX|", anywhere, np.abs(calls + puts)),
    }
    return {
        name: {**_greatest(strikes[where], strength[where], spot, reason), "method": method}
        for name, (method, where, strength) in wanted.items()
    }


def _greatest(strikes: npt.NDArray[np.int64], strength: Floats, spot: float | None, reason: str | None) -> Json:
    """The strike of greatest strength; ties: nearest spot, then the lower one."""
    best = float(strength.max()) if len(strength) else 0.0
    if spot is None or reason or best <= 0:
        return {"value": None, "status": reason or NO_CANDIDATE, "strength": None}
    tied = strikes[strength == best].tolist()
    value = min(tied, key=lambda strike: abs(strike / 1000 - spot))  # strikes ascend: the first is the lower
    return {"value": points(value), "status": "ok", "strength": best}


def _scope(geometry: Geometry, contracts: _Contracts) -> Json:
    """What the model is about: expirations, and the lowest and highest strike of each.

    `oi_share` is the open interest in scope over all open interest of the substrate, `oi_used_share` the part
    of the open interest in scope that has greeks.
    """
    windows: Json = {}
    for number, expiration in enumerate(contracts.expirations):
        listed = contracts.strike_milli[(contracts.expiration == number) & contracts.in_scope]
        if len(listed):
            windows[expiration] = {"lo": points(int(listed.min())), "hi": points(int(listed.max()))}
    everything = contracts.known_interest(np.ones_like(contracts.kept))
    in_scope = contracts.known_interest(contracts.in_scope)
    return {
        "roots": sorted({plane.root for plane in geometry.planes}),
        "expirations": list(windows),
        "windows": windows,
        "oi_share": in_scope / everything if everything else None,
        "oi_share_of": "substrate",
        "oi_used_share": contracts.known_interest(contracts.kept) / in_scope if in_scope else None,
    }


def _plane(plane: Plane, cut: AnalyticsCut | None, ts: float) -> Json:
    if cut is None:
        return {"T": None, "version": None, "reason": NOT_COMPUTED}
    minutes = (plane.settlement_ts - ts) / 60
    return {"T": max(minutes, 1.0) / MINUTES_PER_YEAR if minutes > 0 else None, "version": cut.version}


def _count(values: npt.NDArray[np.int32], kinds: type[Source] | type[Reason], skip: Reason | None = None) -> Json:
    """How many contracts of each kind, by the kind's published name."""
    counts = np.bincount(values, minlength=len(kinds)).tolist()
    return {kind.name.lower(): counts[kind] for kind in kinds if kind is not skip}


def _newest_quote(cuts: Mapping[str, AnalyticsCut]) -> float | None:
    newest = max((int(cut.quotes["quote"]["ms"].max(initial=0)) for cut in cuts.values()), default=0)
    return newest / 1000 if newest > 0 else None


def _newest_open_interest(cuts: Mapping[str, AnalyticsCut]) -> float | None:
    """Time of the newest chain that told any open interest used here."""
    times = [cut.chain["greeks"]["chain_ts"][np.isfinite(cut.chain["interest"]["oi"])] for cut in cuts.values()]
    newest = max((float(np.nan_to_num(ts).max(initial=0.0)) for ts in times), default=0.0)
    return newest or None
