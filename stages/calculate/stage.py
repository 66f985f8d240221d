"""The calculate stage: dirty rows to touched tiles, ticks to analytics. Its messages come from the epoch stream."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from contracts.analytics import AnalyticsCut, decode_cut
from contracts.commit import (
    Advance,
    Commit,
    Count,
    Emit,
    EntryId,
    EpochMarks,
    FieldBelow,
    FieldIs,
    Flag,
    Guard,
    KeysExist,
    SetFields,
    SetValue,
    Write,
    version_field,
)
from contracts.compiled import CompiledEpoch, CompiledEpochs
from contracts.geometry import Plane
from contracts.keys import Keys, Layer, Stat
from contracts.messages import (
    AnalyticsComputed,
    EpochComputed,
    EpochPromoted,
    Message,
    PlaneComputed,
    PlaneDirty,
    Tick,
    decode,
    encode,
)
from contracts.planes import (
    HEADER_BYTES,
    QUOTE_ROW,
    Tiles,
    unpack_header,
    unpack_rows,
)
from contracts.ports import GetFields, GetHead, GetValue, Offload, Read, Reader, inline
from contracts.stage import Entry, Source, Stage
from contracts.topology import StageName, streams_of
from contracts.versions import Versions
from stages.calculate.cuts import compute_cuts
from stages.calculate.exposure import DEFAULT_CONVENTIONS, Conventions
from stages.calculate.layers import Cells, KnownTiles, layer_of, layer_write
from stages.calculate.tiles import compute_tiles, computed_count, dirty_rows, recompute_cells, touched_cells

EpochEntries: TypeAlias = "Sequence[Entry[Message]]"

BATCH = 32
PLANES_PER_COMMIT = 8


@dataclass(frozen=True)
class CalculateSettings:
    """What calculate needs from the settings."""

    epoch_ttl_ms: int
    conventions: Conventions = DEFAULT_CONVENTIONS


@dataclass(frozen=True)
class PlaneState:
    """A plane as read. `quotes` is None when absent, `tiles` when absent or not those that `versions` names."""

    plane: Plane
    quotes: bytes | None
    tiles: Tiles | None
    cut: bytes | None = None  # ticks only: what the newest tick computed from the rows as read


@dataclass(frozen=True)
class CalculateState:
    """The active epoch and the planes concerned."""

    symbol: str
    active: str | None
    compiled: CompiledEpoch | None = None
    versions: Versions = field(default_factory=lambda: Versions({}))
    planes: tuple[PlaneState, ...] = ()


class Calculation:
    """load and step of the epoch stream of one partition."""

    def __init__(self, keys: Keys, settings: CalculateSettings, offload: Offload = inline) -> None:
        self._keys = keys
        self._settings = settings
        self._offload = offload
        self._compiled = CompiledEpochs(keys)
        self._known = KnownTiles()

    # --- load

    async def load(self, reader: Reader, entries: EpochEntries) -> CalculateState:
        """Read the planes that the entries point at, all at one moment; tiles only where they are not known."""
        symbol, epoch = symbol_of(entries[0].message), epoch_of(entries[-1].message)
        keys, is_tick = self._keys, isinstance(entries[0].message, Tick)
        compiled = await self._compiled.get(reader, epoch)
        planes = _planes_concerned(compiled, entries) if compiled else ()
        count = len(planes)
        reads: list[Read] = [GetFields(keys.active(symbol)), GetFields(keys.versions(epoch))]
        reads += [GetHead(keys.plane(epoch, plane.id, Layer.TILES), HEADER_BYTES) for plane in planes]
        for layer in (Layer.QUOTES, Layer.CHAIN, Layer.TRADES) if is_tick else (Layer.QUOTES,):
            reads += [GetValue(keys.plane(epoch, plane.id, layer)) for plane in planes]
        active, fields, *found = await reader.read(*reads)
        assert isinstance(active, dict) and isinstance(fields, dict)
        versions = Versions(fields)
        tiles = [
            layer_of(head, versions.level(plane.id, "tiles").version)
            for plane, head in zip(planes, found[:count], strict=True)
        ]
        if not is_tick:
            tiles = await with_cells(reader, self._known, keys, epoch, Layer.TILES, planes, tiles)
        blobs = [blob if isinstance(blob, bytes) else None for blob in found[count:]]
        active_epoch = active.get(symbol.encode(), b"").decode() or None
        cuts: list[bytes | None] = [None] * count
        if is_tick and compiled is not None and active_epoch == epoch:
            cuts = await self._cuts(compiled, entries, blobs[:count], blobs[count : 2 * count], blobs[2 * count :])
        states = zip(planes, blobs[:count], tiles, cuts, strict=True)
        return CalculateState(symbol, active_epoch, compiled, versions, tuple(PlaneState(*one) for one in states))

    async def _cuts(
        self,
        compiled: CompiledEpoch,
        entries: EpochEntries,
        quotes: Sequence[bytes | None],
        chains: Sequence[bytes | None],
        trades: Sequence[bytes | None],
    ) -> list[bytes | None]:
        newest = _newest_tick(entries, compiled.epoch)
        conventions = self._settings.conventions
        return await self._offload(
            compute_cuts, compiled.epoch, compiled.listing, newest, conventions, quotes, chains, trades
        )

    # --- step

    def step(self, state: CalculateState, entries: EpochEntries) -> list[Commit]:
        """All entries are of one type and symbol; those of another epoch than the active one have no work left."""
        current = [entry for entry in entries if epoch_of(entry.message) == state.active]
        compiled = state.compiled
        if not current or compiled is None or compiled.epoch != state.active or not state.versions.fields:
            # entries of the active epoch come back to be loaded, unless its keys are gone
            is_gone = compiled is None or compiled.epoch == state.active
            return [
                acknowledged(self._keys, state.symbol, state.active, entries if is_gone else _others(entries, current))
            ]
        if isinstance(current[0].message, Tick):
            return [self._tick(state, compiled, _newest_tick(current, compiled.epoch), _ids(entries))]
        promoted = isinstance(current[0].message, EpochPromoted)
        return self._compute(state, compiled, _ids(entries), promoted=promoted)

    def _compute(
        self, state: CalculateState, compiled: CompiledEpoch, ids: tuple[EntryId, ...], *, promoted: bool
    ) -> list[Commit]:
        commits: list[Commit] = []
        behind = [one for one in state.planes if one.quotes is not None]
        for first in range(0, len(behind), PLANES_PER_COMMIT):
            guards: list[Guard] = [self._is_active(state, compiled)]
            writes: list[Write] = []
            for one in behind[first : first + PLANES_PER_COMMIT]:
                made = self._tiles(state, compiled, one, promoted=promoted)
                if made is not None:
                    guards += made[0]
                    writes += made[1]
            commits.append(Commit(guards=tuple(guards), writes=tuple(writes)))
        done: tuple[Write, ...] = ()
        if promoted:
            message = EpochComputed(state.symbol, compiled.epoch)
            done = (Emit(self._keys.strategy_stream(state.symbol), encode(message)),)
        last = commits.pop() if commits else Commit(guards=(self._is_active(state, compiled),))
        return [*commits, Commit(ids, last.guards, (*last.writes, *done))]

    def _is_active(self, state: CalculateState, compiled: CompiledEpoch) -> Guard:
        return FieldIs(self._keys.active(state.symbol), state.symbol, compiled.epoch)

    def _tiles(
        self, state: CalculateState, compiled: CompiledEpoch, one: PlaneState, *, promoted: bool
    ) -> tuple[list[Guard], list[Write]] | None:
        """Bring a plane's tiles to the version of the quotes that were read; None if they are there already."""
        assert one.quotes is not None
        plan, before = compiled.plans[one.plane.id], one.tiles
        header, quotes = unpack_header(one.quotes), unpack_rows(one.quotes, QUOTE_ROW)
        version, watermark = int(header["version"]), float(header["watermark"])
        if before is None:
            cells, touched = compute_tiles(plan, quotes), np.arange(plan.cell_count)
        elif before.version == version:
            return None
        else:
            touched = touched_cells(plan, dirty_rows(quotes, before.version))
            cells = recompute_cells(plan, quotes, before.cells, touched)
        tiles = Tiles(version, watermark, cells)
        self._known.put(compiled.epoch, one.plane.id, tiles)
        return self._tile_writes(state, compiled, one, tiles, touched, promoted=promoted)

    def _tile_writes(
        self,
        state: CalculateState,
        compiled: CompiledEpoch,
        one: PlaneState,
        tiles: Tiles,
        touched: Cells,
        *,
        promoted: bool,
    ) -> tuple[list[Guard], list[Write]]:
        keys, symbol, epoch, plane = self._keys, state.symbol, compiled.epoch, one.plane
        versions = keys.versions(epoch)
        stored = state.versions.fields.get(version_field(plane.id, "tiles").encode())
        key = keys.plane(epoch, plane.id, Layer.TILES)
        still_there, write = layer_write(key, one.tiles, tiles, touched, self._settings.epoch_ttl_ms)
        guards: list[Guard] = [
            FieldIs(versions, version_field(plane.id, "tiles"), stored),
            KeysExist((versions, keys.plane(epoch, plane.id, Layer.QUOTES))),
            *still_there,
        ]
        dirty = Flag(keys.epoch_stream(symbol), encode(PlaneDirty(symbol, epoch, plane.id)))
        # a promoted epoch is announced once, as a whole: its first diffs follow the reset
        ahead = None if promoted else Flag(keys.strategy_stream(symbol), encode(PlaneComputed(symbol, epoch, plane.id)))
        marks = EpochMarks(keys.dirty(symbol), keys.clean(symbol), epoch)
        computed = computed_count(compiled.plans[plane.id], len(touched))
        counts = {"planes": 1, "tiles_touched": len(touched), "tiles_recomputed": computed}
        writes: list[Write] = [
            write,
            Advance(
                versions,
                plane.id,
                "tiles",
                "quotes",
                tiles.version,
                tiles.watermark,
                dirty,
                "published",
                ahead,
                marks,
                keys.latency(Stat.EPOCH, symbol),
                keys.analytics(Stat.EPOCH, symbol),
            ),
            Count(keys.analytics(Stat.STRATEGY, symbol), counts),
        ]
        return guards, writes

    # --- tick

    def _tick(self, state: CalculateState, compiled: CompiledEpoch, message: Tick, ids: tuple[EntryId, ...]) -> Commit:
        """Store, for every plane, the rows as read, the tiles of those rows, and their exposures: one cut."""
        keys, symbol, epoch = self._keys, state.symbol, compiled.epoch
        guards: list[Guard] = [
            self._is_active(state, compiled),
            FieldBelow(keys.versions(epoch), "tick", message.tick),
            KeysExist((keys.versions(epoch),)),
        ]
        if int(state.versions.fields.get(b"tick", b"0")) >= message.tick:
            return Commit(ids, (guards[0],))
        writes: list[Write] = []
        for one in state.planes:
            if one.cut is None:
                continue
            key = keys.plane(epoch, one.plane.id, Layer.ANALYTICS)
            writes.append(SetValue(key, one.cut, self._settings.epoch_ttl_ms, derived=True))
            if one.tiles is None:
                healed_guards, healed = self._heal(state, compiled, one, decode_cut(one.cut))
                guards += healed_guards
                writes += healed
        done = AnalyticsComputed(symbol, epoch, message.tick, message.market_ts, message.spot, message.spot_ts)
        writes += (
            SetFields(keys.versions(epoch), {"tick": message.tick}),
            Emit(keys.strategy_stream(symbol), encode(done)),
            Count(keys.analytics(Stat.STRATEGY, symbol), {"ticks": 1}),
        )
        return Commit(ids, tuple(guards), tuple(writes))

    def _heal(
        self, state: CalculateState, compiled: CompiledEpoch, one: PlaneState, cut: AnalyticsCut
    ) -> tuple[list[Guard], list[Write]]:
        """Tiles that were lost (derived data is not persisted) are made again from the cut."""
        tiles = Tiles(cut.version, cut.watermark, cut.cells)
        return self._tile_writes(state, compiled, one, tiles, np.arange(cut.cells.shape[1]), promoted=True)


