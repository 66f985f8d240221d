"""A `reset` event for a client that joins: what is published at this moment, with the id of the stream's last entry.

The stream's end, the versions and the published arrays are read in one transaction, and the models stage writes them
in one commit: whoever applies this reset and then every entry after its id has missed nothing and has nothing twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from consumers.clients import faults_named
from contracts.errors import TransientError
from contracts.geometry import Plane
from contracts.keys import Keys, Layer
from contracts.planes import HEADER_BYTES, Tiles, decode_tiles, unpack_header
from contracts.ports import Reader
from contracts.symbology import days_to_expiration
from contracts.versions import Versions, complete_to
from ops.gateway.event import Event, Layout
from ops.gateway.stream import FIRST, StreamId, merged, stream_id
from stages.calculate.layers import CompiledEpoch, CompiledEpochs
from stages.calculate.plan import SIDES, STRATEGIES
from stages.models.diff import encode_reset, encode_reset_plane

REASON = "joined"


@dataclass(frozen=True, slots=True)
class Reset:
    """A reset and the entry it stands at, with the newest model of each kind, which are not part of the order."""

    id: StreamId
    event: Event
    models: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class _Published:
    last: StreamId
    state: Mapping[bytes, bytes]
    versions: Versions
    watermark: float
    tiles: tuple[Tiles, ...]  # per plane of the geometry
    models: Mapping[str, bytes]  # kind -> JSON


class Resets:
    """Builds resets of one symbol; clients that join together share one."""

    def __init__(self, redis_url: str, client: Any, reader: Reader, keys: Keys, symbol: str) -> None:
        self._redis_url = redis_url
        self._client = client
        self._reader = reader
        self._keys = keys
        self._symbol = symbol
        self._compiled = CompiledEpochs(keys, keep=2)
        self._turn = asyncio.Lock()
        self._newest: Reset | None = None

    async def at_or_after(self, position: StreamId) -> Reset | None:
        """A reset that stands at this entry or a later one; None while nothing whole is published."""
        async with self._turn:
            if self._newest is None or self._newest.id < position:
                self._newest = await self._build()
            return self._newest

    async def _build(self) -> Reset | None:
        state = await self._reader.fields(self._keys.model_state(self._symbol))
        if b"epoch" not in state:
            return None
        compiled = await self._compiled.get(self._reader, state[b"epoch"].decode())
        published = await self._read(compiled) if compiled else None
        if compiled is None or published is None:
            return None
        # a big board takes a while to write down; other clients are served meanwhile
        return await asyncio.to_thread(_encode, compiled, published)

    async def _read(self, compiled: CompiledEpoch) -> _Published | None:
        keys, symbol, epoch = self._keys, self._symbol, compiled.epoch
        planes, models = compiled.geometry.planes, model_keys(keys, symbol)
        with faults_named(self._redis_url):
            async with self._client.pipeline(transaction=True) as pipeline:
                pipeline.xrevrange(keys.model_stream(symbol), "+", "-", count=1)
                pipeline.hgetall(keys.model_state(symbol))
                pipeline.hgetall(keys.versions(epoch))
                pipeline.hgetall(keys.watermark(symbol))
                pipeline.mget(models.values())
                for plane in planes:
                    pipeline.get(keys.plane(epoch, plane.id, Layer.PUBLISHED))
                newest, state, versions, watermark, found, *blobs = await pipeline.execute()
        if state.get(b"epoch") != epoch.encode():
            return None  # promoted in between
        tiles = _whole(planes, Versions(versions), blobs)
        if tiles is None:
            return None
        last = stream_id(newest[0][0]) if newest else FIRST
        known = {kind: body for kind, body in zip(models, found, strict=True) if body is not None}
        return _Published(last, state, Versions(versions), float(watermark.get(b"ts", b"0")), tiles, known)

    async def layout(self, epoch: str) -> Layout:
        """Which cells of each plane belong to which strategy; `TransientError` if the epoch is gone."""
        compiled = await self._compiled.get(self._reader, epoch)
        if compiled is None:
            raise TransientError(f"epoch {epoch} is gone")
        return layout_of(compiled)


def model_keys(keys: Keys, symbol: str) -> dict[str, str]:
    """Kind -> key of the models a client is greeted with."""
    return {"gex": keys.gex_model(symbol)}


def history_keys(keys: Keys, symbol: str) -> dict[str, str]:
    """Kind -> stream (field `data`) of the models that keep their history."""
    return {}


def layout_of(compiled: CompiledEpoch) -> Layout:
    """Which cells of each plane belong to which strategy."""
    return {
        plane: {
            strategy: (plan.block(strategy, SIDES[0]).start, plan.block(strategy, SIDES[-1]).stop)
            for strategy in STRATEGIES
        }
        for plane, plan in compiled.plans.items()
    }


def _whole(planes: Sequence[Plane], versions: Versions, blobs: Sequence[bytes | None]) -> tuple[Tiles, ...] | None:
    """The published layers, if each is the one that `versions` names; the models stage replaces it otherwise."""
    tiles = []
    for plane, blob in zip(planes, blobs, strict=True):
        version = versions.level(plane.id, "published").version
        if blob is None or len(blob) < HEADER_BYTES or not version or int(unpack_header(blob)["version"]) != version:
            return None
        tiles.append(decode_tiles(blob))
    return tuple(tiles)


def _encode(compiled: CompiledEpoch, published: _Published) -> Reset:
    state, planes = published.state, compiled.geometry.planes
    ts = float(state.get(b"market_ts", b"0")) or max((one.watermark for one in published.tiles), default=0.0)
    encoded = [
        encode_reset_plane(
            plane, compiled.plans[plane.id], one.version, days_to_expiration(plane.expiration, ts), one.cells
        )
        for plane, one in zip(planes, published.tiles, strict=True)
    ]
    upto = complete_to(published.versions, compiled.plans, published.watermark)
    data = encode_reset(compiled.epoch, REASON, upto, compiled.geometry.widths, encoded)
    body = merged(state.get(b"seq", b"0"), state.get(b"generation", b""), data)
    models = tuple(Event(None, kind, model) for kind, model in published.models.items())
    return Reset(published.last, Event(published.last, "reset", body, int(state.get(b"seq", b"0"))), models)
