"""Field groups of a contract: packed records that compete newest-wins, and the strings of the readable HASH.

One table says which group lives in which layer at which offset. Values arrive here as dollars, seconds and floats and
leave as int32 cents and finished strings; unknown is the empty string in the HASH and UNKNOWN in a record.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from functools import lru_cache

import numpy as np

from contracts.errors import DataError
from contracts.keys import Layer
from contracts.planes import (
    CHAIN_ROW,
    HEADER_BYTES,
    NEVER_MS,
    QUOTE_ROW,
    RANK_CHAIN,
    STAMP_BYTES,
    TRADE_ROW,
    UNKNOWN,
    Array,
    empty_chain,
    empty_quotes,
    empty_trades,
)
from contracts.snapshot import ChainRow
from contracts.symbology import NEW_YORK

MAX_DOLLARS = 1_000_000.0
MAX_SIZE = 2**31 - 1

_QUOTE = struct.Struct("<qiiqiiii")
_TRADE = struct.Struct("<qiiqii")
_VOLUME = struct.Struct("<qiiqq")
_FMV = struct.Struct("<qiiqd")
_GREEKS = struct.Struct("<qiiq6d")
_INTEREST = struct.Struct("<qiiq2d")

# New York time at which a session's open interest begins: the provider flips between the values of two days until 07:00
INTEREST_FROM = time(7, 30)


@dataclass(frozen=True, slots=True)
class Group:
    """Where a field group lives: its layer, its place in a row, and the row's size.

    Of the `size` bytes of a record, `value_bytes` behind the stamp are values; what follows says when they were told.
    """

    layer: Layer
    name: str
    at: int
    size: int
    row_bytes: int
    value_bytes: int

    def offset(self, row: int) -> int:
        """Byte offset of this group of a row in the layer's blob."""
        return HEADER_BYTES + row * self.row_bytes + self.at


def _group(layer: Layer, dtype: np.dtype[np.void], name: str, dated_bytes: int = 0) -> Group:
    assert dtype.fields is not None
    kind, at = dtype.fields[name][:2]
    return Group(layer, name, at, kind.itemsize, dtype.itemsize, kind.itemsize - STAMP_BYTES - dated_bytes)


QUOTE = _group(Layer.QUOTES, QUOTE_ROW, "quote")
TRADE = _group(Layer.TRADES, TRADE_ROW, "trade")
VOLUME = _group(Layer.TRADES, TRADE_ROW, "volume")
FMV = _group(Layer.TRADES, TRADE_ROW, "fmv")
GREEKS = _group(Layer.CHAIN, CHAIN_ROW, "greeks", dated_bytes=8)  # chain_ts
INTEREST = _group(Layer.CHAIN, CHAIN_ROW, "interest", dated_bytes=8)  # asof
GROUPS = (QUOTE, TRADE, VOLUME, FMV, GREEKS, INTEREST)

ROW_TYPES = {Layer.QUOTES: QUOTE_ROW, Layer.TRADES: TRADE_ROW, Layer.CHAIN: CHAIN_ROW}
EMPTY_ROWS = {Layer.QUOTES: empty_quotes, Layer.TRADES: empty_trades, Layer.CHAIN: empty_chain}
SUBSTRATE_LAYERS = tuple(ROW_TYPES)


@dataclass(frozen=True, slots=True)
class Record:
    """A group's new content: the packed stamp and values, and the HASH fields that say the same."""

    group: Group
    packed: bytes
    fields: tuple[str, ...]

    def newer_than(self, stored: bytes) -> bool:
        """Whether this record replaces `stored` (same group)."""
        return is_newer(self.packed, stored)

    def changes_value(self, stored: bytes) -> bool:
        """Whether this record says anything else than `stored` (same group), apart from when it was told."""
        values = slice(STAMP_BYTES, STAMP_BYTES + self.group.value_bytes)
        return self.packed[values] != stored[values]


def is_newer(packed: bytes, stored: bytes) -> bool:
    """Newest-wins: (ms, rank, seq), then the values as unsigned 32-bit words."""
    ms, rank, _, seq = struct.unpack_from("<qiiq", packed)
    old_ms, old_rank, _, old_seq = struct.unpack_from("<qiiq", stored)
    if (ms, rank, seq) != (old_ms, old_rank, old_seq):
        return bool((ms, rank, seq) > (old_ms, old_rank, old_seq))
    words = f"<{(len(packed) - 24) // 4}I"
    return struct.unpack_from(words, packed, 24) > struct.unpack_from(words, stored, 24)


