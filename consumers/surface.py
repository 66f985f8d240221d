"""What a reader of the published stream holds: the cells of every plane as arrays, and the newest models.

Pure: `fold` takes a surface and the next entry of the stream to the next surface, or tells that they do not fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from contracts.compiled import CompiledEpoch
from contracts.errors import DataError, FatalError
from contracts.models import ResetPlane
from contracts.plan import SIDES, STRATEGIES, Plan
from contracts.planes import TILE_FIELDS, UNKNOWN, Ints
from contracts.published import Indices, apply, changed_cells, decode_diff, decode_reset, reset_cells
from contracts.symbology import days_to_expiration

Floats = npt.NDArray[np.float64]
Model = dict[str, Any]

MODELS = ("gex", "liquidity", "mode", "gravity")
NOTHING_CHANGED: Indices = np.zeros(0, np.intp)

_DOLLARS = {"mid": ("mid2", 200), "buy": ("buy", 100), "sell": ("sell", 100)}


class GapError(Exception):
    """An entry does not follow from what we hold: something in between is missing."""


@dataclass(frozen=True, slots=True)
class Event:
    """An entry of `massive:model:stream:{U}`; `data` is JSON."""

    id: str
    type: str
    seq: int
    generation: str
    data: bytes

    @classmethod
    def of(cls, entry_id: str, fields: Mapping[bytes, bytes]) -> Event | None:
        """An entry as read; None for one that is not ours."""
        try:
            kind, generation = fields[b"type"].decode(), fields[b"generation"].decode()
            return cls(entry_id, kind, int(fields[b"seq"]), generation, fields[b"data"])
        except (KeyError, ValueError):
            return None


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """One strategy and side of a plane over strike x width.

    `mid2` (twice the mid, cents), `buy` and `sell` (cents) are int32 of shape [strike][width], UNKNOWN where there is
    no price; `flags` are UNKNOWN where there is no cell. A single has one width, 0.
    """

    strikes: Floats  # points
    widths: Floats  # points
    mid2: Ints
    buy: Ints
    sell: Ints
    flags: Ints

    @property
    def exists(self) -> npt.NDArray[np.bool_]:
        """Where there is a cell."""
        found: npt.NDArray[np.bool_] = self.flags != UNKNOWN
        return found

    def dollars(self, price: str = "mid") -> np.ma.MaskedArray[Any, np.dtype[np.float64]]:
        """`mid`, `buy` or `sell` in dollars, masked where there is no price."""
        name, dollar = _DOLLARS[price]
        values: Ints = getattr(self, name)
        return np.ma.masked_array(values / dollar, values == UNKNOWN)


@dataclass(frozen=True, slots=True, eq=False)
class PlaneSurface:
    """The published cells of one plane. Arrays of axes have one value per cell, in plan order."""

    id: str
    root: str
    expiration: str
    dte: int
    version: int
    strikes: Floats  # points, ascending
    widths: Floats  # points, ascending
    strategy: npt.NDArray[np.int8]  # per cell: number in STRATEGIES
    side: npt.NDArray[np.int8]  # per cell: number in SIDES
    strike: Floats  # per cell
    width: Floats  # per cell; 0 for a single
    cells: Ints  # shape (4, cells): mid2, buy, sell, flags

    def grid(self, strategy: str, side: str) -> Grid:
        """One strategy (butterfly, vertical, single) and side (call, put)."""
        chosen = (self.strategy == STRATEGIES.index(strategy)) & (self.side == SIDES.index(side))
        widths = self.widths if strategy != "single" else np.zeros(1)
        at = np.searchsorted(self.strikes, self.strike[chosen]), np.searchsorted(widths, self.width[chosen])
        columns = np.full((len(TILE_FIELDS), len(self.strikes), len(widths)), UNKNOWN, np.int32)
        columns[:, at[0], at[1]] = self.cells[:, chosen]
        return Grid(self.strikes, widths, *columns)

    def frame(self) -> Any:
        """A pandas DataFrame, one row per cell; a missing price is pandas' NA. FatalError without pandas."""
        pandas = _pandas()
        prices = {
            name: pandas.array(row, dtype="Int32") for name, row in zip(TILE_FIELDS, self.cells.tolist(), strict=True)
        }
        for name in TILE_FIELDS:
            prices[name][prices[name] == UNKNOWN] = pandas.NA
        return pandas.DataFrame(
            {
                "strategy": np.array(STRATEGIES)[self.strategy],
                "side": np.array(SIDES)[self.side],
                "strike": self.strike,
                "width": self.width,
                **prices,
            }
        )


