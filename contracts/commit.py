"""The one way a stage changes the world: a `Commit`, applied by the server all or nothing.

Order inside the script: ownership of the acknowledged entries, then guards, then (only if all hold) acknowledgements,
writes and emits in the order given. A refused commit has written nothing. Commits are values; `consumers/` applies
them to a server (`lua/commit.lua`) or to memory (`memory.py`), and one suite of contract tests holds both to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

MAX_ENTRIES = 200  # entries acknowledged by one script
MAX_ROWS = 400  # rows merged by one script

Scalar: TypeAlias = "bytes | str | int | float"


# --- guards: each names what must still be true


@dataclass(frozen=True, slots=True)
class FieldIs:
    """`HGET key field` is `value`; None: the field is absent."""

    key: str
    field: str
    value: Scalar | None


@dataclass(frozen=True, slots=True)
class FieldBelow:
    """`HGET key field`, absent counting as minus infinity, is below `limit`."""

    key: str
    field: str
    limit: float


@dataclass(frozen=True, slots=True)
class ValueIs:
    """`GET key` is `value`: a lease is still ours."""

    key: str
    value: str


@dataclass(frozen=True, slots=True)
class KeysExist:
    """Every key exists; a write that would create a key without its lifetime is refused."""

    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StartsWith:
    """The value of `key` begins with these bytes: a packed layer stands at the version its header says."""

    key: str
    head: bytes


Guard: TypeAlias = FieldIs | FieldBelow | ValueIs | KeysExist | StartsWith


# --- writes


@dataclass(frozen=True, slots=True)
class SetValue:
    """`SET key value [PX ttl_ms]`. `derived` data can be recomputed and is kept out of replication and the log."""

    key: str
    value: bytes | str
    ttl_ms: int = 0
    derived: bool = False


@dataclass(frozen=True, slots=True)
class Patch:
    """`SETRANGE` of some (offset, bytes) of a derived value that a guard has seen to be there."""

    key: str
    runs: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class SetFields:
    """`HSET key ...` [and PEXPIRE when `ttl_ms`]."""

    key: str
    fields: Mapping[str, Scalar]
    ttl_ms: int = 0


@dataclass(frozen=True, slots=True)
class DropFields:
    """`HDEL key ...`."""

    key: str
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Count:
    """Add integers to the fields of a HASH: counters, the only increments there are."""

    key: str
    fields: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class CountMerged:
    """Count `total` updates as `applied` (as many as rows won in this batch and are not counted yet) or `older`."""

    key: str
    total: int


@dataclass(frozen=True, slots=True)
class CountValue:
    """`INCRBY key by`."""

    key: str
    by: int


@dataclass(frozen=True, slots=True)
class RaiseField:
    """Set a HASH field to `number` unless it is already larger."""

    key: str
    field: str
    number: float


@dataclass(frozen=True, slots=True)
class Delete:
    """`DEL` of keys."""

    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Renew:
    """`PEXPIRE` of keys that exist; absent keys stay absent."""

    keys: tuple[str, ...]
    ttl_ms: int


@dataclass(frozen=True, slots=True)
class AddMembers:
    """`SADD`."""

    key: str
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DropMembers:
    """`SREM`."""

    key: str
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AddScores:
    """`ZADD key score member ...` with a lifetime."""

    key: str
    scores: dict[str, float]
    ttl_ms: int


@dataclass(frozen=True, slots=True)
class PushItem:
    """`LPUSH key item`, keeping the newest `keep`."""

    key: str
    item: str
    keep: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One latency sample (ms) in a ring of the newest 1,024: a ZSET scored by ms, counted in `counter`."""

    key: str
    counter: str
    ms: float


@dataclass(frozen=True, slots=True)
class SetNewest:
    """Set a JSON object unless the stored one is newer: larger `ts` (seconds), then larger `value`; it carries both."""

    key: str
    ts: float
    value: float
    body: bytes


@dataclass(frozen=True, slots=True)
class Emit:
    """`XADD stream * ...`, optionally trimmed to about `keep` entries."""

    stream: str
    fields: Mapping[str, Scalar]
    keep: int = 0


@dataclass(frozen=True, slots=True)
class Publish:
    """Append a published event with the next `seq` and the current `generation` of the symbol's state HASH.

    A state without generation gets a new one (the server's clock): whoever follows sees that the past is gone.
    """

    stream: str
    state: str
    type: str
    data: bytes
    window_ms: int


@dataclass(frozen=True, slots=True)
class FeedWatermark:
    """After the acknowledgements: receive time up to which every frame of `stream` is in.

    With nothing pending that is the newest receive time ever committed, else just before the oldest pending frame.
    """

    key: str
    stream: str
    group: str
    newest_ts: float


@dataclass(frozen=True, slots=True)
class MergeRow:
    """A field group that wants to replace another: `record` is stamp + values at `offset` of the layer.

    `fields` are finished strings for the readable HASH, written only if the record wins.
    """

    offset: int
    record: bytes
    contract_key: str
    fields: tuple[bytes | str, ...]


@dataclass(frozen=True, slots=True)
class Flag:
    """Where to announce that a layer moved ahead of what was computed from it."""

    stream: str
    fields: Mapping[str, Scalar]


