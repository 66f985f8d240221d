"""What a tick looks at: the active epoch, the clock, the job, what waits, all read at one moment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np

from contracts.clock import MarketClock, decode_clock
from contracts.geometry import Geometry, Plane, decode_geometry
from contracts.job import Job, decode_job
from contracts.keys import Keys, Layer, Stat
from contracts.planes import QUOTE_ROW, UNKNOWN, unpack_header, unpack_rows
from contracts.ports import (
    Backlog,
    GetBacklog,
    GetFields,
    GetItems,
    GetMemoryPolicy,
    GetQuantiles,
    GetValue,
    Offload,
    Quantiles,
    Reader,
)
from contracts.topology import STREAMS
from contracts.versions import Versions
from stages.staging.board import Board, BoardCache

RECENT_EPOCHS = 64  # of the timeline: more promotions than this in a minute are counted as so many
STORM_PROMOTIONS = 6  # in a minute, apart from dormancy: more are a storm


@dataclass(frozen=True)
class TickState:
    """What the tick of one symbol looks at."""

    symbol: str
    board: Board | None
    epoch: str | None
    clock: MarketClock
    spot: dict[str, Any] | None
    job: Job
    tick: Mapping[bytes, bytes]
    meta: Mapping[bytes, bytes]
    versions: Versions
    quotes: tuple[bytes | None, ...]  # per plane of the board
    prices: bytes  # those quotes as the JSON of the heatmap snapshot's planes
    watermark: float
    backlogs: Mapping[str, Backlog]  # of the streams that have a group, by name
    feed: Mapping[bytes, bytes]  # when the feed last told of an option of this symbol
    sockets: Mapping[bytes, bytes]  # what the sockets tell about themselves
    policy: str  # the server's maxmemory-policy
    durations: Quantiles | None  # how long changes waited to be computed, ms
    timeline: tuple[str, ...] = ()  # newest first
    reasons: Mapping[str, str] = field(default_factory=dict)  # of the newest epochs, why they were promoted

    @property
    def number(self) -> int:
        """Number of the last tick."""
        return int(self.tick.get(b"tick", b"0"))

    @property
    def whole(self) -> bool:
        """Whether there is a board with all it needs."""
        return self.board is not None and bool(self.versions.fields) and None not in self.quotes

    @property
    def event_ts(self) -> float | None:
        """Receive time of the newest option event of the symbol, if there ever was one."""
        return float(self.feed[b"event_ts"]) if self.feed.get(b"event_ts") else None

    def feed_ts(self, now_ts: float) -> float:
        """Receive time up to which frames are processed: now if none waits, else the watermark.

        It never steps back behind what was told before.
        """
        if not self.backlogs["ws"].waiting_id:
            return now_ts
        return max(float(self.tick.get(b"feed_ts", b"0")), self.watermark)


class TickReader:
    """Reads the state of one symbol's tick."""

    def __init__(self, keys: Keys, symbol: str, offload: Offload) -> None:
        self._keys = keys
        self._symbol = symbol
        self._offload = offload
        self._cache = BoardCache(keys, keep=4)
        self._streams = {row.name: (row.key(keys, symbol), row.group) for row in STREAMS if row.group is not None}

    async def load(self, reader: Reader) -> TickState:
        """Read the active epoch and everything the tick records."""
        keys, symbol = self._keys, self._symbol
        active, clock, spot, job, tick, watermark, feed, sockets, *others = await reader.read(
            GetFields(keys.active(symbol)),
            GetValue(keys.clock(symbol)),
            GetValue(keys.spot(symbol)),
            GetFields(keys.job(symbol)),
            GetFields(keys.tick(symbol)),
            GetFields(keys.watermark(symbol)),
            GetFields(keys.feed(symbol)),
            GetFields(keys.analytics(Stat.WS, symbol)),
            GetMemoryPolicy(),
            GetQuantiles(keys.latency(Stat.EPOCH, symbol)),
            GetItems(keys.timeline(symbol), 0, RECENT_EPOCHS - 1),
            *(GetBacklog(stream, keys.parked(stream), group) for stream, group in self._streams.values()),
        )
        policy, durations, timeline, *backlogs = others
        assert isinstance(active, dict) and isinstance(job, dict) and isinstance(tick, dict)
        assert isinstance(watermark, dict) and isinstance(feed, dict) and isinstance(sockets, dict)
        assert (
            isinstance(timeline, list)
            and isinstance(policy, str)
            and (durations is None or isinstance(durations, Quantiles))
        )
        epoch_bytes = active.get(symbol.encode())
        epoch = epoch_bytes.decode() if epoch_bytes else None
        board = await self._board(reader, epoch)
        meta: Mapping[bytes, bytes] = {}
        versions: Mapping[bytes, bytes] = {}
        quotes: list[bytes | None] = []
        prices = b"{}"
        if board is not None:
            names = [board.layer_key(plane.id, Layer.QUOTES) for plane in board.geometry.planes]
            found = await reader.read(
                GetFields(keys.meta(board.epoch)),
                GetFields(board.versions),
                *(GetValue(name) for name in names),
            )
            meta, versions, quotes = found[0], found[1], found[2:]  # type: ignore[assignment]
            prices = await self._offload(encode_prices, board.geometry.encode(), quotes)
        clock_now, ids = decode_clock(clock if isinstance(clock, bytes) else None), [one.decode() for one in timeline]
        return TickState(
            symbol=symbol,
            board=board,
            epoch=epoch,
            clock=clock_now,
            spot=json.loads(spot) if isinstance(spot, bytes) else None,
            job=decode_job(job),
            tick=tick,
            meta=meta,
            versions=Versions(versions),
            quotes=tuple(quotes),
            prices=prices,
            watermark=float(watermark.get(b"ts", b"0")),
            backlogs=dict(zip(self._streams, backlogs, strict=True)),  # type: ignore[arg-type]
            feed=feed,
            sockets=sockets,
            policy=policy,
            durations=durations,
            timeline=tuple(ids),
            reasons=await self._reasons(reader, within_a_minute(ids, second_of(ids[0]), clock_now) if ids else ()),
        )

    async def _reasons(self, reader: Reader, epochs: Sequence[str]) -> Mapping[str, str]:
        """Why these epochs were promoted; asked only when they are enough for a storm."""
        if len(epochs) <= STORM_PROMOTIONS:
            return {}
        metas = await reader.read(*(GetFields(self._keys.meta(epoch)) for epoch in epochs))
        told = (meta if isinstance(meta, dict) else {} for meta in metas)
        return {epoch: meta.get(b"reason", b"").decode() for epoch, meta in zip(epochs, told, strict=True)}

    async def _board(self, reader: Reader, epoch: str | None) -> Board | None:
        if epoch is None:
            return None
        (listing,) = await reader.values(self._keys.listing(epoch))
        if listing is None:
            return None
        return self._cache.get(epoch) or self._cache.put(epoch, listing)


