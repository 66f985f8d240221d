"""The compiled plan of a plane: which strategy cell gathers which contract rows, and how cells are numbered.

Compiled once per epoch from the frozen listing. Afterwards a quote that changes row r touches exactly
`row_cells[row_offsets[r]:row_offsets[r + 1]]`, and recomputing those cells is array work.

Strategies, legs and axes: models.md section 2.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from contracts.geometry import Plane
from contracts.symbology import CALL, PUT

BUTTERFLY = "butterfly"
VERTICAL = "vertical"
SINGLE = "single"
STRATEGIES = (BUTTERFLY, VERTICAL, SINGLE)
SIDES = (CALL, PUT)

Ints = npt.NDArray[np.int32]
Milli = npt.NDArray[np.int64]

Label = list[str | int | float]

_A = TypeVar("_A", bound=npt.NDArray[np.generic])


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The cells of one plane, numbered by strategy, side, strike, width; all arrays are read-only.

    A cell has up to three legs: bought, sold, bought. A leg it does not have carries weight 0 and points at
    the row after the last one (`row_count`), which stands for "no contract: price 0, no flags".
    """

    plane_id: str
    row_count: int  # contracts of the plane, eligible or not: quotes have this many rows
    strikes_milli: Milli  # distinct strikes of eligible contracts, ascending, thousandths of a dollar
    widths_milli: Milli  # distinct widths, ascending, thousandths of a point
    strategy: npt.NDArray[np.int8]  # per cell: number in STRATEGIES
    side: npt.NDArray[np.int8]  # per cell: number in SIDES
    strike_milli: Milli  # per cell
    width_milli: Milli  # per cell; 0 for a single, which has no width
    legs: Ints  # shape (3, cells): contract rows
    weights: Ints  # shape (3, cells): +1, -2, +1 butterfly; +1, -1, 0 vertical; +1, 0, 0 single
    row_offsets: Ints  # shape (rows + 1): where the cells of a row start in `row_cells`
    row_cells: Ints  # cells that use a row, ascending within the row

    @property
    def cell_count(self) -> int:
        """How many cells the plane has."""
        return len(self.strategy)

    @property
    def strikes(self) -> list[int | float]:
        """The strike axis in points."""
        return [points(milli) for milli in self.strikes_milli.tolist()]

    @property
    def widths(self) -> list[int | float]:
        """The width axis in points."""
        return [points(milli) for milli in self.widths_milli.tolist()]

    def block(self, strategy: str, side: str) -> slice:
        """The contiguous cells of one strategy and side."""
        block = STRATEGIES.index(strategy) * len(SIDES) + SIDES.index(side)
        order = self.strategy * np.int8(len(SIDES)) + self.side
        return slice(int(np.searchsorted(order, block)), int(np.searchsorted(order, block, "right")))


def points(milli: int) -> int | float:
    """Thousandths as points: an int where whole, so that it reads `6850` and not `6850.0`."""
    return milli // 1000 if milli % 1000 == 0 else milli / 1000


def width_axis(widths: Iterable[float]) -> Milli:
    """Widths in points as thousandths: ascending, positive, each once."""
    milli = np.unique(np.rint(np.array(tuple(widths), np.float64) * 1000).astype(np.int64))
    return milli[milli > 0]


def compile_plan(plane: Plane, widths: tuple[float, ...]) -> Plan:
    """Number the cells of a plane for these widths (points, any positive list).

    A cell exists when contracts of its side are listed and eligible at all its strikes.
    """
    widths_milli = width_axis(widths)
    ladders = [_Ladder.of(plane, side) for side in SIDES]
    blocks = [
        compile_strategy(ladder, widths_milli)
        for compile_strategy in (_butterflies, _verticals, _singles)
        for ladder in ladders
    ]
    sizes = [len(cells.strike_milli) for cells in blocks]
    legs = _frozen(np.concatenate([cells.legs for cells in blocks], axis=1).astype(np.int32))
    weights = np.concatenate([np.repeat(cells.weights, len(cells.strike_milli), axis=1) for cells in blocks], axis=1)
    row_offsets, row_cells = _cells_by_row(legs, weights, len(plane.rows))
    return Plan(
        plane_id=plane.id,
        row_count=len(plane.rows),
        strikes_milli=_frozen(np.union1d(ladders[0].strikes, ladders[1].strikes)),
        widths_milli=_frozen(widths_milli),
        strategy=_frozen(np.repeat(np.repeat(np.arange(3, dtype=np.int8), 2), sizes)),
        side=_frozen(np.repeat(np.tile(np.arange(2, dtype=np.int8), 3), sizes)),
        strike_milli=_frozen(np.concatenate([cells.strike_milli for cells in blocks])),
        width_milli=_frozen(np.concatenate([cells.width_milli for cells in blocks])),
        legs=legs,
        weights=_frozen(weights.astype(np.int32)),
        row_offsets=_frozen(row_offsets),
        row_cells=_frozen(row_cells),
    )


