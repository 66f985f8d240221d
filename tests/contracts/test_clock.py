"""The market clock: an affine map that is recorded, so that steps need no clock of their own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.clock import LOCAL, MarketClock, decode_clock, encode_clock
from contracts.errors import DataError

times = st.floats(0, 4e9)


def test_without_a_record_market_time_is_local_time() -> None:
    assert decode_clock(None) == LOCAL
    assert LOCAL.market_time(1_768_500_000.25) == 1_768_500_000.25


def test_an_offset_shifts_and_a_rate_stretches() -> None:
    clock = MarketClock(receive_ts=100.0, market_ts=5000.0, rate=10.0)
    assert [clock.market_time(ts) for ts in (99.0, 100.0, 103.0)] == [4990.0, 5000.0, 5030.0]


@given(times, times, st.floats(0.1, 100), st.booleans())
def test_a_clock_reads_back(receive_ts: float, market_ts: float, rate: float, is_open: bool) -> None:
    clock = MarketClock(receive_ts, market_ts, rate, is_open)
    assert decode_clock(encode_clock(clock)) == clock


@given(times, times, st.floats(0.1, 100))
def test_the_recorded_moment_is_exact(receive_ts: float, market_ts: float, rate: float) -> None:
    assert MarketClock(receive_ts, market_ts, rate).market_time(receive_ts) == market_ts


@pytest.mark.parametrize("blob", [b"", b"{", b"[]", b'{"rate":"fast"}', b'{"speed":1}'])
def test_a_clock_that_cannot_be_read_is_an_error(blob: bytes) -> None:
    with pytest.raises(DataError, match="market clock"):
        decode_clock(blob)
