"""The models stage: what changed becomes diffs, ticks become published models, promotions become resets.

Order of a symbol's stream: a `reset` opens an epoch, then contiguous diffs per plane (`from` is the last `to`), and
no diff of an older epoch after it. The guards on the published epoch and versions make this hold for any number of
consumers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import orjson

from contracts.analytics import Moment
from contracts.commit import (
    Advance,
    Commit,
    Count,
    Delete,
    DropFields,
    Emit,
    EntryId,
    FieldIs,
    Flag,
    Guard,
    KeysExist,
    Publish,
    SetFields,
    SetValue,
    Write,
    version_field,
)
from contracts.compiled import CompiledEpoch, CompiledEpochs
from contracts.geometry import Plane
from contracts.keys import Keys, Layer, Stat
from contracts.messages import AnalyticsComputed, Message, PlaneComputed, decode, encode
from contracts.planes import HEADER_BYTES, Tiles, unpack_header
from contracts.ports import GetFields, GetHead, GetValue, Offload, Read, Reader, inline
from contracts.stage import Entry, Source, Stage
from contracts.symbology import days_to_expiration
from contracts.topology import StageName, streams_of
from contracts.versions import Level, Versions, complete_to
from stages.calculate.layers import Cells, KnownTiles, layer_of, layer_write
from stages.calculate.stage import acknowledged, by_type_and_symbol, epoch_of, symbol_of, with_cells
from stages.models.build import Documents, Memory, build_documents, decode_memory
from stages.models.diff import diff_cells, encode_diff, encode_reset, encode_reset_plane
from stages.models.session import SessionProfile

StrategyEntries: TypeAlias = "Sequence[Entry[Message]]"

BATCH = 32
HISTORY_KEEP = 10_000  # minutes of gravity: a month of sessions
EACH_TICK = ("gex", "liquidity", "mode")  # published on the stream with every tick, in this order
CRC_EVERY = 50  # every 50th diff of a plane carries a checksum of the whole plane


@dataclass(frozen=True)
class ModelSettings:
    """What models need from the settings."""

    epoch_ttl_ms: int
    model_ttl_ms: int
    window_ms: int
    rate: float


@dataclass(frozen=True)
class PlaneState:
    """A plane as read. A layer is None when it is absent or not the one that `versions` names."""

    plane: Plane
    tiles: Tiles | None
    published: Tiles | None


@dataclass(frozen=True)
class ModelState:
    """The active epoch, what was published last, and the planes concerned."""

    symbol: str
    active: str | None
    published: Mapping[bytes, bytes] = field(default_factory=dict)
    compiled: CompiledEpoch | None = None
    versions: Versions = field(default_factory=lambda: Versions({}))
    watermark: float = 0.0
    planes: tuple[PlaneState, ...] = ()
    memory: Memory = field(default_factory=Memory)  # ticks only: of the derived models, as stored
    documents: Documents | None = None  # ticks only: what the tick publishes; None if there is no work

    @property
    def epoch_is_published(self) -> bool:
        """Whether the stream already follows the active epoch."""
        return self.active is not None and self.published.get(b"epoch") == self.active.encode()

    @property
    def tick(self) -> int:
        """The newest tick that was published."""
        return int(self.published.get(b"tick", b"-1"))

    @property
    def is_lost(self) -> bool:
        """Whether some published layer no longer is what the stream's followers have."""
        return any(one.published is None for one in self.planes)


