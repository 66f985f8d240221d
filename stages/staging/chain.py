"""Chains become epochs: refresh in place when the geometry is the same, promote when it is not.

A promotion is four parts, each a commit whose guards make it safe to repeat or to abandon:

1. reserve an id (`building`), built from the epoch that is active now;
2. write the new board aside, in chunks; a zombie builder is refused by the guard on `building`;
3. switch: the new epoch becomes active, hydration of the old one is refused from here on;
4. carry: what the old board knew and the new chain does not moves over, newest wins; the last chunk says `promoted`.

A crash in between is finished by whoever claims the entry, or by the next chain.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from contracts.commit import (
    LAGGING_FIELD,
    MAX_ROWS,
    AddMembers,
    AddScores,
    Commit,
    Count,
    Delete,
    DropMembers,
    Emit,
    EntryId,
    FieldBelow,
    FieldIs,
    Guard,
    KeysExist,
    PushItem,
    Scalar,
    SetFields,
    SetValue,
    Write,
    version_field,
)
from contracts.errors import DataError
from contracts.geometry import Geometry, Listing, Plane, build_geometry, decode_geometry
from contracts.keys import Keys, Layer, Stat
from contracts.messages import ChainCompleted, EpochPromoted, encode
from contracts.planes import pack_rows
from contracts.ports import CountExisting, GetFields, GetItems, Reader
from contracts.snapshot import ChainSnapshot, decode_snapshot
from contracts.stage import Entry
from contracts.symbology import ineligibility
from stages.staging.board import Board
from stages.staging.records import (
    CONTRACT_FIELDS,
    EMPTY_ROWS,
    GROUPS,
    SUBSTRATE_LAYERS,
    Record,
    chain_records,
    fields_of,
    is_newer,
    put_record,
)
from stages.staging.widths import default_widths

ChainEntries: TypeAlias = "Sequence[Entry[ChainCompleted]]"

BUILDING = "building"
CARRYING = "carrying"
DONE = "done"


@dataclass(frozen=True)
class ChainSettings:
    """What staging of chains needs from the settings."""

    epoch_ttl_ms: int
    timeline_length: int
    widths: dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class ChainState:
    """Everything the step looks at, for one symbol."""

    symbol: str
    active: str | None
    meta: dict[str, str]
    building: dict[str, str]
    board: Board | None  # of the active epoch; None if there is none or its keys are gone
    old: Board | None  # the board a promotion in progress carries from
    planes: dict[str, dict[tuple[str, Layer], bytes]] = field(default_factory=dict)  # epoch -> (plane, layer) -> blob
    snapshots: dict[str, ChainSnapshot] = field(default_factory=dict)  # expiration -> snapshot
    expired: tuple[str, ...] = ()  # received, but the snapshot is gone
    pruned: tuple[str, ...] = ()  # ids that a push would drop from the timeline

    @property
    def fetch(self) -> int:
        """Number of the newest fetch applied to the active epoch."""
        return int(self.meta.get("fetch", "0"))

    @property
    def carrying(self) -> bool:
        """The active epoch was switched to, but not everything is carried yet."""
        return self.building.get("phase") == CARRYING and self.building.get("id") == self.active


class Staging:
    """load and step of the chain source of one partition."""

    def __init__(self, keys: Keys, settings: ChainSettings) -> None:
        self._keys = keys
        self._settings = settings

    # --- load

    async def load(self, reader: Reader, entries: ChainEntries) -> ChainState:
        """Read the active epoch, a promotion in progress, and the snapshots of the newest fetch."""
        keys, newest = self._keys, _newest(entries)
        symbol = newest.symbol
        active_bytes, building, timeline = await reader.read(
            GetFields(keys.active(symbol)),
            GetFields(keys.building(symbol)),
            GetItems(keys.timeline(symbol), self._settings.timeline_length - 1, -1),
        )
        assert isinstance(active_bytes, dict) and isinstance(building, dict) and isinstance(timeline, list)
        active = active_bytes[symbol.encode()].decode() if symbol.encode() in active_bytes else None
        state = ChainState(
            symbol,
            active,
            _text(await reader.fields(keys.meta(active))) if active else {},
            _text(building),
            await self._board(reader, active),
            None,
            pruned=tuple(item.decode() for item in timeline),
        )
        if state.carrying and state.board is not None:
            old = await self._board(reader, state.building.get("from") or None)
            state = replace(state, old=old)
        planes: dict[str, dict[tuple[str, Layer], bytes]] = {}
        for board in (state.board, state.old):
            if board is not None:
                planes[board.epoch] = await _plane_blobs(reader, board)
        return await self._with_snapshots(reader, replace(state, planes=planes), newest)

    async def _board(self, reader: Reader, epoch: str | None) -> Board | None:
        """The board of an epoch if all its keys are there."""
        if not epoch:
            return None
        (listing,) = await reader.values(self._keys.listing(epoch))
        if listing is None:
            return None
        board = Board(self._keys, epoch, decode_geometry(listing))
        names = (board.versions, *_layer_keys(board))
        (existing,) = await reader.read(CountExisting(names))
        return board if existing == len(names) else None

    async def _with_snapshots(self, reader: Reader, state: ChainState, newest: ChainCompleted) -> ChainState:
        expirations = tuple(newest.received)
        if not expirations:
            return state
        blobs = await reader.values(*(newest.received[expiration] for expiration in expirations))
        found = {e: decode_snapshot(blob) for e, blob in zip(expirations, blobs, strict=True) if blob is not None}
        return replace(state, snapshots=found, expired=tuple(e for e in expirations if e not in found))

    # --- step

    def step(self, state: ChainState, entries: ChainEntries) -> list[Commit]:
        """Finish a carry, or apply the newest fetch of the batch; older fetches are acknowledged with it."""
        newest = _newest(entries)
        if state.carrying and state.board is not None:
            return self._carry(state, entries)
        if state.active and newest.fetch <= state.fetch:
            return [self._done(state, entries, {"stale_fetches": len(entries)})]
        if state.expired or not newest.received:
            return [self._ask_again(state, entries, newest)]
        geometry = self._geometry(state, newest)
        if state.board is not None and geometry.hash == state.board.geometry.hash:
            return self._refresh(state, state.board, entries, newest)
        return self._promote(state, geometry, entries, newest)

    def _done(self, state: ChainState, entries: ChainEntries, counts: dict[str, int], *writes: Write) -> Commit:
        analytics = Count(self._keys.analytics(Stat.EPOCH, state.symbol), counts)
        return Commit(_ids(entries), (self._is_active(state),), (*writes, analytics))

    def _ask_again(self, state: ChainState, entries: ChainEntries, newest: ChainCompleted) -> Commit:
        """Snapshots ran out before we came, or nothing was received: never read as missing expirations."""
        again = SetFields(self._keys.job(state.symbol), {"again": "expired" if state.expired else "partial"})
        counts = {"expired_snapshots": len(state.expired), "empty_fetches": 0 if newest.received else 1}
        return self._done(state, entries, counts, again)

    def _is_active(self, state: ChainState) -> Guard:
        return FieldIs(self._keys.active(state.symbol), state.symbol, state.active)

    # --- geometry

    def _geometry(self, state: ChainState, newest: ChainCompleted) -> Geometry:
        """Listed contracts of the fetch; an expiration that failed keeps its plane, never a silent shrink."""
        listings = [row for snapshot in state.snapshots.values() for row in listings_of(snapshot)]
        if state.board is not None:
            kept = (
                row for plane in state.board.geometry.planes if plane.expiration in newest.failed for row in plane.rows
            )
            listings += [_eligible_at(row, newest.market_ts) for row in kept]
        return build_geometry(state.symbol, listings)

    # --- refresh

    def _refresh(self, state: ChainState, board: Board, entries: ChainEntries, newest: ChainCompleted) -> list[Commit]:
        """Same geometry: newer values move in, one plane a commit, so that frames get their turn in between."""
        commits: list[Commit] = []
        rejected = 0
        for plane in board.geometry.planes:
            snapshot = state.snapshots.get(plane.expiration)
            if snapshot is None:
                continue
            records, bad = snapshot_records(plane, snapshot, newest.fetch)
            rejected += bad
            newer = _newer_records(records, state.planes[board.epoch], plane.id)
            commits += self._merge_commits(state, board, plane, newer)
        facts: dict[str, Scalar] = {
            "fetch": newest.fetch,
            "snapshot_ts": max(snapshot.ts for snapshot in state.snapshots.values()),
            "failed_expirations": ",".join(newest.failed),
        }
        counts = {"refreshes": 1, "coalesced_fetches": len(entries) - 1, "rejected_rows": rejected}
        done = self._done(state, entries, counts, SetFields(self._keys.meta(board.epoch), facts))
        below = FieldBelow(self._keys.meta(board.epoch), "fetch", newest.fetch)
        return [*commits, replace(done, guards=(*done.guards, below))]

    def _merge_commits(
        self, state: ChainState, board: Board, plane: Plane, records: list[tuple[int, Record]], *guards: Guard
    ) -> Iterator[Commit]:
        for first in range(0, len(records), MAX_ROWS):
            by_layer: dict[Layer, list[tuple[int, Record]]] = {}
            for row, record in records[first : first + MAX_ROWS]:
                by_layer.setdefault(record.group.layer, []).append((row, record))
            merges = [board.merge(plane, layer, rows) for layer, rows in by_layer.items()]
            yield Commit(guards=(self._is_active(state), *guards, board.exists(merges)), writes=tuple(merges))

    # --- promotion

    def _promote(
        self, state: ChainState, geometry: Geometry, entries: ChainEntries, newest: ChainCompleted
    ) -> list[Commit]:
        reason = "geometry" if state.board is not None else "bootstrap"
        epoch = self._epoch_id(state, geometry, newest)
        widths = default_widths(state.symbol, geometry, newest.spot, self._settings.widths)
        board = Board(self._keys, epoch, replace(geometry, widths=widths))
        still_building = FieldIs(self._keys.building(state.symbol), "id", epoch)
        guards = (self._is_active(state), still_building)
        holds = _ids(entries)
        build = [Commit(guards=guards, writes=chunk, holds=holds) for chunk in self._build_chunks(state, board, newest)]
        return [
            self._reserve(state, epoch, geometry.hash, newest.fetch, reason, holds),
            *build,
            self._switch(state, board, newest, reason, guards, holds),
        ]

    def _epoch_id(self, state: ChainState, geometry: Geometry, newest: ChainCompleted) -> str:
        building = state.building
        resumed = building.get("phase") == BUILDING and building.get("from", "") == (state.active or "")
        if resumed and building.get("fetch") == str(newest.fetch) and building.get("hash") == geometry.hash:
            return building["id"]
        last = max(_second(state.active), _second(building.get("id")))
        newest_second = int(max(snapshot.ts for snapshot in state.snapshots.values()))
        return self._keys.epoch_id(state.symbol, max(newest_second, last + 1), geometry.hash)

    def _reserve(
        self,
        state: ChainState,
        epoch: str,
        geometry_hash: str,
        fetch: int,
        reason: str,
        holds: tuple[EntryId, ...],
    ) -> Commit:
        building = self._keys.building(state.symbol)
        reserved: dict[str, Scalar] = {
            "id": epoch,
            "from": state.active or "",
            "fetch": fetch,
            "hash": geometry_hash,
            "phase": BUILDING,
            "reason": reason,
        }
        unchanged = FieldIs(building, "id", state.building.get("id"))
        return Commit(guards=(self._is_active(state), unchanged), writes=(SetFields(building, reserved),), holds=holds)

    def _build_chunks(self, state: ChainState, board: Board, newest: ChainCompleted) -> Iterator[tuple[Write, ...]]:
        ttl = self._settings.epoch_ttl_ms
        geometry = board.geometry
        for plane in geometry.planes:
            records = self._plane_records(state, plane, newest)
            yield self._layer_writes(board, plane, records)
            by_row: dict[int, list[str]] = {row: [] for row in range(len(plane.rows))}
            for row, record in records:
                by_row[row] += record.fields
            for first in range(0, len(plane.rows), MAX_ROWS):
                yield tuple(
                    SetFields(
                        self._keys.contract(board.epoch, plane.rows[row].cid),
                        contract_fields(state.symbol, plane.rows[row], by_row[row]),
                        ttl,
                    )
                    for row in range(first, min(first + MAX_ROWS, len(plane.rows)))
                )
        for expiration in geometry.expirations:
            scores = {
                row.cid: row.strike_milli / 1000
                for plane in geometry.planes
                if plane.expiration == expiration
                for row in plane.rows
            }
            yield (AddScores(self._keys.geometry(board.epoch, expiration), scores, ttl),)
        versions: dict[str, Scalar] = {LAGGING_FIELD: len(geometry.planes)}
        for plane in geometry.planes:
            versions |= {version_field(plane.id, "quotes"): 1, version_field(plane.id, "tiles"): 0}
        yield (
            SetValue(self._keys.listing(board.epoch), geometry.encode(), ttl),
            SetFields(board.versions, versions, ttl),
            SetValue(self._keys.had_ws_updates(board.epoch), "0", ttl),
        )

    def _plane_records(self, state: ChainState, plane: Plane, newest: ChainCompleted) -> list[tuple[int, Record]]:
        snapshot = state.snapshots.get(plane.expiration)
        if snapshot is not None:
            return snapshot_records(plane, snapshot, newest.fetch)[0]
        return []  # a failed expiration: its values are carried

    def _layer_writes(self, board: Board, plane: Plane, records: Iterable[tuple[int, Record]]) -> tuple[Write, ...]:
        layers = {layer: EMPTY_ROWS[layer](len(plane.rows)) for layer in SUBSTRATE_LAYERS}
        for row, record in records:
            put_record(layers[record.group.layer], row, record)
        layers[Layer.QUOTES]["row_version"] = 1
        ttl = self._settings.epoch_ttl_ms
        return tuple(
            SetValue(board.layer_key(plane.id, layer), pack_rows(rows, 1), ttl) for layer, rows in layers.items()
        )

    def _switch(
        self,
        state: ChainState,
        board: Board,
        newest: ChainCompleted,
        reason: str,
        guards: tuple[Guard, ...],
        holds: tuple[EntryId, ...],
    ) -> Commit:
        keys, symbol, epoch = self._keys, state.symbol, board.epoch
        writes: list[Write] = [
            SetFields(keys.active(symbol), {symbol: epoch}),
            SetFields(keys.meta(epoch), self._meta(state, board, newest, reason)),
            PushItem(keys.timeline(symbol), epoch, self._settings.timeline_length),
            AddMembers(keys.dirty(symbol), (epoch,)),
            SetFields(keys.building(symbol), {"phase": CARRYING}),
            Count(keys.analytics(Stat.EPOCH, symbol), {"promotions": 1, f"promotions_{reason}": 1}),
        ]
        if state.active:
            writes.append(DropMembers(keys.dirty(symbol), (state.active,)))
            writes.append(SetFields(keys.meta(state.active), {"superseded_ts": newest.market_ts}))
            guards = (*guards, FieldBelow(keys.meta(state.active), "fetch", newest.fetch))
        if state.pruned:
            writes.append(Delete(tuple(keys.meta(old) for old in state.pruned)))
            writes.append(DropMembers(keys.clean(symbol), state.pruned))
        exists = KeysExist((board.versions, keys.listing(epoch), *_layer_keys(board)))
        return Commit(guards=(*guards, exists), writes=tuple(writes), holds=holds)

    def _meta(self, state: ChainState, board: Board, newest: ChainCompleted, reason: str) -> dict[str, Scalar]:
        geometry = board.geometry
        return {
            "symbol": state.symbol,
            "created_ts": newest.market_ts,
            "snapshot_ts": max(snapshot.ts for snapshot in state.snapshots.values()),
            "geometry_hash": geometry.hash,
            "reason": reason,
            "prev": state.active or "",
            "strike_count": geometry.strike_count,
            "contract_count": geometry.contract_count,
            "expirations": ",".join(geometry.expirations),
            "failed_expirations": ",".join(newest.failed),
            "excluded_count": geometry.excluded_count,
            "dormant_count": 0,
            "forced_dirty": 0,
            "had_ws_updates": 0,
            "last_ws_ts": "",
            "superseded_ts": "",
            "fetch": newest.fetch,
        }

    # --- carry

    def _carry(self, state: ChainState, entries: ChainEntries) -> list[Commit]:
        """Move what the old board knew and is newer; then say that the epoch is ready."""
        board, old = state.board, state.old
        assert board is not None
        building = self._keys.building(state.symbol)
        in_progress = FieldIs(building, "phase", CARRYING)
        commits: list[Commit] = []
        if old is not None:
            for plane in board.geometry.planes:
                records = _carried_records(plane, board, old, state.planes)
                commits += self._merge_commits(state, board, plane, records, in_progress)
        finished = tuple(entry.id for entry in entries if entry.message.fetch <= state.fetch)
        writes = (
            SetFields(building, {"phase": DONE}),
            Emit(self._keys.epoch_stream(state.symbol), encode(EpochPromoted(state.symbol, board.epoch))),
        )
        return [*commits, Commit(finished, (self._is_active(state), in_progress), writes)]


def listings_of(snapshot: ChainSnapshot) -> Iterator[Listing]:
    """The listed contracts of a snapshot with their eligibility at its time."""
    for row in snapshot.contracts:
        eligible = "" if row.eligible == 1 else str(row.eligible)
        yield Listing(
            row.root, snapshot.expiration, round(row.strike * 1000), row.type, row.id,
            row.settlement, row.exercise, row.multiplier, eligible,
        )  # fmt: skip


def contract_fields(symbol: str, row: Listing, values: Sequence[str]) -> dict[str, Scalar]:
    """All fields of the readable HASH of a contract; unknown is empty."""
    fields: dict[str, Scalar] = dict.fromkeys(CONTRACT_FIELDS, "")
    fields |= {
        "id": row.cid,
        "underlying": symbol,
        "root": row.root,
        "expiration": row.expiration,
        "strike": f"{row.strike_milli / 1000:.10g}",
        "type": row.type,
        "settlement": row.settlement,
        "exercise": row.exercise,
        "multiplier": row.multiplier,
        "eligible": row.eligible or 1,
    }
    return fields | dict(zip(values[::2], values[1::2], strict=True))


def _newest(entries: ChainEntries) -> ChainCompleted:
    return max((entry.message for entry in entries), key=lambda message: message.fetch)


def _ids(entries: ChainEntries) -> tuple[EntryId, ...]:
    return tuple(entry.id for entry in entries)


def _text(fields: dict[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in fields.items()}


def _second(epoch: str | None) -> int:
    return int(epoch.rsplit(":", 2)[1]) if epoch else 0


def _eligible_at(row: Listing, market_ts: float) -> Listing:
    reason = ineligibility(row.root, row.expiration, row.multiplier, market_ts)
    return Listing(
        row.root,
        row.expiration,
        row.strike_milli,
        row.type,
        row.cid,
        row.settlement,
        row.exercise,
        row.multiplier,
        reason,
    )


def _layer_keys(board: Board) -> tuple[str, ...]:
    return tuple(board.layer_key(plane.id, layer) for plane in board.geometry.planes for layer in SUBSTRATE_LAYERS)


async def _plane_blobs(reader: Reader, board: Board) -> dict[tuple[str, Layer], bytes]:
    places = [(plane.id, layer) for plane in board.geometry.planes for layer in SUBSTRATE_LAYERS]
    blobs = await reader.values(*_layer_keys(board))
    return {place: blob for place, blob in zip(places, blobs, strict=True) if blob is not None}


def snapshot_records(plane: Plane, snapshot: ChainSnapshot, fetch: int) -> tuple[list[tuple[int, Record]], int]:
    """Records of a plane's rows in a snapshot, and how many rows had a value that cannot be used."""
    rows = {listing.cid: number for number, listing in enumerate(plane.rows)}
    records: list[tuple[int, Record]] = []
    rejected = 0
    for contract in snapshot.contracts:
        number = rows.get(contract.id)
        if number is None:
            continue
        try:
            records += [(number, record) for record in chain_records(contract, fetch, snapshot.ts)]
        except DataError:
            rejected += 1
    return records, rejected


