"""Parked entries: counted, shown with their reason, and put back exactly once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from contracts.errors import FatalError
from contracts.keys import Keys
from contracts.settings import Settings
from ops.parked import list_parked, redrive, show_parked

SettingsFor = Callable[..., Settings]

WS = "massive:ws:stream"
PARKED = Keys.parked(WS)


def park(client: Any, number: int) -> str:
    fields = {"reason": f"broken {number}", "id": f"{number}-0", "ts": "1.5", "payload": b"\xff[" + b"x" * 500}
    entry: bytes = client.xadd(PARKED, fields)
    return entry.decode()


def test_counts_per_stream(redis_url: str, client: Any, settings_for: SettingsFor) -> None:
    for number in range(3):
        park(client, number)
    counts = {row.stream: row.parked for row in list_parked(redis_url, settings_for())}
    assert counts == {"jobs": 0, "chain": 0, "ws": 3, "epoch": 0, "strategy": 0}


def test_shows_reason_and_preview_newest_first(redis_url: str, client: Any, settings_for: SettingsFor) -> None:
    ids = [park(client, number) for number in range(3)]
    entries = show_parked(redis_url, settings_for(), "ws", 2)
    assert [entry.id for entry in entries] == [ids[2], ids[1]]
    assert (entries[0].reason, entries[0].was) == ("broken 2", "2-0")
    assert entries[0].as_text().endswith("...") and "ts=1.5" in entries[0].as_text()
    assert set(entries[0].fields) == {"ts", "payload"}


def test_redrive_gives_back_the_very_bytes(redis_url: str, client: Any, settings_for: SettingsFor) -> None:
    first, second = park(client, 1), park(client, 2)
    assert redrive(redis_url, settings_for(), "ws", (first, first, "9-9")) == 1
    ((_, fields),) = client.xrange(WS)
    assert fields == {b"ts": b"1.5", b"payload": b"\xff[" + b"x" * 500}
    assert [entry.decode() for entry, _ in client.xrange(PARKED)] == [second]


def test_redrive_of_all_keeps_the_order(redis_url: str, client: Any, settings_for: SettingsFor) -> None:
    for number in range(250):
        client.xadd(PARKED, {"reason": "r", "id": "1-1", "payload": number})
    assert redrive(redis_url, settings_for(), "ws", None) == 250
    assert [int(fields[b"payload"]) for _, fields in client.xrange(WS)] == list(range(250))
    assert client.xlen(PARKED) == 0
    assert redrive(redis_url, settings_for(), "ws", None) == 0


def test_partitioned_streams_are_all_looked_at(redis_url: str, client: Any, settings_for: SettingsFor) -> None:
    settings = settings_for(MASSIVE_SYMBOLS="SPX,NDX", MARKETSWARM_PARTITIONED="true")
    client.xadd("massive:ws:stream:{NDX}:parked", {"reason": "r", "id": "1-1", "payload": "x"})
    rows = [(row.key, row.parked) for row in list_parked(redis_url, settings) if row.stream == "ws"]
    assert rows == [("massive:ws:stream:{SPX}:parked", 0), ("massive:ws:stream:{NDX}:parked", 1)]
    assert redrive(redis_url, settings, "ws", None) == 1
    assert client.xlen("massive:ws:stream:{NDX}") == 1


def test_an_unknown_stream_is_named_with_what_there_is(redis_url: str, settings_for: SettingsFor) -> None:
    with pytest.raises(FatalError, match="jobs, chain, ws, epoch, strategy"):
        show_parked(redis_url, settings_for(), "model", 1)