class Publication:
    """load and step of the strategy stream of one partition."""

    def __init__(self, keys: Keys, settings: ModelSettings, offload: Offload = inline) -> None:
        self._keys = keys
        self._settings = settings
        self._offload = offload
        self._compiled = CompiledEpochs(keys)
        self._known = KnownTiles()

    # --- load

    async def load(self, reader: Reader, entries: StrategyEntries) -> ModelState:
        """Read what was published and what is new, all at one moment; of a tick, build the models."""
        symbol, epoch = symbol_of(entries[0].message), epoch_of(entries[-1].message)
        compiled = await self._compiled.get(reader, epoch)
        if compiled is None:
            (active,) = await reader.read(GetFields(self._keys.active(symbol)))
            assert isinstance(active, dict)
            return ModelState(symbol, active.get(symbol.encode(), b"").decode() or None)
        planes = _planes_concerned(compiled, entries)
        is_tick = isinstance(entries[0].message, AnalyticsComputed)
        state, cuts = await self._read(reader, symbol, compiled, planes, is_tick=is_tick)
        if state.active != epoch:
            return state
        if not state.epoch_is_published or state.is_lost:
            # a reset needs all cells of all planes, whatever the entries name
            return (await self._read(reader, symbol, compiled, compiled.geometry.planes, is_tick=False))[0]
        return await self._with_models(state, compiled, entries, cuts) if is_tick else state

    async def _read(
        self, reader: Reader, symbol: str, compiled: CompiledEpoch, planes: Sequence[Plane], *, is_tick: bool
    ) -> tuple[ModelState, list[object]]:
        """The state, and of a tick the cuts. A tick needs only the headers of tiles and published layers."""
        keys, epoch, count = self._keys, compiled.epoch, len(planes)
        names = {
            layer: [keys.plane(epoch, plane.id, layer) for plane in planes]
            for layer in (Layer.TILES, Layer.PUBLISHED, Layer.ANALYTICS)
        }
        reads: list[Read] = [
            GetFields(keys.active(symbol)),
            GetFields(keys.model_state(symbol)),
            GetFields(keys.versions(epoch)),
            GetFields(keys.watermark(symbol)),
        ]
        reads += [GetHead(name, HEADER_BYTES) if is_tick else GetValue(name) for name in names[Layer.TILES]]
        reads += [GetHead(name, HEADER_BYTES) for name in names[Layer.PUBLISHED]]
        if is_tick:
            reads += [GetValue(name) for name in names[Layer.ANALYTICS]]
            reads += (GetValue(keys.trail(symbol)), GetFields(keys.session_profile(symbol)))
        active, published, fields, watermark, *blobs = await reader.read(*reads)
        assert isinstance(active, dict) and isinstance(published, dict)
        assert isinstance(fields, dict) and isinstance(watermark, dict)
        versions = Versions(fields)

        def layers(layer: Layer, found: Sequence[object]) -> list[Tiles | None]:
            levels = (versions.level(plane.id, layer).version for plane in planes)
            return [layer_of(blob, level) for blob, level in zip(found, levels, strict=True)]

        tiles = layers(Layer.TILES, blobs[:count])
        before = layers(Layer.PUBLISHED, blobs[count : 2 * count])
        if not is_tick:
            before = await with_cells(reader, self._known, keys, epoch, Layer.PUBLISHED, planes, before)
        state = ModelState(
            symbol,
            active.get(symbol.encode(), b"").decode() or None,
            published,
            compiled,
            versions,
            float(watermark.get(b"ts", b"0")),
            tuple(PlaneState(*one) for one in zip(planes, tiles, before, strict=True)),
            decode_memory(*blobs[3 * count :]) if is_tick else Memory(),
        )
        return state, blobs[2 * count : 3 * count]

    async def _with_models(
        self, state: ModelState, compiled: CompiledEpoch, entries: StrategyEntries, cuts: Sequence[object]
    ) -> ModelState:
        """Build the models of the newest tick, unless its cuts are gone, replaced, or published already."""
        message = _newest_tick(entries, compiled.epoch)
        found = [cut for cut in cuts if isinstance(cut, bytes)]
        heads = [unpack_header(cut) for cut in found]
        is_stale = any(int(head["tick"]) != message.tick for head in heads)
        if len(found) < len(compiled.geometry.planes) or is_stale or state.tick >= message.tick:
            return state
        moment = Moment(
            state.symbol,
            compiled.epoch,
            int(state.published.get(b"seq", b"0")),
            message.tick,
            message.market_ts,
            _cut_watermark(compiled, heads, state),
            message.spot,
            message.spot_ts,
        )
        documents = await self._offload(
            build_documents, self._keys, compiled.listing, moment, found, self._settings.rate, state.memory
        )
        return replace(state, documents=documents)

    # --- step

    def step(self, state: ModelState, entries: StrategyEntries) -> list[Commit]:
        """All entries are of one type and symbol; those of another epoch than the active one have no work left."""
        ids = tuple(entry.id for entry in entries)
        current = [entry.message for entry in entries if epoch_of(entry.message) == state.active]
        compiled = state.compiled
        if not current or compiled is None or compiled.epoch != state.active or not state.versions.fields:
            # entries of the active epoch come back to be loaded, unless its keys are gone
            is_gone = compiled is None or compiled.epoch == state.active
            left = [one for one in entries if is_gone or epoch_of(one.message) != state.active]
            return [acknowledged(self._keys, state.symbol, state.active, left)]
        if not state.epoch_is_published or state.is_lost:
            reset = self._reset(state, compiled)
            # models of a tick follow in the next step, on top of the reset
            return [reset] if reset and isinstance(current[0], AnalyticsComputed) else [self._with(reset, ids, state)]
        if isinstance(current[0], AnalyticsComputed):
            return [self._tick(state, compiled, _newest_tick(entries, compiled.epoch), ids)]
        if isinstance(current[0], PlaneComputed):
            return [self._diffs(state, compiled, ids)]
        return [self._with(None, ids, state)]

    def _with(self, commit: Commit | None, ids: tuple[EntryId, ...], state: ModelState) -> Commit:
        found = commit or Commit(guards=(self._is_active(state),))
        return Commit(ids, found.guards, found.writes)

    def _is_active(self, state: ModelState) -> Guard:
        return FieldIs(self._keys.active(state.symbol), state.symbol, state.active)

    def _publish(self, state: ModelState, kind: str, data: bytes) -> Write:
        keys, symbol = self._keys, state.symbol
        return Publish(keys.model_stream(symbol), keys.model_state(symbol), kind, data, self._settings.window_ms)

    # --- reset

    def _reset(self, state: ModelState, compiled: CompiledEpoch) -> Commit | None:
        """Open the epoch on the stream with all its cells; None while some plane has no tiles."""
        made = [(one, one.tiles) for one in state.planes if one.tiles is not None]
        if len(made) < len(compiled.geometry.planes):
            return None
        levels = {one.plane.id: Level(tiles.version, tiles.watermark) for one, tiles in made}
        lost = state.epoch_is_published
        ts = float(state.published.get(b"market_ts", b"0")) or made[0][1].watermark
        planes = [
            encode_reset_plane(
                one.plane,
                compiled.plans[one.plane.id],
                tiles.version,
                days_to_expiration(one.plane.expiration, ts),
                tiles.cells,
            )
            for one, tiles in made
        ]
        upto = complete_to(state.versions, levels, state.watermark, levels)
        data = encode_reset(compiled.epoch, "lost" if lost else "promoted", upto, compiled.geometry.widths, planes)
        guards: list[Guard] = [self._is_active(state)]
        model_state = self._keys.model_state(state.symbol)
        guards.append(FieldIs(model_state, "epoch", state.published.get(b"epoch")))
        writes: list[Write] = [DropFields(model_state, ("generation",))] if lost else []
        for one, tiles in made:
            everything = np.arange(tiles.cells.shape[1])
            plane_guards, plane_writes = self._advance(state, compiled, one, tiles, everything)
            guards += plane_guards
            writes += plane_writes
        writes += (
            SetFields(model_state, {"epoch": compiled.epoch}),
            self._publish(state, "reset", data),
            Count(self._keys.analytics(Stat.MODEL, state.symbol), {"resets": 1}),
        )
        return Commit(guards=tuple(guards), writes=tuple(writes))

    def _advance(
        self, state: ModelState, compiled: CompiledEpoch, one: PlaneState, tiles: Tiles, changed: Cells
    ) -> tuple[list[Guard], list[Write]]:
        """The published layer of a plane now equals these tiles."""
        keys, symbol, epoch, plane = self._keys, state.symbol, compiled.epoch, one.plane
        versions = keys.versions(epoch)
        name = version_field(plane.id, "published")
        again = Flag(keys.strategy_stream(symbol), encode(PlaneComputed(symbol, epoch, plane.id)))
        key = keys.plane(epoch, plane.id, Layer.PUBLISHED)
        still_there, write = layer_write(key, one.published, tiles, changed, self._settings.epoch_ttl_ms)
        guards: list[Guard] = [
            FieldIs(versions, name, state.versions.fields.get(name.encode())),
            KeysExist((versions,)),
            *still_there,
        ]
        writes: list[Write] = [
            write,
            Advance(versions, plane.id, "published", "tiles", tiles.version, tiles.watermark, again),
        ]
        return guards, writes

    # --- diff

    def _diffs(self, state: ModelState, compiled: CompiledEpoch, ids: tuple[EntryId, ...]) -> Commit:
        """One diff per plane that moved: exactly the cells that differ from what was published last."""
        keys, epoch = self._keys, compiled.epoch
        guards: list[Guard] = [self._is_active(state), FieldIs(keys.model_state(state.symbol), "epoch", epoch)]
        writes: list[Write] = []
        levels: dict[str, Level] = {}
        cells = 0
        for one in state.planes:
            plane, tiles, before = one.plane, one.tiles, one.published
            if tiles is None or before is None or tiles.version == before.version:
                continue
            self._known.put(epoch, plane.id, tiles)
            changed = diff_cells(before.cells, tiles.cells)
            cells += len(changed)
            levels[plane.id] = Level(tiles.version, tiles.watermark)
            count = int(state.versions.fields.get(f"{plane.id}|diffs".encode(), b"0")) + 1
            upto = complete_to(state.versions, compiled.plans, state.watermark, levels)
            data = encode_diff(
                epoch, plane.id, before.version, tiles.version, upto, tiles.cells, changed, count % CRC_EVERY == 0
            )
            plane_guards, plane_writes = self._advance(state, compiled, one, tiles, changed)
            guards += plane_guards
            writes += plane_writes
            writes += (
                SetFields(keys.versions(epoch), {f"{plane.id}|diffs": count}),
                self._publish(state, "diff", data),
            )
        counts = {"diffs": len(levels), "cells": cells}
        writes.append(Count(keys.analytics(Stat.MODEL, state.symbol), counts))
        return Commit(ids, tuple(guards), tuple(writes))

    # --- tick

    def _tick(
        self, state: ModelState, compiled: CompiledEpoch, message: AnalyticsComputed, ids: tuple[EntryId, ...]
    ) -> Commit:
        """Publish the models of a tick; an older tick, or one already replaced, has no work."""
        documents = state.documents
        if documents is None:
            return self._with(None, ids, state)
        keys, symbol, epoch = self._keys, state.symbol, compiled.epoch
        model_state = keys.model_state(symbol)
        guards: tuple[Guard, ...] = (
            self._is_active(state),
            FieldIs(model_state, "epoch", epoch),
            # not only older: what the derived models remember is what was read together with this tick
            FieldIs(model_state, "tick", state.published.get(b"tick")),
        )
        published = {plane: state.versions.level(plane, "published").version for plane in compiled.plans}
        upto = complete_to(state.versions, compiled.plans, state.watermark)
        tick = {"epoch": epoch, "tick": message.tick, "complete_to": upto, "versions": published}
        ttl = self._settings.model_ttl_ms
        names = EACH_TICK if documents.gravity_point is None else (*EACH_TICK, "gravity")
        writes: tuple[Write, ...] = (
            *(SetValue(key, document, ttl, derived=True) for key, document in documents.by_key.items()),
            *self._remember(state, documents),
            SetFields(model_state, {"tick": message.tick, "market_ts": message.market_ts}),
            self._publish(state, "tick", orjson.dumps(tick)),
            *(self._publish(state, name, documents.by_key[keys.model(name, symbol)]) for name in names),
            Count(keys.analytics(Stat.MODEL, symbol), {"ticks": 1}),
        )
        return Commit(ids, guards, writes)

    def _remember(self, state: ModelState, documents: Documents) -> Iterator[Write]:
        """Store what the derived models remember now; it cannot be computed again, so it is no derived data."""
        keys, symbol, ttl = self._keys, state.symbol, self._settings.model_ttl_ms
        before, after = state.memory, documents.memory
        if after.trail != before.trail:
            yield SetValue(keys.trail(symbol), orjson.dumps(after.trail), ttl)
        yield from _session_writes(keys.session_profile(symbol), before.session, after.session, ttl)
        if documents.gravity_point is not None:
            yield Emit(keys.gravity_history(symbol), {"data": documents.gravity_point}, HISTORY_KEEP)


