"""A `reset` event for a client that joins: what is published at this moment (`consumers/published.py`), rendered."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from consumers.published import Published, PublishedState
from contracts.keys import Keys
from contracts.ports import Reader
from contracts.symbology import days_to_expiration
from ops.gateway.stream import StreamId, render, stream_id
from stages.models.diff import encode_reset, encode_reset_plane

REASON = "joined"


@dataclass(frozen=True, slots=True)
class Reset:
    """A rendered reset and the entry it stands at."""

    id: StreamId
    chunk: bytes


class Resets:
    """Builds resets of one symbol; clients that join together share one."""

    def __init__(self, redis_url: str, client: Any, reader: Reader, keys: Keys, symbol: str) -> None:
        self._published = PublishedState(redis_url, client, reader, keys, symbol)
        self._turn = asyncio.Lock()
        self._newest: Reset | None = None

    async def at_or_after(self, position: StreamId) -> Reset | None:
        """A reset that stands at this entry or a later one; None while nothing whole is published."""
        async with self._turn:
            if self._newest is None or self._newest.id < position:
                published = await self._published.read()
                # a big board takes a while to write down; other clients are served meanwhile
                self._newest = await asyncio.to_thread(_encode, published) if published else None
            return self._newest


def _encode(published: Published) -> Reset:
    compiled, state, ts = published.compiled, published.state, published.ts
    encoded = [
        encode_reset_plane(
            plane, compiled.plans[plane.id], one.version, days_to_expiration(plane.expiration, ts), one.cells
        )
        for plane, one in zip(compiled.geometry.planes, published.tiles, strict=True)
    ]
    data = encode_reset(compiled.epoch, REASON, published.complete_to, compiled.geometry.widths, encoded)
    last = stream_id(published.last)
    return Reset(last, render(last, "reset", state.get(b"seq", b"0"), state.get(b"generation", b""), data))
