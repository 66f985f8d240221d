"""What the gateway tells by itself: the epoch with its recent promotions, the pipeline's health, and alerts."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import orjson

from contracts.errors import TransientError
from contracts.keys import Keys
from contracts.ports import GetFields, GetItems, GetValue, Reader
from ops.gateway.alert_stream import AlertStream
from ops.gateway.event import Event
from ops.gateway.follower import Follower

Json = dict[str, Any]

EVERY_S = 1.0
TIMELINE_SHOWN = 20


async def watch(reader: Reader, keys: Keys, followers: Mapping[Follower, AlertStream], stop: asyncio.Event) -> None:
    """Tell every follower's clients what changed, once a second, until stopped."""
    told: dict[tuple[str, str], bytes] = {}
    while not stop.is_set():
        for follower, alerts in followers.items():
            with suppress(TransientError):
                for kind, body in (await read_news(reader, keys, follower.symbol)).items():
                    if told.get((follower.symbol, kind)) != body:
                        told[follower.symbol, kind] = body
                        follower.tell(Event(None, kind, body))
                for alert in await alerts.read_new():
                    follower.tell(alert)
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), EVERY_S)


async def read_news(reader: Reader, keys: Keys, symbol: str) -> dict[str, bytes]:
    """Kind -> JSON of `epoch` and `health`; a kind of which nothing is known is absent."""
    active, timeline, health = await reader.read(
        GetFields(keys.active(symbol)),
        GetItems(keys.timeline(symbol), 0, TIMELINE_SHOWN - 1),
        GetValue(keys.health(symbol)),
    )
    assert isinstance(active, dict) and isinstance(timeline, list)
    epoch = active.get(symbol.encode(), b"").decode()
    news = {"health": health} if isinstance(health, bytes) else {"health": NO_HEALTH}
    if not epoch:
        return news
    news["epoch"] = orjson.dumps(epoch_news(symbol, epoch, await _read_metas(reader, keys, timeline)))
    return news


async def read_timeline(reader: Reader, keys: Keys, names: Sequence[bytes]) -> list[Json]:
    """Epochs of a timeline with when and why they were promoted."""
    return _timeline(await _read_metas(reader, keys, names))


async def _read_metas(reader: Reader, keys: Keys, names: Sequence[bytes]) -> dict[str, Mapping[bytes, bytes]]:
    epochs = [name.decode() for name in names]
    metas = await reader.read(*(GetFields(keys.meta(epoch)) for epoch in epochs)) if epochs else []
    return {epoch: meta for epoch, meta in zip(epochs, metas, strict=True) if isinstance(meta, dict)}


NO_HEALTH = orjson.dumps({"status": "down", "reasons": ["nothing tells the health: is staging running?"]})


def epoch_news(symbol: str, epoch: str, metas: Mapping[str, Mapping[bytes, bytes]]) -> Json:
    """The active epoch and its predecessors (newest first), from their meta hashes."""
    meta = metas.get(epoch, {})
    return {
        "symbol": symbol,
        "epoch": epoch,
        "reason": _text(meta, b"reason"),
        "created_ts": _seconds(meta, b"created_ts"),
        "snapshot_ts": _seconds(meta, b"snapshot_ts"),
        "contracts": int(_text(meta, b"contract_count") or 0),
        "excluded": int(_text(meta, b"excluded_count") or 0),
        "expirations": [one for one in (_text(meta, b"expirations") or "").split(",") if one],
        "failed_expirations": [one for one in (_text(meta, b"failed_expirations") or "").split(",") if one],
        "dormant": int(_text(meta, b"dormant_count") or 0),
        "forced": _text(meta, b"forced_dirty") == "1",
        "ws": _text(meta, b"had_ws_updates") == "1",
        "timeline": _timeline(metas),
    }


def _timeline(metas: Mapping[str, Mapping[bytes, bytes]]) -> list[Json]:
    return [
        {"id": name, "reason": _text(meta, b"reason"), "created_ts": _seconds(meta, b"created_ts")}
        for name, meta in metas.items()
    ]


def _text(meta: Mapping[bytes, bytes], name: bytes) -> str | None:
    return meta.get(name, b"").decode() or None


def _seconds(meta: Mapping[bytes, bytes], name: bytes) -> float | None:
    text = _text(meta, name)
    return float(text) if text else None
