"""The calculate stage: dirty rows to touched tiles, ticks to analytics. Its messages come from the epoch stream."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from contracts.analytics import AnalyticsCut
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
from contracts.geometry import Geometry, Plane, decode_geometry
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
    CHAIN_ROW,
    HEADER_BYTES,
    QUOTE_ROW,
    Ints,
    Tiles,
    decode_tiles,
    unpack_header,
    unpack_rows,
)
from contracts.ports import GetFields, GetHead, GetValue, Read, Reader
from contracts.stage import Entry, Source, Stage
from contracts.topology import StageName, streams_of
from contracts.versions import Versions
from stages.calculate.exposure import GammaMode, compute_exposures
from stages.calculate.plan import Plan, compile_plan
from stages.calculate.tiles import compute_tiles, dirty_rows, recompute_tiles, touched_cells

EpochEntries: TypeAlias = "Sequence[Entry[Message]]"

BATCH = 32
PLANES_PER_COMMIT = 8


@dataclass(frozen=True)
class CalculateSettings:
    """What calculate needs from the settings."""

    epoch_ttl_ms: int
    gamma_mode: GammaMode


class CompiledEpoch:
    """An epoch's geometry with the compiled plan of each plane. Immutable, hence cached without being state."""

    def __init__(self, epoch: str, geometry: Geometry) -> None:
        self.epoch = epoch
        self.geometry = geometry
        self.plans: dict[str, Plan] = {plane.id: compile_plan(plane, geometry.widths) for plane in geometry.planes}


class CompiledEpochs:
    """The newest few compiled epochs, by id."""

    def __init__(self, keys: Keys, keep: int = 8) -> None:
        self._keys = keys
        self._keep = keep
        self._compiled: dict[str, CompiledEpoch] = {}

    async def get(self, reader: Reader, epoch: str) -> CompiledEpoch | None:
        """Compile an epoch from its listing; None if its keys are gone."""
        if epoch not in self._compiled:
            (listing,) = await reader.values(self._keys.listing(epoch))
            if listing is None:
                return None
            while len(self._compiled) >= self._keep:
                del self._compiled[next(iter(self._compiled))]
            self._compiled[epoch] = CompiledEpoch(epoch, decode_geometry(listing))
        return self._compiled[epoch]


@dataclass(frozen=True)
class CalculateState:
    """The active epoch and the planes concerned. A blob that is absent is None."""

    symbol: str
    active: str | None
    compiled: CompiledEpoch | None = None
    versions: Versions = field(default_factory=lambda: Versions({}))
    quotes: tuple[tuple[Plane, bytes | None], ...] = ()
    tiles: tuple[bytes | None, ...] = ()  # whole blobs, or headers alone for a tick
    chain: tuple[bytes | None, ...] = ()  # ticks only


