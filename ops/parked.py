"""`marketswarm parked`: entries nobody could use, with their reason; read with walrus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from contracts.errors import FatalError
from contracts.keys import Keys
from contracts.settings import Settings
from contracts.topology import STREAMS
from ops.database import open_database
from ops.wiring import keys_of, partitions

PREVIEW_CHARACTERS = 160
PAGE = 100

_ABOUT = (b"reason", b"id")  # what parking adds to the fields of the entry

# Append the fields again and delete the parked entry, unless somebody did so a moment ago.
# KEYS: parked stream, stream; ARGV: parked id, then field, value ...
_REDRIVE = """
if redis.call('XDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('XADD', KEYS[2], '*', unpack(ARGV, 2))
return 1
"""


@dataclass(frozen=True, slots=True)
class ParkedStream:
    """How many entries of a stream are parked, and where."""

    stream: str
    key: str
    parked: int


@dataclass(frozen=True, slots=True)
class ParkedEntry:
    """A parked entry: its own id, the id it had, why it was parked, and what it said."""

    id: str
    was: str
    reason: str
    fields: dict[str, str]

    def as_json(self) -> dict[str, object]:
        """All of it."""
        return {"id": self.id, "was": self.was, "reason": self.reason, "fields": self.fields}

    def as_text(self) -> str:
        """Two lines: why, and the beginning of what it said."""
        said = " ".join(f"{name}={value}" for name, value in self.fields.items())
        preview = said if len(said) <= PREVIEW_CHARACTERS else said[:PREVIEW_CHARACTERS] + "..."
        return f"{self.id} (was {self.was}): {self.reason}\n    {preview}"


def list_parked(redis_url: str, settings: Settings) -> list[ParkedStream]:
    """Every stream a group reads, with the number of its parked entries."""
    keys = keys_of(settings)
    with open_database(redis_url) as database:
        return [
            ParkedStream(row.name, Keys.parked(stream), len(database.Stream(Keys.parked(stream))))
            for row in STREAMS
            if row.group is not None
            for stream in _streams(settings, keys, row.name)
        ]


def show_parked(redis_url: str, settings: Settings, stream: str, limit: int) -> list[ParkedEntry]:
    """The newest parked entries of a stream, newest first."""
    keys = keys_of(settings)
    with open_database(redis_url) as database:
        found = [
            _entry(entry_id, fields)
            for name in _streams(settings, keys, stream)
            for entry_id, fields in database.Stream(Keys.parked(name)).revrange(count=limit)
        ]
    return sorted(found, key=_order, reverse=True)[:limit]


def redrive(redis_url: str, settings: Settings, stream: str, ids: Sequence[str] | None) -> int:
    """Append parked entries (None: all there are now) to their stream again, oldest first; returns how many."""
    keys = keys_of(settings)
    done = 0
    with open_database(redis_url) as database:
        for name in _streams(settings, keys, stream):
            for entry_id, fields in _chosen(database, Keys.parked(name), ids):
                own = [part for pair in _original(fields).items() for part in pair]
                if own:
                    done += database.eval(_REDRIVE, 2, Keys.parked(name), name, entry_id, *own)
    return done


def _chosen(database: Any, parked: str, ids: Sequence[str] | None) -> Iterator[tuple[bytes, dict[bytes, bytes]]]:
    if ids is not None:
        for one in ids:
            yield from database.xrange(parked, one, one)
        return
    last = "-"
    newest = database.xrevrange(parked, count=1)
    while newest:
        page = database.xrange(parked, last, newest[0][0], count=PAGE)
        yield from page
        if len(page) < PAGE:
            return
        last = f"({page[-1][0].decode()}"


def _streams(settings: Settings, keys: Keys, name: str) -> list[str]:
    for row in STREAMS:
        if row.name == name and row.group is not None:
            return [row.key(keys, symbols[0]) for symbols in partitions(settings)]
    known = ", ".join(row.name for row in STREAMS if row.group is not None)
    raise FatalError(f"no stream {name!r} with parked entries; there are {known}")


def _entry(entry_id: bytes, fields: dict[bytes, bytes]) -> ParkedEntry:
    was, reason = (fields.get(name, b"").decode("utf-8", "replace") for name in (b"id", b"reason"))
    text = {n.decode("utf-8", "replace"): value.decode("utf-8", "replace") for n, value in _original(fields).items()}
    return ParkedEntry(entry_id.decode(), was, reason, text)


def _original(fields: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """The fields the entry had before it was parked."""
    return {name.removeprefix(b"payload:"): value for name, value in fields.items() if name not in _ABOUT}


def _order(entry: ParkedEntry) -> tuple[int, int]:
    ms, _, number = entry.id.partition("-")
    return int(ms), int(number)