def build_stage(keys: Keys, symbol: str, settings: ModelSettings, offload: Offload = inline) -> Stage:
    """The models stage of the partition that `symbol` belongs to."""
    publication = Publication(keys, settings, offload)
    (row,) = streams_of(StageName.MODELS)
    source: Source[Message, ModelState] = Source(
        row,
        row.key(keys, symbol),
        BATCH,
        lambda fields: decode(fields, row.messages),
        by_type_and_symbol,
        publication.load,
        publication.step,
        in_background=lambda message: isinstance(message, AnalyticsComputed),
    )
    return Stage(StageName.MODELS, (source,))


def _session_writes(key: str, before: SessionProfile, after: SessionProfile, ttl_ms: int) -> Iterator[Write]:
    """Only the fields that changed; a new session starts from nothing."""
    known = before.fields() if before.date == after.date else {}
    if before.date and not known:
        yield Delete((key,))
    changed = {name: value for name, value in after.fields().items() if known.get(name) != value}
    yield SetFields(key, changed, ttl_ms)


def _planes_concerned(compiled: CompiledEpoch, entries: StrategyEntries) -> tuple[Plane, ...]:
    if not entries or not isinstance(entries[0].message, PlaneComputed):
        return compiled.geometry.planes
    named = {entry.message.plane for entry in entries if isinstance(entry.message, PlaneComputed)}
    return tuple(plane for plane in compiled.geometry.planes if plane.id in named)


def _newest_tick(entries: StrategyEntries, epoch: str) -> AnalyticsComputed:
    messages = (entry.message for entry in entries)
    ticks = [one for one in messages if isinstance(one, AnalyticsComputed) and one.epoch == epoch]
    return max(ticks, key=lambda one: one.tick)


def _cut_watermark(compiled: CompiledEpoch, heads: Sequence[np.void], state: ModelState) -> float | None:
    """Feed receive time up to which the cut includes every frame: the least over planes that moved on since."""
    moved = [
        float(head["watermark"])
        for plane, head in zip(compiled.geometry.planes, heads, strict=True)
        if int(head["version"]) < state.versions.level(plane.id, "quotes").version
    ]
    return min([*moved, state.watermark]) or None