@dataclass(frozen=True, slots=True, eq=False)
class Surface:
    """Everything published of one symbol after one entry of its stream. Plain values: keep it (pickle), go on from it.

    `complete_to`: receive time (epoch seconds) up to which every frame is included, None before the first. `models` are
    the newest of this epoch, by name (gex, liquidity, mode, gravity), as they were published.
    """

    symbol: str
    epoch: str
    generation: str
    seq: int
    entry_id: str
    complete_to: float | None
    planes: dict[str, PlaneSurface]
    models: dict[str, Model] = field(default_factory=dict)

    def frame(self) -> Any:
        """All planes as one pandas DataFrame, a row per cell; the columns root and expiration tell the plane."""
        pandas = _pandas()
        return pandas.concat(
            [one.frame().assign(root=one.root, expiration=one.expiration) for one in self.planes.values()],
            ignore_index=True,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """What an entry did. Of a `diff` the plane and its changed cells; a model is `surface.models[type]`."""

    type: str
    surface: Surface
    plane: str = ""
    changed: Indices = field(default_factory=lambda: NOTHING_CHANGED)


def fold(surface: Surface | None, event: Event, symbol: str) -> Update:
    """The surface after the next entry; GapError unless it follows from what is held.

    A `reset` follows from anything. All else must be the next `seq` of the same `generation`; a diff must continue the
    plane's version and agree with its checksum, and a tick's versions must not be ahead of ours.
    """
    try:
        if event.type == "reset":
            return Update("reset", _opened(surface, event, symbol))
        if surface is None or (event.generation, event.seq) != (surface.generation, surface.seq + 1):
            raise GapError(f"entry {event.id} with seq {event.seq} does not follow")
        here = replace(surface, seq=event.seq, entry_id=event.id)
        if event.type == "diff":
            return _changed(here, event)
        if event.type == "tick":
            return Update("tick", _ticked(here, orjson.loads(event.data)))
        if event.type in MODELS:
            return Update(event.type, replace(here, models={**here.models, event.type: orjson.loads(event.data)}))
        return Update(event.type, here)
    except (DataError, orjson.JSONDecodeError) as error:
        raise GapError(f"entry {event.id}: {error}") from error


def joined(
    compiled: CompiledEpoch,
    entry_id: str,
    state: Mapping[bytes, bytes],
    versions: Sequence[int],
    cells: Sequence[Ints],
    complete_to: float | None,
    ts: float,
    models: Mapping[str, Model] = MappingProxyType({}),
) -> Surface:
    """The surface of what is published now: versions and cells per plane of the geometry."""
    planes = {
        plane.id: _plane_of_plan(
            compiled.plans[plane.id],
            plane.root,
            plane.expiration,
            days_to_expiration(plane.expiration, ts),
            version,
            held,
        )
        for plane, version, held in zip(compiled.geometry.planes, versions, cells, strict=True)
    }
    generation, seq = state.get(b"generation", b"").decode(), int(state.get(b"seq", b"0"))
    known = {name: model for name, model in models.items() if model["epoch"] == compiled.epoch}
    return Surface(compiled.geometry.symbol, compiled.epoch, generation, seq, entry_id, complete_to, planes, known)


def _opened(surface: Surface | None, event: Event, symbol: str) -> Surface:
    reset = decode_reset(event.data)
    widths = np.array(reset.widths, np.float64)
    planes = {plane.id: _plane_of_reset(plane, widths) for plane in reset.planes}
    models = surface.models if surface and surface.epoch == reset.epoch else {}
    return Surface(symbol, reset.epoch, event.generation, event.seq, event.id, reset.complete_to, planes, models)


def _changed(surface: Surface, event: Event) -> Update:
    diff = decode_diff(event.data)
    plane = surface.planes.get(diff.plane)
    if diff.epoch != surface.epoch or plane is None or diff.from_version != plane.version:
        raise GapError(f"diff {diff.plane} {diff.from_version} -> {diff.to_version} does not continue what is held")
    after = replace(plane, version=diff.to_version, cells=apply(plane.cells, diff))
    planes = {**surface.planes, diff.plane: after}
    return Update(
        "diff", replace(surface, planes=planes, complete_to=diff.complete_to), diff.plane, changed_cells(diff)
    )


def _ticked(surface: Surface, tick: Model) -> Surface:
    """A tick may have read the versions a moment before later diffs: it can be behind us, never ahead."""
    held = {plane.id: plane.version for plane in surface.planes.values()}
    if tick["epoch"] != surface.epoch or any(held.get(plane, -1) < to for plane, to in tick["versions"].items()):
        raise GapError("a tick names versions that never arrived")
    return replace(surface, complete_to=tick["complete_to"])


def _plane_of_reset(plane: ResetPlane, widths: Floats) -> PlaneSurface:
    strategies = {name: number for number, name in enumerate(STRATEGIES)}
    sides = {name: number for number, name in enumerate(SIDES)}
    return PlaneSurface(
        plane.id, plane.root, plane.expiration, plane.dte, plane.version, np.array(plane.strikes, np.float64), widths,
        np.array([strategies[label[0]] for label in plane.cells], np.int8),
        np.array([sides[label[1]] for label in plane.cells], np.int8),
        np.array([label[2] for label in plane.cells], np.float64),
        np.array([label[3] for label in plane.cells], np.float64),
        reset_cells(plane),
    )  # fmt: skip


def _plane_of_plan(plan: Plan, root: str, expiration: str, dte: int, version: int, cells: Ints) -> PlaneSurface:
    return PlaneSurface(
        plan.plane_id, root, expiration, dte, version, np.array(plan.strikes, np.float64),
        np.array(plan.widths, np.float64), plan.strategy, plan.side, plan.strike_milli / 1000, plan.width_milli / 1000,
        cells,
    )  # fmt: skip


def _pandas() -> Any:
    try:
        import pandas
    except ImportError:
        raise FatalError("a DataFrame needs pandas: pip install pandas") from None
    return pandas
