"""`marketswarm epochs diff A B`: contracts added and dropped, and values that changed, from one epoch to another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from contracts.errors import FatalError
from contracts.geometry import Geometry, decode_geometry
from contracts.keys import Keys
from contracts.settings import Settings
from ops.database import open_database
from ops.tables import format_table
from ops.wiring import keys_of

Json = dict[str, Any]

PAGE = 500
LISTED = 10  # contracts named in the table of a person; `--json` has all
# what a contract is worth; a newer stamp beside the same values is no change
VALUES = (
    "bid", "ask", "mid", "bid_size", "ask_size", "last", "last_size", "volume",
    "iv", "delta", "gamma", "theta", "vega", "oi", "fmv",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PlaneDiff:
    """One plane: tickers added and dropped; `changed` maps a ticker to its fields, each from -> to ("" unknown)."""

    plane: str
    added: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    kept: int = 0
    changed: Mapping[str, Mapping[str, tuple[str, str]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EpochDiff:
    """From one epoch to another, plane by plane."""

    before: str
    after: str
    planes: tuple[PlaneDiff, ...]

    def as_json(self) -> Json:
        """All of it."""
        planes = {
            one.plane: {"added": one.added, "dropped": one.dropped, "kept": one.kept, "changed": one.changed}
            for one in self.planes
        }
        return {"from": self.before, "to": self.after, "planes": planes}

    def as_text(self) -> str:
        """A row per plane, then the first contracts that came and went."""
        rows = [
            (one.plane, *(str(n) for n in (len(one.added), len(one.dropped), one.kept, len(one.changed))))
            for one in self.planes
        ]
        table = format_table(("PLANE", "ADDED", "DROPPED", "KEPT", "CHANGED"), rows)
        added = [cid for one in self.planes for cid in one.added]
        dropped = [cid for one in self.planes for cid in one.dropped]
        return "\n".join((table, *_named("+", added), *_named("-", dropped)))


def read_diff(redis_url: str, settings: Settings, before: str, after: str) -> EpochDiff:
    """Compare two epochs of one symbol. FatalError if one is unknown, or has run out."""
    keys = keys_of(settings)
    with open_database(redis_url) as database:
        old, new = (_geometry(database, keys, epoch) for epoch in (before, after))
        if old.symbol != new.symbol:
            raise FatalError(f"{before} is of {old.symbol} and {after} of {new.symbol}: give two epochs of one symbol")
        common = [cid for cid in new.row_of if cid in old.row_of]
        changes = dict(_changes(_values(database, keys, before, common), _values(database, keys, after, common)))
    return EpochDiff(before, after, tuple(_planes(old, new, changes)))


def _geometry(database: Any, keys: Keys, epoch: str) -> Geometry:
    listing = database.get(keys.listing(epoch))
    if listing is not None:
        return decode_geometry(listing)
    if database.exists(keys.meta(epoch)):
        raise _run_out(epoch)
    raise FatalError(f"no epoch {epoch!r}; `marketswarm epochs --all` lists them")


def _run_out(epoch: str) -> FatalError:
    return FatalError(f"epoch {epoch} has run out: contracts live MASSIVE_EPOCH_TTL seconds after they are superseded")


def _values(database: Any, keys: Keys, epoch: str, cids: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    for first in range(0, len(cids), PAGE):
        page = cids[first : first + PAGE]
        with database.pipeline(transaction=False) as pipeline:
            for cid in page:
                pipeline.hmget(keys.contract(epoch, cid), VALUES)
            for cid, found in zip(page, pipeline.execute(), strict=True):
                if None in found:  # every field is there as long as the contract is
                    raise _run_out(epoch)
                yield cid, [value.decode() for value in found]


def _changes(
    before: Iterable[tuple[str, list[str]]], after: Iterable[tuple[str, list[str]]]
) -> Iterator[tuple[str, dict[str, tuple[str, str]]]]:
    for (cid, old), (_, new) in zip(before, after, strict=True):
        changed = {name: (was, now) for name, was, now in zip(VALUES, old, new, strict=True) if was != now}
        if changed:
            yield cid, changed


def _planes(old: Geometry, new: Geometry, changes: Mapping[str, Mapping[str, tuple[str, str]]]) -> Iterator[PlaneDiff]:
    for plane in dict.fromkeys((*new.plane_of, *old.plane_of)):
        before, after = _tickers(old, plane), _tickers(new, plane)
        yield PlaneDiff(
            plane,
            tuple(cid for cid in after if cid not in before),
            tuple(cid for cid in before if cid not in after),
            len(before.keys() & after.keys()),
            {cid: changes[cid] for cid in after if cid in changes},
        )


def _tickers(geometry: Geometry, plane: str) -> dict[str, None]:
    return dict.fromkeys(row.cid for row in geometry.plane_of[plane].rows) if plane in geometry.plane_of else {}


def _named(sign: str, cids: Sequence[str]) -> Iterator[str]:
    yield from (f"{sign} {cid}" for cid in cids[:LISTED])
    if len(cids) > LISTED:
        yield f"{sign} and {len(cids) - LISTED} more"
