"""Chains become epochs: refresh in place when the geometry is the same, promote when it is not.

Only the chain defines structure. A chain over the same contracts moves newer values in, plane by plane; a chain over
other ones promotes (`promotion.py`). Two things promote over the same contracts: a long silence of the feed
(`dormancy.py`) and a person's order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from contracts.clock import decode_clock
from contracts.commit import (
    Commit,
    Count,
    DropFields,
    Emit,
    EntryId,
    FieldBelow,
    FieldIs,
    Guard,
    Scalar,
    SetFields,
    Write,
)
from contracts.errors import DataError
from contracts.geometry import Geometry, Listing, Plane, build_geometry
from contracts.keys import Keys, Layer, Stat
from contracts.messages import ChainCompleted, EpochForce, EpochPromoted, encode
from contracts.planes import HEADER_BYTES
from contracts.ports import GetFields, GetItems, Reader
from contracts.snapshot import ChainSnapshot, decode_snapshot
from contracts.stage import Entry
from contracts.symbology import ineligibility
from stages.staging.board import Board, BoardCache, keys_exist
from stages.staging.dormancy import (
    Dormancy,
    DormancySettings,
    decode_dormancy,
    is_dormant,
    measure_silence,
)
from stages.staging.promotion import (
    BOOTSTRAP,
    CARRYING,
    DONE,
    DORMANCY,
    GEOMETRY,
    OPERATOR,
    Place,
    Promoter,
    Promotion,
    answered_field,
)
from stages.staging.records import (
    GROUPS,
    ROW_TYPES,
    Record,
    chain_records,
    fields_of,
    is_latched,
    is_newer,
    is_told,
)
from stages.staging.widths import default_widths

ChainMessage: TypeAlias = ChainCompleted | EpochForce
ChainEntries: TypeAlias = "Sequence[Entry[ChainMessage]]"
FetchEntries: TypeAlias = "Sequence[Entry[ChainCompleted]]"
Blobs: TypeAlias = "dict[tuple[str, Layer], bytes]"  # (plane, layer) -> rows
PlaneRecords: TypeAlias = "dict[str, list[tuple[int, Record]]]"


MERGE_ROWS = 50  # records merged by one script: frames get their turn in between, and no script takes 3 ms


@dataclass(frozen=True)
class ChainSettings:
    """What staging of chains needs from the settings."""

    epoch_ttl_ms: int
    timeline_length: int
    widths: dict[str, tuple[float, ...]]
    dormancy: DormancySettings


@dataclass(frozen=True)
class ChainState:
    """Everything the step looks at, for one symbol."""

    symbol: str
    active: str | None
    meta: dict[str, str]
    building: dict[str, str]
    feed: dict[str, str]
    tick: dict[str, str]
    pruned: tuple[str, ...]  # ids that a push would drop from the timeline
    board: Board | None = None  # of the active epoch; None if there is none or its listing is gone
    is_whole: bool = False  # every key of that board is there
    old: Board | None = None  # the board a promotion in progress carries from
    planes: dict[str, Blobs] = field(default_factory=dict)  # by epoch
    snapshots: dict[str, ChainSnapshot] = field(default_factory=dict)  # expiration -> snapshot
    expired: tuple[str, ...] = ()  # received, but the snapshot is gone

    @property
    def fetch(self) -> int:
        """Number of the newest fetch applied to the active epoch."""
        return int(self.meta.get("fetch", "0"))

    @property
    def is_carrying(self) -> bool:
        """The active epoch was switched to, but not everything is carried yet."""
        return self.building.get("phase") == CARRYING and self.building.get("id") == self.active

    @property
    def place(self) -> Place:
        """Where a promotion would take place."""
        return Place(self.symbol, self.active, self.building, self.pruned)

    @property
    def snapshot_ts(self) -> float:
        """Market time of the newest snapshot of the fetch."""
        return max(snapshot.ts for snapshot in self.snapshots.values())


class Staging:
    """load and step of the chain source of one partition."""

    def __init__(self, keys: Keys, settings: ChainSettings) -> None:
        self._keys = keys
        self._settings = settings
        self._promoter = Promoter(keys, settings.epoch_ttl_ms, settings.timeline_length)
        self._cache = BoardCache(keys, keep=8)

    # --- load

    async def load(self, reader: Reader, entries: ChainEntries) -> ChainState:
        """Read the active epoch, a promotion in progress, and the snapshots of the newest fetch."""
        keys, symbol = self._keys, entries[0].message.symbol
        active, building, feed, tick, timeline = await reader.read(
            GetFields(keys.active(symbol)),
            GetFields(keys.building(symbol)),
            GetFields(keys.feed(symbol)),
            GetFields(keys.tick(symbol)),
            GetItems(keys.timeline(symbol), self._settings.timeline_length - 1, -1),
        )
        assert isinstance(active, dict) and isinstance(building, dict) and isinstance(timeline, list)
        assert isinstance(feed, dict) and isinstance(tick, dict)
        epoch = active[symbol.encode()].decode() if symbol.encode() in active else None
        state = ChainState(
            symbol,
            epoch,
            _text(await reader.fields(keys.meta(epoch))) if epoch else {},
            _text(building),
            _text(feed),
            _text(tick),
            tuple(item.decode() for item in timeline),
        )
        return await self._with_snapshots(reader, await self._with_boards(reader, state), _fetches(entries))

    async def _with_boards(self, reader: Reader, state: ChainState) -> ChainState:
        board = await self._board(reader, state.active)
        old = await self._board(reader, state.building.get("from")) if state.is_carrying else None
        planes = {one.epoch: await _blobs(reader, one) for one in (board, old) if one is not None}
        is_whole = board is not None and await _is_whole(reader, board, planes[board.epoch])
        return replace(state, board=board, is_whole=is_whole, old=old, planes=planes)

    async def _board(self, reader: Reader, epoch: str | None) -> Board | None:
        """The board of an epoch if its listing is there."""
        if not epoch:
            return None
        (listing,) = await reader.values(self._keys.listing(epoch))
        if listing is None:
            return None
        return self._cache.get(epoch) or self._cache.put(epoch, listing)

    @staticmethod
    async def _with_snapshots(reader: Reader, state: ChainState, fetches: FetchEntries) -> ChainState:
        received = _newest(fetches).received if fetches else {}
        if not received:
            return state
        blobs = await reader.values(*received.values())
        found = {e: decode_snapshot(blob) for e, blob in zip(received, blobs, strict=True) if blob is not None}
        return replace(state, snapshots=found, expired=tuple(e for e in received if e not in found))

    # --- step

    def step(self, state: ChainState, entries: ChainEntries) -> list[Commit]:
        """Finish a carry, or apply the newest fetch, or answer the first order; the step is taken until none is left.

        Older fetches are acknowledged with the newest one; every order has an epoch of its own.
        """
        if state.is_carrying and state.board is not None and state.is_whole:
            return self._carry(state, state.board, entries)
        answered = [entry.id for entry in entries if answered_field(entry.id) in state.building]
        if answered:
            return [self._acknowledged(state, answered)]
        fetches = _fetches(entries)
        if fetches:
            return self._apply(state, fetches, _newest(fetches))
        return self._answer(state, _orders(entries)[0])

    def _done(self, state: ChainState, ids: Sequence[EntryId], counts: Mapping[str, int], *writes: Write) -> Commit:
        analytics = Count(self._keys.analytics(Stat.EPOCH, state.symbol), counts)
        return Commit(tuple(ids), (self._is_active(state),), (*writes, analytics))

    def _is_active(self, state: ChainState) -> Guard:
        return FieldIs(self._keys.active(state.symbol), state.symbol, state.active)

    def _ask_again(self, state: ChainState, reason: str) -> Write:
        return SetFields(self._keys.job(state.symbol), {"again": reason})

    # --- a fetch

    def _apply(self, state: ChainState, fetches: FetchEntries, newest: ChainCompleted) -> list[Commit]:
        ids = [entry.id for entry in fetches]
        if state.active and newest.fetch <= state.fetch:
            return [self._done(state, ids, {"stale_fetches": len(ids)})]
        # snapshots ran out before we came, or nothing was received: never read as missing expirations
        if state.expired:
            counts = {"expired_snapshots": len(state.expired)}
            return [self._done(state, ids, counts, self._ask_again(state, "expired"))]
        if not newest.received:
            return [self._done(state, ids, {"empty_fetches": 1}, self._ask_again(state, "partial"))]
        geometry = self._geometry(state, newest)
        silence = measure_silence(state.feed, state.tick, state.meta)
        dormancy = decode_dormancy(state.meta).after_chain(silence, self._settings.dormancy)
        if state.board is None or not state.is_whole:
            return self._promote(state, BOOTSTRAP, self._with_widths(state, geometry, newest), dormancy, fetches)
        if geometry.hash != state.board.geometry.hash:
            return self._promote(state, GEOMETRY, self._with_widths(state, geometry, newest), dormancy, fetches)
        newer, rejected = _newer_records(state, state.board, newest.fetch)
        changed = any(
            _changes_value(state, state.board, plane, newer[plane.id]) for plane in state.board.geometry.planes
        )
        if dormancy.forces(silence, _ended_ts(newest), self._settings.dormancy, changed=changed):
            forced = dormancy.after_forced(_ended_ts(newest))
            return self._promote(state, DORMANCY, state.board.geometry, forced, fetches)
        counts = {
            "refreshes": 1,
            "coalesced_fetches": len(fetches) - 1,
            "rejected_rows": rejected,
            "dormant_chains": int(is_dormant(silence, self._settings.dormancy)),
        }
        return self._refresh(state, state.board, newer, self._fetch_facts(state, newest, dormancy), counts, fetches)

    def _geometry(self, state: ChainState, newest: ChainCompleted) -> Geometry:
        """Listed contracts of the fetch; an expiration that failed keeps its plane, never a silent shrink."""
        listings = [row for snapshot in state.snapshots.values() for row in listings_of(snapshot)]
        if state.board is not None:
            kept = (
                row for plane in state.board.geometry.planes if plane.expiration in newest.failed for row in plane.rows
            )
            listings += [_eligible_at(row, newest.market_ts) for row in kept]
        return build_geometry(state.symbol, listings)

    def _with_widths(self, state: ChainState, geometry: Geometry, newest: ChainCompleted) -> Geometry:
        return replace(geometry, widths=default_widths(state.symbol, geometry, newest.spot, self._settings.widths))

    @staticmethod
    def _fetch_facts(state: ChainState, newest: ChainCompleted, dormancy: Dormancy) -> dict[str, Scalar]:
        """What an epoch's meta says about the newest fetch in it."""
        since = json.loads(state.meta.get("failing_since") or "{}")
        failing = {expiration: since.get(expiration, _ended_ts(newest)) for expiration in newest.failed}
        return {
            "snapshot_ts": state.snapshot_ts,
            "failed_expirations": ",".join(newest.failed),
            "failing_since": json.dumps(failing),
            **dormancy.fields,
        }

    def _refresh(
        self,
        state: ChainState,
        board: Board,
        newer: PlaneRecords,
        facts: Mapping[str, Scalar],
        counts: Mapping[str, int],
        fetches: FetchEntries,
    ) -> list[Commit]:
        """Same geometry: newer values move in, one plane a commit, so that frames get their turn in between."""
        fetch = _newest(fetches).fetch
        commits = [one for plane in board.geometry.planes for one in self._merges(state, board, plane, newer[plane.id])]
        writes = SetFields(self._keys.meta(board.epoch), {"fetch": fetch, **facts})
        done = self._done(state, [entry.id for entry in fetches], counts, writes)
        below = FieldBelow(self._keys.meta(board.epoch), "fetch", fetch)
        return [*commits, replace(done, guards=(*done.guards, below))]

    def _merges(
        self, state: ChainState, board: Board, plane: Plane, records: list[tuple[int, Record]], *guards: Guard
    ) -> Iterator[Commit]:
        for first in range(0, len(records), MERGE_ROWS):
            by_layer: dict[Layer, list[tuple[int, Record]]] = {}
            for row, record in records[first : first + MERGE_ROWS]:
                by_layer.setdefault(record.group.layer, []).append((row, record))
            merges = [board.merge(plane, layer, rows) for layer, rows in by_layer.items()]
            yield Commit(guards=(self._is_active(state), *guards, board.exists(merges)), writes=tuple(merges))

    # --- promotion

    def _promote(
        self, state: ChainState, reason: str, geometry: Geometry, dormancy: Dormancy, fetches: FetchEntries
    ) -> list[Commit]:
        newest = _newest(fetches)
        facts = self._fetch_facts(state, newest, dormancy)
        promotion = Promotion(
            reason,
            geometry,
            newest.fetch,
            int(state.snapshot_ts),
            newest.market_ts,
            {**facts, "started_ts": _ended_ts(newest), "request": ""},
            {plane.id: _known_records(state, plane, newest.fetch) for plane in geometry.planes},
            tuple(entry.id for entry in fetches),
        )
        return self._promoter.commits(state.place, promotion)

    def _answer(self, state: ChainState, order: Entry[EpochForce]) -> list[Commit]:
        """Promote over the same geometry, everything dirty; without a board to copy the order comes to nothing."""
        if not state.active:
            return [self._done(state, (order.id,), {"orders_without_epoch": 1})]
        if state.board is None or not state.is_whole or not state.meta:
            return [self._done(state, (order.id,), {"orders_without_epoch": 1}, self._ask_again(state, "rebuild"))]
        geometry = state.board.geometry
        clock = decode_clock(state.tick["clock"].encode() if "clock" in state.tick else None)
        kept = ("snapshot_ts", "failed_expirations", "failing_since", *Dormancy().fields)
        promotion = Promotion(
            OPERATOR,
            geometry,
            state.fetch,
            int(float(state.meta.get("snapshot_ts") or 0)),
            clock.market_time(order.message.ts),
            {
                **{name: state.meta.get(name, "") for name in kept},
                "started_ts": order.message.ts,
                "request": order.message.request,
            },
            {plane.id: _known_records(state, plane, state.fetch) for plane in geometry.planes},
            (order.id,),
            order.id,
        )
        return self._promoter.commits(state.place, promotion)

    # --- carry

    def _carry(self, state: ChainState, board: Board, entries: ChainEntries) -> list[Commit]:
        """Move what the old board learned while the new one was built; then say that the epoch is ready."""
        building = self._keys.building(state.symbol)
        in_progress = FieldIs(building, "phase", CARRYING)
        commits: list[Commit] = []
        if state.old is not None:
            for plane in board.geometry.planes:
                records = _carried_records(plane, board, state.old, state.planes)
                commits += self._merges(state, board, plane, records, in_progress)
        finished = [entry.id for entry in _fetches(entries) if entry.message.fetch <= state.fetch]
        answered = [entry.id for entry in entries if answered_field(entry.id) in state.building]
        writes: list[Write] = [
            SetFields(building, {"phase": DONE}),
            Emit(self._keys.epoch_stream(state.symbol), encode(EpochPromoted(state.symbol, board.epoch))),
        ]
        if answered:
            writes.append(DropFields(building, tuple(answered_field(one) for one in answered)))
        return [*commits, Commit((*finished, *answered), (self._is_active(state), in_progress), tuple(writes))]

    def _acknowledged(self, state: ChainState, answered: Sequence[EntryId]) -> Commit:
        """Orders whose epochs others finished: their owner died between switch and acknowledgement."""
        forget = DropFields(self._keys.building(state.symbol), tuple(answered_field(one) for one in answered))
        return Commit(tuple(answered), writes=(forget,))