def build_stage(keys: Keys, symbol: str, settings: CalculateSettings, offload: Offload = inline) -> Stage:
    """The calculate stage of the partition that `symbol` belongs to."""
    calculation = Calculation(keys, settings, offload)
    (row,) = streams_of(StageName.CALCULATE)
    source: Source[Message, CalculateState] = Source(
        row,
        row.key(keys, symbol),
        BATCH,
        lambda fields: decode(fields, row.messages),
        by_type_and_symbol,
        calculation.load,
        calculation.step,
        in_background=lambda message: isinstance(message, Tick),
    )
    return Stage(StageName.CALCULATE, (source,))


def symbol_of(message: Message) -> str:
    """The underlying a message is about."""
    return str(getattr(message, "symbol", ""))


def epoch_of(message: Message) -> str:
    """The epoch a message is about."""
    return str(getattr(message, "epoch", ""))


def acknowledged(keys: Keys, symbol: str, active: str | None, entries: EpochEntries) -> Commit:
    """Entries without work left, as long as this epoch is the active one."""
    return Commit(_ids(entries), (FieldIs(keys.active(symbol), symbol, active),))


def _others(entries: EpochEntries, current: EpochEntries) -> EpochEntries:
    return [entry for entry in entries if entry not in current]


def by_type_and_symbol(message: Message) -> Hashable:
    """Messages of one type about one symbol are worked on together."""
    return message.TYPE, symbol_of(message)


