"""Capture files, version 1: raw inputs as they came, readable after a crash (`ops/docs/capture.md`).

A capture is FILE, then FILE.1, FILE.2 and so on. Each part is a sequence of gzip members, written and synced about
once a second; what a crash tears off is the last member. Inside, one record after the other: a header (a JSON object
on one line, its `bytes` the size of what follows), the raw bytes, a line feed.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from contracts.errors import DataError, FatalError

FORMAT = "marketswarm-capture"
VERSION = 1

HEADER = "capture"  # first of every part: format, version, part, symbols
FRAME = "frame"  # one WebSocket frame: feed, n (number of the frame of that feed), id
PAGE = "page"  # the body of one REST answer: path (with query), id
LOST = "lost"  # `frames` frames of `feed` are missing here

_COMPRESSION = 6
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Record:
    """One record. `ts`: receive time (epoch seconds); `fields`: what its kind says beside."""

    kind: str
    ts: float
    fields: dict[str, Any] = field(default_factory=dict)
    payload: bytes = b""

    def encode(self) -> bytes:
        """Header line, payload, line feed."""
        header = {"kind": self.kind, "ts": self.ts, "bytes": len(self.payload), **self.fields}
        return json.dumps(header, separators=(",", ":")).encode() + b"\n" + self.payload + b"\n"


def part_file(file: Path, part: int) -> Path:
    """FILE for part 0, FILE.1 for part 1."""
    return file if part == 0 else file.with_name(f"{file.name}.{part}")


def parts_of(file: Path) -> list[Path]:
    """The parts there are, in order."""
    found: list[Path] = []
    while (path := part_file(file, len(found))).exists():
        found.append(path)
    return found


class PartWriter:
    """Writes one new part; `flush` makes what was added durable."""

    def __init__(self, file: Path, part: int, ts: float, symbols: tuple[str, ...]) -> None:
        self.ts = ts
        self.size = 0
        self._pending = bytearray()
        try:
            self._out: BinaryIO = part_file(file, part).open("xb")
        except OSError as error:
            raise FatalError(f"cannot write {part_file(file, part)}: {error.strerror}") from None
        self.add(Record(HEADER, ts, {"format": FORMAT, "version": VERSION, "part": part, "symbols": list(symbols)}))

    def add(self, record: Record) -> None:
        """One more record."""
        self._pending += record.encode()

    def flush(self) -> None:
        """Write what was added as one gzip member, and wait until it is on the disk."""
        if not self._pending:
            return
        member = gzip.compress(self._pending, _COMPRESSION, mtime=0)
        self._pending.clear()
        self._out.write(member)
        self._out.flush()
        os.fsync(self._out.fileno())
        self.size += len(member)

    def close(self) -> None:
        """Flush and close."""
        self.flush()
        self._out.close()


def read_capture(file: Path) -> Iterator[Record]:
    """The records of all parts, without their headers. A torn end of a part is left out.

    FatalError: no such file, no capture, or one of a newer version. DataError: damaged in the middle.
    """
    parts = parts_of(file)
    if not parts:
        raise FatalError(f"no capture at {file}")
    for path in parts:
        records = read_part(path)
        _check_header(path, next(records, None))
        yield from records


def read_part(path: Path) -> Iterator[Record]:
    """The records of one part, header included."""
    with path.open("rb") as source:
        for text in _members(path, source):
            yield from _records(path, text)


def _members(path: Path, source: BinaryIO) -> Iterator[bytes]:
    """The contents of each whole gzip member; the last one may be torn, and is then left out."""
    data = source.read(_READ_BYTES)
    while data:
        unpacker = zlib.decompressobj(wbits=31)
        text = bytearray()
        while not unpacker.eof:
            try:
                text += unpacker.decompress(data)
            except zlib.error as error:
                raise DataError(f"{path}: damaged at about byte {source.tell()}: {error}") from None
            data = unpacker.unused_data if unpacker.eof else source.read(_READ_BYTES)
            if not data and not unpacker.eof:
                return
        yield bytes(text)
        data = data or source.read(_READ_BYTES)


def _records(path: Path, text: bytes) -> Iterator[Record]:
    """The records of a member; none spans two."""
    at = 0
    while at < len(text):
        end = text.find(b"\n", at)
        try:
            header = json.loads(text[at:end])
            kind, ts, size = header.pop("kind"), header.pop("ts"), header.pop("bytes")
        except (ValueError, KeyError, AttributeError):
            raise DataError(f"{path}: no record header: {text[at : at + 60]!r}") from None
        after = end + 1 + size
        if end < 0 or text[after : after + 1] != b"\n":
            raise DataError(f"{path}: a record of {size} bytes is cut off")
        yield Record(kind, ts, header, text[end + 1 : after])
        at = after + 1


def _check_header(path: Path, record: Record | None) -> None:
    if record is None:
        return  # killed before its first second
    if record.kind != HEADER or record.fields.get("format") != FORMAT:
        raise FatalError(f"{path} is no capture")
    if record.fields["version"] > VERSION:
        raise FatalError(f"{path} is of version {record.fields['version']}, this program reads up to {VERSION}")
