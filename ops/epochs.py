"""`marketswarm epochs`: one row per active epoch, or the whole timeline, read with walrus."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from time import time
from typing import Any

from contracts.clock import decode_clock
from contracts.keys import Keys
from contracts.settings import Settings
from ops.database import open_database
from ops.tables import format_table
from ops.wiring import keys_of

Json = dict[str, Any]

_HEADERS = ("SYMBOL", "EPOCH_ID", "AGE(s)", "DIRTY", "DORMANT", "FORCED", "WS", "HEATMAP", "GEX")
_PITCHES = (8, 28, 8, 7, 9, 8, 4, 9, 15)


def read_epochs(redis_url: str, settings: Settings, symbols: Sequence[str], *, everything: bool = False) -> list[Json]:
    """The facts of the active epoch of each symbol, with `everything` of all on its timeline, newest first."""
    keys = keys_of(settings)
    with open_database(redis_url) as database:
        return [row for symbol in symbols for row in _rows(database, keys, symbol, everything)]


def epochs_table(rows: Sequence[Json]) -> str:
    """The rows as the table people know."""
    cells = [
        (
            row["symbol"],
            row["epoch"],
            _whole(row["age_s"]),
            _yes(row["dirty"]),
            _whole(row["dormant"]),
            _yes(row["forced"]),
            _yes(row["ws"]),
            _whole(row["heatmap"]),
            _whole(row["gex"]),
        )
        for row in rows
    ]
    return format_table(_HEADERS, cells, pitches=_PITCHES, gap=1, ruled=True)


def _rows(database: Any, keys: Keys, symbol: str, everything: bool) -> Iterator[Json]:
    active = database.Hash(keys.active(symbol)).get(symbol)
    if everything:
        names = [item.decode() for item in database.List(keys.timeline(symbol))]
    else:
        names = [active.decode()] if active else []
    market_ts = decode_clock(database.get(keys.clock(symbol))).market_time(time())
    dirty = database.Set(keys.dirty(symbol))
    models = _models(database, keys, symbol)
    for epoch in names:
        meta = {field.decode(): value.decode() for field, value in database.Hash(keys.meta(epoch)).as_dict().items()}
        created = meta.get("created_ts")
        heatmap, gex = models.get(epoch, (None, None))
        yield {
            "symbol": symbol,
            "epoch": epoch,
            "active": active is not None and epoch == active.decode(),
            "reason": meta.get("reason"),
            "age_s": max(0.0, market_ts - float(created)) if created else None,
            "dirty": epoch in dirty,
            "dormant": int(meta.get("dormant_count") or 0),
            "forced": meta.get("forced_dirty") == "1",
            "ws": meta.get("had_ws_updates") == "1",
            "heatmap": heatmap,
            "gex": gex,
        }


def _models(database: Any, keys: Keys, symbol: str) -> dict[str, tuple[int | None, int | None]]:
    """Epoch -> contracts that entered its published heatmap and gamma exposure."""
    single, gex = (
        json.loads(body) if body else None
        for body in database.mget(keys.heatmap_model(symbol, "single"), keys.gex_model(symbol))
    )
    found: dict[str, tuple[int | None, int | None]] = {}
    if single is not None:
        found[single["epoch"]] = (_priced(single), None)
    if gex is not None:
        found[gex["epoch"]] = (found.get(gex["epoch"], (None, None))[0], _summed(gex))
    return found


def _priced(single: Json) -> int:
    """Every contract with a price is a cell of the strategy `single`."""
    return sum(
        price is not None
        for plane in single["planes"].values()
        for side in (plane.get("single") or {}).values()
        for price in side["mid"]
    )


def _summed(gex: Json) -> int:
    """Contracts in scope less those that had to be left out."""
    return int(sum(gex["greek_src"].values()) - gex["dropped"]["no_iv"] - gex["dropped"]["no_oi"])


def _whole(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
