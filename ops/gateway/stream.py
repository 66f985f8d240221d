"""Entries of `massive:model:stream:{U}`: their ids, types and bodies."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeAlias

import orjson

StreamId: TypeAlias = tuple[int, int]

FIRST: StreamId = (0, 0)

_ID = re.compile(rb"(\d{1,20})-(\d{1,20})\Z")
_LARGEST = 2**64 - 1


def stream_id(text: bytes) -> StreamId:
    """An entry id the server gave us."""
    ms, _, number = text.partition(b"-")
    return int(ms), int(number)


def parse_id(text: str) -> StreamId | None:
    """An id a client sent (`Last-Event-ID`); None if it is none."""
    found = _ID.match(text.encode(errors="replace"))
    if found is None:
        return None
    ms, number = int(found[1]), int(found[2])
    return (ms, number) if max(ms, number) <= _LARGEST else None


def format_id(entry: StreamId) -> str:
    """As Redis writes it."""
    return f"{entry[0]}-{entry[1]}"


def entry_kind(fields: Mapping[bytes, bytes]) -> str:
    """The type of a stream entry; empty for one that is not ours."""
    try:
        return fields[b"type"].decode()
    except (KeyError, ValueError):
        return ""


def entry_body(fields: Mapping[bytes, bytes]) -> bytes | None:
    """The JSON object of a stream entry with `seq` and `generation` in it; None for one that is not ours."""
    try:
        return merged(fields[b"seq"], fields[b"generation"], fields[b"data"])
    except (KeyError, ValueError):
        return None


def merged(seq: bytes, generation: bytes, data: bytes) -> bytes:
    """Models have a `seq` of their own (what they were built on), which gives way; all else is spliced unread."""
    added = {"seq": int(seq), "generation": generation.decode("ascii")}
    if b'"seq":' in data or not data.startswith(b'{"'):
        return orjson.dumps({**orjson.loads(data), **added})
    return orjson.dumps(added)[:-1] + b"," + data[1:]


def told_entry(entry: bytes, fields: Mapping[bytes, bytes]) -> dict[str, Any] | None:
    """The JSON object in the field `data` of an entry (of alerts, of a history) with its id; None for a foreign one."""
    try:
        return {"id": entry.decode(), **orjson.loads(fields[b"data"])}
    except (KeyError, TypeError, ValueError):
        return None
