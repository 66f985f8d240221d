"""How a `Commit` travels to the server: its keys, and one msgpack body in which keys are numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgpack

from contracts.commit import (
    AddMembers,
    AddScores,
    Advance,
    Commit,
    Count,
    CountMerged,
    CountValue,
    Delete,
    DropFields,
    DropMembers,
    Emit,
    EntryId,
    EpochMarks,
    FeedWatermark,
    FieldBelow,
    FieldIs,
    Flag,
    Guard,
    KeysExist,
    Merge,
    Patch,
    Publish,
    PushItem,
    RaiseField,
    Renew,
    Sample,
    Scalar,
    SetFields,
    SetNewest,
    SetValue,
    StartsWith,
    ValueIs,
    Write,
    keys_of,
)


def text(value: Scalar) -> bytes | str:
    """A value as Redis stores it. Numbers are formatted here, never by a script: servers differ."""
    if isinstance(value, bytes | str):
        return value
    return repr(value) if isinstance(value, float) else str(value)


def seconds_text(ts: float) -> str:
    """An instant in epoch seconds with microseconds."""
    return f"{ts:.6f}"


LARGE_BYTES = 2048  # a larger value travels as an argument of its own: one copy less on each side


def encode_commit(commit: Commit, cursor_key: str) -> tuple[tuple[str, ...], bytes, list[bytes]]:
    """KEYS (the group's durable cursor first), the body of `lua/commit.lua`, and the large values it refers to."""
    keys = (cursor_key, *keys_of(commit))
    large: list[bytes] = []
    number = {key: position for position, key in enumerate(keys, 1)}
    entries = _entries(commit.acknowledges, number, acknowledge=True) + _entries(
        commit.holds, number, acknowledge=False
    )
    guards = [_guard(guard, number) for guard in commit.guards]
    writes = [_write(_apart(write, large), number) for write in commit.writes]
    return keys, _pack((entries, guards, writes)), large


def _apart(write: Write, large: list[bytes]) -> Write:
    """Take a large value out of a write: in its place stands its number."""
    if not isinstance(write, SetValue) or not isinstance(write.value, bytes) or len(write.value) < LARGE_BYTES:
        return write
    large.append(write.value)
    return _LargeValue(write.key, b"", write.ttl_ms, write.derived, len(large))


@dataclass(frozen=True, slots=True)
class _LargeValue(SetValue):
    number: int = 0


def _pack(body: object) -> bytes:
    # the servers' cmsgpack knows no bin type: bytes travel as raw strings
    packed: bytes = msgpack.packb(body, use_bin_type=False)
    return packed


def sort_key(entry_id: str) -> tuple[int, int]:
    """Stream order of entry ids: they are two integers, never text."""
    ms, _, sequence = entry_id.partition("-")
    return int(ms), int(sequence or 0)


def _entries(entries: tuple[EntryId, ...], number: dict[str, int], *, acknowledge: bool) -> list[Any]:
    by_stream: dict[str, list[str]] = {}
    for entry in entries:
        by_stream.setdefault(entry.stream, []).append(entry.id)
    return [(number[stream], sorted(ids, key=sort_key), acknowledge) for stream, ids in by_stream.items()]


def _guard(guard: Guard, number: dict[str, int]) -> tuple[Any, ...]:
    match guard:
        case FieldIs(key, field, value):
            return ("field_is", number[key], field, False if value is None else text(value))
        case FieldBelow(key, field, limit):
            return ("field_below", number[key], field, limit)
        case ValueIs(key, value):
            return ("value_is", number[key], value)
        case StartsWith(key, head):
            return ("starts_with", number[key], head)
        case KeysExist(keys):
            return ("keys_exist", *(number[key] for key in keys))


def _flat(fields: Mapping[str, Scalar]) -> list[bytes | str]:
    return [part for name, value in fields.items() for part in (name, text(value))]


def _flag(flag: Flag | None, number: dict[str, int]) -> Any:
    return (number[flag.stream], _flat(flag.fields)) if flag else False


def _marks(marks: EpochMarks | None, number: dict[str, int]) -> Any:
    return (number[marks.dirty], number[marks.clean], marks.epoch) if marks else False


def _write(write: Write, number: dict[str, int]) -> tuple[Any, ...]:
    match write:
        case _LargeValue(key, _, ttl_ms, is_derived, value_number):
            return ("set", number[key], value_number, ttl_ms, is_derived)
        case SetValue(key, value, ttl_ms, is_derived):
            return ("set", number[key], value, ttl_ms, is_derived)
        case Patch(key, runs):
            return ("patch", number[key], [part for run in runs for part in run])
        case SetFields(key, fields, ttl_ms):
            return ("hset", number[key], _flat(fields), ttl_ms)
        case DropFields(key, names):
            return ("hdel", number[key], names)
        case Count(key, counts):
            return ("count", number[key], [part for item in counts.items() for part in item])
        case CountMerged(key, total):
            return ("count_merged", number[key], total)
        case CountValue(key, by):
            return ("incrby", number[key], by)
        case RaiseField(key, field, value):
            return ("raise", number[key], field, text(value))
        case Delete(keys):
            return ("del", *(number[key] for key in keys))
        case Renew(keys, ttl_ms):
            return ("renew", ttl_ms, *(number[key] for key in keys))
        case AddMembers(key, members):
            return ("sadd", number[key], members)
        case DropMembers(key, members):
            return ("srem", number[key], members)
        case AddScores(key, scores, ttl_ms):
            return ("zadd", number[key], [part for m, s in scores.items() for part in (text(s), m)], ttl_ms)
        case PushItem(key, item, keep):
            return ("push", number[key], item, keep)
        case Sample(key, counter, ms):
            return ("sample", number[key], number[counter], f"{ms:.3f}")
        case SetNewest(key, ts, value, body):
            return ("newest", number[key], ts, value, body)
        case Emit(stream, fields, keep):
            return ("emit", number[stream], _flat(fields), keep)
        case Publish(stream, state, kind, data, window_ms):
            return ("publish", number[stream], number[state], kind, data, window_ms)
        case FeedWatermark(key, stream, group, newest_ts):
            return ("feed_watermark", number[key], number[stream], group, seconds_text(newest_ts))
        case Merge():
            return _merge(write, number)
        case Advance():
            return (
                "advance",
                number[write.versions],
                write.plane,
                write.layer,
                write.source,
                write.to,
                seconds_text(write.watermark),
                _flag(write.behind, number),
                write.next_layer or False,
                _flag(write.ahead, number),
                _marks(write.marks, number),
                (number[write.latency], number[write.counter]) if write.latency else False,
            )


def _merge(write: Merge, number: dict[str, int]) -> tuple[Any, ...]:
    rows = [(row.offset, row.record, number[row.contract_key], row.fields) for row in write.rows]
    if write.flag is None:
        return ("merge", number[write.layer], rows, False)
    return (
        "merge",
        number[write.layer],
        rows,
        number[write.versions],
        write.plane,
        number[write.watermark],
        _flag(write.flag, number),
        _marks(write.marks, number),
    )
