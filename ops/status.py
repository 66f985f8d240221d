"""The pipeline as it is now, read from Redis: epochs, ages, lags, health. Unknown is None."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from time import time
from typing import Any

from redis.exceptions import ResponseError

from consumers.clients import hide_password
from contracts.clock import decode_clock
from contracts.feed_report import FeedReport, feed_names, fresh_reports, gaps_field
from contracts.keys import Keys, Layer, Stat
from contracts.planes import HEADER_BYTES, unpack_header
from contracts.settings import Settings
from contracts.topology import STREAMS, StageName, streams_of
from ops.database import open_database
from ops.wiring import keys_of, partitions

Json = dict[str, Any]

PAGE = 200
AWAY_MS = 15_000  # a consumer that has not asked for work this long and owns none is not counted
SEVERITY = ("ok", "degraded", "down")
FEED_FACTS = (
    "owner", "state", "reason", "contracts", "from_chain", "missing", "lag_s", "late", "delayed", "conflating",
    "last_frame_age_s",
)  # fmt: skip

# The age of the newest diff: found on the server, so that the models between two diffs need not travel.
# KEYS[1]: the stream. Looks back over ARGV[1] entries.
_NEWEST_DIFF = """
local last, left = '+', tonumber(ARGV[1])
while left > 0 do
  local rows = redis.call('XREVRANGE', KEYS[1], last, '-', 'COUNT', 16)
  for i = 1, #rows do
    for j = 1, #rows[i][2], 2 do
      if rows[i][2][j] == 'type' and rows[i][2][j + 1] == 'diff' then return rows[i][1] end
    end
  end
  if #rows < 16 then return false end
  last, left = '(' .. rows[16][1], left - 16
