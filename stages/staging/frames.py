"""Provider frames: JSON arrays of mixed events, decoded at once, or event by event when one of them is bad."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from contracts.errors import DataError
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

_FRAME = msgspec.json.Decoder(list[Event])
_ANY = msgspec.json.Decoder()


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
    except msgspec.DecodeError:  # also ValidationError: look at each event by itself
        return _decode_each(frame.ts, frame.payload)


def _decode_each(ts: float, payload: bytes) -> DecodedFrame:
    try:
        objects = _ANY.decode(payload)
    except msgspec.DecodeError as error:
        raise DataError(f"frame is not JSON: {error}") from error
    if not isinstance(objects, list):
        raise DataError("frame is not a JSON array")
    events: list[Event] = []
    unknown = malformed = 0
    for one in objects:
        if isinstance(one, dict) and isinstance(one.get("ev"), str) and one["ev"] not in KNOWN:
            unknown += 1
            continue
        try:
            events.append(msgspec.convert(one, Event))
        except msgspec.ValidationError:
            malformed += 1
    return DecodedFrame(ts, events, unknown, malformed)
