"""Published changes of a plane: `diff` and `reset` event data (models.md 6).

Prices travel as integers (mid2 in half-cents, buy and sell in cents), null where there is none. `cells` of a
diff holds the first cell number, then the gaps, so that neighbouring cells cost two characters each. How a client
applies them: contracts/published.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import orjson

from contracts.geometry import Plane
from contracts.plan import Plan, cell_labels, points, width_axis
from contracts.planes import TILE_FIELDS, UNKNOWN, Ints
from contracts.published import cells_crc

Indices = npt.NDArray[np.intp]


def diff_cells(before: Ints | None, after: Ints) -> Indices:
    """Cells whose prices or flags differ, ascending; all if nothing comparable was published before."""
    if before is None or before.shape != after.shape:
        return np.arange(after.shape[1])
    return np.flatnonzero((_pairs(before) != _pairs(after)).any(axis=1))


def _pairs(cells: Ints) -> npt.NDArray[np.uint64]:
    """Each cell's four int32 as two words: half as much to compare, and no copy of a layer as it is stored."""
    return np.ascontiguousarray(cells.T).view(np.uint64)


def encode_diff(
    epoch: str,
    plane: str,
    from_version: int,
    to_version: int,
    complete_to: float | None,
    cells: Ints,
    changed: Indices,
    with_crc: bool = False,
) -> bytes:
    """The `diff` event data that takes a plane's published cells to `cells`, where `changed` differ.

    `with_crc` (every 50th diff of a plane) adds the checksum of the whole plane after the change.
    """
    data: dict[str, object] = {
        "epoch": epoch,
        "plane": plane,
        "from": from_version,
        "to": to_version,
        "complete_to": complete_to,
        "cells": np.diff(changed, prepend=0).tolist(),
        **_columns(cells[:, changed]),
    }
    if with_crc:
        data["crc"] = cells_crc(cells)
    return orjson.dumps(data)


def encode_reset_plane(plane: Plane, plan: Plan, version: int, dte: int, cells: Ints) -> bytes:
    """One element of `planes` in a `reset`: the geometry of a plane and all its cells."""
    return orjson.dumps(
        {
            "id": plane.id,
            "version": version,
            "root": plane.root,
            "expiration": plane.expiration,
            "dte": dte,
            "strikes": plan.strikes,
            "cells": cell_labels(plan),
            **_columns(cells),
        }
    )


def encode_reset(
    epoch: str, reason: str, complete_to: float | None, widths: Sequence[float], planes: Sequence[bytes]
) -> bytes:
    """The `reset` event data, from the planes as `encode_reset_plane` wrote them."""
    return orjson.dumps(
        {
            "epoch": epoch,
            "reason": reason,
            "complete_to": complete_to,
            "widths": [points(milli) for milli in width_axis(widths).tolist()],
            "planes": [orjson.Fragment(plane) for plane in planes],
        }
    )


def _columns(cells: Ints) -> dict[str, list[int | None]]:
    """mid2, buy, sell and flags as lists, None where there is no price."""
    return {name: _nullable(cells[row]) for row, name in enumerate(TILE_FIELDS)}


def _nullable(values: npt.NDArray[np.int32]) -> list[int | None]:
    return [None if value == UNKNOWN else value for value in values.tolist()]
