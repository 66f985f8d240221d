"""Reads the published values that rules speak of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from contracts.clock import decode_clock
from contracts.compiled import CompiledEpochs
from contracts.keys import Keys
from contracts.ports import GetFields, GetItems, GetValue, Reader
from ops.alerts.judgement import Facts, TileKey, tile_key
from ops.alerts.rules import FRONT, AnyRule, TileBelow
from ops.gateway.reset import model_keys
from ops.gateway.tiles import TileName, read_tile

PROMOTIONS_SEEN = 100
DORMANCY = b"dormancy"


async def read_facts(
    reader: Reader, keys: Keys, compiled: CompiledEpochs, symbol: str, rules: Iterable[AnyRule], now_ts: float
) -> Facts:
    """The facts of a symbol at host time `now_ts`."""
    models = model_keys(keys, symbol)
    clock, active, timeline, *bodies = await reader.read(
        GetValue(keys.clock(symbol)),
        GetFields(keys.active(symbol)),
        GetItems(keys.timeline(symbol), 0, PROMOTIONS_SEEN - 1),
        *(GetValue(key) for key in models.values()),
    )
    assert isinstance(active, dict) and isinstance(timeline, list)
    found = {kind: _object(body) for kind, body in zip(models, bodies, strict=True)}
    gex, mode = found.get("gex", {}), found.get("mode", {})
    ts = decode_clock(clock if isinstance(clock, bytes) else None).market_time(now_ts)
    epoch = active.get(symbol.encode(), b"").decode()
    levels = gex.get("levels", {})
    return Facts(
        symbol,
        ts,
        epoch or None,
        gex.get("tick"),
        gex.get("ts"),
        gex.get("spot"),
        _level(levels, "flip"),
        {wall: _level(levels, wall) for wall in ("call_wall", "put_wall")},
        mode.get("mode"),
        await _tiles(reader, keys, compiled, symbol, epoch, rules, ts),
        await _promotions(reader, keys, timeline),
    )


async def _promotions(reader: Reader, keys: Keys, timeline: list[bytes]) -> tuple[float, ...]:
    """When epochs were promoted, newest first, dormancy apart."""
    epochs = [name.decode() for name in timeline]
    metas = await reader.read(*(GetFields(keys.meta(epoch)) for epoch in epochs)) if epochs else []
    known = [meta for meta in metas if isinstance(meta, dict) and b"created_ts" in meta]
    return tuple(float(meta[b"created_ts"]) for meta in known if meta.get(b"reason") != DORMANCY)


async def _tiles(
    reader: Reader,
    keys: Keys,
    compiled: CompiledEpochs,
    symbol: str,
    epoch: str,
    rules: Iterable[AnyRule],
    ts: float,
) -> Mapping[TileKey, float | None]:
    """The mid debit of every tile that a rule is about."""
    wanted = {tile_key(rule) for rule in rules if isinstance(rule, TileBelow) and rule.symbol in (None, symbol)}
    board = await compiled.get(reader, epoch) if wanted and epoch else None
    if board is None:
        return {}
    front = next((plane.id for plane in board.geometry.planes if plane.settlement_ts > ts), None)
    mids: dict[TileKey, float | None] = {}
    for key in wanted:
        plane = front if key[0] == FRONT else key[0]
        tile = await read_tile(reader, keys, compiled, symbol, plane, TileName(*key[1:])) if plane else None
        mids[key] = tile["mid"] if tile else None
    return mids


def _level(levels: Mapping[str, Any], name: str) -> float | None:
    level = levels.get(name) or {}
    value: float | None = level.get("value")
    return value


def _object(body: object) -> dict[str, Any]:
    return orjson.loads(body) if isinstance(body, bytes) else {}
