"""State in memory with the semantics of the commit script: the store of the fold (replay and test oracle).

It applies the same `Commit` values as the server does and passes the same contract tests. It has no groups and no
lifetimes: entries are owned by whoever folds them, and keys live until deleted.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from math import ceil
from typing import Any

import numpy as np

from consumers.encoding import seconds_text, text
from contracts.commit import (
    LAGGING_FIELD,
    AddMembers,
    AddScores,
    Advance,
    Applied,
    Commit,
    Count,
    CountMerged,
    CountValue,
    Delete,
    DropFields,
    DropMembers,
    Emit,
    EpochMarks,
    FeedWatermark,
    FieldBelow,
    FieldIs,
    Guard,
    KeysExist,
    Merge,
    Outcome,
    Patch,
    Publish,
    PushItem,
    RaiseField,
    Refused,
    Renew,
    Sample,
    Scalar,
    SetFields,
    SetNewest,
    SetValue,
    StartsWith,
    ValueIs,
    Write,
    dirty_field,
    version_field,
    watermark_field,
)
from contracts.planes import QUOTE_DIRTY_BYTES, STAMP_BYTES
from contracts.ports import (
    Backlog,
    CountExisting,
    GetBacklog,
    GetFields,
    GetHead,
    GetItems,
    GetMemoryPolicy,
    GetQuantiles,
    GetValue,
    Quantiles,
    Read,
)

_STAMP = struct.Struct("<qiiq")


def _bytes(value: Scalar) -> bytes:
    plain = text(value)
    return plain if isinstance(plain, bytes) else plain.encode()


class MemoryStore:
    """Keys and values; `streams` keeps what was emitted, in order, as (type of fields) dicts.

    It has no groups: what waits on a stream is what `backlogs` is told. `clock` is the server's time in microseconds.
    """

    def __init__(self, clock: Callable[[], int] = lambda: 0) -> None:
        self.strings: dict[str, bytearray] = {}
        self.hashes: dict[str, dict[str, bytes]] = {}
        self.sets: dict[str, set[str]] = {}
        self.scores: dict[str, dict[str, float]] = {}
        self.lists: dict[str, list[str]] = {}
        self.streams: dict[str, list[dict[str, bytes]]] = {}
        self.backlogs: dict[str, Backlog] = {}
        self._clock = clock
        self._merged = 0
        self._before_raise: dict[str, bytes] = {}

    # --- reading (contracts.ports.Reader)

    async def values(self, *keys: str) -> list[bytes | None]:
        """The values of several keys."""
        return [bytes(self.strings[key]) if key in self.strings else None for key in keys]

    async def fields(self, key: str) -> dict[bytes, bytes]:
        """A whole HASH; empty if absent."""
        return {name.encode(): value for name, value in self.hashes.get(key, {}).items()}

    async def read(self, *reads: Read) -> list[object]:
        """Several reads, results in order."""
        return [await self._read(one) for one in reads]

    async def _read(self, read: Read) -> object:
        match read:
            case GetValue(key):
                return (await self.values(key))[0]
            case GetHead(key, size):
                return bytes(self.strings.get(key, b"")[:size])
            case GetFields(key):
                return await self.fields(key)
            case GetItems(key, start, stop):
                items = [item.encode() for item in self.lists.get(key, [])]
                return items[start:] if stop == -1 else items[start : stop + 1]
            case CountExisting(keys):
                return sum(self.exists(key) for key in keys)
            case GetBacklog(stream):
                return self.backlogs.get(stream, Backlog())
            case GetQuantiles(key):
                return _quantiles(sorted(self.scores.get(key, {}).values()))
            case GetMemoryPolicy():
                return "noeviction"

    def exists(self, key: str) -> bool:
        """Whether a key holds anything."""
        kinds: tuple[dict[str, Any], ...] = (
            self.strings, self.hashes, self.sets, self.scores, self.lists, self.streams,
        )  # fmt: skip
        return any(key in kind and (kind[key] or kind is self.streams) for kind in kinds)

    # --- the commit

    def commit(self, commit: Commit, merged_before: int = 0) -> Outcome:
        """Apply a commit, all or nothing."""
        for guard in commit.guards:
            if not self._holds(guard):
                return Refused(guard)
        self._merged = merged_before
        self._before_raise = {}
        for write in commit.writes:
            self._apply(write)
        return Applied(self._merged)

    def _holds(self, guard: Guard) -> bool:
        match guard:
            case FieldIs(key, field, value):
                return self.hashes.get(key, {}).get(field) == (None if value is None else _bytes(value))
            case FieldBelow(key, field, limit):
                now = self.hashes.get(key, {}).get(field)
                return not now or float(now) < limit
            case ValueIs(key, expected):
                return bytes(self.strings.get(key, b"")) == expected.encode() and key in self.strings
            case StartsWith(key, head):
                return bytes(self.strings.get(key, b"")).startswith(head)
            case KeysExist(keys):
                return all(self.exists(key) for key in keys)

    def _apply(self, write: Write) -> None:
        match write:
            case SetValue(key, value):
                self.strings[key] = bytearray(_bytes(value))
            case Patch(key, runs):
                for offset, part in runs:
                    self.strings[key][offset : offset + len(part)] = part
            case SetFields(key, fields):
                self._hash(key).update({name: _bytes(value) for name, value in fields.items()})
            case DropFields(key, names):
                for name in names:
                    self._hash(key).pop(name, None)
            case Count(key, counts):
                for name, by in counts.items():
                    self._count(key, name, by)
            case CountMerged(key, total):
                applied = min(self._merged, total)
                self._count(key, "applied", applied)
                self._count(key, "older", total - applied)
                self._merged -= applied
            case CountValue(key, by):
                self.strings[key] = bytearray(str(int(self.strings.get(key, b"0")) + by).encode())
            case RaiseField(key, field, number):
                self._raise(key, field, _bytes(number))
            case Delete(keys):
                self._delete(keys)
            case Renew():
                pass
            case AddMembers(key, members):
                self.sets.setdefault(key, set()).update(members)
            case DropMembers(key, members):
                self.sets.setdefault(key, set()).difference_update(members)
            case AddScores(key, scores):
                self.scores.setdefault(key, {}).update(scores)
            case PushItem(key, item, keep):
                self.lists[key] = [item, *self.lists.get(key, [])][:keep]
            case Sample(key, counter, ms):
                self._sample(key, counter, ms)
            case SetNewest():
                self._set_newest(write)
            case Emit(stream, fields):
                self._emit(stream, fields)
            case Publish():
                self._publish(write)
            case FeedWatermark(key, _, _, newest_ts):
                self._before_raise[key] = self._hash(key).get("ts", b"0")
                self._raise(key, "newest", seconds_text(newest_ts).encode())
                self._raise(key, "ts", self.hashes[key]["newest"])
            case Merge():
                self._merge(write)
            case Advance():
                self._advance(write)

    def _hash(self, key: str) -> dict[str, bytes]:
        return self.hashes.setdefault(key, {})

    def _count(self, key: str, field: str, by: int) -> int:
        fields = self._hash(key)
        fields[field] = str(int(fields.get(field, b"0")) + by).encode()
        return int(fields[field])

    def _raise(self, key: str, field: str, number: bytes) -> None:
        fields = self._hash(key)
        if not fields.get(field) or float(fields[field]) < float(number):
            fields[field] = number

    def _sample(self, key: str, counter: str, ms: float) -> None:
        slot = self._count(counter, "samples", 1) % 1024
        self.scores.setdefault(key, {})[str(slot)] = float(f"{ms:.3f}")

    def _delete(self, keys: tuple[str, ...]) -> None:
        kinds: tuple[dict[str, Any], ...] = (
            self.strings, self.hashes, self.sets, self.scores, self.lists, self.streams,
        )  # fmt: skip
        for kind in kinds:
            for key in keys:
                kind.pop(key, None)

    def _emit(self, stream: str, fields: Mapping[str, Scalar]) -> None:
        self.streams.setdefault(stream, []).append({name: _bytes(value) for name, value in fields.items()})

    def _set_newest(self, write: SetNewest) -> None:
        stored = self.strings.get(write.key)
        if stored is not None:
            now = json.loads(bytes(stored))
            if (now["ts"], now["value"]) >= (write.ts, write.value):
                return
        self.strings[write.key] = bytearray(write.body)

    def _publish(self, write: Publish) -> None:
        state = self._hash(write.state)
        state.setdefault("generation", b"1")
        seq = self._count(write.state, "seq", 1)
        self._emit(
            write.stream,
            {"type": write.type, "seq": seq, "generation": state["generation"], "data": write.data},
        )

    def _version(self, versions: str, plane: str, layer: str) -> int:
        return int(self._hash(versions).get(version_field(plane, layer), b"0"))

    def _merge(self, write: Merge) -> None:
        layer = self.strings.get(write.layer)
        if layer is None:
            # SETRANGE on an absent key would invent one; guards (KeysExist) keep real commits from it
            layer = self.strings[write.layer] = bytearray()
        version = self._version(write.versions, write.plane, "quotes") + 1 if write.flag else 0
        changed = False
        for row in write.rows:
            size = len(row.record)
            stored = bytes(layer[row.offset : row.offset + size]) if len(layer) >= row.offset + size else b"\0" * size
            if not _newer(row.record, stored):
                continue
            layer[row.offset : row.offset + size] = row.record
            if row.fields:
                pairs = zip(row.fields[::2], row.fields[1::2], strict=True)
                self._hash(row.contract_key).update({_bytes(n).decode(): _bytes(v) for n, v in pairs})
            self._merged += 1
            priced = slice(STAMP_BYTES, STAMP_BYTES + QUOTE_DIRTY_BYTES)
            if write.flag and row.record[priced] != stored[priced]:
                layer[row.offset + size : row.offset + size + 8] = struct.pack("<q", version)
                changed = True
        if changed:
            self._move_quotes(write, layer, version)

    def _move_quotes(self, write: Merge, layer: bytearray, version: int) -> None:
        assert write.flag is not None and write.marks is not None
        ts = self.hashes.get(write.watermark, {}).get("ts", b"0")
        layer[0:16] = struct.pack("<qd", version, float(ts))
        versions = self._hash(write.versions)
        versions[version_field(write.plane, "quotes")] = str(version).encode()
        versions[watermark_field(write.plane, "quotes")] = ts
        if self._version(write.versions, write.plane, "tiles") == version - 1:
            versions[dirty_field(write.plane)] = str(self._clock()).encode()
            if self._count(write.versions, LAGGING_FIELD, 1) == 1:
                self._mark(write.marks, dirty=True)
            self._emit(write.flag.stream, write.flag.fields)
            if self._version(write.versions, write.plane, "published") == version - 1:
                complete_to = self._before_raise.get(write.watermark, ts)
                self._raise(write.versions, watermark_field(write.plane, "published"), complete_to)

    def _mark(self, marks: EpochMarks, *, dirty: bool) -> None:
        leave, enter = (marks.clean, marks.dirty) if dirty else (marks.dirty, marks.clean)
        self.sets.setdefault(leave, set()).discard(marks.epoch)
        self.sets.setdefault(enter, set()).add(marks.epoch)

    def _advance(self, write: Advance) -> None:
        before = self._version(write.versions, write.plane, write.layer)
        source = self._version(write.versions, write.plane, write.source)
        following = self._version(write.versions, write.plane, write.next_layer) if write.next_layer else -1
        versions = self._hash(write.versions)
        versions[version_field(write.plane, write.layer)] = str(write.to).encode()
        self._raise(write.versions, watermark_field(write.plane, write.layer), seconds_text(write.watermark).encode())
        if source > write.to:
            self._emit(write.behind.stream, write.behind.fields)
        elif write.marks and before < write.to and self._count(write.versions, LAGGING_FIELD, -1) == 0:
            self._mark(write.marks, dirty=False)
        if write.latency and before < write.to:
            self._sample_wait(write, is_behind=source > write.to)
        if write.ahead and following == before < write.to:
            self._emit(write.ahead.stream, write.ahead.fields)

    def _sample_wait(self, write: Advance, *, is_behind: bool) -> None:
        versions, field = self._hash(write.versions), dirty_field(write.plane)
        now = self._clock()
        since = versions.pop(field, None)
        if since is not None:
            self._sample(write.latency, write.counter, max(0, now - int(since)) / 1000)
        if is_behind:
            versions[field] = str(now).encode()


def _quantiles(scores: list[float]) -> Quantiles | None:
    if not scores:
        return None
    ranks = (ceil(share * len(scores)) - 1 for share in (0.5, 0.99, 1.0))
    return Quantiles(len(scores), *(scores[rank] for rank in ranks))


def _newer(record: bytes, stored: bytes) -> bool:
    ms, rank, _, seq = _STAMP.unpack_from(record)
    old_ms, old_rank, _, old_seq = _STAMP.unpack_from(stored)
    words = np.frombuffer(record, "<u4", offset=STAMP_BYTES).tolist()
    old_words = np.frombuffer(stored, "<u4", offset=STAMP_BYTES).tolist()
    return (ms, rank, seq, words) > (old_ms, old_rank, old_seq, old_words)
