"""The gamma profile over spot and the flip: net GEX re-priced on a grid of spots (models.md 3).

At spot S' the gamma of a contract with respect to spot is `DF n(d1) / (F' sigma sqrt(T)) (F'/S')^2` with `F' = F S'/S`,
its own volatility kept at its strike and the same T. Times S'^2 this is `DF F S'/S n(d1) / (sigma sqrt(T))`, and
`d1` is linear in `ln(S'/S)`: one exponential per contract and spot is all there is to compute.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from stages.models.board import NO_INTEREST, NO_SPOT, OK, Board, Floats, Mask

METHOD = (
    "zero of net GEX re-priced on 401 spots within 10 % of spot (own volatility kept at each strike, forward scaled "
    "with spot, same T), linear between spots, nearest to spot"
)
NO_SIGN_CHANGE = "no_sign_change"
INSUFFICIENT_IV = "insufficient_iv"

LEAST_SHARE = 0.8  # of the open interest in scope must have a volatility of its own
GRID = (1800 + np.arange(401)) / 2000  # spot over S; the middle is exactly 1
_MIDDLE = len(GRID) // 2
_LOG_GRID = np.log(GRID)
_CHUNK = 32  # spots at a time: chunk x contracts stays in the processor's cache
_NOTHING = 1e-12  # what is smaller than this part of the largest value is rounding, not gamma


@dataclass(frozen=True, slots=True, eq=False)
class GammaProfile:
    """Net GEX over spot, US dollars per 1 % move. `net` is None when no contract has a volatility of its own.

    `status` tells whether the profile may be trusted with a flip; `oi_share` is the share of the open interest in
    scope that it covers.
    """

    spot: float | None
    net: Floats | None
    oi_share: float | None
    status: str

    @property
    def spots(self) -> Floats | None:
        """The grid in points."""
        return None if self.spot is None else self.spot * GRID

    @property
    def net_at_spot(self) -> float | None:
        """The profile's value at spot."""
        return None if self.net is None else float(self.net[_MIDDLE])


def gamma_profiles(board: Board, spot: float | None, rate: float) -> list[GammaProfile]:
    """One profile per plane of the board."""
    usable = _usable(board)
    return [_plane_profile(board, number, usable, spot, rate) for number in range(len(board.planes))]


def total_profile(board: Board, profiles: list[GammaProfile], spot: float | None) -> GammaProfile:
    """The sum over planes in their order."""
    found = [profile.net for profile in profiles if profile.net is not None]
    net = np.add.accumulate(found, axis=0)[-1] if found else None
    return _profile(board, slice(None), _usable(board), spot, net)


def crossings(profile: GammaProfile) -> list[float]:
    """Every spot at which the profile changes sign, ascending."""
    if profile.net is None or profile.spots is None:
        return []
    spots, net = profile.spots, np.where(np.abs(profile.net) > _NOTHING * np.abs(profile.net).max(), profile.net, 0.0)
    signed = np.flatnonzero(net)
    found = []
    for left, right in pairwise(signed.tolist()):
        if (net[left] > 0) == (net[right] > 0):
            continue
        if right == left + 1:
            part = net[left] / (net[left] - net[right])
            found.append(float(spots[left] + part * (spots[right] - spots[left])))
        else:  # it is zero in between, at one spot or at several
            found.append(float((spots[left + 1] + spots[right - 1]) / 2))
    return found


def _usable(board: Board) -> Mask:
    """Contracts in scope with open interest and a volatility of their own on a plane with a forward."""
    usable: Mask = board.in_scope & (board.open_interest > 0)
    usable &= np.isfinite(board.exposures["iv"]) & (board.exposures["iv"] > 0)
    for rows, cut in zip(board.rows, board.cuts, strict=True):
        years, forward = float(cut.plane["years"][0]), float(cut.plane["forward"][0])
        if not (years > 0 and 0 < forward < math.inf):
            usable[rows] = False
    return usable


def _plane_profile(board: Board, number: int, usable: Mask, spot: float | None, rate: float) -> GammaProfile:
    rows, plane = board.rows[number], board.cuts[number].plane
    at = np.flatnonzero(usable[rows]) + rows.start
    net = None
    if len(at) and spot is not None:
        years, forward = float(plane["years"][0]), float(plane["forward"][0])
        weight = board.sign[at] * board.open_interest[at] * board.multiplier[at]
        net = _net(board.strike_milli[at] / 1000, board.exposures["iv"][at], weight, years, forward, rate)
    return _profile(board, rows, usable, spot, net)


def _profile(board: Board, rows: slice, usable: Mask, spot: float | None, net: Floats | None) -> GammaProfile:
    interest = board.known_interest
    in_scope = float(interest[rows][board.in_scope[rows]].sum())
    share = float(interest[rows][usable[rows]].sum()) / in_scope if in_scope else None
    if spot is None:
        status = NO_SPOT
    elif share is None:
        status = NO_INTEREST
    else:
        status = INSUFFICIENT_IV if share < LEAST_SHARE else OK
    return GammaProfile(spot, net, share, status)


def _net(strikes: Floats, iv: Floats, weight: Floats, years: float, forward: float, rate: float) -> Floats:
    """Net GEX of one plane on the grid, from contracts by strike."""
    # the call and the put of a strike share its volatility: one exponential serves both
    starts = np.flatnonzero(np.append(True, (np.diff(strikes) != 0) | (np.diff(iv) != 0)))
    weight, strikes, iv = np.add.reduceat(weight, starts), strikes[starts], iv[starts]
    deviation = iv * math.sqrt(years)
    slope = 1 / deviation
    offset = np.log(forward / strikes) * slope + deviation / 2
    scale = weight * slope * (0.01 * math.exp(-rate * years) * forward / math.sqrt(2 * math.pi))
    net = np.empty(len(GRID))
    buffer = np.empty((_CHUNK, len(strikes)))
    for first in range(0, len(GRID), _CHUNK):
        moves = _LOG_GRID[first : first + _CHUNK]
        d1 = buffer[: len(moves)]
        np.multiply(moves[:, None], slope, out=d1)
        d1 += offset
        np.square(d1, out=d1)
        d1 *= -0.5
        np.exp(d1, out=d1)
        d1 *= scale
        d1.sum(axis=1, out=net[first : first + _CHUNK])
    net *= GRID
    return net
