"""What a client is sent: narrowed, merged, compressed or as patches, it says the same as the whole stream."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass, field
from typing import Any

import jsonpatch
import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import DataError
from contracts.plan import SIDES, STRATEGIES
from contracts.planes import TILE_FIELDS, UNKNOWN, Ints
from contracts.published import cells_crc
from ops.gateway.coalescing import coalesced, newest_told
from ops.gateway.event import GZIP_HEADER, KINDS, MOST_FORMS, Event, Layout, View, deflated, parse_view
from ops.gateway.listening import accepts_gzip
from ops.gateway.stream import merged
from stages.models.diff import diff_cells, encode_diff, encode_reset

Json = dict[str, Any]

EPOCH = "SPX:1767800000:1f3a"
PLANES = ("SPXW:2026-01-07", "SPX:2026-01-16")
STRIKES = (6800, 6850, 6900, 6950)
WIDTHS = (50, 100)
LABELS = [
    *([strategy, side, strike, width] for strategy in STRATEGIES[:2] for side in SIDES for strike in STRIKES
      for width in WIDTHS),
    *(["single", side, strike, 0] for side in SIDES for strike in STRIKES),
]  # fmt: skip
COUNT = len(LABELS)
LAYOUT: Layout = {plane: {"butterfly": (0, 16), "vertical": (16, 32), "single": (32, 40)} for plane in PLANES}


@dataclass
class Publisher:
    """A stream of events as the models stage writes it."""

    cells: dict[str, Ints] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    def reset(self) -> None:
        for plane in PLANES:
            self.cells[plane] = np.full((4, COUNT), UNKNOWN, np.int32)
            self.cells[plane][3] = 0
            self.versions[plane] = 1
        planes = [self._encoded(plane) for plane in PLANES]
        self._append("reset", encode_reset(EPOCH, "promoted", 1.0, WIDTHS, planes))

    def change(self, plane: str, changes: dict[int, tuple[int, int]]) -> None:
        """Publish a diff that gives cells a mid and flags."""
        after = self.cells[plane].copy()
        for cell, (mid2, flags) in changes.items():
            after[:, cell] = (mid2, mid2 // 2 + 5, mid2 // 2 - 5, flags)
        changed, version = diff_cells(self.cells[plane], after), self.versions[plane]
        upto = 1.0 + len(self.events)
        self._append("diff", encode_diff(EPOCH, plane, version, version + 1, upto, after, changed, with_crc=True))
        self.cells[plane], self.versions[plane] = after, version + 1

    def tick(self) -> None:
        tick = {"epoch": EPOCH, "tick": len(self.events), "complete_to": 1.0, "versions": dict(self.versions)}
        self._append("tick", orjson.dumps(tick))
        self._append("gex", orjson.dumps({"model": "gex", "net": len(self.events)}))

    def _append(self, kind: str, data: bytes) -> None:
        seq = len(self.events) + 1
        self.events.append(Event((seq, 0), kind, merged(b"%d" % seq, b"7", data), seq))

    def _encoded(self, plane: str) -> bytes:
        columns = {name: [None if v == UNKNOWN else v for v in self.cells[plane][at].tolist()]
                   for at, name in enumerate(TILE_FIELDS)}  # fmt: skip
        return orjson.dumps({"id": plane, "version": 1, "strikes": STRIKES, "cells": LABELS, **columns})


@dataclass
class Board:
    """A client that applies events and insists on their order, as the page does."""

    planes: dict[str, Json] = field(default_factory=dict)
    latest: dict[str, Json] = field(default_factory=dict)
    seq: int = 0

    def apply(self, kind: str, data: Json, *, in_order: bool = True) -> None:
        if kind == "reset":
            self.planes = {plane["id"]: plane for plane in data["planes"]}
            self.seq = data["seq"]
            return
        if in_order:
            assert data.get("since_seq", data["seq"] - 1) == self.seq
        self.seq = data["seq"]
        if kind == "diff":
            self._diff(data)
        elif kind == "tick":
            assert all(self.planes[plane]["version"] >= version for plane, version in data["versions"].items())
        else:
            self.latest[kind] = {name: value for name, value in data.items() if name not in ("seq", "since_seq")}

    def _diff(self, data: Json) -> None:
        plane = self.planes[data["plane"]]
        assert plane["version"] == data["from"]
        plane["version"] = data["to"]
        for at, cell in enumerate(np.cumsum(data["cells"]).tolist()):
            for name in TILE_FIELDS:
                plane[name][cell] = data[name][at]
        if "crc" in data:
            columns = [[UNKNOWN if value is None else value for value in plane[name]] for name in TILE_FIELDS]
            assert cells_crc(np.array(columns, np.int32)) == data["crc"]


def told(event: Event, view: View = View()) -> tuple[str, Any] | None:  # noqa: B008 (a frozen value)
    """Kind and data as a client reads them from the wire."""
    chunk = event.render(view, LAYOUT)
    if chunk is None:
        return None
    lines = dict(line.split(b": ", 1) for line in chunk.strip().split(b"\n"))
    return lines[b"event"].decode(), orjson.loads(lines[b"data"])


def board_of(events: list[Event], view: View = View()) -> Board:  # noqa: B008
    """The board of a client that listens through a view."""
    board = Board()
    for event in events:
        found = told(event, view)
        if found is not None:
            board.apply(*found, in_order=not view.is_narrow)
    return board


CHANGES = st.dictionaries(
    st.integers(0, COUNT - 1), st.tuples(st.integers(-100, 5000), st.integers(0, 63)), min_size=1, max_size=12
)
STEP = st.one_of(st.tuples(st.sampled_from(PLANES), CHANGES), st.just("tick"), st.sampled_from(["reset", "tick"]))


@st.composite
def streams(draw: st.DrawFn) -> list[Event]:
    """Any stream: a reset, then diffs, ticks and further resets."""
    publisher = Publisher()
    publisher.reset()
    for step in draw(st.lists(STEP, max_size=25)):
        if step == "tick":
            publisher.tick()
        elif step == "reset":
            publisher.reset()
        else:
            assert isinstance(step, tuple)
            publisher.change(*step)
    return publisher.events


def subsets(values: tuple[str, ...]) -> st.SearchStrategy[frozenset[str] | None]:
    return st.none() | st.frozensets(st.sampled_from(values), min_size=1)


# --- narrowing


@given(streams(), subsets(STRATEGIES), subsets(PLANES))
def test_a_narrowed_stream_leads_to_the_narrowed_board(
    events: list[Event], strategies: frozenset[str] | None, planes: frozenset[str] | None
) -> None:
    whole = board_of(events).planes
    narrow = board_of(events, View(strategies=strategies, planes=planes)).planes
    assert set(narrow) == (set(whole) if planes is None else set(planes))
    for name, plane in narrow.items():
        kept = [n for n, label in enumerate(LABELS) if strategies is None or label[0] in strategies]
        assert plane["cells"] == [LABELS[n] for n in kept]
        assert plane["version"] == whole[name]["version"]
        for column in TILE_FIELDS:
            assert plane[column] == [whole[name][column][n] for n in kept]


def test_chosen_models_come_with_what_is_needed_to_follow() -> None:
    publisher = Publisher()
    publisher.reset()
    publisher.change(PLANES[0], {3: (410, 0)})
    publisher.tick()
    kinds = [event.kind for event in publisher.events if event.render(View(kinds=frozenset({"gex"})))]
    assert kinds == ["reset", "tick", "gex"]


def test_views_with_the_same_form_share_bytes() -> None:
    event = Event((1, 0), "gex", b'{"seq":1}', 1)
    one = event.render(View(planes=frozenset({"SPXW:2026-01-07"})))
    assert one is event.render(View(kinds=frozenset({"gex"})))
    assert len(event.rendered) == 1


def test_an_event_shown_for_hours_keeps_a_bounded_number_of_forms() -> None:
    publisher = Publisher()
    publisher.reset()
    (reset,) = publisher.events
    for day in range(2 * MOST_FORMS):
        assert reset.render(View(planes=frozenset({f"P{day}:2026-01-07"}))) is not None
    assert len(reset.rendered) == MOST_FORMS


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ({"models": "gex,vomma"}, "models: no 'vomma'; there are reset, diff"),
        ({"strategy": "condor"}, "strategy: no 'condor'; there are butterfly, vertical, single"),
        ({"planes": "SPXW"}, "planes: 'SPXW' is none; a root and an expiration"),
        ({"planes": "SPXW:2026-01-16/../x"}, "planes: "),
        ({"format": "xml"}, "format: no 'xml'; there is json-patch"),
    ],
)
def test_a_view_of_what_does_not_exist_is_refused(query: dict[str, str], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        parse_view(query, "sse", False)


def test_an_empty_query_is_the_whole_stream() -> None:
    assert parse_view({"models": " , ", "strategy": "", "planes": ""}, "sse", True) == View(gzip=True)


# --- coalescing


@given(streams(), st.integers(0, 20))
def test_merged_events_have_the_same_effect(events: list[Event], start: int) -> None:
    before = events[: 1 + start % len(events)]
    waiting = events[len(before) :]
    expected, slow = board_of(events), board_of(before)
    merged_events = coalesced(waiting)
    for event in merged_events:
        found = told(event)
        assert found is not None
        slow.apply(*found)
    assert (slow.planes, slow.latest, slow.seq) == (expected.planes, expected.latest, expected.seq)
    assert len(merged_events) <= 2 + len(PLANES) + 2
    if waiting:
        assert merged_events[-1].id == waiting[-1].id


@given(streams())
def test_only_the_last_of_merged_events_moves_the_id(events: list[Event]) -> None:
    ids = [event.id for event in coalesced(events) if event.kind != "reset"]
    assert all(one is None for one in ids[:-1])


def test_of_the_gateways_own_every_alert_is_kept_and_the_newest_of_the_rest() -> None:
    own = [
        Event(None, "health", b'{"n":1}'),
        Event(None, "alert", b'{"n":1}'),
        Event(None, "alert", b'{"n":2}'),
        Event(None, "health", b'{"n":2}'),
    ]
    assert [(event.kind, event.body) for event in newest_told(own)] == [
        ("health", b'{"n":2}'),
        ("alert", b'{"n":1}'),
        ("alert", b'{"n":2}'),
    ]


# --- compression


@given(streams())
@settings(max_examples=25)
def test_any_client_decodes_each_event_as_it_comes(events: list[Event]) -> None:
    reader = zlib.decompressobj(wbits=31)
    assert reader.decompress(GZIP_HEADER) == b""
    for event in events:
        zipped, plain = event.render(View(gzip=True)), event.render(View())
        assert zipped is not None
        assert reader.decompress(zipped) == plain


def test_what_was_sent_is_a_gzip_file_once_it_is_closed() -> None:
    texts = [b"event: tick\n\n", b"event: gex\n\n"]
    body = GZIP_HEADER + b"".join(map(deflated, texts)) + b"\x03\x00"
    whole = b"".join(texts)
    trailer = zlib.crc32(whole).to_bytes(4, "little") + len(whole).to_bytes(4, "little")
    assert gzip.decompress(body + trailer) == whole


def test_a_diff_of_200_cells_takes_less_than_2_kb() -> None:
    random = np.random.default_rng(1)
    cells = np.stack([random.integers(-200, 6000, 2000), random.integers(-200, 3000, 2000),
                      random.integers(-200, 3000, 2000), random.choice([0, 0, 0, 8, 16], 2000)])  # fmt: skip
    cells = cells.astype(np.int32)
    cells[0] = cells[1] + cells[2]  # twice the mid lies between buy and sell
    changed = np.sort(random.choice(2000, 200, replace=False)).astype(np.intp)
    data = encode_diff(EPOCH, PLANES[0], 41, 42, 1767800012.482, cells, changed)
    chunk = Event((1767800012482, 0), "diff", merged(b"12345", b"1767800000", data), 12345).render(View(gzip=True))
    assert chunk is not None and len(chunk) < 2048, len(chunk or b"")


@pytest.mark.parametrize(
    ("header", "expected"),
    [("", False), ("gzip", True), ("br, GZIP;q=0.5", True), ("gzip;q=0", False), ("*", True), ("identity", False)],
)
def test_gzip_is_for_who_asks_for_it(header: str, expected: bool) -> None:
    assert accepts_gzip(header) is expected


# --- patches


@given(streams(), subsets(STRATEGIES))
@settings(max_examples=50)
def test_patches_build_the_same_board(events: list[Event], strategies: frozenset[str] | None) -> None:
    view = View(patches=True, strategies=strategies)
    document: Json = {}
    for event in events:
        found = told(event, view)
        assert found is not None and found[0] == "patch"
        document = jsonpatch.apply_patch(document, found[1])
    expected = board_of(events, View(strategies=strategies))
    assert document["board"]["planes"] == expected.planes
    if "gex" in expected.latest:
        assert document["gex"]["net"] == expected.latest["gex"]["net"]


def test_patches_of_what_the_gateway_tells_by_itself_do_not_touch_the_board() -> None:
    document: Json = {"board": {"epoch": EPOCH}}
    for kind in KINDS:
        if kind not in ("reset", "diff"):
            found = told(Event(None, kind, b'{"epoch":"other"}'), View(patches=True))
            assert found is not None
            document = jsonpatch.apply_patch(document, found[1])
    assert document["board"] == {"epoch": EPOCH} and document["epoch"] == {"epoch": "other"}


# --- WebSocket


def test_a_websocket_frame_carries_id_type_and_data() -> None:
    event = Event((5, 1), "gex", b'{"seq":7}', 7)
    frame = event.render(View(framing="websocket"))
    assert frame is not None and orjson.loads(frame) == {"id": "5-1", "type": "gex", "data": {"seq": 7}}
    own = Event(None, "health", b"{}").render(View(framing="websocket"))
    assert own is not None and orjson.loads(own)["id"] is None
