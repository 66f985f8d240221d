"""What a stage needs from the state store while loading: reads, each taken at one moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GetValue:
    """`GET key` -> bytes or None."""

    key: str


@dataclass(frozen=True, slots=True)
class GetHead:
    """`GETRANGE key 0 size-1` -> the first bytes; empty if absent."""

    key: str
    size: int


@dataclass(frozen=True, slots=True)
class GetFields:
    """`HGETALL key` -> dict of bytes."""

    key: str


@dataclass(frozen=True, slots=True)
class GetItems:
    """`LRANGE key start stop` -> list of bytes."""

    key: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class CountExisting:
    """`EXISTS keys` -> how many exist."""

    keys: tuple[str, ...]


Read: TypeAlias = GetValue | GetHead | GetFields | GetItems | CountExisting


class Reader(Protocol):
    """Reads state. All reads of one call see the same moment."""

    async def values(self, *keys: str) -> list[bytes | None]:
        """The values of several keys."""
        ...

    async def fields(self, key: str) -> dict[bytes, bytes]:
        """A whole HASH; empty if absent."""
        ...

    async def read(self, *reads: Read) -> list[object]:
        """Several reads at one moment, results in order."""
        ...


class Offload(Protocol):
    """Where long pure computations run, so that the event path does not wait for the tick path."""

    async def __call__(self, function: Callable[..., T], *arguments: object) -> T:
        """The result of a module-level function of plain values."""
        ...


async def inline(function: Callable[..., T], *arguments: object) -> T:
    """Compute right here: tests, the fold, and the offline commands."""
    return function(*arguments)
