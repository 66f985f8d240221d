"""Partitioned mode: a feed carries several underlyings, a stream only one. Frames are split before they are queued."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec

from contracts.errors import DataError
from contracts.symbology import parse_ticker, series_of
from stages.massive.conflation import EventHead
from stages.massive.outbox import FrameRecorder, Outbox, OutboxActivity

_EVENTS = msgspec.json.Decoder(list[msgspec.Raw])
_HEAD = msgspec.json.Decoder(EventHead)


def split_frame(payload: bytes) -> dict[str, bytes]:
    """A frame's events by underlying, in the bytes they came in; "" for what tells none.

    A frame of one underlying stays as it is; what is no array of events belongs to none.
    """
    parts: dict[str, list[bytes]] = {}
    try:
        for raw in _EVENTS.decode(payload):
            parts.setdefault(_underlying_of(raw), []).append(bytes(raw))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {"": payload}
    if len(parts) == 1:
        return dict.fromkeys(parts, payload)
    return {symbol: b"[" + b",".join(events) + b"]" for symbol, events in parts.items()}


def _underlying_of(raw: msgspec.Raw) -> str:
    try:
        ticker = _HEAD.decode(raw).name[1]
        return ticker.removeprefix("I:") if ticker.startswith("I:") else series_of(parse_ticker(ticker).root).underlying
    except (msgspec.DecodeError, DataError):
        return ""


class SplitOutbox:
    """One outbox per underlying behind the face of one. What belongs to none of them goes to the first."""

    def __init__(self, outboxes: Mapping[str, Outbox], recorder: FrameRecorder | None = None) -> None:
        self._outboxes = dict(outboxes)
        self._first = next(iter(self._outboxes.values()))
        self._recorder = recorder
        self._frames = 0
        self._bytes = 0

    @property
    def activity(self) -> OutboxActivity:
        """Of all of them: frames as received, the rest as appended."""
        found = [outbox.activity for outbox in self._outboxes.values()]
        return OutboxActivity(
            frames=self._frames,
            bytes=self._bytes,
            appended=sum(one.appended for one in found),
            conflated=sum(one.conflated for one in found),
            dropped=sum(one.dropped for one in found),
            conflating=any(one.conflating for one in found),
            queued_most=max(one.queued_most for one in found),
        )

    def put(self, ts: float, payload: bytes) -> None:
        """Queue a frame received at `ts`, each event where it belongs."""
        self._frames += 1
        self._bytes += len(payload)
        if self._recorder is not None:
            self._recorder(self._frames, ts, payload)
        for symbol, part in split_frame(payload).items():
            self._outboxes.get(symbol, self._first).put(ts, part)

    async def run(self) -> None:
        """Work until cancelled."""
        tasks = [asyncio.create_task(outbox.run()) for outbox in self._outboxes.values()]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def drain(self, timeout_s: float) -> None:
        """Append what is left of all, if the server takes it within so many seconds."""
        await asyncio.gather(*(outbox.drain(timeout_s) for outbox in self._outboxes.values()))
