"""Conflation: of a flood of events the newest per contract and topic, in the bytes they came in."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.messages import decode_frame
from stages.massive.conflation import EVENTS_PER_FRAME, Conflation, newest_event_time
from stages.staging.frames import decode_entry

quotes = st.builds(
    lambda ev, ticker, t, q, bid: {"ev": ev, "sym": f"O:{ticker}", "t": t, "q": q, "bp": bid},
    st.sampled_from(["Q", "T"]), st.integers(0, 5), st.integers(1, 50), st.integers(0, 3), st.integers(0, 9),
)  # fmt: skip
floods = st.lists(st.lists(quotes, max_size=8), max_size=20)


def frame(*events: Any) -> bytes:
    return json.dumps(events).encode()


def taken(*payloads: bytes) -> Conflation:
    conflation = Conflation()
    for number, payload in enumerate(payloads):
        conflation.take(float(number), payload)
    return conflation


def events_of(conflation: Conflation) -> list[dict[str, Any]]:
    return [event for one in conflation.frames() for event in json.loads(one.payload)]


@given(floods)
def test_the_newest_of_each_contract_and_topic_stays(flood: list[list[dict[str, Any]]]) -> None:
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for event in (event for events in flood for event in events):
        name = (event["ev"], event["sym"])
        if name not in newest or (event["t"], event["q"]) >= (newest[name]["t"], newest[name]["q"]):
            newest[name] = event
    assert events_of(taken(*[frame(*events) for events in flood])) == list(newest.values())


@given(floods)
def test_every_event_is_told_or_counted(flood: list[list[dict[str, Any]]]) -> None:
    conflation, gave_way = Conflation(), 0
    for number, events in enumerate(flood):
        gave_way += conflation.take(float(number), frame(*events))
    frames = list(conflation.frames())
    assert gave_way == sum(one.dropped for one in frames)
    assert sum(one.events + one.dropped for one in frames) == sum(len(events) for events in flood)
    assert len(conflation) == 0


def test_events_keep_their_bytes() -> None:
    odd = b'{"ev":"Q" , "sym":"O:A","bp":1.10, "x":"\xc3\xa9\\u00e9","t":1768570200123}'
    (found,) = taken(b"[" + odd + b"]").frames()
    assert found.payload == b"[" + odd + b"]"


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ({"ev": "AM", "sym": "O:A", "e": 1, "c": 1}, {"ev": "AM", "sym": "O:A", "e": 2, "c": 2}),
        ({"ev": "V", "T": "I:SPX", "t": 1, "val": 1}, {"ev": "V", "T": "I:SPX", "t": 2, "val": 2}),
        ({"ev": "FMV", "sym": "O:A", "t": 1, "fmv": 1}, {"ev": "FMV", "sym": "O:A", "t": 2, "fmv": 2}),
        ({"ev": "LV", "sym": "O:A", "val": 1}, {"ev": "LV", "sym": "O:A", "val": 2}),
    ],
)
def test_every_topic_has_its_own_clock(older: dict[str, Any], newer: dict[str, Any]) -> None:
    assert events_of(taken(frame(older), frame(newer))) == [newer]
    if "val" not in older or "t" in older:
        assert events_of(taken(frame(newer), frame(older))) == [newer]


def test_a_frame_says_when_its_events_came_and_since_when_others_gave_way() -> None:
    early, late = {"ev": "Q", "sym": "O:A", "t": 1}, {"ev": "Q", "sym": "O:A", "t": 2}
    (found,) = taken(frame(early), frame(late), frame({"ev": "Q", "sym": "O:B", "t": 1})).frames()
    assert (found.ts, found.since, found.events, found.dropped) == (2.0, 0.0, 2, 1)


def test_a_frame_put_back_loses_nothing_and_yields_to_newer() -> None:
    conflation = taken(frame({"ev": "Q", "sym": "O:A", "t": 1}), frame({"ev": "Q", "sym": "O:A", "t": 2}))
    (given_away,) = conflation.frames()
    conflation.take(5.0, frame({"ev": "Q", "sym": "O:A", "t": 3}))
    conflation.put_back(given_away)
    (found,) = conflation.frames()
    assert json.loads(found.payload) == [{"ev": "Q", "sym": "O:A", "t": 3}]
    assert (found.dropped, found.since) == (2, 0.0)


def test_frames_are_of_a_size_readers_like() -> None:
    many = [{"ev": "Q", "sym": f"O:{n}", "t": 1} for n in range(2 * EVENTS_PER_FRAME + 1)]
    assert [one.events for one in taken(frame(*many)).frames()] == [EVENTS_PER_FRAME, EVENTS_PER_FRAME, 1]


@pytest.mark.parametrize("odd", [b"", b"no json", b'{"ev":"Q"}', b"[1]", b'["x"]', b"[null]"])
def test_what_is_no_event_is_counted(odd: bytes) -> None:
    conflation = Conflation()
    assert conflation.take(0.0, odd) == 1
    assert len(conflation) == 0


def test_staging_reads_a_conflated_frame_as_any_other() -> None:
    (one,) = taken(frame({"ev": "Q", "sym": "O:SPXW260116C06850000", "bp": 1.5, "ap": 2.0, "t": 7, "q": 3})).frames()
    fields = {b"ts": b"5.0", b"payload": one.payload, b"conflated": b"1", b"dropped": b"9", b"since": b"1.5"}
    assert decode_frame(fields).ts == 5.0
    (event,) = decode_entry(fields).events
    assert (event.sym, event.t) == ("O:SPXW260116C06850000", 7)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("payload", "time"),
    [
        (frame({"ev": "Q", "t": 5}, {"ev": "Q", "t": 9}, {"ev": "Q", "t": 7}), 9.0),
        (frame({"ev": "AM", "e": 5}), 5.0),
        (frame({"ev": "Q"}), None),
        (b"[]", None),
        (b"no json", None),
        (b"[1]", None),
    ],
)
def test_the_time_of_the_newest_event(payload: bytes, time: float | None) -> None:
    assert newest_event_time(payload) == time
