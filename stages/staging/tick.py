"""The tick: once a second per symbol, a recorded moment, and the care of the active epoch.

Pure: the time comes in, commits go out. Every commit is guarded by the lease, so that two tickers never tick.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import msgspec
import numpy as np

from contracts.clock import MarketClock, decode_clock
from contracts.commit import (
    Commit,
    Emit,
    Guard,
    KeysExist,
    Renew,
    Scalar,
    SetFields,
    SetValue,
    ValueIs,
    Write,
)
from contracts.feed_report import feed_reasons
from contracts.geometry import Geometry, Plane, decode_geometry
from contracts.job import Job, decode_job
from contracts.keys import Keys, Layer, Stat
from contracts.messages import ChainFetch, PlaneComputed, PlaneDirty, Tick, encode
from contracts.planes import QUOTE_ROW, UNKNOWN, unpack_header, unpack_rows
from contracts.ports import GetFields, GetValue, Offload, Reader, inline
from contracts.versions import Versions, complete_to
from stages.staging.board import Board, BoardCache
from stages.staging.records import SUBSTRATE_LAYERS

SNAPSHOT_TTL_MS = 5000
HEALTH_TTL_MS = 15_000
RENEW_KEYS = 1000
STUCK_TICKS = 2
UNCOMPUTED_TICKS = 60  # from here on only every tenth tick is emitted: a stage that is away must not flood its stream


@dataclass(frozen=True)
class TickSettings:
    """What the tick needs from the settings."""

    epoch_ttl_ms: int
    chain_interval_s: float


@dataclass(frozen=True)
class TickState:
    """What the tick of one symbol looks at."""

    symbol: str
    board: Board | None
    epoch: str | None
    clock: MarketClock
    spot: dict[str, float] | None
    job: Job
    tick: Mapping[bytes, bytes]
    meta: Mapping[bytes, bytes]
    versions: Versions
    quotes: tuple[bytes | None, ...]  # per plane of the board
    prices: bytes  # those quotes as the JSON of the heatmap snapshot's planes
    watermark: float
    feeds: Mapping[bytes, bytes] = field(default_factory=dict)  # what their owners report (`contracts/feed_report.py`)

    @property
    def number(self) -> int:
        """Number of the last tick."""
        return int(self.tick.get(b"tick", b"0"))


class Ticker:
    """load and step of the tick of one symbol."""

    def __init__(self, keys: Keys, symbol: str, settings: TickSettings, offload: Offload = inline) -> None:
        self._keys = keys
        self._symbol = symbol
        self._settings = settings
        self._offload = offload
        self._cache = BoardCache(keys, keep=4)

    async def load(self, reader: Reader) -> TickState:
        """Read the active epoch and everything the tick records."""
        keys, symbol = self._keys, self._symbol
        active, clock, spot, job, tick, watermark, feeds = await reader.read(
            GetFields(keys.active(symbol)),
            GetValue(keys.clock(symbol)),
            GetValue(keys.spot(symbol)),
            GetFields(keys.job(symbol)),
            GetFields(keys.tick(symbol)),
            GetFields(keys.watermark(symbol)),
            GetFields(keys.analytics(Stat.WS, symbol)),
        )
        assert isinstance(active, dict) and isinstance(job, dict) and isinstance(tick, dict)
        assert isinstance(watermark, dict) and isinstance(feeds, dict)
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
        return TickState(
            symbol,
            board,
            epoch,
            decode_clock(clock if isinstance(clock, bytes) else None),
            json.loads(spot) if isinstance(spot, bytes) else None,
            decode_job(job),
            tick,
            meta,
            Versions(versions),
            tuple(quotes),
            prices,
            float(watermark.get(b"ts", b"0")),
            feeds,
        )

    async def _board(self, reader: Reader, epoch: str | None) -> Board | None:
        if epoch is None:
            return None
        (listing,) = await reader.values(self._keys.listing(epoch))
        if listing is None:
            return None
        return self._cache.get(epoch) or self._cache.put(epoch, listing)

    def step(self, state: TickState, now_ts: float, lease: str, owner: str) -> list[Commit]:
        """The commits of one tick at receive time `now_ts`."""
        ours = ValueIs(lease, owner)
        whole = state.board is not None and bool(state.versions.fields) and None not in state.quotes
        writes: list[Write] = [*self._ticket(state, now_ts, rebuild=state.epoch is not None and not whole)]
        facts: dict[str, Scalar] = {"ts": now_ts}
        commits: list[Commit] = []
        guards: tuple[Guard, ...] = (ours,)
        if whole and state.board is not None:
            number = state.number + 1
            market_ts = state.clock.market_time(now_ts)
            first = self._first_tick(state, state.board, number)
            facts |= {"tick": number, "market_ts": market_ts, "epoch": state.board.epoch, "first_tick": first}
            writes += self._emit_tick(state, state.board, number, market_ts)
            writes.append(self._heatmap_snapshot(state, state.board, number, market_ts))
            stuck = self._stuck(state, state.board)
            writes += self._flag_again(state.board, stuck)
            facts["stuck"] = json.dumps(stuck)
            commits += self._renew(state, state.board, now_ts, ours)
        writes.append(SetFields(self._keys.tick(state.symbol), facts))
        writes.append(SetValue(self._keys.health(state.symbol), self._health(state, now_ts), HEALTH_TTL_MS))
        return [Commit(guards=guards, writes=tuple(writes)), *commits]

    # --- fetch

    def _ticket(self, state: TickState, now_ts: float, *, rebuild: bool) -> Iterator[Write]:
        job = state.job
        reason = job.due(now_ts) or ("rebuild" if rebuild and not job.ticket else "")
        if not reason:
            return
        ticket = job.last_ticket + 1
        yield SetFields(
            self._keys.job(state.symbol),
            {"ticket": ticket, "last_ticket": ticket, "issued_ts": now_ts, "again": ""},
        )
        yield Emit(self._keys.jobs_stream(state.symbol), encode(ChainFetch(state.symbol, ticket, reason)))

    # --- the moment

    @staticmethod
    def _first_tick(state: TickState, board: Board, number: int) -> int:
        """The number of the epoch's first tick: this one if the last tick was of another epoch."""
        is_new = state.tick.get(b"epoch", b"").decode() != board.epoch
        return number if is_new else int(state.tick.get(b"first_tick", b"0"))

    def _emit_tick(self, state: TickState, board: Board, number: int, market_ts: float) -> Iterator[Write]:
        computed = max(int(state.versions.fields.get(b"tick", b"0")), self._first_tick(state, board, number) - 1)
        if number - computed > UNCOMPUTED_TICKS and number % 10:
            return
        spot = state.spot or {}
        message = Tick(state.symbol, board.epoch, number, market_ts, spot.get("value"), spot.get("ts"))
        yield Emit(self._keys.epoch_stream(state.symbol), encode(message))

    def _heatmap_snapshot(self, state: TickState, board: Board, number: int, market_ts: float) -> Write:
        planes = tuple(plane.id for plane in board.geometry.planes)
        body = {
            "symbol": state.symbol,
            "epoch": board.epoch,
            "tick": number,
            "ts": market_ts,
            "complete_to": complete_to(state.versions, planes, state.watermark),
            "spot": (state.spot or {}).get("value"),
            "planes": msgspec.Raw(state.prices),
        }
        return SetValue(
            self._keys.heatmap_snapshot(state.symbol),
            msgspec.json.encode(body),
            SNAPSHOT_TTL_MS,
            derived=True,
        )

    # --- healing and lifetimes

    def _stuck(self, state: TickState, board: Board) -> dict[str, list[int]]:
        """Layers behind their source: `plane|layer` -> [version, ticks it has not moved]."""
        before = json.loads(state.tick.get(b"stuck", b"{}"))
        stuck: dict[str, list[int]] = {}
        for plane in board.geometry.planes:
            for layer, source in (("tiles", "quotes"), ("published", "tiles")):
                if not state.versions.lags(plane.id, layer, source):
                    continue
                version = state.versions.level(plane.id, layer).version
                was, ticks = before.get(f"{plane.id}|{layer}", (version, -1))
                stuck[f"{plane.id}|{layer}"] = [version, ticks + 1 if was == version else 0]
        return stuck

    def _flag_again(self, board: Board, stuck: dict[str, list[int]]) -> Iterator[Write]:
        """Heal a lost or parked flag: a layer that lags and has not moved for two ticks."""
        for name, (_, ticks) in stuck.items():
            if ticks < STUCK_TICKS or ticks % STUCK_TICKS:
                continue
            plane, layer = name.split("|")
            if layer == "tiles":
                yield Emit(
                    self._keys.epoch_stream(board.symbol),
                    encode(PlaneDirty(board.symbol, board.epoch, plane)),
                )
            else:
                message = PlaneComputed(board.symbol, board.epoch, plane)
                yield Emit(self._keys.strategy_stream(board.symbol), encode(message))

    def _renew(self, state: TickState, board: Board, now_ts: float, ours: Guard) -> list[Commit]:
        """Renew every key of the active epoch at a third of its lifetime, chain or no chain.

        The last commit notes that it was done: a ticker that died on the way leaves it to be done again.
        """
        same = state.tick.get(b"renewed_epoch", b"").decode() == board.epoch
        renewed = float(state.tick.get(b"renewed_ts", b"0")) if same else 0.0
        if now_ts - renewed < self._settings.epoch_ttl_ms / 3000:
            return []
        names, guards = epoch_keys(board), (ours, KeysExist((board.versions,)))
        chunks = [tuple(names[first : first + RENEW_KEYS]) for first in range(0, len(names), RENEW_KEYS)]
        done = SetFields(self._keys.tick(state.symbol), {"renewed_ts": now_ts, "renewed_epoch": board.epoch})
        commits = [Commit(guards=guards, writes=(Renew(chunk, self._settings.epoch_ttl_ms),)) for chunk in chunks]
        return [*commits, Commit(guards=guards, writes=(done,))]

    # --- health

    def _health(self, state: TickState, now_ts: float) -> bytes:
        reasons = []
        if state.epoch is None:
            reasons.append("no epoch yet")
        elif state.board is None:
            reasons.append("epoch keys gone; waiting for the chain to rebuild it")
        else:
            age = state.clock.market_time(now_ts) - float(state.meta.get(b"snapshot_ts") or 0)
            # slower on purpose: market closed, a slow provider, a small request budget
            period_s = max(self._settings.chain_interval_s, state.job.period_s)
            if age > 3 * period_s * max(state.clock.rate, 1.0):
                reasons.append(f"chain snapshot is {age:.0f} s old")
        failed = state.meta.get(b"failed_expirations", b"").decode()
        if failed:
            reasons.append(f"expirations missing from the last fetch: {failed}")
        if any(ticks >= STUCK_TICKS for _, ticks in json.loads(state.tick.get(b"stuck", b"{}")).values()):
            reasons.append("persistently dirty")
        reasons += feed_reasons(state.feeds, now_ts)
        status = "ok" if not reasons else "down" if state.board is None else "degraded"
        return json.dumps({"status": status, "reasons": reasons}).encode()


def epoch_keys(board: Board) -> list[str]:
    """Every key that lives as long as the epoch is active."""
    keys, epoch, geometry = board.keys, board.epoch, board.geometry
    layers = (*SUBSTRATE_LAYERS, Layer.TILES, Layer.ANALYTICS, Layer.PUBLISHED)
    return [
        keys.listing(epoch),
        board.versions,
        keys.had_ws_updates(epoch),
        *(keys.geometry(epoch, expiration) for expiration in geometry.expirations),
        *(keys.plane(epoch, plane.id, layer) for plane in geometry.planes for layer in layers),
        *(seat.contract_key for seat in board.seats.values()),
    ]


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
