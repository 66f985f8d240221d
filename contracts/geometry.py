"""The geometry of an epoch: the frozen contract set, as planes of rows, and its hash.

Only a chain defines geometry; no contract is ever invented. A contract is a row of one plane; its row number never
changes while the epoch lives, so an update is array work on a few rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import msgspec

from contracts.symbology import plane_id, settlement_ts


class Listing(msgspec.Struct, frozen=True, order=True, array_like=True):
    """One listed contract. `eligible` is empty, or the reason it takes no part in models (adjusted, expired)."""

    root: str
    expiration: str
    strike_milli: int
    type: str
    cid: str
    settlement: str
    exercise: str
    multiplier: int
    eligible: str = ""


@dataclass(frozen=True, slots=True)
class Plane:
    """The rows of one (root, expiration), by strike, calls before puts at each strike."""

    id: str
    root: str
    expiration: str
    rows: tuple[Listing, ...]

    @property
    def settlement_ts(self) -> float:
        """The instant (epoch seconds) this plane settles."""
        return settlement_ts(self.root, self.expiration)


@dataclass(frozen=True)
class Geometry:
    """All planes of one underlying, in order of settlement then root."""

    symbol: str
    planes: tuple[Plane, ...]
    widths: tuple[float, ...] = ()  # strategy widths in points, frozen at promotion; no part of the hash

    @cached_property
    def hash(self) -> str:
        """Identity of the contract set with eligibility: SHA-256 over the sorted listing, hexadecimal."""
        digest = hashlib.sha256()
        for plane in self.planes:
            for row in plane.rows:
                digest.update(f"{row.cid}|{row.multiplier}|{row.eligible}\n".encode())
        return digest.hexdigest()

    @cached_property
    def row_of(self) -> dict[str, tuple[int, int]]:
        """Ticker -> (plane number, row)."""
        return {row.cid: (p, r) for p, plane in enumerate(self.planes) for r, row in enumerate(plane.rows)}

    @cached_property
    def plane_of(self) -> dict[str, Plane]:
        """Plane id -> plane."""
        return {plane.id: plane for plane in self.planes}

    @property
    def contract_count(self) -> int:
        """All listed contracts, eligible or not."""
        return sum(len(plane.rows) for plane in self.planes)

    @property
    def excluded_count(self) -> int:
        """Listed contracts that take no part in models."""
        return sum(1 for plane in self.planes for row in plane.rows if row.eligible)

    @property
    def strike_count(self) -> int:
        """Distinct strikes over all planes."""
        return len({row.strike_milli for plane in self.planes for row in plane.rows})

    @property
    def expirations(self) -> tuple[str, ...]:
        """Distinct expirations, ascending."""
        return tuple(sorted({plane.expiration for plane in self.planes}))

    def encode(self) -> bytes:
        """The `listing` blob of an epoch."""
        return self._encoded

    @cached_property
    def _encoded(self) -> bytes:
        return msgspec.json.encode((self.symbol, self.widths, [row for plane in self.planes for row in plane.rows]))


def build_geometry(symbol: str, listings: Iterable[Listing], widths: tuple[float, ...] = ()) -> Geometry:
    """Freeze a set of listed contracts; order of input does not matter."""
    grouped: dict[tuple[str, str], list[Listing]] = {}
    for row in listings:
        grouped.setdefault((row.root, row.expiration), []).append(row)
    planes = [
        Plane(plane_id(root, expiration), root, expiration, tuple(sorted(rows)))
        for (root, expiration), rows in grouped.items()
    ]
    planes.sort(key=lambda plane: (plane.settlement_ts, plane.root))
    return Geometry(symbol, tuple(planes), widths)


def decode_geometry(blob: bytes) -> Geometry:
    """The inverse of `Geometry.encode`."""
    symbol, widths, rows = msgspec.json.decode(blob, type=tuple[str, tuple[float, ...], list[Listing]])
    return build_geometry(symbol, rows, widths)
