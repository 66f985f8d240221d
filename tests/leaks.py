"""Which keys may outlive a test: those the key table calls permanent. Everything else needs a time to live."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from contracts.keys import KEY_TABLE, KeyRow

NAMESPACE = "test"  # the one namespace tests use

PERMANENT = frozenset({"none", "timeline", "bounded", "window", "pruned"})
EXPIRING = frozenset({"epoch", "snapshot", "model", "5 s", "15 s", "2 min", "lease"})

_PLACES = {
    "U": r"\{?[A-Z]+\}?",
    "EXP": r"\d{4}-\d\d-\d\d",
    "TS_MS": r"\d+",
    "ID": r"\{?[A-Z]+\}?:\d+:[0-9a-f]{4}",
    "CID": r"O:[A-Z0-9]+",
    "PLANE": r"[A-Z0-9]+:\d{4}-\d\d-\d\d",
    "LAYER": r"[a-z]+",
    "STRATEGY": r"[a-z]+",
    "SIDE": r"[a-z]+",
    "STAT": r"[a-z]+",
    "GROUP": r"[a-z]+",
    "NAME": r"[a-z]+(?::[A-Za-z0-9_-]+)*",
    "STREAM": r".+:stream(?::\{?[A-Z]+\}?)?",
}
_TAG = r"(?::\{[A-Z]+\})?"  # what partitioned mode appends to keys that are global otherwise


def pattern_of(row: KeyRow) -> re.Pattern[str]:
    """The keys a row of the table speaks of, in both modes, without or with the namespace of the tests."""
    parts = re.split(r"\{([A-Z_]+)\}", row.pattern)
    text = "".join(_PLACES[part] if n % 2 else re.escape(part) for n, part in enumerate(parts))
    text = re.sub(r"\Amassive:", f"massive:(?:{NAMESPACE}:)?", text)
    text = re.sub(r"\A(epoch|strategy):", rf"(?:{NAMESPACE}:)?\1:", text)
    return re.compile(text + _TAG)


_PATTERNS = tuple((row, pattern_of(row)) for row in KEY_TABLE)


def rows_of(key: str) -> list[KeyRow]:
    """The rows of the key table that speak of a key."""
    return [row for row, pattern in _PATTERNS if pattern.fullmatch(key)]


def leaks(keys: Iterable[tuple[str, int]]) -> list[str]:
    """What is wrong with keys and their time to live in ms (-1: none); empty if nothing is."""
    found = []
    for key, ttl_ms in keys:
        rows = rows_of(key)
        if not rows:
            found.append(f"{key}: not in the key table")
        elif ttl_ms == -1 and not any(row.lifetime in PERMANENT for row in rows):
            found.append(f"{key}: no time to live, although its lifetime is {rows[0].lifetime!r}")
    return found


def leaks_of(client: Any) -> list[str]:
    """The same for all keys of a server."""
    keys = [key.decode() for key in client.scan_iter(count=1000)]
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.pttl(key)
    ages = zip(keys, pipeline.execute(), strict=True)
    return leaks((key, ttl_ms) for key, ttl_ms in ages if ttl_ms != -2)