def is_told(packed: bytes) -> bool:
    """Whether a group was ever written (a value without a stamp has the time 0)."""
    return bool(struct.unpack_from("<q", packed)[0] != NEVER_MS)


# --- values


def cents(dollars: float | None) -> int:
    """A price in whole cents; UNKNOWN for None. DataError for negative, sub-cent, absurd or non-finite prices."""
    if dollars is None:
        return UNKNOWN
    if not 0.0 <= dollars < MAX_DOLLARS:
        raise DataError(f"price {dollars!r} out of range")
    scaled = dollars * 100.0
    whole = round(scaled)
    if abs(scaled - whole) > 1e-6:
        raise DataError(f"sub-cent price {dollars!r}")
    return whole


def count(size: float | None) -> int:
    """A size in contracts; UNKNOWN for None."""
    if size is None:
        return UNKNOWN
    if not 0 <= size <= MAX_SIZE:
        raise DataError(f"size {size!r} out of range")
    return int(size)


def dollars_text(value: int) -> str:
    """Cents as dollars with two decimals; unknown is empty."""
    return "" if value == UNKNOWN else f"{value // 100}.{value % 100:02d}"


def mid_text(bid: int, ask: int) -> str:
    """The mid in dollars, three decimals; empty unless bid and ask are above 0."""
    if bid <= 0 or ask <= 0:
        return ""
    twice = bid + ask
    return f"{twice // 200}.{twice % 200 * 5:03d}"


def seconds_text(ms: int) -> str:
    """Epoch milliseconds as seconds; a value without a stamp (0) has no time."""
    return f"{ms // 1000}.{ms % 1000:03d}" if ms > 0 else ""


def _count_text(value: int) -> str:
    return "" if value == UNKNOWN else str(value)


def _float_text(value: float) -> str:
    return "" if math.isnan(value) else repr(value)


# --- records


def quote_record(ms: int, rank: int, seq: int, bid: int, ask: int, bid_size: int, ask_size: int) -> Record:
    """bid, ask in cents; sizes in contracts."""
    fields = (
        "bid", dollars_text(bid), "ask", dollars_text(ask), "mid", mid_text(bid, ask),
        "bid_size", _count_text(bid_size), "ask_size", _count_text(ask_size),
        "ts", seconds_text(ms), "seq", str(seq) if seq >= 0 else "",
    )  # fmt: skip
    return Record(QUOTE, _QUOTE.pack(ms, rank, 0, seq, bid, ask, bid_size, ask_size), fields)


def trade_record(ms: int, rank: int, seq: int, last: int, last_size: int) -> Record:
    """last in cents."""
    fields = (
        "last", dollars_text(last), "last_size", _count_text(last_size),
        "last_ts", seconds_text(ms), "last_seq", str(seq) if seq >= 0 else "",
    )  # fmt: skip
    return Record(TRADE, _TRADE.pack(ms, rank, 0, seq, last, last_size), fields)


def volume_record(ms: int, rank: int, volume: int) -> Record:
    """The session's accumulated volume in contracts; it is never added up."""
    return Record(VOLUME, _VOLUME.pack(ms, rank, 0, -1, volume), ("volume", str(volume)))


def fmv_record(ms: int, rank: int, fmv: float) -> Record:
    """The provider's fair market value in dollars; the only price that may be below a cent."""
    return Record(FMV, _FMV.pack(ms, rank, 0, -1, fmv), ("fmv", repr(fmv), "fmv_ts", seconds_text(ms)))


def interest_record(fetch: int, oi: float, asof: float) -> Record:
    """Open interest in contracts, of the session that began at `asof`."""
    return Record(INTEREST, _INTEREST.pack(fetch, RANK_CHAIN, 0, -1, oi, asof), ("oi", _float_text(oi)))


