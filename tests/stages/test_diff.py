"""Diffs: exactly the changed cells, small on the wire, and a client that applies them has the same integers."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import DataError
from contracts.plan import compile_plan
from contracts.planes import UNKNOWN, Ints
from contracts.published import apply_diff, cells_crc
from contracts.symbology import CALL
from stages.calculate.tiles import compute_tiles
from stages.models.diff import (
    diff_cells,
    encode_diff,
    encode_reset,
    encode_reset_plane,
)
from tests.stages.boards import both_sides, listing, plane_of, quotes_of

EPOCH = "SPX:1767800000:1f3a"
PLANE = "SPXW:2026-01-07"

values = st.one_of(st.sampled_from([UNKNOWN, 0, 2**31 - 1, UNKNOWN + 1]), st.integers(-500, 500))


def cells_of(columns: list[tuple[int, int, int, int]]) -> Ints:
    return np.array(columns, np.int32).reshape(-1, 4).T.copy()


boards = st.lists(st.tuples(values, values, values, st.integers(0, 511)), max_size=20).map(cells_of)


@st.composite
def changes(draw: st.DrawFn) -> tuple[Ints, Ints]:
    """A plane before and after some of its cells changed."""
    before = draw(boards)
    after = before.copy()
    if after.shape[1]:
        for cell in draw(st.lists(st.integers(0, after.shape[1] - 1), max_size=6)):
            after[:3, cell] = draw(st.lists(values, min_size=3, max_size=3))
            after[3, cell] = draw(st.integers(0, 511))
    return before, after


def diff_of(before: Ints, after: Ints, with_crc: bool = False) -> bytes:
    return encode_diff(EPOCH, PLANE, 41, 42, 1767800012.482, after, diff_cells(before, after), with_crc)


def test_a_diff_reads_as_documented() -> None:
    # the example of models.md section 6
    before = np.zeros((4, 41), np.int32)
    after = before.copy()
    after[:, 7] = (410, 260, 150, 0)
    after[:, 9] = (UNKNOWN, 310, -15, 1)
    after[:, 40] = (1205, 640, 565, 0)
    assert orjson.loads(diff_of(before, after)) == {
        "epoch": "SPX:1767800000:1f3a",
        "plane": "SPXW:2026-01-07",
        "from": 41,
        "to": 42,
        "complete_to": 1767800012.482,
        "cells": [7, 2, 31],
        "mid2": [410, None, 1205],
        "buy": [260, 310, 640],
        "sell": [150, -15, 565],
        "flags": [0, 1, 0],
    }


@given(changes())
def test_a_diff_names_exactly_the_cells_that_changed(change: tuple[Ints, Ints]) -> None:
    before, after = change
    expected = [cell for cell in range(after.shape[1]) if before[:, cell].tolist() != after[:, cell].tolist()]
    assert diff_cells(before, after).tolist() == expected


def test_everything_is_new_where_nothing_was_published_before() -> None:
    after = np.zeros((4, 3), np.int32)
    assert diff_cells(None, after).tolist() == [0, 1, 2]
    assert diff_cells(np.zeros((4, 2), np.int32), after).tolist() == [0, 1, 2]


@given(changes(), st.booleans())
def test_applying_a_diff_gives_the_cells_it_was_made_from(change: tuple[Ints, Ints], with_crc: bool) -> None:
    before, after = change
    kept = before.copy()
    np.testing.assert_array_equal(apply_diff(before, diff_of(before, after, with_crc)), after)
    np.testing.assert_array_equal(before, kept)


@given(boards, st.data())
def test_a_chain_of_diffs_ends_where_the_plane_ends(start: Ints, data: st.DataObject) -> None:
    published = client = start
    for _ in range(data.draw(st.integers(0, 4))):
        moved = published.copy()
        if moved.shape[1]:
            cell = data.draw(st.integers(0, moved.shape[1] - 1))
            moved[0, cell] = data.draw(values)
        client = apply_diff(client, diff_of(published, moved, with_crc=True))
        published = moved
    np.testing.assert_array_equal(client, published)


def test_the_checksum_covers_mid2_buy_sell_flags_in_this_order() -> None:
    cells = np.array([[1, UNKNOWN], [3, 4], [5, 6], [7, 8]], np.int32)
    assert cells_crc(cells) == zlib.crc32(struct.pack("<8i", 1, -(2**31), 3, 4, 5, 6, 7, 8))


def test_a_checksum_is_only_there_when_asked_for() -> None:
    cells = np.zeros((4, 1), np.int32)
    assert "crc" not in orjson.loads(diff_of(cells, cells))
    assert orjson.loads(diff_of(cells, cells, with_crc=True))["crc"] == cells_crc(cells)


def test_a_client_that_missed_a_diff_is_told_by_the_checksum() -> None:
    first = np.zeros((4, 3), np.int32)
    second, third = first.copy(), first.copy()
    second[0, 0] = third[0, 0] = 5
    third[1, 2] = 6
    with pytest.raises(DataError, match="checksum"):
        apply_diff(first, diff_of(second, third, with_crc=True))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"cells": [3]}, "outside the plane's 3"),
        ({"cells": [-1]}, "outside the plane's 3"),
        ({"cells": [1, 1]}, "differ in length"),
        ({"buy": []}, "differ in length"),
        ({"buy": [2**31]}, "buy"),
        ({"flags": [None]}, "flags"),
        ({"cells": "all"}, "cells"),
    ],
)
def test_a_diff_that_does_not_fit_is_refused(change: dict[str, object], complaint: str) -> None:
    before = np.zeros((4, 3), np.int32)
    after = before.copy()
    after[0, 1] = 5
    data = orjson.dumps({**orjson.loads(diff_of(before, after)), **change})
    with pytest.raises(DataError, match=complaint):
        apply_diff(before, data)


def test_what_is_not_json_is_refused() -> None:
    with pytest.raises(DataError, match="diff"):
        apply_diff(np.zeros((4, 3), np.int32), b"{")


def test_a_reset_carries_geometry_and_all_cells_of_every_plane() -> None:
    plane = plane_of([*both_sides([100]), listing(CALL, 102.5)])
    plan = compile_plan(plane, (2.5, 5))
    quotes = quotes_of(plane, {(CALL, 100): (3.1, 3.3), (CALL, 102.5): (0.9, 1.1)})
    body = encode_reset_plane(plane, plan, 42, 9, compute_tiles(plan, quotes))
    assert orjson.loads(encode_reset(EPOCH, "bootstrap", 1.5, (5, 2.5), [body, body])) == {
        "epoch": EPOCH,
        "reason": "bootstrap",
        "complete_to": 1.5,
        "widths": [2.5, 5],
        "planes": [
            {
                "id": "SPXW:2026-01-16",
                "version": 42,
                "root": "SPXW",
                "expiration": "2026-01-16",
                "dte": 9,
                "strikes": [100, 102.5],
                "cells": [
                    ["vertical", "call", 100, 2.5],
                    ["single", "call", 100, 0],
                    ["single", "call", 102.5, 0],
                    ["single", "put", 100, 0],
                ],
                "mid2": [440, 640, 200, None],
                "buy": [240, 330, 110, None],
                "sell": [200, 310, 90, None],
                "flags": [0, 0, 0, 35],
            }
        ]
        * 2,
    }
