"""What is published of a symbol at one moment, with the id of its stream's last entry.

The stream's end, the versions and the published arrays are read in one transaction, and the models stage writes them
in one commit: whoever starts from here and then applies every entry after that id has missed nothing and has nothing
twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from consumers.clients import Commands
from contracts.compiled import CompiledEpoch, CompiledEpochs
from contracts.geometry import Plane
from contracts.keys import Keys, Layer
from contracts.planes import HEADER_BYTES, Tiles, decode_tiles, unpack_header
from contracts.ports import Reader
from contracts.versions import Versions, complete_to

EMPTY_STREAM = b"0-0"
NO_MODELS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Published:
    """The published layers of an epoch, one per plane of the geometry, and how far they are."""

    compiled: CompiledEpoch
    last: bytes  # id of the stream's last entry
    state: Mapping[bytes, bytes]  # epoch, seq, generation, tick, market_ts
    versions: Versions
    watermark: float  # of the source
    tiles: tuple[Tiles, ...]
    models: Mapping[str, bytes]  # those asked for that there are, by name: JSON

    @property
    def complete_to(self) -> float | None:
        """Feed receive time (epoch seconds) up to which every frame is included; None before the first."""
        return complete_to(self.versions, self.compiled.plans, self.watermark)

    @property
    def ts(self) -> float:
        """Market time (epoch seconds) of the newest tick; before the first, when the feed was last heard."""
        return float(self.state.get(b"market_ts", b"0")) or max((one.watermark for one in self.tiles), default=0.0)


class PublishedState:
    """Reads what is published of one symbol: the layers, and the JSON `models` (name -> key) of the same moment."""

    def __init__(
        self, commands: Commands, reader: Reader, keys: Keys, symbol: str, models: Mapping[str, str] = NO_MODELS
    ) -> None:
        self._commands = commands
        self._reader = reader
        self._keys = keys
        self._symbol = symbol
        self._models = models
        self._compiled = CompiledEpochs(keys, keep=2)

    async def read(self) -> Published | None:
        """What is published now; None while nothing whole is, as between a promotion and its reset."""
        state = await self._reader.fields(self._keys.model_state(self._symbol))
        if b"epoch" not in state:
            return None
        compiled = await self._compiled.get(self._reader, state[b"epoch"].decode())
        return await self._read(compiled) if compiled else None

    async def _read(self, compiled: CompiledEpoch) -> Published | None:
        replies = await self._commands.ask(self._transaction(compiled))
        newest, state, versions, watermark, *blobs = replies
        if state.get(b"epoch") != compiled.epoch.encode():
            return None  # promoted in between
        planes = compiled.geometry.planes
        tiles = _whole(planes, Versions(versions), blobs[: len(planes)])
        if tiles is None:
            return None
        last = newest[0][0] if newest else EMPTY_STREAM
        bodies = zip(self._models, blobs[len(planes) :], strict=True)
        models = {name: body for name, body in bodies if body is not None}
        return Published(compiled, last, state, Versions(versions), float(watermark.get(b"ts", b"0")), tiles, models)

    async def _transaction(self, compiled: CompiledEpoch) -> list[Any]:
        keys, symbol, epoch = self._keys, self._symbol, compiled.epoch
        async with self._commands.client.pipeline(transaction=True) as pipeline:
            pipeline.xrevrange(keys.model_stream(symbol), "+", "-", count=1)
            pipeline.hgetall(keys.model_state(symbol))
            pipeline.hgetall(keys.versions(epoch))
            pipeline.hgetall(keys.watermark(symbol))
            for plane in compiled.geometry.planes:
                pipeline.get(keys.plane(epoch, plane.id, Layer.PUBLISHED))
            for key in self._models.values():
                pipeline.get(key)
            replies: list[Any] = await pipeline.execute()
        return replies


def _whole(planes: Sequence[Plane], versions: Versions, blobs: Sequence[bytes | None]) -> tuple[Tiles, ...] | None:
    """The published layers, if each is the one that `versions` names; the models stage replaces it otherwise."""
    tiles = []
    for plane, blob in zip(planes, blobs, strict=True):
        version = versions.level(plane.id, "published").version
        if blob is None or len(blob) < HEADER_BYTES or not version or int(unpack_header(blob)["version"]) != version:
            return None
        tiles.append(decode_tiles(blob))
    return tuple(tiles)