def interest_session_ts(market_ts: float) -> float:
    """Start (epoch seconds) of the session whose open interest is told at this market time."""
    return _session_ts(market_ts // 60)


@lru_cache(maxsize=16)
def _session_ts(minute: float) -> float:
    at = datetime.fromtimestamp(minute * 60, NEW_YORK)
    day = at.date() if at.time() >= INTEREST_FROM else at.date() - timedelta(days=1)
    return datetime.combine(day, INTEREST_FROM, NEW_YORK).timestamp()


def is_latched(record: Record, stored: bytes, fetch: int) -> bool:
    """Whether the stored open interest stays although `record` is newer: it is of the same session.

    `fetch` is the newest fetch that was applied as a whole: what a fetch that never finished left behind is no latch,
    so that the result does not depend on where it was killed.
    """
    if record.group is not INTEREST:
        return False
    asof = _INTEREST.unpack(record.packed)[-1]
    stored_by, *_, stored_oi, stored_asof = _INTEREST.unpack(stored)
    return stored_asof == asof and stored_by <= fetch and not math.isnan(stored_oi)


def chain_records(row: ChainRow, fetch: int, snapshot_ts: float) -> Iterable[Record]:
    """The groups of a snapshot row, each by its own stamp; greeks and open interest by fetch number.

    Raises DataError when a price or size of the row cannot be used.
    """
    snapshot_ms = round(snapshot_ts * 1000)
    if row.bid is not None or row.ask is not None:
        stamp = _ms(row.quote_ts)
        yield quote_record(
            stamp, RANK_CHAIN, -1, cents(row.bid), cents(row.ask), count(row.bid_size), count(row.ask_size)
        )
    if row.last is not None:
        yield trade_record(_ms(row.last_ts), RANK_CHAIN, -1, cents(row.last), count(row.last_size))
    if row.volume is not None:
        yield volume_record(snapshot_ms, RANK_CHAIN, int(row.volume))
    if row.fmv is not None:
        yield fmv_record(snapshot_ms, RANK_CHAIN, row.fmv)
    greeks = tuple(math.nan if one is None else one for one in (row.iv, row.delta, row.gamma, row.theta, row.vega))
    if not all(math.isnan(one) for one in greeks):
        names = ("iv", "delta", "gamma", "theta", "vega")
        fields = [part for name, one in zip(names, greeks, strict=True) for part in (name, _float_text(one))]
        packed = _GREEKS.pack(fetch, RANK_CHAIN, 0, -1, *greeks, snapshot_ts)
        yield Record(GREEKS, packed, (*fields, "chain_ts", repr(snapshot_ts)))
    if row.oi is not None:
        yield interest_record(fetch, row.oi, interest_session_ts(snapshot_ts))


def _ms(ts: float | None) -> int:
    return 0 if ts is None else round(ts * 1000)


def put_record(rows: Array, row: int, record: Record) -> None:
    """Write a record into unpacked rows (a plane being built)."""
    group = rows[record.group.name]
    group[row] = np.frombuffer(record.packed, group.dtype)[0]


# --- the readable HASH

CONTRACT_FIELDS = (
    "id", "underlying", "root", "expiration", "strike", "type", "settlement", "exercise", "multiplier", "eligible",
    "bid", "ask", "mid", "bid_size", "ask_size", "ts", "seq", "last", "last_size", "last_ts", "last_seq", "volume",
    "iv", "delta", "gamma", "theta", "vega", "oi", "chain_ts", "fmv", "fmv_ts",
)  # fmt: skip


def fields_of(group: Group, packed: bytes) -> tuple[str, ...]:
    """The HASH fields of a packed record: what `*_record` said when it was made."""
    ms, rank, _, seq = struct.unpack_from("<qiiq", packed)
    if group is QUOTE:
        return quote_record(ms, rank, seq, *struct.unpack_from("<4i", packed, 24)).fields
    if group is TRADE:
        return trade_record(ms, rank, seq, *struct.unpack_from("<2i", packed, 24)).fields
    if group is VOLUME:
        return volume_record(ms, rank, *struct.unpack_from("<q", packed, 24)).fields
    if group is FMV:
        return fmv_record(ms, rank, *struct.unpack_from("<d", packed, 24)).fields
    if group is INTEREST:
        return interest_record(ms, *struct.unpack_from("<2d", packed, 24)).fields
    values = struct.unpack_from("<6d", packed, 24)
    names = ("iv", "delta", "gamma", "theta", "vega", "chain_ts")
    return tuple(part for name, one in zip(names, values, strict=True) for part in (name, _float_text(one)))
