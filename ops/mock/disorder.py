"""Events out of order: some come seconds late, with the time they had, and some come twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ops.mock.market import Event

_LATE = 0.1  # of the events
_TWICE = 0.1
_LATEST_S = 5.0


class Disorder:
    """Mixes a stream of events up, from a seed. Times are local seconds."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._late: list[tuple[float, Event]] = []  # when to send it

    def mixed(self, events: Sequence[Event], now: float) -> list[Event]:
        """These events without the late ones, some of them twice, and the late ones of before that are due."""
        draws = self._random.random((2, len(events)))
        sent = [event for event, draw in zip(events, draws[0], strict=True) if draw >= _LATE]
        for event, draw, delay in zip(events, draws[0], draws[1], strict=True):
            if draw < _LATE:
                self._late.append((now + _LATEST_S * float(delay), event))
            elif draw < _LATE + _TWICE:
                sent.append(event)
        return [*sent, *self._due(now)]

    def rest(self) -> list[Event]:
        """Every late event that is still to come."""
        left = [event for _, event in self._late]
        self._late = []
        return left

    def _due(self, now: float) -> Iterator[Event]:
        late, self._late = self._late, []
        for at, event in late:
            if at <= now:
                yield event
            else:
                self._late.append((at, event))
