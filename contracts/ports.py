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


@dataclass(frozen=True, slots=True)
class GetBacklog:
    """What waits on a stream for its group, and what is parked beside it -> `Backlog`."""

    stream: str
    parked: str
    group: str


@dataclass(frozen=True, slots=True)
class Backlog:
    """A stream as its group sees it, at one moment.

    `waiting_id` is the oldest entry that the group has not acknowledged, unread or pending; empty if none waits.
    `waiting_ts` is the field `ts` of that entry (frames: receive time, s) if it has a number there. `last_id` is the
    newest id the stream ever had, `server_ms` the server's time, `groups` all groups of the stream, `parked` how many
    entries are parked.
    """

    waiting_id: str = ""
    waiting_ts: float | None = None
    last_id: str = ""
    server_ms: int = 0
    groups: tuple[str, ...] = ()
    parked: int = 0


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits in a stream for one group: entries and about how many bytes; `added`: entries that it ever had."""

    entries: int = 0
    bytes: int = 0
    added: int = 0


@dataclass(frozen=True, slots=True)
class GetQuantiles:
    """Median, 99th percentile and largest of the scores of a ZSET -> `Quantiles`, or None if it is empty."""

    key: str


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Of so many samples, by nearest rank."""

    count: int
    p50: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class GetMemoryPolicy:
    """The server's `maxmemory-policy` -> str; anything but `noeviction` may delete our keys."""


Read: TypeAlias = (
    GetValue | GetHead | GetFields | GetItems | CountExisting | GetBacklog | GetQuantiles | GetMemoryPolicy
)


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
