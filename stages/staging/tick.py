"""The tick: once a second per symbol, a recorded moment, and the care of the active epoch.

Pure: the time comes in, commits go out. Every commit is guarded by the lease, so that two tickers never tick.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec

from contracts.clock import encode_clock
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
from contracts.keys import Keys, Layer, Stat
from contracts.messages import ChainFetch, PlaneComputed, PlaneDirty, Tick, encode
from contracts.ports import Offload, Reader, inline
from contracts.versions import complete_to
from stages.staging.board import Board
from stages.staging.dormancy import DormancySettings, is_dormant, measure_silence
from stages.staging.health import HealthSettings, Stuck, encode_health
from stages.staging.records import SUBSTRATE_LAYERS
from stages.staging.tick_state import TickReader, TickState, within_a_minute

SNAPSHOT_TTL_MS = 5000
HEALTH_TTL_MS = 15_000
RENEW_KEYS = 1000
STUCK_TICKS = 2
UNCOMPUTED_TICKS = 60  # from here on only every tenth tick is emitted: a stage that is away must not flood its stream


REBUILD = "rebuild"


@dataclass(frozen=True)
class TickSettings:
    """What the tick needs from the settings."""

    epoch_ttl_ms: int
    dormancy: DormancySettings
    health: HealthSettings


class Ticker:
    """load and step of the tick of one symbol."""

    def __init__(self, keys: Keys, symbol: str, settings: TickSettings, offload: Offload = inline) -> None:
        self._keys = keys
        self._symbol = symbol
        self._settings = settings
        self._state = TickReader(keys, symbol, offload)

    async def load(self, reader: Reader) -> TickState:
        """Read the active epoch and everything the tick records."""
        return await self._state.load(reader)

    def step(self, state: TickState, now_ts: float, lease: str, owner: str) -> list[Commit]:
        """The commits of one tick at receive time `now_ts`, taken before the load: what arrived later is not in."""
        ours = ValueIs(lease, owner)
        facts: dict[str, Scalar] = {"ts": now_ts, "feed_ts": state.feed_ts(now_ts), "clock": encode_clock(state.clock)}
        writes: list[Write] = [*self._fetch(state, now_ts, facts)]
        commits: list[Commit] = []
        stuck: Stuck = {}
        if state.whole and state.board is not None:
            number = state.number + 1
            market_ts = state.clock.market_time(now_ts)
            first = self._first_tick(state, state.board, number)
            facts |= {"tick": number, "market_ts": market_ts, "epoch": state.board.epoch, "first_tick": first}
            writes += self._emit_tick(state, state.board, number, market_ts)
            writes.append(self._heatmap_snapshot(state, state.board, number, market_ts))
            stuck = self._stuck(state, state.board, now_ts)
            writes += self._flag_again(state.board, stuck)
            facts["stuck"] = json.dumps(stuck)
            commits += self._renew(state, state.board, now_ts, ours)
        health = encode_health(state, stuck, now_ts, self._settings.health)
        writes += [
            SetFields(self._keys.tick(state.symbol), facts),
            SetFields(self._keys.analytics(Stat.EPOCH, state.symbol), self._epoch_figures(state, now_ts)),
            SetValue(self._keys.health(state.symbol), health, HEALTH_TTL_MS),
        ]
        return [Commit(guards=(ours,), writes=tuple(writes)), *commits]

    # --- fetch

    def _fetch(self, state: TickState, now_ts: float, facts: dict[str, Scalar]) -> Iterator[Write]:
        """The next ticket when due; an earlier fetch when something asks for it. `facts` notes what was asked for."""
        job = state.job
        asked = self._asked(state, now_ts, facts)
        due = job.due(now_ts) or ("" if job.ticket else asked)
        if due:
            ticket = job.last_ticket + 1
            fields: dict[str, Scalar] = {"ticket": ticket, "last_ticket": ticket, "issued_ts": now_ts, "again": ""}
            yield SetFields(self._keys.job(state.symbol), fields | ({} if job.ticket else {"asked_ts": now_ts}))
            yield Emit(self._keys.jobs_stream(state.symbol), encode(ChainFetch(state.symbol, ticket, due)))
        elif asked and asked != REBUILD:
            # what is being fetched may have been asked for too early
            yield SetFields(self._keys.job(state.symbol), {"again": asked})

    def _asked(self, state: TickState, now_ts: float, facts: dict[str, Scalar]) -> str:
        """Why a chain is wanted before its time: each settlement and each silence ask once."""
        if state.epoch is not None and not state.whole:
            return REBUILD
        if state.board is None:
            return ""
        silence = measure_silence(_text(state.feed), {"feed_ts": repr(state.feed_ts(now_ts))}, _text(state.meta))
        silent = is_dormant(silence, self._settings.dormancy)
        was_silent = state.tick.get(b"silent", b"0") == b"1"
        facts["silent"] = int(silent)
        settled_ts = newest_settlement(state.board, state.clock.market_time(now_ts))
        if settled_ts > float(state.tick.get(b"settled_ts", b"0")):
            facts["settled_ts"] = settled_ts
            return "settlement"
        return "dormancy" if silent and not was_silent else ""

    # --- figures

    def _epoch_figures(self, state: TickState, now_ts: float) -> dict[str, Scalar]:
        """Last values of `massive:epoch:analytics`."""
        recent = within_a_minute(state.timeline, state.clock.market_time(now_ts), state.clock)
        figures: dict[str, Scalar] = {f"promotion_rate_per_min:{state.symbol}": len(recent)}
        waits = state.durations
        if waits is not None:
            figures |= {"dirty_ms_p50": waits.p50, "dirty_ms_p99": waits.p99, "dirty_ms_max": waits.max}
        return figures

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

    @staticmethod
    def _stuck(state: TickState, board: Board, now_ts: float) -> Stuck:
        """Layers behind their source: `plane|layer` -> version, ticks it has not moved, since when."""
        before = json.loads(state.tick.get(b"stuck", b"{}"))
        stuck: dict[str, tuple[int, int, float]] = {}
        for plane in board.geometry.planes:
            for layer, source in (("tiles", "quotes"), ("published", "tiles")):
                if not state.versions.lags(plane.id, layer, source):
                    continue
                version = state.versions.level(plane.id, layer).version
                was, ticks, since_ts = before.get(f"{plane.id}|{layer}", (version, -1, now_ts))
                moved = was != version
                stuck[f"{plane.id}|{layer}"] = (version, 0 if moved else ticks + 1, now_ts if moved else since_ts)
        return stuck

    def _flag_again(self, board: Board, stuck: Stuck) -> Iterator[Write]:
        """Heal a lost or parked flag: a layer that lags and has not moved for two ticks."""
        for name, (_, ticks, _) in stuck.items():
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


def newest_settlement(board: Board, market_ts: float) -> float:
    """When the last of the planes settled that the board still takes for eligible; 0 if none has."""
    settled = (
        plane.settlement_ts
        for plane in board.geometry.planes
        if plane.settlement_ts <= market_ts and not all(row.eligible for row in plane.rows)
    )
    return max(settled, default=0.0)


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


def _text(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in fields.items()}
