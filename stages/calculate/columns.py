"""What never changes about a plane's contracts, as columns: the tick's arithmetic runs over whole planes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contracts.analytics import Reason
from contracts.geometry import Plane
from contracts.symbology import CALL

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]

NO_ROW = -1
_EXCLUDED = {"": Reason.KEPT, "expired": Reason.EXPIRED}  # any other reason is an adjustment


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """One plane's contracts in geometry order, and its strikes: those of adjusted contracts left out.

    `strikes` are dollars or index points, ascending; `calls` and `puts` are the row at each strike, `NO_ROW` where
    that side is not listed.
    """

    settlement_ts: float
    is_call: Mask
    strike: Floats  # per contract
    sign: Floats  # +1 calls, -1 puts
    multiplier: Floats
    excluded: npt.NDArray[np.int32]  # Reason its listing gives, KEPT if none
    strikes: Floats
    calls: Rows
    puts: Rows
    strike_of: Rows  # per contract the number of its strike, NO_ROW for adjusted ones


def compile_columns(plane: Plane) -> Columns:
    """The columns of a plane, made once per epoch."""
    is_call = np.array([row.type == CALL for row in plane.rows], np.bool_)
    strike_milli = np.array([row.strike_milli for row in plane.rows], np.int64)
    excluded = np.array([_EXCLUDED.get(row.eligible, Reason.ADJUSTED) for row in plane.rows], np.int32)
    standard = np.flatnonzero(excluded != Reason.ADJUSTED)
    strikes_milli, at = np.unique(strike_milli[standard], return_inverse=True)
    calls, puts = np.full((2, len(strikes_milli)), NO_ROW, np.intp)
    strike_of = np.full(len(plane.rows), NO_ROW, np.intp)
    strike_of[standard] = at
    calls[at[is_call[standard]]] = standard[is_call[standard]]
    puts[at[~is_call[standard]]] = standard[~is_call[standard]]
    return Columns(
        settlement_ts=plane.settlement_ts,
        is_call=is_call,
        strike=strike_milli / 1000.0,
        sign=np.where(is_call, 1.0, -1.0),
        multiplier=np.array([row.multiplier for row in plane.rows], np.float64),
        excluded=excluded,
        strikes=strikes_milli / 1000.0,
        calls=calls,
        puts=puts,
        strike_of=strike_of,
    )