def _ids(entries: EpochEntries) -> tuple[EntryId, ...]:
    return tuple(entry.id for entry in entries)


def _planes_concerned(compiled: CompiledEpoch, entries: EpochEntries) -> tuple[Plane, ...]:
    if not isinstance(entries[0].message, PlaneDirty):
        return compiled.geometry.planes
    named = dict.fromkeys(_named_planes(entries, compiled.epoch))
    return tuple(plane for plane in compiled.geometry.planes if plane.id in named)


def _newest_tick(entries: EpochEntries, epoch: str) -> Tick:
    ticks = [entry.message for entry in entries if isinstance(entry.message, Tick) and entry.message.epoch == epoch]
    return max(ticks, key=lambda tick: tick.tick)


def _named_planes(entries: EpochEntries, epoch: str) -> Iterator[str]:
    for entry in entries:
        if isinstance(entry.message, PlaneDirty) and entry.message.epoch == epoch:
            yield entry.message.plane


async def with_cells(
    reader: Reader,
    known: KnownTiles,
    keys: Keys,
    epoch: str,
    layer: Layer,
    planes: Sequence[Plane],
    headed: list[Tiles | None],
) -> list[Tiles | None]:
    """Layers of which the headers were read, with their cells: what is known of a version is not read again."""
    found = [head and known.get(epoch, plane.id, head) for plane, head in zip(planes, headed, strict=True)]
    wanted = [(at, head) for at, head in enumerate(headed) if head is not None and found[at] is None]
    if wanted:
        blobs = await reader.values(*(keys.plane(epoch, planes[at].id, layer) for at, _ in wanted))
        for (at, head), blob in zip(wanted, blobs, strict=True):
            found[at] = layer_of(blob, head.version)
    return found
