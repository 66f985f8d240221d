"""Typed messages of the streams between stages, and their strict encoding.

An entry has the fields `type`, `v` (schema version) and `data` (JSON). An event says *where to look*, never what
the value is. Decoding refuses unknown fields and wrong types with `DataError`; an entry of a newer schema version
raises `NewerSchemaError`, which stops the consumer and leaves the entry alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import msgspec

from contracts.errors import UNDECODABLE, DataError, NewerSchemaError

SCHEMA_VERSION = 1

Fields = Mapping[bytes, bytes]


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all messages; `TYPE` is the stream field `type`."""

    TYPE: ClassVar[str] = ""


class ChainFetch(Message, frozen=True, forbid_unknown_fields=True):
    """Fetch the chain of `symbol`; valid while `ticket` is the job's."""

    TYPE = "chain.fetch"
    symbol: str
    ticket: int
    reason: str


class ChainCompleted(Message, frozen=True, forbid_unknown_fields=True):
    """Fetch number `fetch` was published.

    `received` maps an expiration to the key of its snapshot; `failed` were requested and did not arrive;
    `spot` in index points with its own time (epoch seconds), null if unknown; `market_ts` is the market clock as
    the fetch began, which decides eligibility; `ended_ts` is the receive time at its end.
    """

    TYPE = "chain.completed"
    symbol: str
    fetch: int
    market_ts: float
    requested: tuple[str, ...]
    received: dict[str, str]
    failed: tuple[str, ...]
    spot: float | None
    spot_ts: float | None
    ended_ts: float | None = None


class EpochForce(Message, frozen=True, forbid_unknown_fields=True):
    """A person's order: promote `symbol` over the geometry it has, everything dirty.

    `request` names the order; the epoch that answers it keeps that name in its meta (field `request`). `ts` is the
    receive time (epoch seconds) at which it was given.
    """

    TYPE = "epoch.force"
    symbol: str
    request: str
    ts: float


class EpochPromoted(Message, frozen=True, forbid_unknown_fields=True):
    """A new board: compute everything."""

    TYPE = "epoch.promoted"
    symbol: str
    epoch: str


class PlaneDirty(Message, frozen=True, forbid_unknown_fields=True):
    """A plane went from clean to dirty."""

    TYPE = "plane.dirty"
    symbol: str
    epoch: str
    plane: str


class Tick(Message, frozen=True, forbid_unknown_fields=True):
    """A recorded moment: everything that needs a common time is computed from it.

    `market_ts` epoch seconds on the market clock; `spot` index points with its own time.
    """

    TYPE = "tick"
    symbol: str
    epoch: str
    tick: int
    market_ts: float
    spot: float | None
    spot_ts: float | None


class EpochComputed(Message, frozen=True, forbid_unknown_fields=True):
    """All planes of a promoted epoch have tiles: publish a reset."""

    TYPE = "epoch.computed"
    symbol: str
    epoch: str


class PlaneComputed(Message, frozen=True, forbid_unknown_fields=True):
    """A plane's tiles moved ahead of what was published."""

    TYPE = "plane.computed"
    symbol: str
    epoch: str
    plane: str


class AnalyticsComputed(Message, frozen=True, forbid_unknown_fields=True):
    """The analytics of a tick are stored for every plane: rebuild the models."""

    TYPE = "analytics.computed"
    symbol: str
    epoch: str
    tick: int
    market_ts: float
    spot: float | None
    spot_ts: float | None


@dataclass(frozen=True, slots=True)
class Frame:
    """A raw provider frame: receive time (epoch seconds) and the untouched bytes."""

    ts: float
    payload: bytes


def encode(message: Message) -> dict[str, bytes | str | int]:
    """The stream fields of a message."""
    return {"type": message.TYPE, "v": SCHEMA_VERSION, "data": msgspec.json.encode(message)}


def decode(fields: Fields, allowed: tuple[type[Message], ...]) -> Message:
    """The message in an entry of a stream that carries `allowed`.

    Raises `DataError` for anything malformed, `NewerSchemaError` for a schema version above ours.
    """
    version = _integer(fields, b"v")
    if version > SCHEMA_VERSION:
        raise NewerSchemaError(
            f"message of schema version {version}, this program reads up to {SCHEMA_VERSION}: update it"
        )
    if version != SCHEMA_VERSION:
        raise DataError(f"message of unknown schema version {version}")
    name = fields.get(b"type", b"").decode("utf-8", "replace")
    for kind in allowed:
        if name == kind.TYPE:
            return _decode_body(fields, kind)
    raise DataError(f"message type {name!r} does not belong on this stream")


def decode_frame(fields: Fields) -> Frame:
    """A raw frame entry: `ts` and `payload` must be there, other fields are the writer's own."""
    payload = fields.get(b"payload")
    if payload is None:
        raise DataError("frame without payload")
    try:
        ts = float(fields[b"ts"])
    except (KeyError, ValueError) as error:
        raise DataError("frame without a receive time `ts` in seconds") from error
    if not 0 <= ts < 1e11:
        raise DataError(f"frame with an absurd receive time {ts!r}: seconds are expected")
    return Frame(ts, payload)


def _decode_body(fields: Fields, kind: type[Message]) -> Message:
    try:
        return msgspec.json.decode(fields.get(b"data", b""), type=kind)
    except UNDECODABLE as error:
        raise DataError(f"{kind.TYPE}: {error}") from error


def _integer(fields: Fields, name: bytes) -> int:
    try:
        return int(fields[name])
    except (KeyError, ValueError) as error:
        raise DataError(f"entry without an integer field {name.decode()!r}") from error
