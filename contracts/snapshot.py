"""The chain snapshot: one expiration of one underlying as the provider told it, immutable JSON.

Units: prices in dollars, times in seconds, theta per day, vega per volatility point. Unknown is null.
"""

from __future__ import annotations

import msgspec

from contracts.errors import UNDECODABLE, DataError


class ChainRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One contract of a snapshot. `eligible` is 1, or the reason the contract takes no part in models."""

    id: str
    root: str
    type: str
    strike: float
    settlement: str
    exercise: str
    multiplier: int
    eligible: int | str = 1
    bid: float | None = None
    ask: float | None = None
    bid_size: int | None = None
    ask_size: int | None = None
    quote_ts: float | None = None
    last: float | None = None
    last_size: int | None = None
    last_ts: float | None = None
    volume: int | None = None
    iv: float | None = None
    delta: float | None = None
    gamma: float | None = None
    theta: float | None = None
    vega: float | None = None
    oi: float | None = None
    fmv: float | None = None


class ChainSnapshot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The value of `massive:chain:snapshot:{U}:{EXP}:{TS_MS}`; `ts` on the market clock."""

    ts: float
    underlying: str
    expiration: str
    atm: int
    range_points: int
    contracts: tuple[ChainRow, ...]


def encode_snapshot(snapshot: ChainSnapshot) -> bytes:
    """The JSON of a snapshot."""
    return msgspec.json.encode(snapshot)


def decode_snapshot(blob: bytes) -> ChainSnapshot:
    """Read a snapshot; `DataError` names the field that is wrong."""
    try:
        return msgspec.json.decode(blob, type=ChainSnapshot)
    except UNDECODABLE as error:
        raise DataError(f"chain snapshot: {error}") from error
