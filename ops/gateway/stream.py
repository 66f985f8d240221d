"""Entries of `massive:model:stream:{U}` as server-sent events: the id is the entry's, the event its type."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeAlias

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
    found = _ID.match(text.encode())
    if found is None:
        return None
    ms, number = int(found[1]), int(found[2])
    return (ms, number) if max(ms, number) <= _LARGEST else None


def format_id(entry: StreamId) -> str:
    """As Redis writes it."""
    return f"{entry[0]}-{entry[1]}"


def render_entry(entry: StreamId, fields: Mapping[bytes, bytes]) -> bytes | None:
    """The event of a stream entry; None for one that is not ours."""
    try:
        return render(entry, fields[b"type"].decode(), fields[b"seq"], fields[b"generation"], fields[b"data"])
    except (KeyError, ValueError):
        return None


def render(entry: StreamId, kind: str, seq: bytes, generation: bytes, data: bytes) -> bytes:
    """An event whose data is the JSON object with `seq` and `generation` of the stream in it."""
    head = f"id: {format_id(entry)}\nevent: {kind}\n".encode() if entry != FIRST else f"event: {kind}\n".encode()
    return b"%bdata: %b\n\n" % (head, _merged(int(seq), generation.decode("ascii"), data))


def _merged(seq: int, generation: str, data: bytes) -> bytes:
    """Models have a `seq` of their own (what they were built on), which gives way; all else is spliced unread."""
    added = {"seq": seq, "generation": generation}
    if b'"seq":' in data or not data.startswith(b'{"'):
        return orjson.dumps({**orjson.loads(data), **added})
    return orjson.dumps(added)[:-1] + b"," + data[1:]
