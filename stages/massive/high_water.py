"""When a stream holds too much: what waits for its readers, and how long they would take for it. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from contracts.ports import Waiting

FEW_ENTRIES = 1000  # so many may wait however slow their readers seem: a stage that is restarted, a pause of the server
MEMORY_S = 5.0  # pace is the mean of about so long


@dataclass(frozen=True, slots=True)
class HighWater:
    """What may wait in a stream: entries, bytes, and seconds of work for its readers."""

    entries: int = 50_000
    bytes: int = 256 * 2**20
    seconds: float = 5.0


class Level:
    """How high the stream stands against its mark, from one look to the next."""

    def __init__(self, mark: HighWater) -> None:
        self.is_full = False  # at the mark
        self.is_high = False  # from the mark on until half of it is left
        self._mark = mark
        self._looked: tuple[float, int] | None = None  # when (s), and how many entries readers had taken by then
        self._pace: float | None = None  # entries a second that readers take: mean, or the newest if that is higher
        self._mean = 0.0

    def note(self, at_s: float, waiting: Waiting) -> None:
        """What waits at a time (s, of a clock that only goes forward)."""
        self._follow(at_s, waiting.added - waiting.entries)
        part = max(waiting.entries / self._mark.entries, waiting.bytes / self._mark.bytes, self._work(waiting.entries))
        self.is_full = part >= 1.0
        self.is_high = self.is_full or (self.is_high and part >= 0.5)

    def _follow(self, at_s: float, taken: int) -> None:
        before, self._looked = self._looked, (at_s, taken)
        if before is None or at_s <= before[0]:
            return
        passed_s = at_s - before[0]
        newest = (taken - before[1]) / passed_s
        self._mean += (newest - self._mean) * -math.expm1(-passed_s / MEMORY_S)
        self._pace = max(self._mean, newest)

    def _work(self, entries: int) -> float:
        """The part of the allowed seconds that readers need for these entries."""
        if entries < FEW_ENTRIES or self._pace is None:
            return 0.0
        return entries / self._pace / self._mark.seconds if self._pace else math.inf
