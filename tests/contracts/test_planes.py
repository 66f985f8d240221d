"""Packed layers: documented bytes, the same on every path."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.planes import (
    CELL_BYTES,
    CHAIN_ROW,
    HEADER_BYTES,
    NEVER_MS,
    QUOTE_DIRTY_BYTES,
    QUOTE_ROW,
    STAMP_BYTES,
    TRADE_ROW,
    UNKNOWN,
    UNKNOWN_COUNT,
    Tiles,
    decode_tiles,
    empty_chain,
    empty_quotes,
    empty_trades,
    pack_header,
    pack_rows,
    unpack_header,
    unpack_rows,
)


@pytest.mark.parametrize(
    ("dtype", "size"), [(QUOTE_ROW, 48), (TRADE_ROW, 96), (CHAIN_ROW, 112)], ids=["quotes", "trades", "chain"]
)
def test_rows_have_the_documented_size(dtype: np.dtype[np.void], size: int) -> None:
    """Scripts and other programs know the offsets: no padding may creep in."""
    assert dtype.itemsize == size


def test_numbers_are_little_endian_on_every_machine() -> None:
    rows = np.zeros(1, QUOTE_ROW)
    rows["quote"]["ms"], rows["quote"]["bid"], rows["row_version"] = 5, -2, 9
    assert rows.tobytes() == struct.pack("<qiiqiiiiq", 5, 0, 0, 0, -2, 0, 0, 0, 9)


def test_bid_and_ask_come_first_behind_the_stamp() -> None:
    """They alone decide whether tiles are dirty."""
    fields = np.dtype(QUOTE_ROW["quote"]).fields
    assert fields is not None
    assert [fields[name][1] for name in ("bid", "ask")] == [STAMP_BYTES, STAMP_BYTES + 4]
    assert fields["bid_size"][1] == STAMP_BYTES + QUOTE_DIRTY_BYTES


@given(st.integers(0, 2**53), st.floats(0, 4e9), st.integers(0, 10**6), st.integers(0, 2**53))
def test_a_header_reads_back(version: int, watermark: float, rows: int, tick: int) -> None:
    blob = pack_header(version, watermark, rows, tick)
    found = unpack_header(blob + b"rows")
    assert len(blob) == HEADER_BYTES == 32
    assert (int(found["version"]), float(found["watermark"]), int(found["rows"]), int(found["tick"])) == (
        version, watermark, rows, tick,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("empty", "dtype"), [(empty_quotes, QUOTE_ROW), (empty_trades, TRADE_ROW), (empty_chain, CHAIN_ROW)]
)
def test_rows_read_back(empty: object, dtype: np.dtype[np.void]) -> None:
    assert callable(empty)
    rows = empty(3)
    blob = pack_rows(rows, 7, 1.5)
    assert unpack_rows(blob, dtype).tobytes() == rows.tobytes()
    assert [int(unpack_header(blob)[name]) for name in ("version", "rows")] == [7, 3]


def test_an_empty_row_knows_nothing_and_is_older_than_anything() -> None:
    quotes, trades, chain = empty_quotes(1), empty_trades(1), empty_chain(1)
    for rows in (quotes, trades, chain):
        for name in rows.dtype.names or ():
            if name != "row_version":
                assert int(rows[name]["ms"][0]) == NEVER_MS < 0
    assert (int(quotes["quote"]["bid"][0]), int(trades["trade"]["last"][0])) == (UNKNOWN, UNKNOWN)
    assert int(trades["volume"]["volume"][0]) == UNKNOWN_COUNT
    assert np.isnan(trades["fmv"]["fmv"][0]) and np.isnan(chain["greeks"]["gamma"][0])
    assert np.isnan(chain["interest"]["oi"][0])


# --- tiles

cells = st.integers(1, 12).flatmap(
    lambda count: st.lists(st.integers(-(2**31), 2**31 - 1), min_size=4 * count, max_size=4 * count)
)


def tiles_of(numbers: list[int], version: int = 3) -> Tiles:
    return Tiles(version, 1.5, np.array(numbers, np.int32).reshape(4, -1))


@given(cells)
def test_tiles_read_back(numbers: list[int]) -> None:
    tiles = tiles_of(numbers)
    found = decode_tiles(tiles.encode())
    assert (found.version, found.watermark) == (3, 1.5)
    assert np.array_equal(found.cells, tiles.cells)
    assert found.encode() == tiles.encode()
    assert tiles.encode().startswith(tiles.header)


def test_a_cell_lies_in_one_piece() -> None:
    blob = tiles_of([1, 2, 10, 20, 100, 200, 0, 7]).encode()
    assert struct.unpack_from("<4i", blob, HEADER_BYTES + CELL_BYTES) == (2, 20, 200, 7)


@given(cells, cells, st.data())
def test_patching_the_changed_cells_gives_the_blob_of_the_new_tiles(
    before: list[int], after: list[int], data: st.DataObject
) -> None:
    size = min(len(before), len(after)) // 4 * 4
    old, new = tiles_of(before[:size]), tiles_of(after[:size])
    count = old.cells.shape[1]
    changed = np.array(sorted(data.draw(st.sets(st.integers(0, count - 1)))), np.intp)
    merged = old.cells.copy()
    merged[:, changed] = new.cells[:, changed]
    blob = bytearray(old.encode())
    runs = new.runs(changed)
    for offset, part in runs:
        blob[offset : offset + len(part)] = part
    assert bytes(blob) == Tiles(3, 1.5, merged).encode()
    assert sum(len(part) for _, part in runs) == len(changed) * CELL_BYTES


def test_neighbouring_cells_are_patched_together() -> None:
    tiles = tiles_of(list(range(24)))
    runs = tiles.runs(np.array([0, 1, 3, 4, 5], np.intp))
    assert [(offset - HEADER_BYTES) // CELL_BYTES for offset, _ in runs] == [0, 3]
    assert [len(part) // CELL_BYTES for _, part in runs] == [2, 3]
