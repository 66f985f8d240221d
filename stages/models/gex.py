"""The GEX model of one tick: gamma exposure over roots, by strike and by expiration (models.md 3 and 6).

Built from the cuts of all planes. Sums run in one fixed order (planes by settlement, contracts by strike,
calls before puts), and totals are the sums of `by_strike` in its order: the same cuts give the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from contracts.analytics import MODEL_VERSION, AnalyticsCut, ForwardSource, Moment, Reason, Source
from contracts.geometry import Geometry, Plane
from contracts.plan import points
from contracts.symbology import days_to_expiration
from stages.models.board import (
    NO_EXPOSURES,
    NO_FRONT_PLANE,
    NO_SPOT,
    NO_VOLATILITY,
    NOT_COMPUTED,
    Board,
    Floats,
    Json,
    Mask,
    Milli,
    front_plane,
    gather,
    number,
    numbers,
    sum_in_order,
)
from stages.models.levels import MAX_PAIN_METHOD, flip, max_pain, walls
from stages.models.profile import GammaProfile, gamma_profiles, total_profile

UNIT = "usd_per_1pct"
SIGN_CONVENTION = "calls+ puts-"
T_CONVENTION = "minutes to settlement / 525600, at least 1 minute"
EXPOSURE_UNITS = {
    "delta": "usd",
    "vanna": "usd of delta per volatility point",
    "charm_15m": "usd of delta per 15 minutes of market time",
}
EXPIRED = "expired"
MINUTES_PER_YEAR = 525_600


def gex_model(moment: Moment, geometry: Geometry, cuts: Mapping[str, AnalyticsCut], rate: float) -> Json:
    """The message `massive:gex:model:{U}` from the cuts of the planes, by plane id.

    Values are US dollars of delta per 1 % move (`gamma_oi`: gamma times contracts times multiplier). `calls`
    and `puts` are the sums of `by_strike`, `net` is calls + puts, `abs` calls - puts. A side without any summed
    contract is null and adds nothing. Without spot or exposures values are null and `reason` says why.
    """
    return gex_messages(moment, geometry, cuts, rate)[0]


def gex_messages(
    moment: Moment, geometry: Geometry, cuts: Mapping[str, AnalyticsCut], rate: float
) -> tuple[Json, dict[str, Json]]:
    """The whole model, and by side the messages `massive:gex:model:{U}:calls` and `...:puts`.

    A side holds signed exposure summed over roots; only strikes with a summed contract of that side appear.
    """
    board = gather(geometry, cuts)
    sums = _Sums.of(board)
    head = {"ts": moment.ts, "symbol": moment.symbol, "epoch": moment.epoch, "unit": UNIT}
    sides = {
        "calls": {**head, "expirations": _side_by_expiration(board, sums.summed & board.is_call)},
        "puts": {**head, "expirations": _side_by_expiration(board, sums.summed & ~board.is_call)},
    }
    return _whole(moment, geometry, cuts, board, sums, rate), sides


class _Sums:
    """Exposure by strike, of the contracts that enter the sums. Strikes ascend."""

    def __init__(self, board: Board, summed: Mask) -> None:
        self.summed = summed
        self.strikes: Milli
        self.strikes, at = np.unique(board.strike_milli[summed], return_inverse=True)
        self.at: npt.NDArray[np.intp] = at
        gex, is_call = board.exposures["gex"][summed], board.is_call[summed]
        # bincount adds in the order of its input
        self.calls, self.has_calls = self.by_strike(gex, is_call)
        self.puts, self.has_puts = self.by_strike(gex, ~is_call)
        self.total_calls = sum_in_order(self.calls[self.has_calls])
        self.total_puts = sum_in_order(self.puts[self.has_puts])

    @classmethod
    def of(cls, board: Board) -> _Sums:
        """The sums of a board; without spot no contract has an exposure and nothing is summed."""
        return cls(board, board.kept & np.isfinite(board.exposures["gex"]))

    def by_strike(self, values: Floats, where: Mask) -> tuple[Floats, Mask]:
        """Some values of the summed contracts added by strike, and at which strikes there were any."""
        at, count = self.at[where], len(self.strikes)
        added: Floats = np.bincount(at, values[where], count).astype(np.float64)
        return added, np.bincount(at, minlength=count) > 0


def _whole(
    moment: Moment,
    geometry: Geometry,
    cuts: Mapping[str, AnalyticsCut],
    board: Board,
    sums: _Sums,
    rate: float,
) -> Json:
    reason = NO_SPOT if moment.spot is None else None if len(sums.strikes) else NO_EXPOSURES
    calls, puts = sums.total_calls or 0.0, sums.total_puts or 0.0
    front = front_plane(geometry, moment.ts)
    profiles = gamma_profiles(board, moment.spot, rate)
    profile = total_profile(board, profiles, moment.spot)
    pains = {plane.id: max_pain(board, n) for n, plane in enumerate(board.planes)}
    fronts = [profiles[n] for n, plane in enumerate(board.planes) if front and plane.id == front.id]
    front_profile = fronts[0] if fronts else _no_profile(moment, front)
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
        "scope": _scope(geometry, board),
        "front": front.id if front else None,
        "planes": {
            plane.id: _plane(plane, cuts.get(plane.id), moment, pains.get(plane.id)) for plane in geometry.planes
        },
        "greek_src": _count(board.exposures["source"][board.in_scope], Source),
        "american_approx": _american_approximations(board, sums.summed),
        "dropped": _count(board.exposures["reason"][board.exposures["reason"] != Reason.KEPT], Reason, Reason.KEPT),
        "reason": reason,
        "net": None if reason else calls + puts,
        "net_at_spot": profile.net_at_spot,
        "calls": sums.total_calls,
        "puts": sums.total_puts,
        "abs": None if reason else calls - puts,
        "gamma_oi": _total(board.exposures["gamma_oi"][board.kept]),
        "by_strike": [
            list(row)
            for row in zip(
                [points(strike) for strike in sums.strikes.tolist()],
                numbers(sums.calls, sums.has_calls),
                numbers(sums.puts, sums.has_puts),
                strict=True,
            )
        ],
        "by_expiration": _by_expiration(board, sums.summed, moment.ts),
        "profile": {**_profile(profile), "front": {"plane": front.id if front else None, **_profile(front_profile)}},
        "exposures": _exposures(board, sums, moment.spot, reason),
        "levels": {
            "flip": flip(profile),
            "flip_front": {**flip(front_profile), "plane": front.id if front else None},
            **walls(sums.strikes, sums.calls, sums.puts, moment.spot, reason),
            "max_pain": _front_max_pain(front, pains),
        },
    }


# --- by expiration


def _by_expiration(board: Board, summed: Mask, ts: float) -> Json:
    message: Json = {}
    for n, expiration in enumerate(board.expirations):
        here = board.expiration == n
        if not (here & board.in_scope).any():
            continue
        added = here & summed
        calls = sum_in_order(board.exposures["gex"][added & board.is_call])
        puts = sum_in_order(board.exposures["gex"][added & ~board.is_call])
        known = calls is not None or puts is not None
        message[expiration] = {
            "dte": days_to_expiration(expiration, ts),
            "net": (calls or 0.0) + (puts or 0.0) if known else None,
            "calls": calls,
            "puts": puts,
            "abs": (calls or 0.0) - (puts or 0.0) if known else None,
            "gamma_oi": _total(board.exposures["gamma_oi"][here & board.kept]),
        }
    return message


def _side_by_expiration(board: Board, side: Mask) -> Json:
    message: Json = {}
    for n, expiration in enumerate(board.expirations):
        here = side & (board.expiration == n)
        strikes, at = np.unique(board.strike_milli[here], return_inverse=True)
        values = np.bincount(at, board.exposures["gex"][here], len(strikes))
        if len(strikes):
            message[expiration] = {
                str(points(strike)): value for strike, value in zip(strikes.tolist(), values.tolist(), strict=True)
            }
    return message


def _total(values: Floats) -> float | None:
    return sum_in_order(values[np.isfinite(values)])


# --- profile, other exposures


def _profile(profile: GammaProfile) -> Json:
    net, spots = profile.net, profile.spots
    return {
        "spots": spots.tolist() if net is not None and spots is not None else None,
        "net": net.tolist() if net is not None else None,
        "oi_share": profile.oi_share,
        "status": profile.status,
    }


def _no_profile(moment: Moment, front: Plane | None) -> GammaProfile:
    """What stands for the profile of a front plane that is not there."""
    status = NO_SPOT if moment.spot is None else NOT_COMPUTED if front else NO_FRONT_PLANE
    return GammaProfile(moment.spot, None, None, status)


def _exposures(board: Board, sums: _Sums, spot: float | None, reason: str | None) -> Json:
    """Delta, vanna and charm exposure, by strike and in total; `missing` counts summed contracts without the greek."""
    rows, summed = board.exposures, sums.summed
    dollars = (board.sign * board.open_interest * board.multiplier)[summed] * (spot or np.nan)
    columns = {
        "gamma_oi": rows["gamma_oi"][summed],
        "delta": rows["delta"][summed] * dollars,
        "vanna": rows["vanna"][summed] * 0.01 * dollars,
        "charm_15m": (rows["delta_15m"] - rows["delta"])[summed] * dollars,
    }
    by_strike, totals, missing = [], {}, {}
    for name, values in columns.items():
        known = np.isfinite(values)
        added, has_any = sums.by_strike(values, known)
        by_strike.append(numbers(added, has_any))
        totals[name] = sum_in_order(added[has_any])
        missing[name] = int((~known).sum())
    del totals["gamma_oi"], missing["gamma_oi"]  # the model's own
    return {
        **totals,
        "units": EXPOSURE_UNITS,
        "missing": missing,
        "reason": reason,
        "columns": ["strike", *columns],
        "by_strike": [list(row) for row in zip([points(k) for k in sums.strikes.tolist()], *by_strike, strict=True)],
    }


# --- planes, scope, counts


def _plane(plane: Plane, cut: AnalyticsCut | None, moment: Moment, pain: Json | None) -> Json:
    head: Json = {
        "root": plane.root,
        "expiration": plane.expiration,
        "settlement": plane.rows[0].settlement,
        "exercise": plane.rows[0].exercise,
        "dte": days_to_expiration(plane.expiration, moment.ts),
    }
    if cut is None:
        return {**head, "T": None, "version": None, "reason": NOT_COMPUTED}
    row = cut.plane[0]
    minutes = (plane.settlement_ts - moment.ts) / 60
    return {
        **head,
        "T": max(minutes, 1.0) / MINUTES_PER_YEAR if minutes > 0 else None,
        "version": cut.version,
        "forward": number(row["forward"]),
        "forward_source": ForwardSource(int(row["forward_source"])).name.lower(),
        "strikes_used": int(row["strikes_used"]),
        "coherence": number(row["coherence"]),
        "flags": int(row["flags"]),
        "sigma_forward": number(row["sigma_forward"]),
        "em_1sigma": number(row["em_1sigma"]),
        "straddle": number(row["straddle"]),
        "max_pain": pain,
        "reason": _plane_reason(row, moment.spot, settled=minutes <= 0),
    }


def _plane_reason(row: np.void, spot: float | None, *, settled: bool) -> str | None:
    """Why a plane has no forward or no expected move."""
    if settled:
        return EXPIRED
    if spot is None:
        return NO_SPOT
    return None if np.isfinite(row["em_1sigma"]) else NO_VOLATILITY


def _front_max_pain(front: Plane | None, pains: Mapping[str, Json]) -> Json:
    plane = front.id if front else None
    missing = NOT_COMPUTED if front else NO_FRONT_PLANE
    found = pains.get(plane or "", {"value": None, "status": missing, "strength": None})
    return {**found, "method": MAX_PAIN_METHOD, "plane": plane}


def _scope(geometry: Geometry, board: Board) -> Json:
    """What the model is about: expirations, and the lowest and highest strike of each.

    `oi_share` is the open interest in scope over all open interest of the substrate, `oi_used_share` the part
    of the open interest in scope that has greeks.
    """
    windows: Json = {}
    for n, expiration in enumerate(board.expirations):
        listed = board.strike_milli[(board.expiration == n) & board.in_scope]
        if len(listed):
            windows[expiration] = {"lo": points(int(listed.min())), "hi": points(int(listed.max()))}
    interest = board.known_interest
    everything, in_scope = float(interest.sum()), float(interest[board.in_scope].sum())
    return {
        "roots": sorted({plane.root for plane in geometry.planes}),
        "expirations": list(windows),
        "windows": windows,
        "oi_share": in_scope / everything if everything else None,
        "oi_share_of": "substrate",
        "oi_used_share": float(interest[board.kept].sum()) / in_scope if in_scope else None,
    }


def _american_approximations(board: Board, summed: Mask) -> int:
    """Summed contracts of American exercise whose greeks are our own, hence European."""
    own = np.isin(board.exposures["source"], (Source.OWN, Source.INTERP))
    return int((summed & own & board.is_american).sum())


def _count(values: npt.NDArray[np.int32], kinds: type[Source] | type[Reason], skip: Reason | None = None) -> Json:
    """How many contracts of each kind, by the kind's published name."""
    counts = np.bincount(values, minlength=len(kinds)).tolist()
    return {kind.name.lower(): counts[kind] for kind in kinds if kind is not skip}


def _newest_quote(cuts: Mapping[str, AnalyticsCut]) -> float | None:
    newest = max((int(cut.quotes["quote"]["ms"].max(initial=0)) for cut in cuts.values()), default=0)
    return newest / 1000 if newest > 0 else None


def _newest_open_interest(cuts: Mapping[str, AnalyticsCut]) -> float | None:
    """Start of the newest session whose open interest is used here: it is latched for a session."""
    times = [cut.chain["interest"]["asof"][np.isfinite(cut.chain["interest"]["oi"])] for cut in cuts.values()]
    newest = max((float(np.nan_to_num(ts).max(initial=0.0)) for ts in times), default=0.0)
    return newest or None