def cell_labels(plan: Plan) -> list[Label]:
    """`[strategy, side, strike, width]` of every cell, for the `reset` event; the width of a single is 0."""
    strikes = {milli: points(milli) for milli in plan.strikes_milli.tolist()}
    widths = {milli: points(milli) for milli in [0, *plan.widths_milli.tolist()]}
    cells = zip(
        plan.strategy.tolist(),
        plan.side.tolist(),
        plan.strike_milli.tolist(),
        plan.width_milli.tolist(),
        strict=True,
    )
    return [[STRATEGIES[n], SIDES[side], strikes[strike], widths[width]] for n, side, strike, width in cells]


@dataclass(frozen=True, slots=True, eq=False)
class _Ladder:
    """The eligible contracts of one side, by strike."""

    side: str
    strikes: Milli
    rows: Milli
    no_leg: int  # the row that stands for "no contract"

    @classmethod
    def of(cls, plane: Plane, side: str) -> _Ladder:
        listed = [(row.strike_milli, n) for n, row in enumerate(plane.rows) if row.type == side and not row.eligible]
        listed.sort()
        table = np.array(listed, np.int64).reshape(-1, 2)
        return cls(side, table[:, 0], table[:, 1], len(plane.rows))

    def find(self, strikes: Milli) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
        """Where each strike stands on the ladder, and whether it does."""
        at = np.minimum(np.searchsorted(self.strikes, strikes), max(len(self.strikes) - 1, 0))
        return at, (self.strikes[at] == strikes if len(self.strikes) else np.zeros(strikes.shape, np.bool_))


@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """The cells of one strategy and side."""

    strike_milli: Milli
    width_milli: Milli
    legs: Milli  # shape (3, cells)
    weights: Milli  # shape (3, 1): the same for all


def _butterflies(ladder: _Ladder, widths: Milli) -> _Cells:
    """+1 K-w, -2 K, +1 K+w for every strike K and width w."""
    centre = ladder.strikes[:, None]
    below, has_below = ladder.find(centre - widths)
    above, has_above = ladder.find(centre + widths)
    strike, width = np.nonzero(has_below & has_above)
    legs = np.stack([ladder.rows[below[strike, width]], ladder.rows[strike], ladder.rows[above[strike, width]]])
    return _Cells(ladder.strikes[strike], widths[width], legs, np.array([[1], [-2], [1]]))


def _verticals(ladder: _Ladder, widths: Milli) -> _Cells:
    """+1 K, -1 K+w for calls, +1 K, -1 K-w for puts."""
    away = widths if ladder.side == CALL else -widths
    sold, exists = ladder.find(ladder.strikes[:, None] + away)
    strike, width = np.nonzero(exists)
    none = np.full(len(strike), ladder.no_leg)
    legs = np.stack([ladder.rows[strike], ladder.rows[sold[strike, width]], none])
    return _Cells(ladder.strikes[strike], widths[width], legs, np.array([[1], [-1], [0]]))


def _singles(ladder: _Ladder, _widths: Milli) -> _Cells:
    """+1 K."""
    none = np.full(len(ladder.rows), ladder.no_leg)
    return _Cells(
        ladder.strikes,
        np.zeros_like(ladder.strikes),
        np.stack([ladder.rows, none, none]),
        np.array([[1], [0], [0]]),
    )


def _cells_by_row(legs: Ints, weights: Milli, row_count: int) -> tuple[Ints, Ints]:
    """The inverse of `legs`, as offsets per row into one list of cells."""
    cell, leg = np.nonzero(weights.T)
    row = legs[leg, cell]
    offsets = np.zeros(row_count + 1, np.int32)
    np.cumsum(np.bincount(row, minlength=row_count), out=offsets[1:])
    # a stable sort keeps the cells of one row ascending
    return offsets, cell[np.argsort(row, kind="stable")].astype(np.int32)


def _frozen(array: _A) -> _A:
    array.flags.writeable = False
    return array