def _newer_records(
    records: list[tuple[int, Record]], blobs: dict[tuple[str, Layer], bytes], plane: str
) -> list[tuple[int, Record]]:
    """Those that would win against what is stored; the script decides again."""
    return [
        (row, record)
        for row, record in records
        if record.newer_than(_stored(blobs[plane, record.group.layer], record.group.offset(row), record.group.size))
    ]


def _stored(blob: bytes, offset: int, size: int) -> bytes:
    return blob[offset : offset + size]


def _carried_records(
    plane: Plane, board: Board, old: Board, planes: dict[str, dict[tuple[str, Layer], bytes]]
) -> list[tuple[int, Record]]:
    carried: list[tuple[int, Record]] = []
    for row, listing in enumerate(plane.rows):
        seat = old.seats.get(listing.cid)
        if seat is None:
            continue
        old_plane = old.geometry.planes[seat.plane].id
        for group in GROUPS:
            layer = planes[old.epoch].get((old_plane, group.layer))
            if layer is None:  # ran out while we looked: nothing left to carry
                continue
            before = _stored(layer, group.offset(seat.row), group.size)
            now = _stored(planes[board.epoch][plane.id, group.layer], group.offset(row), group.size)
            if is_newer(before, now):
                carried.append((row, Record(group, before, fields_of(group, before))))
    return carried