def second_of(epoch: str) -> int:
    """The market second in an epoch's id."""
    return int(epoch.rsplit(":", 2)[1])


def within_a_minute(epochs: Sequence[str], until_ts: float, clock: MarketClock) -> tuple[str, ...]:
    """The epochs of the minute (of ours) before a market time."""
    return tuple(epoch for epoch in epochs if second_of(epoch) > until_ts - 60 * clock.rate)


def encode_prices(listing: bytes, quotes: Sequence[bytes | None]) -> bytes:
    """The JSON of the heatmap snapshot's planes, from the quotes layers of all planes of a listing."""
    planes = _geometry(listing).planes
    prices = {
        plane.id: _plane_prices(plane, blob) for plane, blob in zip(planes, quotes, strict=True) if blob is not None
    }
    return msgspec.json.encode(prices)


@lru_cache(maxsize=8)
def _geometry(listing: bytes) -> Geometry:
    return decode_geometry(listing)


def _plane_prices(plane: Plane, blob: bytes) -> dict[str, object]:
    rows = unpack_rows(blob, QUOTE_ROW)["quote"]
    bid, ask, ms = rows["bid"], rows["ask"], rows["ms"]
    quoted = (bid > 0) & (ask > 0)
    mid2 = np.where(quoted, bid.astype(np.int64) + ask, 0)
    return {
        "version": int(unpack_header(blob)["version"]),
        "ids": [row.cid for row in plane.rows],
        "strikes": [row.strike_milli / 1000 for row in plane.rows],
        "types": [row.type for row in plane.rows],
        "bid": [None if value == UNKNOWN else value / 100 for value in bid.tolist()],
        "ask": [None if value == UNKNOWN else value / 100 for value in ask.tolist()],
        "mid": [value / 200 if there else None for value, there in zip(mid2.tolist(), quoted.tolist(), strict=True)],
        "ts": [value / 1000 if value > 0 else None for value in ms.tolist()],
    }
