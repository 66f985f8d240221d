"""What waits for a slow client, made small: the newest value per cell, the newest of each model. Pure.

The events made from a batch continue the stream as a whole: each carries `since_seq`, the seq that the batch continues,
and only the last one moves on to the seq (and the id) of the newest entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from contracts.planes import TILE_FIELDS
from ops.gateway.event import Event

Json = dict[str, Any]


def coalesced(events: Sequence[Event]) -> list[Event]:
    """Fewer events with the same effect; a `reset` among them ends what was before it."""
    resets = [at for at, event in enumerate(events) if event.kind == "reset"]
    if resets:
        return [events[resets[-1]], *coalesced(events[resets[-1] + 1 :])]
    entries = [event for event in events if event.id is not None]
    if len(entries) < 2:
        return list(events)
    bodies = [orjson.loads(event.body) for event in entries]
    diffs: dict[str, list[Json]] = {}
    newest: dict[str, Json] = {}
    for event, body in zip(entries, bodies, strict=True):
        if event.kind == "diff":
            diffs.setdefault(body["plane"], []).append(body)
        else:
            newest[event.kind] = body
    made = [("diff", _merged(found)) for found in diffs.values()] + list(newest.items())
    since, last = bodies[0]["seq"] - 1, bodies[-1]["seq"]
    told = {event.kind: event for event in events if event.id is None}
    return [
        *(_continuing(kind, body, since, since) for kind, body in made[:-1]),
        _continuing(*made[-1], since, last, entries[-1]),
        *told.values(),
    ]


def _continuing(kind: str, body: Json, since: int, seq: int, last: Event | None = None) -> Event:
    told = orjson.dumps({**body, "seq": seq, "since_seq": since})
    return Event(last.id if last else None, kind, told)


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