def listings_of(snapshot: ChainSnapshot) -> Iterator[Listing]:
    """The listed contracts of a snapshot with their eligibility at its time."""
    for row in snapshot.contracts:
        eligible = "" if row.eligible == 1 else str(row.eligible)
        yield Listing(
            row.root, snapshot.expiration, round(row.strike * 1000), row.type, row.id,
            row.settlement, row.exercise, row.multiplier, eligible,
        )  # fmt: skip


def _fetches(entries: ChainEntries) -> list[Entry[ChainCompleted]]:
    return [Entry(entry.id, entry.message) for entry in entries if isinstance(entry.message, ChainCompleted)]


def _orders(entries: ChainEntries) -> list[Entry[EpochForce]]:
    return [Entry(entry.id, entry.message) for entry in entries if isinstance(entry.message, EpochForce)]


def _newest(fetches: FetchEntries) -> ChainCompleted:
    return max((entry.message for entry in fetches), key=lambda message: message.fetch)


def _ended_ts(message: ChainCompleted) -> float:
    """Receive time at the end of a fetch."""
    return message.market_ts if message.ended_ts is None else message.ended_ts


def _text(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in fields.items()}


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


async def _blobs(reader: Reader, board: Board) -> Blobs:
    blobs = await reader.values(*board.layer_keys)
    return {place: blob for place, blob in zip(board.layers, blobs, strict=True) if blob is not None}


