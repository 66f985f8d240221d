"""Levels: flips, walls, abs gamma, magnet and max pain, each with its method, status and strength (models.md 3)."""

from __future__ import annotations

import numpy as np

from contracts.plan import points
from stages.models.board import NO_INTEREST, OK, Board, Floats, Json, Milli
from stages.models.profile import METHOD, NO_SIGN_CHANGE, GammaProfile, crossings

NO_CANDIDATE = "no_candidate"  # no strike on that side of spot carries any
MAX_PAIN_METHOD = "listed strike of least total intrinsic value of open interest, the lowest of several"


def flip(profile: GammaProfile) -> Json:
    """The flip of a profile: every crossing, and as value the one nearest spot (the lower of two as near)."""
    found = crossings(profile) if profile.status == OK else []
    spot = profile.spot or 0.0
    return {
        "value": min(found, key=lambda crossing: abs(crossing - spot), default=None),
        "status": profile.status if found or profile.status != OK else NO_SIGN_CHANGE,
        "method": METHOD,
        "crossings": found,
        "net_at_spot": profile.net_at_spot,
        "oi_share": profile.oi_share,
    }


def walls(strikes: Milli, calls: Floats, puts: Floats, spot: float | None, reason: str | None) -> Json:
    """The levels that are strikes; `strength` is the unsigned exposure at the level, US dollars per 1 % move."""
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


def max_pain(board: Board, number: int) -> Json:
    """The max pain of one plane; `strength` is the least total intrinsic value, US dollars."""
    rows = board.rows[number]
    listed = board.in_scope[rows]
    interest = (board.known_interest * board.multiplier)[rows][listed]
    if not interest.any():
        return {"value": None, "status": NO_INTEREST, "strength": None}
    strikes, at = np.unique(board.strike_milli[rows][listed], return_inverse=True)
    is_call = board.is_call[rows][listed]
    calls = np.bincount(at[is_call], interest[is_call], len(strikes))
    puts = np.bincount(at[~is_call], interest[~is_call], len(strikes))
    # whole numbers of contracts times thousandths of a dollar: exact far beyond any open interest
    pays_calls = strikes * np.cumsum(calls) - np.cumsum(calls * strikes)
    pays_puts = np.cumsum((puts * strikes)[::-1])[::-1] - strikes * np.cumsum(puts[::-1])[::-1]
    pain = pays_calls + pays_puts
    least = int(np.argmin(pain))
    return {"value": points(int(strikes[least])), "status": OK, "strength": float(pain[least]) / 1000}


def _greatest(strikes: Milli, strength: Floats, spot: float | None, reason: str | None) -> Json:
    """The strike of greatest strength; ties: nearest spot, then the lower one."""
    best = float(strength.max()) if len(strength) else 0.0
    if spot is None or reason or best <= 0:
        return {"value": None, "status": reason or NO_CANDIDATE, "strength": None}
    tied = strikes[strength == best].tolist()
    value = min(tied, key=lambda strike: abs(strike / 1000 - spot))  # strikes ascend: the first is the lower
    return {"value": points(value), "status": OK, "strength": best}
