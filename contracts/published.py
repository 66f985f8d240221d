"""What a client does with the published stream: apply a `reset`, then `diff` after `diff`, and check the checksum.

Pure. The cells of a plane are int32 of shape (4, cells): mid2, buy, sell, flags in plan order; UNKNOWN where there is
no price. The messages themselves: contracts/models.py.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from contracts.errors import DataError
from contracts.models import DiffData, ResetData, ResetPlane
from contracts.planes import TILE_FIELDS, UNKNOWN, Ints

Indices = npt.NDArray[np.intp]


def decode_diff(data: bytes) -> DiffData:
    """The data of a `diff` event; `DataError` if it is none."""
    try:
        return msgspec.json.decode(data, type=DiffData)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise DataError(f"diff: {error}") from error


def decode_reset(data: bytes) -> ResetData:
    """The data of a `reset` event; `DataError` if it is none."""
    try:
        return msgspec.json.decode(data, type=ResetData)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise DataError(f"reset: {error}") from error


def reset_cells(plane: ResetPlane) -> Ints:
    """The cells of a plane of a `reset`."""
    columns = [_known(column) for column in (plane.mid2, plane.buy, plane.sell, plane.flags)]
    if any(len(column) != len(plane.cells) for column in columns):
        raise DataError(f"reset: columns of plane {plane.id} differ in length")
    return np.array(columns, np.int32).reshape(len(TILE_FIELDS), len(plane.cells))


def changed_cells(diff: DiffData) -> Indices:
    """The cell numbers of a diff, which holds the first and then the gaps."""
    return np.cumsum(np.array(diff.cells, np.intp))


def apply(cells: Ints, diff: DiffData) -> Ints:
    """The cells after a diff; `DataError` if it does not fit them or its checksum disagrees."""
    changed = changed_cells(diff)
    columns = [_known(column) for column in (diff.mid2, diff.buy, diff.sell, diff.flags)]
    if any(len(column) != len(changed) for column in columns):
        raise DataError("diff: its columns differ in length")
    if len(changed) and (changed.min() < 0 or changed.max() >= cells.shape[1]):
        raise DataError(f"diff: names a cell outside the plane's {cells.shape[1]}")
    result = cells.copy()
    result[:, changed] = columns
    if diff.crc is not None and diff.crc != cells_crc(result):
        raise DataError(f"diff: plane {diff.plane} at version {diff.to_version} does not have the announced checksum")
    return result


def apply_diff(cells: Ints, data: bytes) -> Ints:
    """`apply` for a diff as it was published."""
    return apply(cells, decode_diff(data))


def cells_crc(cells: Ints) -> int:
    """CRC-32 of mid2, buy, sell, flags one after the other, as little-endian int32 in cell order."""
    return zlib.crc32(cells.astype("<i4", copy=False).tobytes())


def _known(values: Sequence[int | None]) -> list[int]:
    return [UNKNOWN if value is None else value for value in values]
