"""Epochs compiled once: the frozen geometry with the plan of each plane."""

from __future__ import annotations

from functools import lru_cache

from contracts.geometry import Geometry, decode_geometry
from contracts.keys import Keys
from contracts.plan import Plan, compile_plan
from contracts.ports import Reader


class CompiledEpoch:
    """An epoch's geometry with the compiled plan of each plane. Immutable, hence cached without being state."""

    def __init__(self, epoch: str, listing: bytes) -> None:
        self.epoch = epoch
        self.listing = listing
        self.geometry: Geometry = decode_geometry(listing)
        self.plans: dict[str, Plan] = {
            plane.id: compile_plan(plane, self.geometry.widths) for plane in self.geometry.planes
        }


@lru_cache(maxsize=8)
def compiled_epoch(epoch: str, listing: bytes) -> CompiledEpoch:
    """A compiled epoch, made once per process."""
    return CompiledEpoch(epoch, listing)


class CompiledEpochs:
    """The newest few compiled epochs, by id."""

    def __init__(self, keys: Keys, keep: int = 8) -> None:
        self._keys = keys
        self._keep = keep
        self._compiled: dict[str, CompiledEpoch] = {}

    async def get(self, reader: Reader, epoch: str) -> CompiledEpoch | None:
        """Compile an epoch from its listing; None if its keys are gone."""
        if epoch not in self._compiled:
            (listing,) = await reader.values(self._keys.listing(epoch))
            if listing is None:
                return None
            while len(self._compiled) >= self._keep:
                del self._compiled[next(iter(self._compiled))]
            self._compiled[epoch] = CompiledEpoch(epoch, listing)
        return self._compiled[epoch]
