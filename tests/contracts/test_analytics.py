"""The cut of a plane at a tick: what is stored is what was computed, byte for byte."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.analytics import EXPOSURE_ROW, PLANE_ROW, AnalyticsCut, ForwardSource, Source, decode_cut
from contracts.errors import DataError
from contracts.planes import CHAIN_ROW, QUOTE_ROW, Array


def rows_of(dtype: np.dtype[np.void], content: bytes) -> Array:
    """As many rows of arbitrary bytes as fit."""
    return np.frombuffer(content[: len(content) // dtype.itemsize * dtype.itemsize], dtype)


@st.composite
def cuts(draw: st.DrawFn) -> AnalyticsCut:
    contracts, cells = draw(st.integers(0, 4)), draw(st.integers(0, 5))

    def filled(dtype: np.dtype[np.void], count: int = contracts) -> Array:
        size = count * dtype.itemsize
        return rows_of(dtype, draw(st.binary(min_size=size, max_size=size)))

    numbers = st.integers(-(2**31), 2**31 - 1)
    tiles = draw(st.lists(numbers, min_size=4 * cells, max_size=4 * cells))
    return AnalyticsCut(
        tick=draw(st.integers(0, 2**53)),
        version=draw(st.integers(0, 2**53)),
        watermark=draw(st.floats(0, 2e9)),
        quotes=filled(QUOTE_ROW),
        chain=filled(CHAIN_ROW),
        exposures=filled(EXPOSURE_ROW),
        plane=filled(PLANE_ROW, 1),
        cells=np.array(tiles, np.int32).reshape(4, cells),
    )


def small_cut() -> AnalyticsCut:
    exposures = np.array([(0.2, -0.5, 0.02, 1.5, -0.6, -25_000.0, 1000.0, 12.0, Source.VENUE, 0, 64, 0)], EXPOSURE_ROW)
    plane = np.array([(0.1, 7000.0, 0.2, 0.15, 330.0, 265.0, ForwardSource.NEAREST, 1, 128, 0)], PLANE_ROW)
    cells = np.array([[1, 2], [3, 4], [5, 6], [7, 8]], np.int32)
    return AnalyticsCut(3, 41, 12.5, np.zeros(1, QUOTE_ROW), np.zeros(1, CHAIN_ROW), cells, exposures, plane)


@given(cuts())
def test_decoding_gives_back_what_was_encoded(cut: AnalyticsCut) -> None:
    decoded = decode_cut(cut.encode())
    assert (decoded.tick, decoded.version, decoded.watermark) == (cut.tick, cut.version, cut.watermark)
    for name in ("quotes", "chain", "exposures", "cells", "plane"):
        stored, given_array = getattr(decoded, name), getattr(cut, name)
        assert stored.shape == given_array.shape
        assert stored.tobytes() == given_array.tobytes()


@given(cuts())
def test_encoding_is_a_function_of_the_content(cut: AnalyticsCut) -> None:
    assert decode_cut(cut.encode()).encode() == cut.encode()


def test_the_blob_starts_with_the_header_and_the_number_of_cells() -> None:
    # version, watermark, contracts, tick, cells: little-endian
    assert struct.unpack_from("<qdqqq", small_cut().encode()) == (41, 12.5, 1, 3, 2)


def test_the_blob_ends_with_the_tiles() -> None:
    assert struct.unpack("<8i", small_cut().encode()[-32:]) == (1, 2, 3, 4, 5, 6, 7, 8)


def test_the_plane_s_own_row_of_64_bytes_follows_the_sizes() -> None:
    row = struct.unpack_from("<6d4i", small_cut().encode(), 40)
    assert row == (0.1, 7000.0, 0.2, 0.15, 330.0, 265.0, ForwardSource.NEAREST, 1, 128, 0)


def test_an_exposure_is_80_bytes() -> None:
    cells = 8 * 4
    row = struct.unpack("<8d4i", small_cut().encode()[-cells - 80 : -cells])
    assert row == (0.2, -0.5, 0.02, 1.5, -0.6, -25_000.0, 1000.0, 12.0, Source.VENUE, 0, 64, 0)


@pytest.mark.parametrize("length", [0, 39, 40, 103, -1])
def test_a_truncated_blob_is_refused(length: int) -> None:
    with pytest.raises(DataError, match="analytics layer"):
        decode_cut(small_cut().encode()[:length])


def test_negative_sizes_are_refused_even_where_they_add_up() -> None:
    row_bytes = QUOTE_ROW.itemsize + CHAIN_ROW.itemsize + EXPOSURE_ROW.itemsize
    rows, cells = -2, (2 * row_bytes - PLANE_ROW.itemsize) // 16  # so many 16-byte cells that both sizes cancel out
    assert 2 * row_bytes - PLANE_ROW.itemsize == 16 * cells
    with pytest.raises(DataError, match="-2 contracts"):
        decode_cut(struct.pack("<qdqqq", 41, 12.5, rows, 3, cells))


def test_a_blob_with_something_behind_it_is_refused() -> None:
    with pytest.raises(DataError, match="1 contracts and 2 cells"):
        decode_cut(small_cut().encode() + b"\0")


def test_a_decoded_cut_cannot_be_written_to() -> None:
    with pytest.raises(ValueError, match="read-only"):
        decode_cut(small_cut().encode()).cells[0, 0] = 9
