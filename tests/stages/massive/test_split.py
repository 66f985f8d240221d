"""Partitioned mode: frames that mix underlyings are split, and every stream gets what is its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import pytest

from stages.massive.outbox import Outbox
from stages.massive.split import SplitOutbox, split_frame
from tests.waiting import wait_until_async

SPXW = {"ev": "Q", "sym": "O:SPXW260116C06850000", "t": 1}
SPX = {"ev": "T", "sym": "O:SPX260116C06850000", "t": 1}
NDXP = {"ev": "Q", "sym": "O:NDXP260116P25000000", "t": 1}
INDEX = {"ev": "V", "T": "I:NDX", "val": 25_000.5, "t": 1}
AAPL = {"ev": "AM", "sym": "O:AAPL260116C00250000", "e": 1}
STATUS = {"ev": "status", "status": "success", "message": "hello"}


def frame(*events: Any) -> bytes:
    return json.dumps(events).encode()


def test_events_go_where_their_underlying_is() -> None:
    parts = split_frame(frame(SPXW, NDXP, SPX, INDEX, AAPL, STATUS))
    assert {symbol: json.loads(part) for symbol, part in parts.items()} == {
        "SPX": [SPXW, SPX], "NDX": [NDXP, INDEX], "AAPL": [AAPL], "": [STATUS],
    }  # fmt: skip


def test_a_frame_of_one_underlying_is_untouched() -> None:
    odd = b'[{"ev":"Q" , "sym":"O:SPXW260116C06850000", "bp":1.10}]'
    assert split_frame(odd) == {"SPX": odd}


@pytest.mark.parametrize("odd", [b"", b"no json", b"{}", b"[1]", b'[{"ev":"Q","sym":"O:odd"}]'])
def test_what_nobody_can_read_belongs_to_none(odd: bytes) -> None:
    assert split_frame(odd) == {"": odd}


class Streams:
    """Where frames go, by stream."""

    def __init__(self) -> None:
        self.payloads: dict[str, list[bytes]] = {}

    async def append(self, stream: str, entries: Iterable[dict[str, bytes | str]]) -> None:
        self.payloads.setdefault(stream, []).extend(bytes(entry["payload"]) for entry in entries)  # type: ignore[arg-type]


async def test_every_stream_gets_its_own_and_the_first_what_is_nobody_s() -> None:
    streams, recorded = Streams(), list[bytes]()
    outboxes = {symbol: Outbox(streams, f"{symbol}:stream") for symbol in ("SPX", "NDX")}
    split = SplitOutbox(outboxes, lambda number, ts, payload: recorded.append(payload))
    task = asyncio.create_task(split.run())
    mixed = frame(SPXW, NDXP, AAPL)
    split.put(1.0, mixed)
    split.put(2.0, frame(INDEX))
    await wait_until_async(lambda: sum(map(len, streams.payloads.values())) == 4, "all are appended")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert streams.payloads == {
        "SPX:stream": [frame(SPXW), frame(AAPL)], "NDX:stream": [frame(NDXP), frame(INDEX)],
    }  # fmt: skip
    assert recorded == [mixed, frame(INDEX)]
    assert (split.activity.frames, split.activity.appended) == (2, 4)