end
return false
"""
_LOOK_BACK = 256


def read_status(redis_url: str, settings: Settings) -> Json:
    """Everything `marketswarm status --json` prints."""
    keys = keys_of(settings)
    with open_database(redis_url) as database:
        symbols = {symbol: _symbol(database, keys, symbol) for symbol in settings.massive_symbols}
        heartbeats = _heartbeats(database, keys)
        groups = {str(name): _group(database, settings, keys, name, heartbeats) for name in StageName}
        feeds = _feeds(database, keys, settings)
        health = _health(database, keys, settings.massive_symbols)
        foreign = list(_foreign_groups(database, keys, settings))
    return {
        "redis_url": hide_password(redis_url),
        "symbols": symbols,
        "feeds": feeds,
        "groups": groups,
        "foreign_groups": foreign,
        "health": health,
    }


def read_updates(redis_url: str, settings: Settings) -> int:
    """How many values of known contracts have been taken in since the beginning, applied or already newer."""
    keys = keys_of(settings)
    with open_database(redis_url) as database:
        counts = [
            database.hmget(keys.analytics(Stat.HYDRATE, symbols[0]), "applied", "older")
            for symbols in partitions(settings)
        ]
    return sum(int(count or 0) for pair in counts for count in pair)


# --- symbols


def _symbol(database: Any, keys: Keys, symbol: str) -> Json:
    epoch = database.hget(keys.active(symbol), symbol)
    name = epoch.decode() if epoch else ""
    with database.pipeline(transaction=True) as pipeline:
        pipeline.hgetall(keys.meta(name))
        pipeline.hgetall(keys.versions(name))
        pipeline.get(keys.clock(symbol))
        pipeline.sismember(keys.dirty(symbol), name)
        pipeline.hgetall(keys.model_state(symbol))
        meta, versions, clock, dirty, state = pipeline.execute()
    planes = sorted(field.decode().removesuffix("|quotes") for field in versions if field.endswith(b"|quotes"))
    market_ts = decode_clock(clock).market_time(time())
    return {
        "epoch": name or None,
        "reason": meta[b"reason"].decode() if b"reason" in meta else None,
        "epoch_age_s": _age(market_ts, meta.get(b"created_ts")),
        "contracts": _integer(meta.get(b"contract_count")),
        "planes": len(planes) if planes else None,
        "snapshot_age_s": _age(market_ts, meta.get(b"snapshot_ts")),
        "ws_age_s": _age(time(), meta.get(b"last_ws_ts")),
        "dirty": bool(dirty) if name else None,
        "seq": _integer(state.get(b"seq")),
        "last_diff_age_s": _last_diff_age(database, keys.model_stream(symbol)),
        "tiles": _tiles(database, keys, name, planes),
    }


def _last_diff_age(database: Any, stream: str) -> float | None:
    entry = database.eval_ro(_NEWEST_DIFF, 1, stream, _LOOK_BACK)
    if not entry:
        return None
    seconds, microseconds = database.time()
    return _age(seconds + microseconds / 1e6, int(entry.split(b"-")[0]) / 1000)


def _tiles(database: Any, keys: Keys, epoch: str, planes: Iterable[str]) -> int | None:
    """How many cells the tiles of an epoch have, by the headers of its planes."""
    with database.pipeline(transaction=False) as pipeline:
        for plane in planes:
            pipeline.getrange(keys.plane(epoch, plane, Layer.TILES), 0, HEADER_BYTES - 1)
        heads = [head for head in pipeline.execute() if head]
    return sum(int(unpack_header(head)["rows"]) for head in heads) if heads else None


def _age(now_ts: float, then: bytes | float | None) -> float | None:
    """Seconds since then; a clock read a moment ago may be a little behind what was written since."""
    return None if then in (None, b"") else round(max(0.0, now_ts - float(then)), 3)


def _integer(value: bytes | None) -> int | None:
    return int(value) if value else None


# --- feeds


def _feeds(database: Any, keys: Keys, settings: Settings) -> Json:
    """How each socket stands, as its owner tells; one that nobody owns is unknown."""
    symbols, now_ts = settings.massive_symbols, time()
    fields = database.hgetall(keys.analytics(Stat.WS, symbols[0]))
    reports = {report.feed: report for report in fresh_reports(fields, now_ts)}
    return {
        name: _feed(reports.get(name), int(fields.get(gaps_field(name).encode()) or 0), now_ts)
        for name in feed_names(settings.massive_ws_connections, symbols)
    }


def _feed(report: FeedReport | None, gaps: int, now_ts: float) -> Json:
    """`from_chain`: contracts it has no room for; `gaps` since the data folder began, a start counts as one."""
    if report is None:
        return {**dict.fromkeys(FEED_FACTS), "gaps": gaps}
    return {
        "owner": report.owner,
        "state": report.state,
        "reason": report.reason or None,
        "contracts": report.contracts,
        "from_chain": report.unsubscribed,
        "missing": report.missing,
        "lag_s": report.lag_s,
        "late": report.late,
        "delayed": report.delayed,
        "conflating": report.conflating,
        "last_frame_age_s": _age(now_ts, report.last_frame_ts or None),
        "gaps": gaps,
    }


# --- groups


@dataclass(frozen=True, slots=True)
class _Part:
    """A group on one of its streams."""

    lag: int
    pending: int
    consumers: Mapping[str, tuple[int, int]]  # name -> pending, idle ms


def _group(database: Any, settings: Settings, keys: Keys, name: StageName, heartbeats: Mapping[str, Json]) -> Json:
    streams = [row.key(keys, symbols[0]) for symbols in partitions(settings) for row in streams_of(name)]
    parts = [part for part in (_part(database, stream, name) for stream in streams) if part is not None]
    if not parts:
        return {"lag": None, "pending": None, "consumers": None}
    return {
        "lag": sum(part.lag for part in parts),
        "pending": sum(part.pending for part in parts),
        "consumers": list(_consumers(parts, heartbeats)),
    }


def _part(database: Any, stream: str, group: str) -> _Part | None:
    try:
        rows = {row["name"].decode(): row for row in database.xinfo_groups(stream)}
        if group not in rows:
            return None
        found = {row["name"].decode(): (row["pending"], row["idle"]) for row in database.xinfo_consumers(stream, group)}
    except ResponseError as error:
        if "no such key" in str(error):
            return None
        raise
    delivered = rows[group]["last-delivered-id"].decode()
    return _Part(count_after(database, stream, delivered), rows[group]["pending"], found)


def _foreign_groups(database: Any, keys: Keys, settings: Settings) -> Iterable[Json]:
    """Groups on our streams that the topology does not name: nobody waits for them when entries are trimmed."""
    for symbols in partitions(settings):
        for row in STREAMS:
            stream = row.key(keys, symbols[0])
            for group in database.xinfo_groups(stream) if database.exists(stream) else ():
                name = group["name"].decode()
                if name != row.group:
                    yield {"stream": stream, "group": name}


def _consumers(parts: Iterable[_Part], heartbeats: Mapping[str, Json]) -> Iterable[Json]:
    """Consumers that are there or own entries; commits as their heartbeat tells."""
    names = sorted({name for part in parts for name in part.consumers})
    for name in names:
        rows = [part.consumers[name] for part in parts if name in part.consumers]
        pending, idle_ms = sum(row[0] for row in rows), min(row[1] for row in rows)
        if pending or idle_ms < AWAY_MS:
            commits = heartbeats.get(name, {}).get("commits")
            yield {"name": name, "commits": commits, "pending": pending, "idle_s": round(idle_ms / 1000, 3)}


def count_after(database: Any, stream: str, delivered: str) -> int:
    """Entries of a stream after an id, counted by ourselves: the server's own figure is wrong after trims.

    Walks from both sides at once; the shorter one ends it, and the length tells the other.
    """
    length: int = database.xlen(stream)
    after, before = 0, 0
    last, first = delivered, delivered
    first_page = True
    while True:
        newer = database.xrange(stream, f"({last}", "+", count=PAGE)
        after += len(newer)
        if len(newer) < PAGE:
            return after
        older = database.xrevrange(stream, first if first_page else f"({first}", "-", count=PAGE)
        before += len(older)
        if len(older) < PAGE:
            return max(0, length - before)
        last, first, first_page = newer[-1][0].decode(), older[-1][0].decode(), False


def _heartbeats(database: Any, keys: Keys) -> dict[str, Json]:
    return {name.decode(): json.loads(body) for name, body in database.hgetall(keys.heartbeat()).items()}


# --- health


def _health(database: Any, keys: Keys, symbols: Iterable[str]) -> Json | None:
    """The worst of all symbols, with its reasons; None before anybody said anything."""
    told = {symbol: database.get(keys.health(symbol)) for symbol in symbols}
    reports = {symbol: json.loads(body) for symbol, body in told.items() if body}
    if not reports:
        return None
    worst = max((report["status"] for report in reports.values()), key=SEVERITY.index)
    silent = [f"{symbol}: nobody tells its health" for symbol in told if symbol not in reports]
    reasons = [f"{symbol}: {reason}" for symbol, report in reports.items() for reason in report["reasons"]]
    return {"status": "down" if silent else worst, "reasons": [*reasons, *silent]}
