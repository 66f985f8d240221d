"""The models stage: what changed becomes diffs, ticks become published models, promotions become resets.

Order of a symbol's stream: a `reset` opens an epoch, then contiguous diffs per plane (`from` is the last `to`), and
no diff of an older epoch after it. The guards on the published epoch and versions make this hold for any number of
consumers.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import orjson

from contracts.analytics import AnalyticsCut, Moment, decode_cut
from contracts.commit import (
    Advance,
    Commit,
    Count,
    DropFields,
    EntryId,
    FieldBelow,
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
from contracts.geometry import Plane
from contracts.keys import Keys, Layer, Stat
from contracts.messages import AnalyticsComputed, Message, PlaneComputed, decode, encode
from contracts.planes import HEADER_BYTES, Tiles
from contracts.ports import GetFields, GetHead, GetValue, Read, Reader
from contracts.stage import Entry, Source, Stage
from contracts.symbology import days_to_expiration
from contracts.topology import StageName, streams_of
from contracts.versions import Level, Versions, complete_to
from stages.calculate.layers import Cells, CompiledEpoch, CompiledEpochs, KnownTiles, layer_of, layer_write
from stages.calculate.stage import acknowledged, epoch_of, symbol_of, with_cells
from stages.models.diff import diff_cells, encode_diff, encode_reset, encode_reset_plane
from stages.models.gex import gex_model, gex_sides
from stages.models.heatmap import heatmap_model, strategy_view

StrategyEntries: TypeAlias = "Sequence[Entry[Message]]"

BATCH = 32
CRC_EVERY = 50  # every 50th diff of a plane carries a checksum of the whole plane
STRATEGIES = ("butterfly", "vertical", "single")


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
    cut: bytes | None = None  # ticks only


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

    @property
    def epoch_is_published(self) -> bool:
        """Whether the stream already follows the active epoch."""
        return self.active is not None and self.published.get(b"epoch") == self.active.encode()

    @property
    def is_lost(self) -> bool:
        """Whether some published layer no longer is what the stream's followers have."""
        return any(one.published is None for one in self.planes)


