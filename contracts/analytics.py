"""The cut: what a tick saw of one plane, and what it computed from exactly that.

Calculate's tick stores, in the plane's `analytics` layer, the rows it read beside the tiles and exposures of
those same rows. The JSON models of a tick are built from the cuts of all planes, so they can be joined and
audited: same epoch, same tick, same plane versions.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from contracts.errors import DataError
from contracts.planes import (
    CHAIN_ROW,
    HEADER_BYTES,
    QUOTE_ROW,
    Array,
    Ints,
    pack_header,
    unpack_header,
)

MODEL_VERSION = 1  # raised together with any definition of a published number


class Source(IntEnum):
    """Where the greeks of a contract came from, in order of preference."""

    VENUE = 0  # the provider's
    OWN = 1  # computed from an implied volatility of our own
    INTERP = 2  # interpolated in strike
    NONE = 3


class Reason(IntEnum):
    """Why a contract is left out of the sums; `KEPT` is in them."""

    KEPT = 0
    NO_IV = 1  # no usable greeks
    NO_OI = 2
    ADJUSTED = 3
    EXPIRED = 4


# gamma: per point of spot, as used. gex: US dollars of delta per 1 % move, calls +, puts -. gamma_oi: gamma
# times open interest times multiplier. What is unknown or left out is NaN.
EXPOSURE_ROW = np.dtype([("gamma", "<f8"), ("gex", "<f8"), ("gamma_oi", "<f8"), ("source", "<i4"), ("reason", "<i4")])

_CELLS = np.dtype("<i8")


@dataclass(frozen=True, slots=True)
class Moment:
    """What a published model belongs to and how complete it is. Times are epoch seconds.

    `ts` and `spot_ts` are on the market clock; `complete_to` is the feed receive time up to which every frame
    is included; `seq` is the symbol's number of published events.
    """

    symbol: str
    epoch: str
    seq: int
    tick: int
    ts: float
    complete_to: float | None
    spot: float | None
    spot_ts: float | None


@dataclass(frozen=True, slots=True, eq=False)
class AnalyticsCut:
    """One plane at one tick; rows in geometry order, cells in plan order.

    Blob: HEADER (rows = contracts, tick), the number of cells as int64, then quotes, chain, exposures and
    tiles, packed little-endian one after the other.
    """

    tick: int
    version: int  # of the quotes
    watermark: float  # feed receive time up to which those quotes include every frame
    quotes: Array  # QUOTE_ROW per contract
    chain: Array  # CHAIN_ROW per contract
    cells: Ints  # shape (4, cells), in the order of TILE_FIELDS
    exposures: Array  # EXPOSURE_ROW per contract

    def encode(self) -> bytes:
        """The blob of the analytics layer."""
        return b"".join(
            (
                pack_header(self.version, self.watermark, len(self.quotes), self.tick),
                np.array(self.cells.shape[1], _CELLS).tobytes(),
                self.quotes.tobytes(),
                self.chain.tobytes(),
                self.exposures.tobytes(),
                self.cells.astype("<i4", copy=False).tobytes(),
            )
        )


def decode_cut(blob: bytes) -> AnalyticsCut:
    """Read an analytics blob (the arrays are views of it); `DataError` if its length is not what it says."""
    if len(blob) < HEADER_BYTES + _CELLS.itemsize:
        raise DataError(f"analytics layer of {len(blob)} bytes: shorter than its header")
    header = unpack_header(blob)
    contracts = int(header["rows"])
    cells = int(np.frombuffer(blob, _CELLS, 1, HEADER_BYTES)[0])
    row_bytes = QUOTE_ROW.itemsize + CHAIN_ROW.itemsize + EXPOSURE_ROW.itemsize
    expected = HEADER_BYTES + _CELLS.itemsize + contracts * row_bytes + cells * 16
    if min(contracts, cells) < 0 or len(blob) != expected:
        raise DataError(f"analytics layer of {len(blob)} bytes: {contracts} contracts and {cells} cells announced")
    quotes_at = HEADER_BYTES + _CELLS.itemsize
    chain_at = quotes_at + contracts * QUOTE_ROW.itemsize
    exposures_at = chain_at + contracts * CHAIN_ROW.itemsize
    tiles_at = exposures_at + contracts * EXPOSURE_ROW.itemsize
    return AnalyticsCut(
        tick=int(header["tick"]),
        version=int(header["version"]),
        watermark=float(header["watermark"]),
        quotes=np.frombuffer(blob, QUOTE_ROW, contracts, quotes_at),
        chain=np.frombuffer(blob, CHAIN_ROW, contracts, chain_at),
        exposures=np.frombuffer(blob, EXPOSURE_ROW, contracts, exposures_at),
        cells=np.frombuffer(blob, "<i4", 4 * cells, tiles_at).reshape(4, cells),
    )
