"""The cut: what a tick saw of one plane, and what it computed from exactly that.

Calculate's tick stores, in the plane's `analytics` layer, the rows it read beside the tiles and exposures of
those same rows. The JSON models of a tick are built from the cuts of all planes, so they can be joined and
audited: same epoch, same tick, same plane versions.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag

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

MODEL_VERSION = 2  # raised together with any definition of a published number
MINUTES_PER_YEAR = 525_600


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


class TickFlag(IntFlag):
    """Quality bits of the tick path (models.md 1); the lower bits are the event path's, in tiles."""

    STALE = 64  # per row: older than the plane's newest quote by more than MASSIVE_STALE_SEC
    NEAR_EXPIRY = 128  # per plane: less than a minute is left, counted as one
    INCOHERENT = 256  # per plane: its strikes disagree about the forward


class ForwardSource(IntEnum):
    """How a plane's forward was found."""

    PARITY = 0  # median over at least three two-sided strikes near spot
    NEAREST = 1  # the strike of least |C - P|
    SPOT = 2  # spot / DF: no strike quotes both sides
    NONE = 3  # no spot, or the plane has settled


# Per contract, all with respect to spot; what is unknown or left out is NaN.
EXPOSURE_ROW = np.dtype(
    [
        ("iv", "<f8"),  # own implied volatility of this strike, per square root of a year (never the provider's)
        ("delta", "<f8"),  # as used (`source` says whose)
        ("gamma", "<f8"),  # per point of spot, as used
        ("vanna", "<f8"),  # d delta / d volatility (per 1.00 of volatility), own
        ("delta_15m", "<f8"),  # delta after 15 minutes of market time, the rest unchanged; intrinsic if settled then
        ("gex", "<f8"),  # US dollars of delta per 1 % move, calls +, puts -
        ("gamma_oi", "<f8"),  # gamma x open interest x multiplier
        ("volume", "<f8"),  # contracts traded this session, as read at the tick
        ("source", "<i4"),  # Source of delta and gamma
        ("reason", "<i4"),  # Reason
        ("flags", "<i4"),  # TickFlag: STALE
        ("reserved", "<i4"),
    ]
)

# Per plane, at the moment of the tick; unknown is NaN.
PLANE_ROW = np.dtype(
    [
        ("years", "<f8"),  # T: minutes to settlement / 525600, at least one minute; NaN once settled
        ("forward", "<f8"),  # F, index points
        ("coherence", "<f8"),  # max - min of K + (C - P)/DF, index points
        ("sigma_forward", "<f8"),  # own volatility interpolated in strike at F
        ("em_1sigma", "<f8"),  # F sigma_F sqrt(T), index points
        ("straddle", "<f8"),  # Black-76 straddle struck at F with sigma_F, index points
        ("forward_source", "<i4"),  # ForwardSource
        ("strikes_used", "<i4"),  # strikes behind forward and coherence
        ("flags", "<i4"),  # TickFlag: NEAR_EXPIRY, INCOHERENT
        ("reserved", "<i4"),
    ]
)

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

    Blob: HEADER (rows = contracts, tick), the number of cells as int64, then the plane's own row, quotes, chain,
    exposures and tiles, packed little-endian one after the other.
    """

    tick: int
    version: int  # of the quotes
    watermark: float  # feed receive time up to which those quotes include every frame
    quotes: Array  # QUOTE_ROW per contract
    chain: Array  # CHAIN_ROW per contract
    cells: Ints  # shape (4, cells), in the order of TILE_FIELDS
    exposures: Array  # EXPOSURE_ROW per contract
    plane: Array  # PLANE_ROW, one

    def encode(self) -> bytes:
        """The blob of the analytics layer."""
        return b"".join(
            (
                pack_header(self.version, self.watermark, len(self.quotes), self.tick),
                np.array(self.cells.shape[1], _CELLS).tobytes(),
                self.plane.tobytes(),
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
    rows_at = HEADER_BYTES + _CELLS.itemsize
    row_bytes = QUOTE_ROW.itemsize + CHAIN_ROW.itemsize + EXPOSURE_ROW.itemsize
    expected = rows_at + PLANE_ROW.itemsize + contracts * row_bytes + cells * 16
    if min(contracts, cells) < 0 or len(blob) != expected:
        raise DataError(f"analytics layer of {len(blob)} bytes: {contracts} contracts and {cells} cells announced")
    quotes_at = rows_at + PLANE_ROW.itemsize
    chain_at = quotes_at + contracts * QUOTE_ROW.itemsize
    exposures_at = chain_at + contracts * CHAIN_ROW.itemsize
    tiles_at = exposures_at + contracts * EXPOSURE_ROW.itemsize
    return AnalyticsCut(
        tick=int(header["tick"]),
        version=int(header["version"]),
        watermark=float(header["watermark"]),
        quotes=np.frombuffer(blob, QUOTE_ROW, contracts, quotes_at),
        chain=np.frombuffer(blob, CHAIN_ROW, contracts, chain_at),
        plane=np.frombuffer(blob, PLANE_ROW, 1, rows_at),
        exposures=np.frombuffer(blob, EXPOSURE_ROW, contracts, exposures_at),
        cells=np.frombuffer(blob, "<i4", 4 * cells, tiles_at).reshape(4, cells),
    )