async def _is_whole(reader: Reader, board: Board, blobs: Blobs) -> bool:
    """Whether every key of a board is there, and every layer as long as its rows."""
    for plane in board.geometry.planes:
        for layer, dtype in ROW_TYPES.items():
            if len(blobs.get((plane.id, layer), b"")) != HEADER_BYTES + len(plane.rows) * dtype.itemsize:
                return False
    return await keys_exist(reader, board.substrate_keys)


# --- records


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


def _newer_records(state: ChainState, board: Board, fetch: int) -> tuple[PlaneRecords, int]:
    """Records of the fetch that would win against what is stored, and how many rows cannot be used.

    The script decides again; but a latch on open interest is decided here.
    """
    newer: PlaneRecords = {}
    rejected = 0
    for plane in board.geometry.planes:
        snapshot = state.snapshots.get(plane.expiration)
        records, bad = snapshot_records(plane, snapshot, fetch) if snapshot else ([], 0)
        blobs = state.planes[board.epoch]
        newer[plane.id] = [
            (row, record)
            for row, record in records
            if _replaces(record, _stored(blobs[plane.id, record.group.layer], row, record), state.fetch)
        ]
        rejected += bad
    return newer, rejected


def _replaces(record: Record, stored: bytes, applied_fetch: int) -> bool:
    return record.newer_than(stored) and not is_latched(record, stored, applied_fetch)


