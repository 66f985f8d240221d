"""Tiles: prices and flags of strategy cells from the quotes of their legs, in exact integers.

A tile depends on its legs' rows only, so it is the same however events were cut into batches: recomputing the
touched cells equals recomputing all. Definitions: models.md sections 1 (flags) and 2 (prices).
"""

from __future__ import annotations

from enum import IntFlag

import numpy as np
import numpy.typing as npt

from contracts.plan import Plan
from contracts.planes import UNKNOWN, Array, Ints

Rows = npt.NDArray[np.integer]

WIDE_CENTS = 50  # a spread above max(0.50, a quarter of the mid) is wide


class Flag(IntFlag):
    """Quality bits of the event path, per leg or-ed into the tile; `ARBITRAGE` is the tile's own."""

    NO_BID = 1  # 0 or unknown
    NO_ASK = 2  # 0 or unknown
    CROSSED = 4
    WIDE = 8
    ARBITRAGE = 16  # natural debit of a butterfly or vertical at or below 0, or above its width
    MISSING_LEG = 32  # a leg with neither side


_NO_MID = int(Flag.NO_BID | Flag.NO_ASK)
_NO_ASK = int(Flag.NO_ASK)
_UNKNOWN_BID = 64  # internal: nothing can be sold on this leg, not even for nothing
_PUBLISHED = _UNKNOWN_BID - 1
_LARGEST = 2**31 - 1


def compute_tiles(plan: Plan, quotes: Array) -> Ints:
    """All cells of a plane from its QUOTE_ROW rows: int32, shape (4, cells), in the order of `TILE_FIELDS`.

    mid2 is twice the mid in cents (bid + ask per leg), buy and sell are cents; UNKNOWN is no price.
    """
    return _price(plan, quotes, slice(None))


def recompute_tiles(plan: Plan, quotes: Array, cells: Ints, rows: Rows) -> Ints:
    """A copy of `cells` where those that use one of `rows` are computed again.

    Equals `compute_tiles` if no other row changed since `cells`.
    """
    return recompute_cells(plan, quotes, cells, touched_cells(plan, rows))


def recompute_cells(plan: Plan, quotes: Array, cells: Ints, touched: npt.NDArray[np.intp]) -> Ints:
    """A copy of `cells` where the `touched` ones are computed again."""
    if computed_count(plan, len(touched)) > len(touched):
        return compute_tiles(plan, quotes)
    result = cells.copy(order="K")  # the layout of the blob stays, so encoding it is no work
    result[:, touched] = _price(plan, quotes, touched)
    return result


def computed_count(plan: Plan, touched: int) -> int:
    """How many cells are computed for so many touched ones: all of a plane when that is at most half as many again."""
    return plan.cell_count if 3 * touched > 2 * plan.cell_count else touched


def touched_cells(plan: Plan, rows: Rows) -> npt.NDArray[np.intp]:
    """The cells that use any of these contract rows, ascending, each once."""
    starts = plan.row_offsets[rows]
    counts = plan.row_offsets[rows + 1] - starts
    # one range per row, laid end to end: position in the whole, minus where its own range began
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    touched = np.zeros(plan.cell_count, np.bool_)
    touched[plan.row_cells[np.arange(total) + np.repeat(starts - ends + counts, counts)]] = True
    return np.flatnonzero(touched)


def dirty_rows(quotes: Array, version: int) -> npt.NDArray[np.intp]:
    """Rows whose bid or ask changed after plane version `version`."""
    return np.flatnonzero(quotes["row_version"] > version)


def _price(plan: Plan, quotes: Array, cells: slice | npt.NDArray[np.intp]) -> Ints:
    """The cells at `cells`, as (4, n)."""
    # each of shape (3, n): bought, sold, bought
    bid, ask, mid2, quality = _legs(quotes).take(plan.legs[:, cells], axis=1)
    sold = plan.weights[1, cells]  # -2, -1 or 0; what is bought is bought once
    bought_quality, sold_quality = quality[0] | quality[2], quality[1]
    any_quality = bought_quality | sold_quality

    prices = np.empty((3, len(sold)), np.int64)
    missing = np.empty((3, len(sold)), np.int64)
    prices[0] = mid2[0] + sold * mid2[1] + mid2[2]
    missing[0] = any_quality & _NO_MID
    # buying needs the ask of what is bought and the bid of what is sold; selling the reverse
    prices[1] = ask[0] + sold * bid[1] + ask[2]
    missing[1] = (bought_quality & _NO_ASK) | (sold_quality & _UNKNOWN_BID)
    prices[2] = bid[0] + sold * ask[1] + bid[2]
    missing[2] = (bought_quality & _UNKNOWN_BID) | (sold_quality & _NO_ASK)

    result = np.empty((4, len(sold)), np.int32)
    result[:3] = np.where((missing == 0) & (np.abs(prices) <= _LARGEST), prices, UNKNOWN)
    result[3] = any_quality & _PUBLISHED
    result[3, _arbitrage(prices[1], missing[1], plan.width_milli[cells])] |= int(Flag.ARBITRAGE)
    return result


def _arbitrage(
    buy: npt.NDArray[np.int64], missing: npt.NDArray[np.int64], width_milli: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Where a butterfly or vertical (a cell with a width) costs nothing, or more than it can ever pay."""
    found: npt.NDArray[np.bool_] = ((buy <= 0) | (buy * 10 > width_milli)) & (width_milli > 0) & (missing == 0)
    return found


def _legs(quotes: Array) -> npt.NDArray[np.int64]:
    """Per contract row bid, ask, twice the mid (cents) and quality bits; then one row that stands for no leg.

    64 bits wide, so that neither sums nor UNKNOWN can overflow. An unknown price reads 0: its bit says so.
    """
    legs = np.zeros((4, len(quotes) + 1), np.int64)
    bid, ask, mid2, quality = legs[:, :-1]
    bid[:] = quotes["quote"]["bid"]
    ask[:] = quotes["quote"]["ask"]
    unknown_bid = bid < 0
    np.maximum(legs[:2], 0, out=legs[:2])
    np.add(bid, ask, out=mid2)
    spread = ask - bid
    no_bid, no_ask = bid == 0, ask == 0
    two_sided = ~(no_bid | no_ask)
    quality |= unknown_bid * _UNKNOWN_BID
    quality |= no_bid * int(Flag.NO_BID)
    quality |= no_ask * int(Flag.NO_ASK)
    quality |= (no_bid & no_ask) * int(Flag.MISSING_LEG)
    quality |= (two_sided & (spread < 0)) * int(Flag.CROSSED)
    # ask - bid > mid / 4, both sides times 8
    quality |= (two_sided & (spread > WIDE_CENTS) & (spread * 8 > mid2)) * int(Flag.WIDE)
    return legs
