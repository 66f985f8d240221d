"""The forward of a plane by put-call parity, and how far its strikes agree about it (models.md section 1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from contracts.analytics import ForwardSource
from contracts.planes import Array
from stages.calculate.columns import Columns, Floats

NEAR_SPOT = 0.005  # of spot: strikes within are asked for the forward
FEWEST_STRIKES = 3
INCOHERENT_POINTS = 1.0
INCOHERENT_SPOT_SHARE = 0.0003


@dataclass(frozen=True, slots=True)
class Forward:
    """Forward and coherence in points; NaN where unknown. `strikes_used` counts the strikes behind both."""

    value: float
    coherence: float
    source: ForwardSource
    strikes_used: int

    def is_incoherent(self, spot: float) -> bool:
        """Whether the strikes disagree by more than quotes of one moment do."""
        return self.coherence > max(INCOHERENT_POINTS, INCOHERENT_SPOT_SHARE * spot)


NO_FORWARD = Forward(np.nan, np.nan, ForwardSource.NONE, 0)


def mid_prices(quotes: Array) -> Floats:
    """Mid per contract in dollars, exact in half cents; NaN unless both sides quote above 0 and do not cross."""
    bid, ask = quotes["quote"]["bid"].astype(np.int64), quotes["quote"]["ask"].astype(np.int64)
    return np.where((bid > 0) & (bid <= ask), (bid + ask) / 200.0, np.nan)


def parity_forward(columns: Columns, mids: Floats, spot: float, discount: float) -> Forward:
    """`F = median(K + (C - P)/DF)` over strikes near spot where call and put have a mid, three at least.

    Else the strike of least |C - P| says it (ties: nearest spot, then the lower one), else spot does: `S/DF`.
    """
    calls, puts = at_rows(mids, columns.calls), at_rows(mids, columns.puts)
    implied = columns.strikes + (calls - puts) / discount
    known = implied > 0  # NaN is not
    near = np.flatnonzero(known & (np.abs(columns.strikes - spot) <= NEAR_SPOT * spot))
    if len(near) >= FEWEST_STRIKES:
        values = implied[near]
        spread = float(values.max() - values.min())
        return Forward(float(np.median(values)), spread, ForwardSource.PARITY, len(near))
    pairs = np.flatnonzero(known)
    if len(pairs):
        order = np.lexsort((np.abs(columns.strikes - spot)[pairs], np.abs(calls - puts)[pairs]))
        return Forward(float(implied[pairs[order[0]]]), np.nan, ForwardSource.NEAREST, 1)
    return Forward(spot / discount, np.nan, ForwardSource.SPOT, 0)


def at_rows(values: Floats, rows: np.ndarray[tuple[int], np.dtype[np.intp]]) -> Floats:
    """Values of some rows; NaN for `NO_ROW`."""
    found: Floats = np.append(values, np.nan)[rows]
    return found
