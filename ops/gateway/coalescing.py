"""What waits for a slow client, made small: the newest value per cell, the newest of each model. Pure.

The events made from entries of the stream continue it as a whole: each carries `since_seq`, the seq that they continue,
and only the last one moves on to the seq (and the id) of the newest entry. Of what the gateway tells by itself alerts
are told one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from contracts.planes import TILE_FIELDS
from ops.gateway.event import Event

Json = dict[str, Any]

_BOARD = frozenset({"reset", "diff", "tick"})  # a reset has all that these said before it


def coalesced(entries: Sequence[Event]) -> list[Event]:
    """Fewer events with the same effect as these entries."""
    resets = [at for at, event in enumerate(entries) if event.kind == "reset"]
    start = resets[-1] if resets else 0
    before = [event for event in entries[:start] if event.kind not in _BOARD]
    rest = entries[start + 1 :] if resets else entries
    return [
        *_aside(before, entries[0].seq - 1 if entries else 0),
        *entries[start : start + len(resets[-1:])],
        *_continued(rest),
    ]


def newest_told(events: Sequence[Event]) -> list[Event]:
    """Of what the gateway tells by itself the newest of each kind, and every alert."""
    newest = {event.kind: event for event in events if event.kind != "alert"}
    return [*newest.values(), *(event for event in events if event.kind == "alert")]


def _aside(models: Sequence[Event], since: int) -> list[Event]:
    """The newest of each model that was told before a reset, which ends everything else."""
    newest = {event.kind: event for event in models}
    return [_continuing(kind, orjson.loads(event.body), since, since, None) for kind, event in newest.items()]


def _continued(entries: Sequence[Event]) -> list[Event]:
    """Entries without a reset: one diff per plane, then the newest of every other kind."""
    if len(entries) < 2:
        return list(entries)
    diffs: dict[str, list[Json]] = {}
    newest: dict[str, Event] = {}
    for event in entries:
        if event.kind == "diff":
            body = orjson.loads(event.body)
            diffs.setdefault(body["plane"], []).append(body)
        else:
            newest[event.kind] = event
    made = [("diff", _merged(found)) for found in diffs.values()]
    made += [(kind, orjson.loads(event.body)) for kind, event in newest.items()]
    since, last = entries[0].seq - 1, entries[-1]
    return [
        *(_continuing(kind, body, since, since, None) for kind, body in made[:-1]),
        _continuing(*made[-1], since, last.seq, last),
    ]


def _continuing(kind: str, body: Json, since: int, seq: int, last: Event | None) -> Event:
    told = orjson.dumps({**body, "seq": seq, "since_seq": since})
    return Event(last.id if last else None, kind, told, seq)


def _merged(diffs: Sequence[Json]) -> Json:
    """One diff from the first one's version to the last one's; a checksum of the last one holds for all of it."""
    values: dict[int, tuple[Any, ...]] = {}
    for diff in diffs:
        cell = 0
        for at, gap in enumerate(diff["cells"]):
            cell += gap
            values[cell] = tuple(diff[name][at] for name in TILE_FIELDS)
    cells = sorted(values)
    gaps = [cell - before for cell, before in zip(cells, [0, *cells], strict=False)]
    columns = {name: [values[cell][at] for cell in cells] for at, name in enumerate(TILE_FIELDS)}
    return {**diffs[-1], "from": diffs[0]["from"], "cells": gaps, **columns}
