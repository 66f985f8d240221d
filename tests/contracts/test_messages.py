"""Messages: what is encoded decodes to the same; what is wrong is refused by name."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import messages
from contracts.errors import DataError, FatalError, NewerSchemaError
from contracts.messages import (
    SCHEMA_VERSION,
    ChainCompleted,
    ChainFetch,
    EpochPromoted,
    Frame,
    Message,
    PlaneDirty,
    Tick,
    decode,
    decode_frame,
    encode,
)
from contracts.topology import STREAMS

KINDS: tuple[type[Message], ...] = tuple(kind for row in STREAMS for kind in row.messages)


def wire(message: Message, **changes: object) -> dict[bytes, bytes]:
    """The fields as a server returns them."""
    told: dict[str, Any] = {**encode(message), **changes}
    return {name.encode(): value if isinstance(value, bytes) else str(value).encode() for name, value in told.items()}


numbers = st.floats(allow_nan=False, allow_infinity=False)


def _values(kind: type[Message]) -> st.SearchStrategy[Message]:
    by_type: dict[object, st.SearchStrategy[Any]] = {
        str: st.text(max_size=20),
        int: st.integers(-(2**53), 2**53),
        float: numbers,
        float | None: st.none() | numbers,
        tuple[str, ...]: st.lists(st.text(max_size=10), max_size=4).map(tuple),
        dict[str, str]: st.dictionaries(st.text(max_size=10), st.text(max_size=20), max_size=4),
    }
    fields = msgspec.structs.fields(kind)
    return st.builds(kind, **{one.name: by_type[one.type] for one in fields})


@given(st.one_of([_values(kind) for kind in KINDS]))
def test_every_message_decodes_to_what_was_encoded(message: Message) -> None:
    assert decode(wire(message), KINDS) == message


def test_every_message_type_has_a_name_of_its_own() -> None:
    names = [kind.TYPE for kind in KINDS]
    assert len(set(names)) == len(names)
    assert all(names)


def test_every_message_is_on_some_stream() -> None:
    defined = {one for one in vars(messages).values() if isinstance(one, type) and issubclass(one, Message)}
    assert defined - {Message} == set(KINDS)


# --- what is refused

DIRTY = PlaneDirty("SPX", "SPX:5:1f3a", "SPXW:2026-01-16")
BODY: dict[str, Any] = json.loads(wire(DIRTY)[b"data"])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"type": "plane.cleaned"}, "plane.cleaned"),
        ({"type": ""}, "''"),
        ({"type": b"\xff"}, "does not belong"),
        ({"v": 0}, "0"),
        ({"v": -1}, "-1"),
        ({"v": "one"}, "'v'"),
        ({"data": b""}, "plane.dirty"),
        ({"data": b"{"}, "plane.dirty"),
        ({"data": b"[]"}, "plane.dirty"),
        ({"data": b"\xff"}, "plane.dirty"),
        ({"data": b'{"symbol":"\xff"}'}, "plane.dirty"),
        ({"data": b'{"symbol":' + b"[" * 100_000}, "plane.dirty"),
        ({"data": json.dumps({**BODY, "rows": [1]})}, "rows"),
        ({"data": json.dumps({**BODY, "plane": 7})}, "plane"),
        ({"data": json.dumps({**BODY, "plane": None})}, "plane"),
        ({"data": json.dumps({"symbol": "SPX", "epoch": "e"})}, "plane"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, object], named: str) -> None:
    with pytest.raises(DataError) as raised:
        decode(wire(DIRTY, **changes), (PlaneDirty,))
    assert named in str(raised.value)


@pytest.mark.parametrize("absent", [b"type", b"v", b"data"])
def test_a_field_that_is_absent_is_an_error(absent: bytes) -> None:
    fields = wire(DIRTY)
    del fields[absent]
    with pytest.raises(DataError):
        decode(fields, (PlaneDirty,))


def test_a_message_of_another_stream_is_refused() -> None:
    with pytest.raises(DataError, match=r"epoch\.promoted"):
        decode(wire(EpochPromoted("SPX", "e")), (PlaneDirty, Tick))


def test_a_newer_schema_is_no_bad_message_but_an_old_program() -> None:
    with pytest.raises(NewerSchemaError, match="update it") as raised:
        decode(wire(DIRTY, v=SCHEMA_VERSION + 1, type="unheard.of", data=b"\xff"), (PlaneDirty,))
    assert isinstance(raised.value, FatalError)
    assert not isinstance(raised.value, DataError)


def test_integers_are_no_floats_and_booleans_no_integers() -> None:
    body = json.loads(wire(ChainFetch("SPX", 1, "interval"))[b"data"])
    for bad in (1.5, True, "1"):
        with pytest.raises(DataError, match="ticket"):
            decode(wire(ChainFetch("SPX", 1, "interval"), data=json.dumps({**body, "ticket": bad})), (ChainFetch,))


def test_a_fetch_tells_what_was_asked_received_and_failed() -> None:
    message = ChainCompleted("SPX", 3, 5.0, ("a", "b"), {"a": "key"}, ("b",), None, None)
    found = decode(wire(message), KINDS)
    assert isinstance(found, ChainCompleted)
    assert (found.requested, found.received, found.failed, found.spot) == (("a", "b"), {"a": "key"}, ("b",), None)


# --- frames


@given(st.binary(max_size=50), st.floats(0, 9e10))
def test_a_frame_keeps_its_bytes_and_receive_time(payload: bytes, ts: float) -> None:
    assert decode_frame({b"ts": repr(ts).encode(), b"payload": payload, b"symbol": b"SPX"}) == Frame(ts, payload)
