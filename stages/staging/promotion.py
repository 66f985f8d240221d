"""Promotion: the commits that put a new epoch in the place of the active one.

Four parts, each made of commits whose guards make it safe to repeat or to abandon:

1. reserve an id (`building`), built from the epoch that is active now;
2. write the new board aside, in chunks; a zombie builder is refused by the guard on `building`;
3. switch: the new epoch becomes active, hydration of the old one is refused from here on;
4. carry: what the old board learned meanwhile moves over, newest wins; the last chunk says `promoted`.

A crash in between is finished by whoever claims the entry, or by the next chain.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from contracts.commit import (
    LAGGING_FIELD,
    AddMembers,
    AddScores,
    Commit,
    Count,
    Delete,
    DropMembers,
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
from contracts.geometry import Geometry, Listing, Plane
from contracts.keys import Keys, Layer, Stat
from contracts.planes import pack_rows
from stages.staging.board import Board
from stages.staging.records import CONTRACT_FIELDS, EMPTY_ROWS, SUBSTRATE_LAYERS, Record, put_record

BUILDING = "building"
CARRYING = "carrying"
DONE = "done"

BOOTSTRAP = "bootstrap"
GEOMETRY = "geometry"
DORMANCY = "dormancy"
OPERATOR = "operator"

BUILD_ROWS = 40  # contracts written by one script of a build: each HASH has some thirty fields
BUILD_SCORES = 1000

# What a promotion is counted as, beside `promotions` and `promotions_{reason}`.
_CHAIN_COUNTERS = {GEOMETRY: "geometry_changes", DORMANCY: "forced_dormancy"}

RowRecords = Sequence[tuple[int, Record]]


@dataclass(frozen=True)
class Promotion:
    """A new epoch to be.

    `fetch` is the number of the newest fetch in it, `snapshot_s` the second of its newest snapshot; `facts` are the
    fields of its meta that only the caller knows. `order` is the entry of an operator's order, if one is answered.
    """

    reason: str
    geometry: Geometry
    fetch: int
    snapshot_s: int
    created_ts: float
    facts: Mapping[str, Scalar]
    records: Mapping[str, RowRecords]  # plane -> rows with everything known of them
    holds: tuple[EntryId, ...]
    order: EntryId | None = None


@dataclass(frozen=True)
class Place:
    """Where a promotion takes place: the epoch that is active, and the promotion begun last."""

    symbol: str
    active: str | None
    building: Mapping[str, str]
    pruned: tuple[str, ...]  # ids that a push would drop from the timeline


class Promoter:
    """Makes the commits of promotions."""

    def __init__(self, keys: Keys, epoch_ttl_ms: int, timeline_length: int) -> None:
        self._keys = keys
        self._ttl_ms = epoch_ttl_ms
        self._timeline_length = timeline_length

    def commits(self, place: Place, promotion: Promotion) -> list[Commit]:
        """Reserve, build, switch."""
        board = Board(self._keys, self._epoch_id(place, promotion), promotion.geometry)
        guards = (
            FieldIs(self._keys.active(place.symbol), place.symbol, place.active),
            FieldIs(self._keys.building(place.symbol), "id", board.epoch),
        )
        chunks = self._build_chunks(place, board, promotion)
        build = [Commit(guards=guards, writes=chunk, holds=promotion.holds) for chunk in chunks]
        return [self._reserve(place, board, promotion), *build, self._switch(place, board, promotion, guards)]

    # --- reserve

    def _epoch_id(self, place: Place, promotion: Promotion) -> str:
        """The id reserved before for just this promotion, else the next one: no id is ever used twice."""
        building = place.building
        if building.get("phase") == BUILDING and _identity(place, promotion).items() <= building.items():
            return building["id"]
        last = max(_second(place.active), _second(building.get("id")))
        return self._keys.epoch_id(place.symbol, max(promotion.snapshot_s, last + 1), promotion.geometry.hash)

    def _reserve(self, place: Place, board: Board, promotion: Promotion) -> Commit:
        building = self._keys.building(place.symbol)
        reserved: dict[str, Scalar] = {"id": board.epoch, "phase": BUILDING, **_identity(place, promotion)}
        guards = (
            FieldIs(self._keys.active(place.symbol), place.symbol, place.active),
            FieldIs(building, "id", place.building.get("id")),
        )
        return Commit(guards=guards, writes=(SetFields(building, reserved),), holds=promotion.holds)

    # --- build

    def _build_chunks(self, place: Place, board: Board, promotion: Promotion) -> Iterator[tuple[Write, ...]]:
        ttl = self._ttl_ms
        geometry = board.geometry
        for plane in geometry.planes:
            records = promotion.records[plane.id]
            yield self._layer_writes(board, plane, records)
            yield from self._contract_writes(place.symbol, board, plane, records)
        for expiration in geometry.expirations:
            yield from self._score_writes(board, expiration)
        versions: dict[str, Scalar] = {LAGGING_FIELD: len(geometry.planes)}
        for plane in geometry.planes:
            versions |= {version_field(plane.id, "quotes"): 1, version_field(plane.id, "tiles"): 0}
        yield (
            SetValue(self._keys.listing(board.epoch), geometry.encode(), ttl),
            SetFields(board.versions, versions, ttl),
            SetValue(self._keys.had_ws_updates(board.epoch), "0", ttl),
        )

    def _layer_writes(self, board: Board, plane: Plane, records: RowRecords) -> tuple[Write, ...]:
        layers = {layer: EMPTY_ROWS[layer](len(plane.rows)) for layer in SUBSTRATE_LAYERS}
        for row, record in records:
            put_record(layers[record.group.layer], row, record)
        layers[Layer.QUOTES]["row_version"] = 1
        return tuple(
            SetValue(board.layer_key(plane.id, layer), pack_rows(rows, 1), self._ttl_ms)
            for layer, rows in layers.items()
        )

    def _contract_writes(
        self, symbol: str, board: Board, plane: Plane, records: RowRecords
    ) -> Iterator[tuple[Write, ...]]:
        by_row: dict[int, list[str]] = {row: [] for row in range(len(plane.rows))}
        for row, record in records:
            by_row[row] += record.fields
        writes = [
            SetFields(
                self._keys.contract(board.epoch, listing.cid),
                contract_fields(symbol, listing, by_row[row]),
                self._ttl_ms,
            )
            for row, listing in enumerate(plane.rows)
        ]
        for first in range(0, len(writes), BUILD_ROWS):
            yield tuple(writes[first : first + BUILD_ROWS])

    def _score_writes(self, board: Board, expiration: str) -> Iterator[tuple[Write, ...]]:
        rows = [row for plane in board.geometry.planes if plane.expiration == expiration for row in plane.rows]
        for first in range(0, len(rows), BUILD_SCORES):
            scores = {row.cid: row.strike_milli / 1000 for row in rows[first : first + BUILD_SCORES]}
            yield (AddScores(self._keys.geometry(board.epoch, expiration), scores, self._ttl_ms),)

    # --- switch

    def _switch(self, place: Place, board: Board, promotion: Promotion, guards: tuple[Guard, ...]) -> Commit:
        keys, symbol, epoch = self._keys, place.symbol, board.epoch
        building: dict[str, Scalar] = {"phase": CARRYING}
        if promotion.order is not None:
            building[answered_field(promotion.order)] = epoch
        writes: list[Write] = [
            SetFields(keys.active(symbol), {symbol: epoch}),
            SetFields(keys.meta(epoch), _meta(place, board.geometry, promotion)),
            PushItem(keys.timeline(symbol), epoch, self._timeline_length),
            AddMembers(keys.dirty(symbol), (epoch,)),
            SetFields(keys.building(symbol), building),
            *self._counts(symbol, promotion.reason),
        ]
        if place.active:
            meta = keys.meta(place.active)
            writes.append(DropMembers(keys.dirty(symbol), (place.active,)))
            writes.append(SetFields(meta, {"superseded_ts": promotion.created_ts}))
            guards = (*guards, _fetch_guard(meta, promotion))
        if place.pruned:
            writes.append(Delete(tuple(keys.meta(old) for old in place.pruned)))
            writes.append(DropMembers(keys.clean(symbol), place.pruned))
        exists = KeysExist((board.versions, keys.listing(epoch), *board.layer_keys))
        return Commit(guards=(*guards, exists), writes=tuple(writes), holds=promotion.holds, decides=True)

    def _counts(self, symbol: str, reason: str) -> Iterator[Write]:
        counts = {"promotions": 1, f"promotions_{reason}": 1}
        if reason == DORMANCY:
            counts["dormancy_triggers"] = 1
        yield Count(self._keys.analytics(Stat.EPOCH, symbol), counts)
        if reason in _CHAIN_COUNTERS:
            yield Count(self._keys.analytics(Stat.CHAIN, symbol), {_CHAIN_COUNTERS[reason]: 1})


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


def answered_field(order: EntryId) -> str:
    """Field of `building` that says which epoch answered an order; it stays until the order is acknowledged."""
    return f"answered:{order.id}"


def _identity(place: Place, promotion: Promotion) -> dict[str, str]:
    """What makes two builders builders of the same epoch."""
    return {
        "from": place.active or "",
        "fetch": str(promotion.fetch),
        "hash": promotion.geometry.hash,
        "reason": promotion.reason,
        "order": promotion.order.id if promotion.order else "",
    }


def _fetch_guard(meta: str, promotion: Promotion) -> Guard:
    """A chain must be newer than what it supersedes; an order copies it, so nothing may have come in between."""
    if promotion.order is None:
        return FieldBelow(meta, "fetch", promotion.fetch)
    return FieldIs(meta, "fetch", promotion.fetch)


def _meta(place: Place, geometry: Geometry, promotion: Promotion) -> dict[str, Scalar]:
    return {
        "symbol": place.symbol,
        "created_ts": promotion.created_ts,
        "geometry_hash": geometry.hash,
        "reason": promotion.reason,
        "prev": place.active or "",
        "strike_count": geometry.strike_count,
        "contract_count": geometry.contract_count,
        "expirations": ",".join(geometry.expirations),
        "excluded_count": geometry.excluded_count,
        "forced_dirty": int(promotion.reason in (DORMANCY, OPERATOR)),
        "had_ws_updates": 0,
        "last_ws_ts": "",
        "superseded_ts": "",
        "fetch": promotion.fetch,
        **promotion.facts,
    }


def _second(epoch: str | None) -> int:
    return int(epoch.rsplit(":", 2)[1]) if epoch else 0
