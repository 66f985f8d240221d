"""Packed plane layers: documented numpy dtypes, little-endian, one row per contract or tile in plan order.

Every blob starts with a `HEADER`. `version` is the version this blob was made at: for quotes its own, for derived
layers the quotes version they were computed from. `watermark` is the feed receive time (epoch seconds) up to which
every frame is included. Prices are int32 cents; unknown is `UNKNOWN`.

Rows of the first three layers consist of *field groups*, each a `STAMP` followed by its values. A group is replaced
as a whole, and only by a newer stamp: larger (ms, rank, seq), ties by the values' own bytes as unsigned words.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

UNKNOWN = -(2**31)  # int32 for "unknown"
UNKNOWN_COUNT = -1  # int64 for "unknown" where negative has no meaning (volume)

RANK_CHAIN = 0
RANK_WS = 1

HEADER = np.dtype([("version", "<i8"), ("watermark", "<f8"), ("rows", "<i8"), ("tick", "<i8")])
HEADER_BYTES = HEADER.itemsize  # 32

STAMP_FIELDS: list[tuple[str, str]] = [("ms", "<i8"), ("rank", "<i4"), ("spare", "<i4"), ("seq", "<i8")]
STAMP_BYTES = 24
NEVER_MS = -1  # stamp of an empty group: anything is newer, also a value without a stamp (ms = 0)


def _group(*values: tuple[str, str]) -> np.dtype[np.void]:
    return np.dtype([*STAMP_FIELDS, *values])


QUOTE = _group(("bid", "<i4"), ("ask", "<i4"), ("bid_size", "<i4"), ("ask_size", "<i4"))
TRADE = _group(("last", "<i4"), ("last_size", "<i4"))
VOLUME = _group(("volume", "<i8"))
FMV = _group(("fmv", "<f8"))
GREEKS = _group(
    ("iv", "<f8"), ("delta", "<f8"), ("gamma", "<f8"), ("theta", "<f8"), ("vega", "<f8"), ("chain_ts", "<f8")
)
# `asof`: start of the open-interest session (epoch seconds) that `oi` is latched for
INTEREST = _group(("oi", "<f8"), ("asof", "<f8"))

# quotes: what tiles depend on. `row_version` is the plane version that last changed bid or ask.
QUOTE_ROW = np.dtype([("quote", QUOTE), ("row_version", "<i8")])
TRADE_ROW = np.dtype([("trade", TRADE), ("volume", VOLUME), ("fmv", FMV)])
CHAIN_ROW = np.dtype([("greeks", GREEKS), ("interest", INTEREST)])

# Where the values start that make a row dirty (bid, ask), and where its version is written.
QUOTE_DIRTY_BYTES = 8
QUOTE_ROW_VERSION_AT = QUOTE.itemsize

# tiles and published: one row of four int32 per cell, in cell order, so that a changed cell is one short write.
TILE_FIELDS = ("mid2", "buy", "sell", "flags")
CELL_BYTES = 16

Array = npt.NDArray[np.void]
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Tiles:
    """Cells of a plane in plan order. mid2 is twice the mid in cents, buy and sell are cents; UNKNOWN is no price.

    `version` is the quotes version they were computed from, `watermark` that version's feed receive time.
    """

    version: int
    watermark: float
    cells: Ints  # shape (4, number of cells): mid2, buy, sell, flags

    @property
    def header(self) -> bytes:
        """The header of the blob."""
        return pack_header(self.version, self.watermark, self.cells.shape[1])

    def encode(self) -> bytes:
        """The blob of the tiles and published layers."""
        return self.header + np.ascontiguousarray(self.cells.T).tobytes()

    def runs(self, changed: npt.NDArray[np.intp]) -> list[tuple[int, bytes]]:
        """(offset, bytes) of the blob for some cells (ascending), neighbours together."""
        if not len(changed):
            return []
        rows = np.ascontiguousarray(self.cells.T[changed]).tobytes()
        starts = np.flatnonzero(np.diff(changed, prepend=-2) > 1).tolist()
        ends = [*starts[1:], len(changed)]
        first = changed[starts].tolist()
        return [
            (HEADER_BYTES + cell * CELL_BYTES, rows[start * CELL_BYTES : end * CELL_BYTES])
            for cell, start, end in zip(first, starts, ends, strict=True)
        ]


def decode_tiles(blob: bytes) -> Tiles:
    """Read a tiles or published blob (the cells are a view of it)."""
    header = unpack_header(blob)
    cells = np.frombuffer(blob, "<i4", offset=HEADER_BYTES).reshape(int(header["rows"]), 4).T
    return Tiles(int(header["version"]), float(header["watermark"]), cells)


def pack_header(version: int, watermark: float, rows: int, tick: int = 0) -> bytes:
    """The 32 bytes in front of every layer."""
    return np.array((version, watermark, rows, tick), HEADER).tobytes()


def unpack_header(blob: bytes) -> np.void:
    """The header of a blob."""
    header: np.void = np.frombuffer(blob, HEADER, count=1)[0]
    return header


def pack_rows(rows: Array, version: int, watermark: float = 0.0) -> bytes:
    """A layer of rows with its header."""
    return pack_header(version, watermark, len(rows)) + rows.tobytes()


def unpack_rows(blob: bytes, dtype: np.dtype[np.void]) -> Array:
    """The rows of a layer (a view of the blob)."""
    return np.frombuffer(blob, dtype, offset=HEADER_BYTES)


def empty_quotes(count: int) -> Array:
    """Rows with no quote yet."""
    rows = np.zeros(count, QUOTE_ROW)
    _clear(rows["quote"])
    for name in ("bid", "ask", "bid_size", "ask_size"):
        rows["quote"][name] = UNKNOWN
    return rows


def empty_trades(count: int) -> Array:
    """Rows with no trade, volume or fair value yet."""
    rows = np.zeros(count, TRADE_ROW)
    for group in ("trade", "volume", "fmv"):
        _clear(rows[group])
    rows["trade"]["last"] = UNKNOWN
    rows["trade"]["last_size"] = UNKNOWN
    rows["volume"]["volume"] = UNKNOWN_COUNT
    rows["fmv"]["fmv"] = np.nan
    return rows


def empty_chain(count: int) -> Array:
    """Rows with no greeks or open interest yet."""
    rows = np.zeros(count, CHAIN_ROW)
    _clear(rows["greeks"])
    _clear(rows["interest"])
    for name in ("iv", "delta", "gamma", "theta", "vega", "chain_ts"):
        rows["greeks"][name] = np.nan
    for name in ("oi", "asof"):
        rows["interest"][name] = np.nan
    return rows


def _clear(group: npt.NDArray[np.void]) -> None:
    group["ms"] = NEVER_MS
    group["rank"] = RANK_CHAIN
    group["seq"] = -1
