"""The active epoch as hydration sees it: where each contract's rows live. Compiled once per epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from contracts.commit import EpochMarks, Flag, KeysExist, Merge, MergeRow
from contracts.geometry import Geometry, Plane, decode_geometry
from contracts.keys import Keys, Layer
from contracts.messages import PlaneDirty, encode
from contracts.ports import CountExisting, Reader
from stages.staging.records import SUBSTRATE_LAYERS, Record

EXIST_KEYS = 500  # keys looked for in one read


@dataclass(frozen=True, slots=True)
class Seat:
    """A contract's place on the board."""

    plane: int
    row: int
    contract_key: str


class Board:
    """An epoch's geometry with the keys and flags its merges need. Immutable."""

    def __init__(self, keys: Keys, epoch: str, geometry: Geometry) -> None:
        self.keys = keys
        self.epoch = epoch
        self.geometry = geometry
        self.symbol = geometry.symbol
        self.seats: dict[str, Seat] = {
            cid: Seat(plane, row, keys.contract(epoch, cid)) for cid, (plane, row) in geometry.row_of.items()
        }
        self.versions = keys.versions(epoch)
        self.layers = tuple((plane.id, layer) for plane in geometry.planes for layer in SUBSTRATE_LAYERS)
        self.layer_keys = tuple(self.layer_key(plane, layer) for plane, layer in self.layers)
        self.marks = EpochMarks(keys.dirty(self.symbol), keys.clean(self.symbol), epoch)
        self._flags = {plane.id: self._flag(plane) for plane in geometry.planes}

    def _flag(self, plane: Plane) -> Flag:
        message = PlaneDirty(self.symbol, self.epoch, plane.id)
        return Flag(self.keys.epoch_stream(self.symbol), encode(message))

    @property
    def substrate_keys(self) -> tuple[str, ...]:
        """Every key that staging writes of an epoch and renews while it is active."""
        return (
            self.keys.listing(self.epoch),
            self.versions,
            self.keys.had_ws_updates(self.epoch),
            *(self.keys.geometry(self.epoch, expiration) for expiration in self.geometry.expirations),
            *self.layer_keys,
            *(seat.contract_key for seat in self.seats.values()),
        )

    def flag(self, plane: str) -> Flag:
        """The dirty flag of a plane."""
        return self._flags[plane]

    def layer_key(self, plane: str, layer: Layer) -> str:
        """Key of one layer of a plane."""
        return self.keys.plane(self.epoch, plane, layer)

    def merge(self, plane: Plane, layer: Layer, rows: list[tuple[int, Record]]) -> Merge:
        """Newest-wins of (row, record) into a layer of a plane."""
        merged = tuple(
            MergeRow(
                record.group.offset(row),
                record.packed,
                self.keys.contract(self.epoch, plane.rows[row].cid),
                record.fields,
            )
            for row, record in rows
        )
        key = self.layer_key(plane.id, layer)
        if layer is not Layer.QUOTES:
            return Merge(key, merged)
        watermark = self.keys.watermark(self.symbol)
        return Merge(key, merged, self.versions, plane.id, watermark, self.flag(plane.id), self.marks)

    def exists(self, merges: list[Merge]) -> KeysExist:
        """The keys these merges write to; none of them may be created by an update."""
        names = {self.versions: None}
        for merge in merges:
            names[merge.layer] = None
            names.update((row.contract_key, None) for row in merge.rows)
        return KeysExist(tuple(names))


async def keys_exist(reader: Reader, names: Sequence[str]) -> bool:
    """Whether all of many keys exist; asked in parts, so that no read blocks the server for long."""
    for first in range(0, len(names), EXIST_KEYS):
        part = tuple(names[first : first + EXIST_KEYS])
        (existing,) = await reader.read(CountExisting(part))
        if existing != len(part):
            return False
    return True


class BoardCache:
    """Boards by epoch id. Geometry never changes, so caching it is no state; only the newest few are kept."""

    def __init__(self, keys: Keys, keep: int = 16) -> None:
        self._keys = keys
        self._keep = keep
        self._boards: dict[str, Board] = {}

    def get(self, epoch: str) -> Board | None:
        """The board, if compiled before."""
        return self._boards.get(epoch)

    def put(self, epoch: str, listing: bytes) -> Board:
        """Compile a board from the epoch's listing."""
        while len(self._boards) >= self._keep:
            del self._boards[next(iter(self._boards))]
        board = self._boards[epoch] = Board(self._keys, epoch, decode_geometry(listing))
        return board