class Calculation:
    """load and step of the epoch stream of one partition."""

    def __init__(self, keys: Keys, settings: CalculateSettings) -> None:
        self._keys = keys
        self._settings = settings
        self._compiled = CompiledEpochs(keys)

    # --- load

    async def load(self, reader: Reader, entries: EpochEntries) -> CalculateState:
        """Read the planes that the entries point at, each layer whole, all at one moment."""
        symbol = symbol_of(entries[0].message)
        active = (await reader.fields(self._keys.active(symbol))).get(symbol.encode())
        if active is None:
            return CalculateState(symbol, None)
        epoch = active.decode()
        compiled = await self._compiled.get(reader, epoch)
        if compiled is None or not any(epoch_of(entry.message) == epoch for entry in entries):
            return CalculateState(symbol, epoch, compiled)
        is_tick = isinstance(entries[0].message, Tick)
        planes = _planes_concerned(compiled, entries)
        reads: list[Read] = [GetFields(self._keys.versions(epoch))]
        reads += [GetValue(self._keys.plane(epoch, plane.id, Layer.QUOTES)) for plane in planes]
        tiles = [self._keys.plane(epoch, plane.id, Layer.TILES) for plane in planes]
        reads += [GetHead(key, HEADER_BYTES) if is_tick else GetValue(key) for key in tiles]
        if is_tick:
            reads += [GetValue(self._keys.plane(epoch, plane.id, Layer.CHAIN)) for plane in planes]
        versions, *blobs = await reader.read(*reads)
        assert isinstance(versions, dict)
        found = [blob if isinstance(blob, bytes) and blob else None for blob in blobs]
        count = len(planes)
        return CalculateState(
            symbol,
            epoch,
            compiled,
            Versions(versions),
            tuple(zip(planes, found[:count], strict=True)),
            tuple(found[count : 2 * count]),
            tuple(found[2 * count :]),
        )

    # --- step

    def step(self, state: CalculateState, entries: EpochEntries) -> list[Commit]:
        """All entries are of one type and symbol; those of another epoch than the active one have no work left."""
        current = [entry for entry in entries if epoch_of(entry.message) == state.active]
        if state.active is None or state.compiled is None or not current or not state.versions.fields:
            return [Commit(_ids(entries), (FieldIs(self._keys.active(state.symbol), state.symbol, state.active),))]
        if isinstance(current[0].message, Tick):
            newest = max((entry.message for entry in current if isinstance(entry.message, Tick)), key=lambda m: m.tick)
            return [self._tick(state, state.compiled, newest, _ids(entries))]
        promoted = isinstance(current[0].message, EpochPromoted)
        return self._compute(state, state.compiled, _ids(entries), promoted=promoted)

    def _compute(
        self, state: CalculateState, compiled: CompiledEpoch, ids: tuple[EntryId, ...], *, promoted: bool
    ) -> list[Commit]:
        commits: list[Commit] = []
        behind = [
            (plane, quotes, tiles)
            for (plane, quotes), tiles in zip(state.quotes, state.tiles, strict=True)
            if quotes is not None
        ]
        for first in range(0, len(behind), PLANES_PER_COMMIT):
            guards: list[Guard] = [self._is_active(state, compiled)]
            writes: list[Write] = []
            for plane, quotes, tiles in behind[first : first + PLANES_PER_COMMIT]:
                made = self._tiles(state, compiled, plane, quotes, tiles, promoted=promoted)
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
        self,
        state: CalculateState,
        compiled: CompiledEpoch,
        plane: Plane,
        quotes_blob: bytes,
        tiles_blob: bytes | None,
        *,
        promoted: bool,
    ) -> tuple[list[Guard], list[Write]] | None:
        """Bring a plane's tiles to the version of the quotes that were read; None if they are there already."""
        plan = compiled.plans[plane.id]
        header, quotes = unpack_header(quotes_blob), unpack_rows(quotes_blob, QUOTE_ROW)
        version, watermark = int(header["version"]), float(header["watermark"])
        computed = state.versions.level(plane.id, "tiles").version
        before = _valid_tiles(tiles_blob, computed)
        if before is None:
            cells, touched = compute_tiles(plan, quotes), plan.cell_count
        elif before.version == version:
            return None
        else:
            rows = dirty_rows(quotes, computed)
            cells, touched = recompute_tiles(plan, quotes, before.cells, rows), len(touched_cells(plan, rows))
        return self._tile_writes(state, compiled, plane, Tiles(version, watermark, cells), touched, promoted=promoted)

    def _tile_writes(
        self,
        state: CalculateState,
        compiled: CompiledEpoch,
        plane: Plane,
        tiles: Tiles,
        touched: int,
        *,
        promoted: bool,
    ) -> tuple[list[Guard], list[Write]]:
        keys, symbol, epoch = self._keys, state.symbol, compiled.epoch
        versions = keys.versions(epoch)
        stored = state.versions.fields.get(version_field(plane.id, "tiles").encode())
        guards: list[Guard] = [
            FieldIs(versions, version_field(plane.id, "tiles"), stored),
            KeysExist((versions, keys.plane(epoch, plane.id, Layer.QUOTES))),
        ]
        dirty = Flag(keys.epoch_stream(symbol), encode(PlaneDirty(symbol, epoch, plane.id)))
        # a promoted epoch is announced once, as a whole: its first diffs follow the reset
        ahead = None if promoted else Flag(keys.strategy_stream(symbol), encode(PlaneComputed(symbol, epoch, plane.id)))
        marks = EpochMarks(keys.dirty(symbol), keys.clean(symbol), epoch)
        writes: list[Write] = [
            SetValue(
                keys.plane(epoch, plane.id, Layer.TILES), tiles.encode(), self._settings.epoch_ttl_ms, derived=True
            ),
            Advance(
                versions, plane.id, "tiles", "quotes", tiles.version, tiles.watermark, dirty, "published", ahead, marks
            ),
            Count(keys.analytics(Stat.STRATEGY, symbol), {"planes": 1, "tiles_recomputed": touched}),
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
        for (plane, quotes), head, chain in zip(state.quotes, state.tiles, state.chain, strict=True):
            if quotes is None or chain is None:
                continue
            cut = self._cut(compiled, plane, message, quotes, chain)
            key = keys.plane(epoch, plane.id, Layer.ANALYTICS)
            writes.append(SetValue(key, cut.encode(), self._settings.epoch_ttl_ms, derived=True))
            if not _is_valid_head(head, state.versions.level(plane.id, "tiles").version):
                healed_guards, healed = self._heal(state, compiled, plane, cut)
                guards += healed_guards
                writes += healed
        done = AnalyticsComputed(symbol, epoch, message.tick, message.market_ts, message.spot, message.spot_ts)
        writes += (
            SetFields(keys.versions(epoch), {"tick": message.tick}),
            Emit(keys.strategy_stream(symbol), encode(done)),
            Count(keys.analytics(Stat.STRATEGY, symbol), {"ticks": 1}),
        )
        return Commit(ids, tuple(guards), tuple(writes))

    def _cut(
        self, compiled: CompiledEpoch, plane: Plane, message: Tick, quotes_blob: bytes, chain_blob: bytes
    ) -> AnalyticsCut:
        header, quotes = unpack_header(quotes_blob), unpack_rows(quotes_blob, QUOTE_ROW)
        chain = unpack_rows(chain_blob, CHAIN_ROW)
        cells: Ints = compute_tiles(compiled.plans[plane.id], quotes)
        exposures = compute_exposures(plane, chain, message.spot, message.market_ts, self._settings.gamma_mode)
        version, watermark = int(header["version"]), float(header["watermark"])
        return AnalyticsCut(message.tick, version, watermark, quotes, chain, cells, exposures)

    def _heal(
        self, state: CalculateState, compiled: CompiledEpoch, plane: Plane, cut: AnalyticsCut
    ) -> tuple[list[Guard], list[Write]]:
        """Tiles that were lost (derived data is not persisted) are made again from the cut."""
        tiles = Tiles(cut.version, cut.watermark, cut.cells)
        return self._tile_writes(state, compiled, plane, tiles, cut.cells.shape[1], promoted=True)


def build_stage(keys: Keys, symbol: str, settings: CalculateSettings) -> Stage:
    """The calculate stage of the partition that `symbol` belongs to."""
    calculation = Calculation(keys, settings)
    (row,) = streams_of(StageName.CALCULATE)
    source: Source[Message, CalculateState] = Source(
        row,
        row.key(keys, symbol),
        BATCH,
        lambda fields: decode(fields, row.messages),
        _partition,
        calculation.load,
        calculation.step,
    )
    return Stage(StageName.CALCULATE, (source,))


def symbol_of(message: Message) -> str:
    """The underlying a message is about."""
    return str(getattr(message, "symbol", ""))


def epoch_of(message: Message) -> str:
    """The epoch a message is about."""
    return str(getattr(message, "epoch", ""))


def _partition(message: Message) -> Hashable:
    return message.TYPE, symbol_of(message)


def _ids(entries: EpochEntries) -> tuple[EntryId, ...]:
    return tuple(entry.id for entry in entries)


def _planes_concerned(compiled: CompiledEpoch, entries: EpochEntries) -> tuple[Plane, ...]:
    if not isinstance(entries[0].message, PlaneDirty):
        return compiled.geometry.planes
    named = dict.fromkeys(_named_planes(entries, compiled.epoch))
    return tuple(plane for plane in compiled.geometry.planes if plane.id in named)


def _named_planes(entries: EpochEntries, epoch: str) -> Iterator[str]:
    for entry in entries:
        if isinstance(entry.message, PlaneDirty) and entry.message.epoch == epoch:
            yield entry.message.plane


def _is_valid_head(head: bytes | None, version: int) -> bool:
    """A derived blob counts only if its header agrees with `versions`; after a restart it may be older or gone."""
    return (
        head is not None
        and len(head) >= HEADER_BYTES
        and version > 0
        and int(unpack_header(head)["version"]) == version
    )


def _valid_tiles(blob: bytes | None, version: int) -> Tiles | None:
    return decode_tiles(blob) if blob is not None and _is_valid_head(blob, version) else None
