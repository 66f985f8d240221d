"""Tile layers (tiles, published): reading them against `versions`, remembering them, and writing what changed.

A derived layer counts only if its header agrees with `versions`: derived data is not persisted, so after a restart
of the server a layer may be older or gone.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from contracts.commit import Guard, Patch, SetValue, StartsWith, Write
from contracts.planes import HEADER_BYTES, Tiles, decode_tiles, unpack_header

PATCH_BELOW = 128  # changed cells; for more, writing the plane whole is cheaper (measured at 5,500 cells)

Cells = npt.NDArray[np.intp]


class KnownTiles:
    """The newest tiles this process has seen, per plane of the newest epoch of a symbol.

    The cells of a version are a function of the version, so what is known of it need not be read again. It saves
    reading and is never needed: what is not known is read or computed.
    """

    def __init__(self) -> None:
        self._tiles: dict[tuple[str, str], Tiles] = {}

    def get(self, epoch: str, plane: str, head: Tiles) -> Tiles | None:
        """The tiles of a plane that this header belongs to.

        The watermark tells a version from its namesake: a server restored from an older log counts the same numbers
        again.
        """
        found = self._tiles.get((epoch, plane))
        if found is None or (found.version, found.watermark) != (head.version, head.watermark):
            return None
        return found

    def put(self, epoch: str, plane: str, tiles: Tiles) -> None:
        """Remember a plane's tiles, and forget those of other epochs of the symbol."""
        symbol = epoch.partition(":")[0]
        if (epoch, plane) not in self._tiles:
            for other in [key for key in self._tiles if key[0] != epoch and key[0].partition(":")[0] == symbol]:
                del self._tiles[other]
        self._tiles[epoch, plane] = tiles


def layer_of(blob: object, version: int) -> Tiles | None:
    """A derived layer, if it is the one that `versions` names. Of a header alone the cells stay empty."""
    if not isinstance(blob, bytes) or len(blob) < HEADER_BYTES or not version:
        return None
    header = unpack_header(blob)
    if int(header["version"]) != version:
        return None
    if len(blob) == HEADER_BYTES and int(header["rows"]):
        return Tiles(version, float(header["watermark"]), np.empty((4, 0), np.int32))
    return decode_tiles(blob)


def layer_write(
    key: str, before: Tiles | None, after: Tiles, changed: Cells, ttl_ms: int
) -> tuple[tuple[Guard, ...], Write]:
    """Bring a layer from `before` (None: not there) to `after`: a patch of the changed cells, or all of it."""
    if before is None or len(changed) > PATCH_BELOW:
        return (), SetValue(key, after.encode(), ttl_ms, derived=True)
    return (StartsWith(key, before.header),), Patch(key, ((0, after.header), *after.runs(changed)))
