"""A stage is data: sources with pure functions; one runner (`consumers/runner.py`) gives them life.

`step(state, entries) -> commits` has no clock, no I/O and no randomness. The runner applies the commits in order;
the last one acknowledges. If a guard refuses, the state is loaded and the step taken again, so a crash and a lost
race are the same path. A step that needs to see its own earlier commits (switch, then carry) returns the first part
and is called again, as long as entries are left.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from contracts.commit import Commit, EntryId
from contracts.messages import Fields
from contracts.ports import Reader
from contracts.topology import StageName, StreamRow

M = TypeVar("M")
S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Entry(Generic[M]):
    """A decoded entry."""

    id: EntryId
    message: M


@dataclass(frozen=True)
class Source(Generic[M, S]):
    """One stream a stage reads.

    `decode` raises DataError for poison. Entries with the same `partition` are loaded, stepped and committed
    together, at most `batch` of them. With `concurrent`, partitions of one read are worked on at the same time
    (work that waits for the outside). Entries of which `in_background` is true are worked on while reading goes on,
    one after the other (with `concurrent`: one after the other of a partition): long work that nothing on this stream
    waits for.
    """

    row: StreamRow
    stream: str
    batch: int
    decode: Callable[[Fields], M]
    partition: Callable[[M], Hashable]
    load: Callable[[Reader, Sequence[Entry[M]]], Awaitable[S]]
    step: Callable[[S, Sequence[Entry[M]]], Sequence[Commit]]
    concurrent: bool = False
    in_background: Callable[[M], bool] | None = None


@dataclass(frozen=True)
class Stage:
    """The name (also the consumer group) and what it reads."""

    name: StageName
    sources: tuple[Source, ...]  # type: ignore[type-arg]  # each source has types of its own
