"""Chain snapshots: immutable JSON, read as strictly as it is written."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import DataError
from contracts.snapshot import ChainRow, ChainSnapshot, decode_snapshot, encode_snapshot

ROW = ChainRow("O:SPXW260116C06900000", "SPXW", "call", 6900.0, "pm", "european", 100)
SNAPSHOT = ChainSnapshot(5.0, "SPX", "2026-01-16", 6900, 50, (ROW,))
BODY: dict[str, Any] = json.loads(encode_snapshot(SNAPSHOT))

prices = st.none() | st.floats(0, 1e6)
rows = st.builds(
    ChainRow,
    id=st.text(max_size=25),
    root=st.text(max_size=6),
    type=st.sampled_from(["call", "put"]),
    strike=st.floats(0, 1e5),
    settlement=st.sampled_from(["am", "pm"]),
    exercise=st.text(max_size=8),
    multiplier=st.integers(1, 1000),
    eligible=st.just(1) | st.sampled_from(["adjusted", "expired"]),
    bid=prices,
    ask=prices,
    bid_size=st.none() | st.integers(0, 2**31),
    quote_ts=prices,
    gamma=prices,
    oi=prices,
)


@given(st.lists(rows, max_size=4).map(tuple), st.floats(0, 4e9))
def test_a_snapshot_reads_back(contracts: tuple[ChainRow, ...], ts: float) -> None:
    snapshot = ChainSnapshot(ts, "SPX", "2026-01-16", 6900, 50, contracts)
    assert decode_snapshot(encode_snapshot(snapshot)) == snapshot


def test_the_keys_are_those_other_programs_read() -> None:
    assert list(BODY) == ["ts", "underlying", "expiration", "atm", "range_points", "contracts"]
    assert list(BODY["contracts"][0]) == [
        "id", "root", "type", "strike", "settlement", "exercise", "multiplier", "eligible", "bid", "ask", "bid_size",
        "ask_size", "quote_ts", "last", "last_size", "last_ts", "volume", "iv", "delta", "gamma", "theta", "vega",
        "oi", "fmv",
    ]  # fmt: skip


def test_unknown_is_null() -> None:
    assert BODY["contracts"][0]["bid"] is None


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"", "chain snapshot"),
        (b"[]", "chain snapshot"),
        (b"\xff", "chain snapshot"),
        (json.dumps({**BODY, "ts": "now"}).encode(), r"\$\.ts"),
        (json.dumps({**BODY, "surprise": 1}).encode(), "surprise"),
        (json.dumps({**BODY, "contracts": [{"id": "x"}]}).encode(), "root"),
        (json.dumps({**BODY, "contracts": [{**BODY["contracts"][0], "bid": "10"}]}).encode(), r"contracts\[0\]\.bid"),
        (json.dumps({name: value for name, value in BODY.items() if name != "atm"}).encode(), "atm"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(body: bytes, named: str) -> None:
    with pytest.raises(DataError, match=named):
        decode_snapshot(body)


def test_a_row_is_immutable() -> None:
    with pytest.raises(AttributeError):
        ROW.bid = 5.0  # type: ignore[misc]
    assert msgspec.structs.replace(ROW, bid=5.0) != ROW