class Publication:
    """load and step of the strategy stream of one partition."""

    def __init__(self, keys: Keys, settings: ModelSettings) -> None:
        self._keys = keys
        self._settings = settings
        self._compiled = CompiledEpochs(keys)
        self._known = KnownTiles()

    # --- load

    async def load(self, reader: Reader, entries: StrategyEntries) -> ModelState:
        """Read what was published and what is new, all at one moment."""
        epoch, message = epoch_of(entries[-1].message), entries[0].message
        compiled = await self._compiled.get(reader, epoch)
        planes = _planes_concerned(compiled, entries) if compiled else ()
        is_tick = isinstance(message, AnalyticsComputed)
        state = await self._read(reader, symbol_of(message), epoch, compiled, planes, is_tick=is_tick)
        if compiled is not None and state.active == epoch and (not state.epoch_is_published or state.is_lost):
            # a reset needs all cells of all planes, whatever the entries name
            planes = compiled.geometry.planes
            state = await self._read(reader, symbol_of(message), epoch, compiled, planes, is_tick=False)
        return state

    async def _read(
        self,
        reader: Reader,
        symbol: str,
        epoch: str,
        compiled: CompiledEpoch | None,
        planes: Sequence[Plane],
        *,
        is_tick: bool,
    ) -> ModelState:
        keys = self._keys
        tiles_names = [keys.plane(epoch, plane.id, Layer.TILES) for plane in planes]
        published_names = [keys.plane(epoch, plane.id, Layer.PUBLISHED) for plane in planes]
        cut_names = [keys.plane(epoch, plane.id, Layer.ANALYTICS) for plane in planes]
        reads: list[Read] = [
            GetFields(keys.active(symbol)),
            GetFields(keys.model_state(symbol)),
            GetFields(keys.versions(epoch)),
            GetFields(keys.watermark(symbol)),
        ]
        reads += [GetHead(name, HEADER_BYTES) if is_tick else GetValue(name) for name in tiles_names]
        reads += [GetHead(name, HEADER_BYTES) for name in published_names]
        reads += [GetValue(name) for name in cut_names] if is_tick else []
        active, published, versions_read, watermark, *blobs = await reader.read(*reads)
        assert isinstance(active, dict) and isinstance(published, dict)
        assert isinstance(versions_read, dict) and isinstance(watermark, dict)
        versions, count = Versions(versions_read), len(planes)
        tiles = [
            layer_of(blob, versions.level(plane.id, "tiles").version)
            for plane, blob in zip(planes, blobs[:count], strict=True)
        ]
        before = [
            layer_of(head, versions.level(plane.id, "published").version)
            for plane, head in zip(planes, blobs[count : 2 * count], strict=True)
        ]
        if not is_tick:
            before = await with_cells(reader, self._known, keys, epoch, Layer.PUBLISHED, planes, before)
        cuts = [blob if isinstance(blob, bytes) else None for blob in blobs[2 * count :]] or [None] * count
        return ModelState(
            symbol,
            active.get(symbol.encode(), b"").decode() or None,
            published,
            compiled,
            versions,
            float(watermark.get(b"ts", b"0")),
            tuple(PlaneState(*one) for one in zip(planes, tiles, before, cuts, strict=True)),
        )

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
            ticks = [message for message in current if isinstance(message, AnalyticsComputed)]
            return [self._tick(state, compiled, max(ticks, key=lambda message: message.tick), ids)]
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
        """Rebuild the JSON models from the cuts of one tick; an older tick, or one already replaced, has no work."""
        cuts = _cuts_of(state, message.tick)
        if cuts is None:
            return self._with(None, ids, state)
        keys, symbol, epoch = self._keys, state.symbol, compiled.epoch
        upto = complete_to(state.versions, compiled.plans, state.watermark)
        seq = int(state.published.get(b"seq", b"0"))
        moment = Moment(
            symbol,
            epoch,
            seq,
            message.tick,
            message.market_ts,
            _cut_watermark(cuts, state),
            message.spot,
            message.spot_ts,
        )
        model_state = keys.model_state(symbol)
        guards: tuple[Guard, ...] = (
            self._is_active(state),
            FieldIs(model_state, "epoch", epoch),
            FieldBelow(model_state, "tick", message.tick),
        )
        if float(state.published.get(b"tick", b"-1")) >= message.tick:
            return self._with(None, ids, state)
        published = {plane: state.versions.level(plane, "published").version for plane in compiled.plans}
        tick = {"epoch": epoch, "tick": message.tick, "complete_to": upto, "versions": published}
        gex = orjson.dumps(gex_model(moment, compiled.geometry, cuts, self._settings.rate))
        writes: tuple[Write, ...] = (
            *self._model_writes(compiled, moment, cuts, gex),
            SetFields(model_state, {"tick": message.tick, "market_ts": message.market_ts}),
            self._publish(state, "tick", orjson.dumps(tick)),
            self._publish(state, "gex", gex),
            Count(keys.analytics(Stat.MODEL, symbol), {"ticks": 1}),
        )
        return Commit(ids, guards, writes)

    def _model_writes(
        self, compiled: CompiledEpoch, moment: Moment, cuts: Mapping[str, AnalyticsCut], gex: bytes
    ) -> list[Write]:
        keys, ttl, symbol = self._keys, self._settings.model_ttl_ms, moment.symbol
        heatmap = heatmap_model(moment, compiled.geometry, compiled.plans, cuts)
        writes: list[Write] = [
            SetValue(keys.heatmap_model(symbol), orjson.dumps(heatmap), ttl, derived=True),
            SetValue(keys.gex_model(symbol), gex, ttl, derived=True),
        ]
        for strategy in STRATEGIES:
            view = orjson.dumps(strategy_view(heatmap, strategy))
            writes.append(SetValue(keys.heatmap_model(symbol, strategy), view, ttl, derived=True))
        for side, model in gex_sides(moment, compiled.geometry, cuts).items():
            writes.append(SetValue(keys.gex_model(symbol, side), orjson.dumps(model), ttl, derived=True))
        return writes


def build_stage(keys: Keys, symbol: str, settings: ModelSettings) -> Stage:
    """The models stage of the partition that `symbol` belongs to."""
    publication = Publication(keys, settings)
    (row,) = streams_of(StageName.MODELS)
    source: Source[Message, ModelState] = Source(
        row,
        row.key(keys, symbol),
        BATCH,
        lambda fields: decode(fields, row.messages),
        _partition,
        publication.load,
        publication.step,
    )
    return Stage(StageName.MODELS, (source,))


def _partition(message: Message) -> Hashable:
    return message.TYPE, symbol_of(message)


def _planes_concerned(compiled: CompiledEpoch, entries: StrategyEntries) -> tuple[Plane, ...]:
    if not entries or not isinstance(entries[0].message, PlaneComputed):
        return compiled.geometry.planes
    named = {entry.message.plane for entry in entries if isinstance(entry.message, PlaneComputed)}
    return tuple(plane for plane in compiled.geometry.planes if plane.id in named)


def _cuts_of(state: ModelState, tick: int) -> dict[str, AnalyticsCut] | None:
    """The cuts of this very tick; None if they are gone or of a newer one."""
    cuts: dict[str, AnalyticsCut] = {}
    for one in state.planes:
        if one.cut is None:
            return None
        cut = decode_cut(one.cut)
        if cut.tick != tick:
            return None
        cuts[one.plane.id] = cut
    return cuts


def _cut_watermark(cuts: Mapping[str, AnalyticsCut], state: ModelState) -> float | None:
    """Feed receive time up to which the cut includes every frame: the least over planes that moved on since."""
    moved = [
        cut.watermark for plane, cut in cuts.items() if cut.version < state.versions.level(plane, "quotes").version
    ]
    return min([*moved, state.watermark]) or None