def _changes_value(state: ChainState, board: Board, plane: Plane, records: list[tuple[int, Record]]) -> bool:
    blobs = state.planes[board.epoch]
    return any(
        record.changes_value(_stored(blobs[plane.id, record.group.layer], row, record)) for row, record in records
    )


def _stored(blob: bytes, row: int, record: Record) -> bytes:
    at = record.group.offset(row)
    return blob[at : at + record.group.size]


def _known_records(state: ChainState, plane: Plane, fetch: int) -> list[tuple[int, Record]]:
    """Everything known of a plane's rows: what the active board has, and what the fetch tells better."""
    known = {(row, record.group.name): record for row, record in _board_records(state, plane)}
    snapshot = state.snapshots.get(plane.expiration)
    for row, record in snapshot_records(plane, snapshot, fetch)[0] if snapshot else ():
        before = known.get((row, record.group.name))
        if before is None or _replaces(record, before.packed, state.fetch):
            known[row, record.group.name] = record
    return [(row, record) for (row, _), record in sorted(known.items())]


def _board_records(state: ChainState, plane: Plane) -> Iterator[tuple[int, Record]]:
    """What the active board knows of the contracts of a plane of the new one."""
    board = state.board
    for row, listing in enumerate(plane.rows if board is not None else ()):
        assert board is not None
        seat = board.seats.get(listing.cid)
        if seat is None:
            continue
        blobs = state.planes[board.epoch]
        for group in GROUPS:
            at = group.offset(seat.row)
            packed = blobs.get((board.geometry.planes[seat.plane].id, group.layer), b"")[at : at + group.size]
            if len(packed) == group.size and is_told(packed):
                yield row, Record(group, packed, fields_of(group, packed))


def _carried_records(plane: Plane, board: Board, old: Board, planes: dict[str, Blobs]) -> list[tuple[int, Record]]:
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
            at, to = group.offset(seat.row), group.offset(row)
            before = layer[at : at + group.size]
            now = planes[board.epoch][plane.id, group.layer][to : to + group.size]
            if is_newer(before, now):
                carried.append((row, Record(group, before, fields_of(group, before))))
    return carried
