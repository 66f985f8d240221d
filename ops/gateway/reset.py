"""A `reset` event for a client that joins: what is published at this moment (`consumers/published.py`), rendered."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from consumers.clients import Commands
from consumers.published import Published, PublishedState
from contracts.compiled import CompiledEpoch, CompiledEpochs
from contracts.errors import TransientError
from contracts.keys import Keys
from contracts.plan import SIDES, STRATEGIES
from contracts.ports import Reader
from contracts.symbology import days_to_expiration
from ops.gateway.event import Event, Layout
from ops.gateway.stream import StreamId, merged, stream_id
from stages.models.diff import encode_reset, encode_reset_plane

REASON = "joined"
MODELS = ("gex", "liquidity", "mode", "gravity")


@dataclass(frozen=True, slots=True)
class Reset:
    """A reset and the entry it stands at, with the newest model of each kind, which are not part of the order."""

    id: StreamId
    event: Event
    models: tuple[Event, ...]


class Resets:
    """Builds resets of one symbol; clients that join together share one."""

    def __init__(self, commands: Commands, reader: Reader, keys: Keys, symbol: str) -> None:
        self._published = PublishedState(commands, reader, keys, symbol, model_keys(keys, symbol))
        self._reader = reader
        self._compiled = CompiledEpochs(keys, keep=2)
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

    def forget(self) -> None:
        """The stream is another one than before: a reset made of that one stands nowhere in it."""
        self._newest = None

    async def layout(self, epoch: str) -> Layout:
        """Which cells of each plane belong to which strategy; `TransientError` if the epoch is gone."""
        compiled = await self._compiled.get(self._reader, epoch)
        if compiled is None:
            raise TransientError(f"epoch {epoch} is gone")
        return layout_of(compiled)


def model_keys(keys: Keys, symbol: str) -> dict[str, str]:
    """Kind -> key of the models a client is greeted with."""
    return {model: keys.model(model, symbol) for model in MODELS}


def history_keys(keys: Keys, symbol: str) -> dict[str, str]:
    """Kind -> stream (field `data`) of the models that keep their history."""
    return {"gravity": keys.gravity_history(symbol)}


def layout_of(compiled: CompiledEpoch) -> Layout:
    """Which cells of each plane belong to which strategy."""
    return {
        plane: {
            strategy: (plan.block(strategy, SIDES[0]).start, plan.block(strategy, SIDES[-1]).stop)
            for strategy in STRATEGIES
        }
        for plane, plan in compiled.plans.items()
    }


def _encode(published: Published) -> Reset:
    compiled, state, ts = published.compiled, published.state, published.ts
    encoded = [
        encode_reset_plane(
            plane, compiled.plans[plane.id], one.version, days_to_expiration(plane.expiration, ts), one.cells
        )
        for plane, one in zip(compiled.geometry.planes, published.tiles, strict=True)
    ]
    data = encode_reset(compiled.epoch, REASON, published.complete_to, compiled.geometry.widths, encoded)
    last, seq = stream_id(published.last), state.get(b"seq", b"0")
    body = merged(seq, state.get(b"generation", b""), data)
    models = tuple(Event(None, kind, model) for kind, model in published.models.items())
    return Reset(last, Event(last, "reset", body, int(seq)), models)
