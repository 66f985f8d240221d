"""The newest events of a symbol, kept once for all its clients: each client is but a place among them. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from operator import attrgetter

from ops.gateway.event import Event
from ops.gateway.stream import FIRST, StreamId


class Recent:
    """Events in their order; the oldest go when all of them take more than `most_bytes`.

    A place is a number between two events. Places count on for ever, so one that is too old is known for it.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._events: list[Event] = []
        self._first = 0  # place before the oldest event that is kept
        self._floor: StreamId = FIRST  # every entry after this one is kept

    @property
    def end(self) -> int:
        """The place after the newest event."""
        return self._first + len(self._events)

    def append(self, event: Event) -> None:
        """Add the newest event; the newest one is always kept."""
        self._events.append(event)
        self._bytes += len(event.body)
        while self._bytes > self._most_bytes and len(self._events) > 1:
            oldest = self._events.pop(0)
            self._bytes -= len(oldest.body)
            self._first += 1
            self._floor = oldest.id or self._floor

    def begin(self, after: StreamId) -> None:
        """Begin anew after an entry: nobody can go on from a place before."""
        self._first = self.end + 1
        self._events.clear()
        self._bytes = 0
        self._floor = after

    def has(self, place: int) -> bool:
        """Whether every event after a place is still kept."""
        return place >= self._first

    def since(self, place: int) -> Sequence[Event]:
        """The events after a place, as far as they are kept."""
        return self._events[max(0, place - self._first) :]

    def place_after(self, entry: StreamId) -> int | None:
        """The place right after an entry of the stream; None when entries after it are gone."""
        if entry < self._floor:
            return None
        return self._first + bisect_right(self._events, entry, key=attrgetter("id"))

    def back(self, count: int) -> StreamId:
        """The entry after which no more than so many events are kept."""
        if len(self._events) <= count:
            return self._floor
        return self._events[-count - 1].id or self._floor
