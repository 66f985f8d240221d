"""The versions of an epoch, read from its HASH: per plane how far each layer is, and how much of the feed it has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from contracts.commit import version_field, watermark_field


@dataclass(frozen=True, slots=True)
class Level:
    """A layer of a plane: its version and the feed receive time (epoch seconds) that version includes."""

    version: int = 0
    watermark: float = 0.0


@dataclass(frozen=True, slots=True)
class Versions:
    """All levels of an epoch."""

    fields: Mapping[bytes, bytes]

    def level(self, plane: str, layer: str) -> Level:
        """How far a layer is; version 0 if it was never made."""
        version = self.fields.get(version_field(plane, layer).encode())
        watermark = self.fields.get(watermark_field(plane, layer).encode())
        return Level(int(version or 0), float(watermark or 0))

    def lags(self, plane: str, layer: str, source: str) -> bool:
        """Whether a layer is behind its source."""
        return self.level(plane, layer).version < self.level(plane, source).version


def complete_to(
    versions: Versions,
    planes: Iterable[str],
    source_watermark: float,
    published: Mapping[str, Level] = MappingProxyType({}),
) -> float | None:
    """Feed receive time up to which everything published includes every frame; null before the first frame.

    The least watermark over planes whose publication lags, else the source's own. `published` are the levels that
    the commit at hand is about to publish. A plane that was level and got behind counts with the watermark at which
    it did (`Merge` notes it), so that this never steps back while one consumer publishes.
    """
    least = source_watermark
    for plane in planes:
        stored = versions.level(plane, "published")
        level = published.get(plane, stored)
        if level.version == stored.version:
            level = Level(level.version, max(level.watermark, stored.watermark))
        if level.version < versions.level(plane, "quotes").version:
            least = min(least, level.watermark)
    return least or None
