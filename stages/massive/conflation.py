"""What stays of frames when their readers cannot keep up: the newest event per contract and topic. Pure.

Events keep the bytes they came in; an event is newer by its time, then its sequence, then by having come later.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

EVENTS_PER_FRAME = 200

_EVENTS = msgspec.json.Decoder(list[msgspec.Raw])


class EventHead(msgspec.Struct, gc=False):
    """What tells one event from another: topic, ticker (or `T`), time (or `e`), sequence."""

    ev: Any = ""
    sym: Any = ""
    T: Any = ""
    t: Any = None
    e: Any = None
    q: Any = None

    @property
    def name(self) -> tuple[str, str]:
        """Topic and ticker: of two events of one name only the newer counts."""
        return str(self.ev), str(self.sym or self.T)

    @property
    def version(self) -> tuple[float, float]:
        """Time and sequence as told; -1 for what is not told as a number."""
        return _number(self.t if self.t is not None else self.e), _number(self.q)


_HEAD = msgspec.json.Decoder(EventHead)


@dataclass(frozen=True, slots=True)
class ConflatedFrame:
    """An ordinary frame of newest events.

    `ts`: receive time of the newest (epoch seconds); `events` in it, `dropped` older ones that it stands for, and
    `since`: receive time of the oldest of all these.
    """

    ts: float
    payload: bytes
    events: int
    dropped: int
    since: float


@dataclass(slots=True)
class _Held:
    version: tuple[float, float]
    ts: float
    raw: bytes
    since: float
    dropped: int = 0


class Conflation:
    """The newest event per topic and ticker of the frames taken; its size is bounded by the subscriptions."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], _Held] = {}

    def __len__(self) -> int:
        return len(self._held)

    def take(self, ts: float, payload: bytes) -> int:
        """Take a frame received at `ts` apart; returns how many events gave way to newer ones.

        What is no array of events nobody could have used; it counts as one.
        """
        try:
            events = _EVENTS.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return 1
        return sum(self._take_event(ts, raw) for raw in events)

    def put_back(self, frame: ConflatedFrame) -> None:
        """Take back a frame that was given away and reached nobody."""
        for raw in _EVENTS.decode(frame.payload):
            self._take_event(frame.ts, raw)
            held = self._held[_HEAD.decode(raw).name]
            held.since = min(held.since, frame.since)
        held.dropped += frame.dropped

    def _take_event(self, ts: float, raw: msgspec.Raw) -> int:
        try:
            head = _HEAD.decode(raw)
        except msgspec.DecodeError:
            return 1
        held = self._held.get(head.name)
        if held is None:
            self._held[head.name] = _Held(head.version, ts, bytes(raw), ts)
            return 0
        held.dropped += 1
        if head.version >= held.version:
            held.version, held.raw, held.ts = head.version, bytes(raw), ts
        return 1

    def frames(self) -> Iterator[ConflatedFrame]:
        """Give away all that is held, EVENTS_PER_FRAME at a time; what the caller does not take stays."""
        while self._held:
            names = list(self._held)[:EVENTS_PER_FRAME]
            rows = [self._held[name] for name in names]
            frame = ConflatedFrame(
                ts=max(row.ts for row in rows),
                payload=b"[" + b",".join(row.raw for row in rows) + b"]",
                events=len(rows),
                dropped=sum(row.dropped for row in rows),
                since=min(row.since for row in rows),
            )
            for name in names:
                del self._held[name]
            yield frame


def newest_event_time(payload: bytes) -> float | None:
    """The latest time an event of a frame tells, in the unit it is written in; None if none tells one."""
    try:
        times = [_HEAD.decode(raw).version[0] for raw in _EVENTS.decode(payload)]
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    latest = max(times, default=-1.0)
    return latest if latest > 0 else None


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else -1.0
