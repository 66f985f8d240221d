"""Provider frames: JSON arrays of mixed events, decoded at once, or event by event when one of them is bad."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from contracts.errors import UNDECODABLE, DataError
from contracts.messages import Fields, decode_frame


class Quote(msgspec.Struct, tag_field="ev", tag="Q", gc=False):
    """Quote: `t` event time, `q` sequence; prices in dollars."""

    sym: str
    t: int
    q: int = -1
    bp: float | None = None
    ap: float | None = None
    bs: float | None = None
    as_: float | None = msgspec.field(default=None, name="as")


class Trade(msgspec.Struct, tag_field="ev", tag="T", gc=False):
    """Trade: price, size."""

    sym: str
    p: float
    t: int
    s: float | None = None
    q: int = -1


class SecondAggregate(msgspec.Struct, tag_field="ev", tag="A", gc=False):
    """Aggregate of a second: `c` close, `av` the session's accumulated volume, `e` end."""

    sym: str
    c: float
    e: int
    av: float | None = None


class MinuteAggregate(msgspec.Struct, tag_field="ev", tag="AM", gc=False):
    """Aggregate of a minute, as SecondAggregate."""

    sym: str
    c: float
    e: int
    av: float | None = None


class FairValue(msgspec.Struct, tag_field="ev", tag="FMV", gc=False):
    """Fair market value; `t` in nanoseconds."""

    sym: str
    fmv: float
    t: int


class IndexValue(msgspec.Struct, tag_field="ev", tag="V", gc=False):
    """Index value; the key is `T`, not `sym`."""

    T: str
    val: float
    t: int


class Status(msgspec.Struct, tag_field="ev", tag="status", gc=False):
    """A protocol message; no market data."""

    status: str = ""
    message: str = ""


Event: TypeAlias = Quote | Trade | SecondAggregate | MinuteAggregate | FairValue | IndexValue | Status

KNOWN = frozenset({"Q", "T", "A", "AM", "FMV", "V", "status"})


class _Kind(msgspec.Struct):
    ev: str


_FRAME = msgspec.json.Decoder(list[Event])
_PARTS = msgspec.json.Decoder(list[msgspec.Raw])
_EVENT: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_KIND = msgspec.json.Decoder(_Kind)


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """What a frame says at receive time `ts`; `unknown` events have a type we do not know, `malformed` bad fields."""

    ts: float
    events: list[Event] = field(default_factory=list)
    unknown: int = 0
    malformed: int = 0


def decode_entry(fields: Fields) -> DecodedFrame:
    """Decode an entry of the frame stream. DataError if it is no JSON array of objects at all."""
    frame = decode_frame(fields)
    try:
        return DecodedFrame(frame.ts, _FRAME.decode(frame.payload))
    except UNDECODABLE:  # look at each event by itself
        return _decode_each(frame.ts, frame.payload)


def _decode_each(ts: float, payload: bytes) -> DecodedFrame:
    try:
        parts = _PARTS.decode(payload)
    except UNDECODABLE as error:
        raise DataError(f"frame is not a JSON array: {error}") from error
    events: list[Event] = []
    unknown = malformed = 0
    for part in parts:
        try:
            events.append(_EVENT.decode(part))
        except UNDECODABLE:
            is_unknown = _is_unknown(part)
            unknown += is_unknown
            malformed += not is_unknown
    return DecodedFrame(ts, events, unknown, malformed)


def _is_unknown(part: msgspec.Raw) -> bool:
    """Whether an event we cannot read is of a type we do not know, and so may well be in order."""
    try:
        return _KIND.decode(part).ev not in KNOWN
    except UNDECODABLE:
        return False