@dataclass(frozen=True, slots=True)
class EpochMarks:
    """The dirty and clean sets, and the epoch that moves between them."""

    dirty: str
    clean: str
    epoch: str


@dataclass(frozen=True, slots=True)
class Merge:
    """Newest-wins of rows into a plane's layer.

    With `flag`, the layer is quotes: rows whose bid or ask changed get the next plane version, and a plane that was
    clean is flagged, counted as lagging, and its epoch marked dirty. Of a plane that was published to the last change
    it is noted up to which receive time that was complete: what followed is in this commit.
    """

    layer: str
    rows: tuple[MergeRow, ...]
    versions: str = ""
    plane: str = ""
    watermark: str = ""
    flag: Flag | None = None
    marks: EpochMarks | None = None


@dataclass(frozen=True, slots=True)
class Advance:
    """A derived layer of a plane now stands at version `to` of its source.

    Flags itself again (`behind`) if the source moved on, and flags the next layer (`ahead`) if that one was level
    with us before. With `marks` the plane stops lagging when level, and the last one marks the epoch clean. With
    `latency` (a ZSET) and `counter` (a HASH), how long the oldest change waited is sampled there, in ms.
    """

    versions: str
    plane: str
    layer: str
    source: str
    to: int
    watermark: float
    behind: Flag
    next_layer: str = ""
    ahead: Flag | None = None
    marks: EpochMarks | None = None
    latency: str = ""
    counter: str = ""


Write: TypeAlias = (
    SetValue
    | Patch
    | SetFields
    | DropFields
    | Count
    | CountMerged
    | CountValue
    | RaiseField
    | Delete
    | Renew
    | AddMembers
    | DropMembers
    | AddScores
    | PushItem
    | Sample
    | SetNewest
    | Emit
    | Publish
    | FeedWatermark
    | Merge
    | Advance
)


@dataclass(frozen=True, slots=True)
class EntryId:
    """An entry of a stream this stage reads."""

    stream: str
    id: str


@dataclass(frozen=True, slots=True)
class Commit:
    """Guards, writes and the entries they finish. `acknowledges` may be empty: a chunk before the last."""

    acknowledges: tuple[EntryId, ...] = ()
    guards: tuple[Guard, ...] = ()
    writes: tuple[Write, ...] = ()
    # entries that must still be owned although this commit does not acknowledge them yet (chunks of a promotion)
    holds: tuple[EntryId, ...] = field(default=())
    # the entries held take effect with this commit, although they are acknowledged later: the journal's order
    decides: bool = False


@dataclass(frozen=True, slots=True)
class Applied:
    """The commit took effect; `merged` rows of this batch won and were not counted yet."""

    merged: int = 0


@dataclass(frozen=True, slots=True)
class Refused:
    """A guard did not hold; nothing was written. `guard` is the one that refused."""

    guard: Guard


@dataclass(frozen=True, slots=True)
class Lost:
    """Some acknowledged entries belong to another consumer now; nothing was written. `owned` are still ours."""

    owned: frozenset[str]


Outcome: TypeAlias = Applied | Refused | Lost


def version_field(plane: str, layer: str) -> str:
    """Field of `epoch:{id}:versions` with the version of a layer."""
    return f"{plane}|{layer}"


def watermark_field(plane: str, layer: str) -> str:
    """Field of `epoch:{id}:versions` with the feed receive time that version includes."""
    return f"{plane}|{layer}_wm"


def dirty_field(plane: str) -> str:
    """Field of `epoch:{id}:versions` with the server's time (µs) since which a plane's oldest change waits."""
    return f"{plane}|dirty_us"


LAGGING_FIELD = "lagging"  # planes whose tiles are behind their quotes


def keys_of(commit: Commit) -> tuple[str, ...]:
    """Every key the commit touches, each once, in order of first use."""
    return tuple(dict.fromkeys(_keys(commit)))


def _keys(commit: Commit) -> Iterator[str]:
    for entry in (*commit.acknowledges, *commit.holds):
        yield entry.stream
    for guard in commit.guards:
        yield from guard.keys if isinstance(guard, KeysExist) else (guard.key,)
    for write in commit.writes:
        yield from _write_keys(write)


def _write_keys(write: Write) -> Sequence[str]:
    match write:
        case Delete(keys) | Renew(keys, _):
            return keys
        case Emit(stream):
            return (stream,)
        case Publish(stream, state):
            return (stream, state)
        case Sample(key, counter):
            return (key, counter)
        case FeedWatermark(key, stream):
            return (key, stream)
        case Merge():
            rows = (write.layer, *(row.contract_key for row in write.rows))
            return (
                (*rows, write.versions, write.watermark, *_announced(write.flag, write.marks)) if write.flag else rows
            )
        case Advance():
            sampled = (write.latency, write.counter) if write.latency else ()
            return (write.versions, *sampled, *_announced(write.behind, write.marks), *_announced(write.ahead, None))
        case _:
            return (write.key,)


def _announced(flag: Flag | None, marks: EpochMarks | None) -> tuple[str, ...]:
    return ((flag.stream,) if flag else ()) + ((marks.dirty, marks.clean) if marks else ())
