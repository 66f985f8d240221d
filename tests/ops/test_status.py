"""`marketswarm status`: its shape, its figures, and lag counted by ourselves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial
from time import time
from typing import Any

import pytest
from msgspec.structs import replace
from rich.console import Console

from contracts.errors import TransientError
from contracts.feed_report import FeedReport, encode_report, report_field
from contracts.keys import Stat
from contracts.settings import Settings
from ops.epochs import epochs_table, read_epochs
from ops.status import FEED_FACTS, count_after, read_status, read_updates
from ops.terminal import print_status, status_line, status_view
from ops.wiring import keys_of
from tests.ops.pipeline import STRIKES, SYMBOL, small_pipeline
from tests.waiting import wait_until_async

FACTS = (
    "epoch", "reason", "epoch_age_s", "contracts", "planes", "snapshot_age_s", "ws_age_s", "dirty", "seq",
    "last_diff_age_s", "tiles",
)  # fmt: skip

SettingsFor = Callable[..., Settings]


def test_of_an_empty_server_everything_is_unknown(redis_url: str, settings_for: SettingsFor) -> None:
    status = read_status(redis_url, settings_for())
    assert status["symbols"] == {SYMBOL: dict.fromkeys(FACTS)}
    unknown = {"lag": None, "pending": None, "consumers": None}
    assert status["groups"] == dict.fromkeys(("massive", "staging", "calculate", "models"), unknown)
    assert status["feeds"] == dict.fromkeys(("options:0", "indices:0"), dict.fromkeys(FEED_FACTS) | {"gaps": 0})
    assert status["health"] is None
    assert json.loads(json.dumps(status)) == status


def test_each_socket_there_is_to_be_is_told(redis_url: str, client: Any, settings_for: SettingsFor) -> None:
    """Also one that nobody owns; one of a larger number of before is not told."""
    settings = settings_for(MASSIVE_SYMBOLS="SPX,SPY", MASSIVE_WS_CONNECTIONS="2")
    now = time()
    live = FeedReport("options:0", "massive-h-1-ab", now, "live", contracts=950, unsubscribed=26, lag_s=0.02)
    reports = [
        replace(live, last_frame_ts=now - 0.5),
        replace(live, feed="options:1", ts=now - 60),
        replace(live, feed="options:2"),
    ]
    fields = {report_field(report.feed): encode_report(report) for report in reports}
    client.hset(
        keys_of(settings).analytics(Stat.WS, SYMBOL), mapping={**fields, "gaps:options:0": 3, "gaps:options:1": 1}
    )
    feeds = read_status(redis_url, settings)["feeds"]
    assert list(feeds) == ["options:0", "options:1", "indices:0"]
    age_s = feeds["options:0"].pop("last_frame_age_s")
    assert 0.4 < age_s < 5.0
    assert feeds["options:0"] == {
        "owner": "massive-h-1-ab", "state": "live", "reason": None, "contracts": 950, "from_chain": 26, "missing": 0,
        "lag_s": 0.02, "late": False, "delayed": False, "conflating": False, "gaps": 3,
    }  # fmt: skip
    assert feeds["options:1"] == dict.fromkeys(FEED_FACTS) | {"gaps": 1}


async def test_of_a_live_pipeline(redis_url: str, settings_for: SettingsFor) -> None:
    settings = settings_for()
    async with small_pipeline(redis_url, settings) as pipeline:
        await pipeline.live()
        before = pipeline.state("seq")
        pipeline.quote(STRIKES[5], 9.0, 9.4)
        await wait_until_async(partial(_has_diffs, redis_url, settings), "a diff")
        await pipeline.publish_tick()  # tells the health of a symbol that has an epoch
        status = await asyncio.to_thread(read_status, redis_url, settings)
        updates = await asyncio.to_thread(read_updates, redis_url, settings)
    row = status["symbols"][SYMBOL]
    assert row["epoch"].startswith("SPX:") and row["reason"] == "bootstrap"
    assert row["contracts"] == 2 * len(STRIKES) and row["planes"] == 1
    assert row["tiles"] > row["contracts"] and row["seq"] > before
    assert all(0.0 <= row[name] < 30.0 for name in FACTS if name.endswith("_s"))
    assert status["groups"]["staging"]["consumers"][0]["name"] == "staging-1"
    assert status["groups"]["models"]["lag"] == status["groups"]["models"]["pending"] == 0
    assert status["health"] == {"status": "ok", "reasons": []}
    assert updates == 1


async def _has_diffs(redis_url: str, settings: Settings) -> bool:
    status = await asyncio.to_thread(read_status, redis_url, settings)
    return status["symbols"][SYMBOL]["last_diff_age_s"] is not None


async def test_epochs_table_counts_what_entered_the_models(redis_url: str, settings_for: SettingsFor) -> None:
    settings = settings_for()
    async with small_pipeline(redis_url, settings) as pipeline:
        await pipeline.live()
        first = pipeline.epoch()
        pipeline.chain(STRIKES[:-1])
        await wait_until_async(lambda: pipeline.epoch() != first, "a promotion")
        rows = await asyncio.to_thread(read_epochs, redis_url, settings, (SYMBOL,), everything=True)
    assert [row["epoch"] for row in rows] == [rows[0]["epoch"], first]
    assert [row["active"] for row in rows] == [True, False]
    assert rows[1]["heatmap"] == rows[1]["gex"] == 2 * len(STRIKES)
    assert rows[0]["heatmap"] is None or rows[0]["heatmap"] == 2 * (len(STRIKES) - 1)


def test_epochs_table_looks_as_agreed() -> None:
    row = {
        "symbol": "SPX", "epoch": "SPX:1700000000:1f3a", "age_s": 45.2, "dirty": False, "dormant": 0,
        "forced": False, "ws": True, "heatmap": 1245, "gex": 842,
    }  # fmt: skip
    assert epochs_table([row]).splitlines() == [
        "SYMBOL  EPOCH_ID                    AGE(s)  DIRTY  DORMANT  FORCED  WS  HEATMAP  GEX",
        "-" * 96,
        "SPX     SPX:1700000000:1f3a         45      no     0        no      yes 1245     842",
    ]


def test_epochs_table_widens_for_longer_ids() -> None:
    row = {
        "symbol": "SPX", "epoch": "{SPX}:1700000000:1f3a:and-much-longer", "age_s": None, "dirty": True, "dormant": 3,
        "forced": True, "ws": False, "heatmap": None, "gex": None,
    }  # fmt: skip
    headers, rule, line = epochs_table([row]).splitlines()
    assert len(rule) > 96
    for header, value in (("AGE(s)", "-"), ("DORMANT", "3"), ("FORCED", "yes"), ("WS", "no"), ("GEX", "-")):
        assert line[headers.index(header) :].split()[0] == value


@pytest.mark.parametrize("position", [0, 1, 3, 500, 997, 1000])
def test_lag_is_counted_from_either_side(client: Any, position: int) -> None:
    ids = [client.xadd("some", {"n": n}, id=f"{n + 1}-0") for n in range(1000)]
    delivered = "0-0" if position == 0 else ids[position - 1].decode()
    assert count_after(client, "some", delivered) == 1000 - position
    client.delete("some")


def test_lag_after_a_trim(client: Any) -> None:
    for n in range(700):
        client.xadd("some", {"n": n}, id=f"{n + 1}-0")
    client.xtrim("some", minid="301-0", approximate=False)
    assert count_after(client, "some", "400-0") == 300
    assert count_after(client, "some", "100-0") == 400  # delivered and trimmed
    assert count_after(client, "some", "700-0") == 0
    client.delete("some")


def test_a_server_that_is_away_is_one_error(settings_for: SettingsFor) -> None:
    with pytest.raises(TransientError, match="not available"):
        read_status("redis://127.0.0.1:1", settings_for())


async def test_health_tells_of_foreign_ids_and_of_poison(redis_url: str, settings_for: SettingsFor) -> None:
    async with small_pipeline(redis_url, settings_for()) as pipeline:
        await pipeline.live()
        stream = pipeline.keys.ws_stream(SYMBOL)
        ahead = f"{int((time() + 3600) * 1000)}-0"
        pipeline.client.xadd(stream, {"ts": repr(time()), "payload": "no frame"}, id=ahead)
        await wait_until_async(lambda: pipeline.client.xlen(pipeline.keys.parked(stream)), "it is parked")
        await pipeline.tick()
        health = json.loads(pipeline.client.get(pipeline.keys.health(SYMBOL)))
    assert health["status"] == "degraded"
    assert health["signals"] == {"parked": 1, "ids_ahead_s:ws": pytest.approx(3600, abs=10)}


def test_groups_that_are_not_ours_are_told(redis_url: str, client: Any, settings_for: SettingsFor) -> None:
    keys = keys_of(settings_for())
    for stream, group in ((keys.ws_stream(SYMBOL), "staging"), (keys.ws_stream(SYMBOL), "recorder")):
        client.xgroup_create(stream, group, mkstream=True)
    client.xgroup_create(keys.model_stream(SYMBOL), "desk", mkstream=True)
    status = read_status(redis_url, settings_for())
    assert status["foreign_groups"] == [
        {"stream": keys.ws_stream(SYMBOL), "group": "recorder"},
        {"stream": keys.model_stream(SYMBOL), "group": "desk"},
    ]
    console = Console(width=120, file=None)
    with console.capture() as capture:
        console.print(status_view(status))
    assert "group recorder reads massive:ws:stream, which is trimmed without regard to it" in capture.get()


def some_status(epoch: str) -> dict[str, Any]:
    """Large figures, and something wrong."""
    row = {
        "epoch": epoch, "epoch_age_s": 12345.6, "contracts": 12345, "tiles": 123456, "snapshot_age_s": 99.9,
        "ws_age_s": 0.1, "last_diff_age_s": 9999.0, "dirty": True,
    }  # fmt: skip
    feed = {
        "owner": "massive-a-host-with-a-name-1234567-ab12", "state": "connecting", "contracts": 950,
        "from_chain": 12345, "lag_s": 9999.0, "late": False, "delayed": False, "conflating": False, "gaps": 1234,
    }  # fmt: skip
    health = {"status": "degraded", "reasons": ["SPX: chain snapshot is 99 s old, one is due every 10 s"]}
    return {
        "redis_url": "redis://h:1", "symbols": {"SPX": row}, "feeds": {"options:0": feed}, "groups": {},
        "foreign_groups": [], "health": health,
    }  # fmt: skip


@pytest.mark.parametrize("epoch", ["SPX:1700000000:1f3a", "{SPX}:1700000000:1f3a:and-much-longer-than-any"])
def test_on_a_narrow_terminal_nothing_is_cut_off(
    epoch: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_status(some_status(epoch))
    header, line, *rest = capsys.readouterr().out.splitlines()
    assert header.split()[-1] == "state"
    assert line.split() == ["SPX", epoch, "12,346", "12,345", "123,456", "99.9", "0.1", "9,999", "dirty"]
    assert len(line) <= 80 or len(epoch) > 20
    assert rest[0].split() == ["feed", "state", "socket", "chain", "lag", "s", "gaps", "owner"]
    owner = "a-host-with-a-name-1234567-ab12"
    assert rest[1].split() == ["options:0", "connecting", "950", "12,345", "9,999", "1,234", owner]
    assert len(rest[1]) <= 80
    assert "  SPX: chain snapshot is 99 s old, one is due every 10 s" in rest


@pytest.mark.parametrize(
    ("facts", "shown"),
    [
        ({"state": "live"}, "live"),
        ({"state": "live", "late": True}, "late"),
        ({"state": "live", "delayed": True, "conflating": True}, "delayed, conflating"),
        ({"state": "cooling", "conflating": True}, "cooling, conflating"),
        ({"state": None, "late": None}, "-"),
    ],
)
def test_a_live_socket_says_what_is_special(facts: dict[str, Any], shown: str) -> None:
    status = some_status("SPX:1700000000:1f3a")
    status["feeds"]["options:0"] |= facts
    console = Console(width=120, file=None)
    with console.capture() as capture:
        console.print(status_view(status))
    (line,) = [line for line in capture.get().splitlines() if line.startswith("options:0")]
    assert line.removeprefix("options:0").strip().startswith(f"{shown} ")


def test_the_line_of_a_log_counts_live_sockets() -> None:
    status = some_status("SPX:1700000000:1f3a")
    status["feeds"] |= {"options:1": status["feeds"]["options:0"] | {"state": "live"}}
    assert "; 1 of 2 feeds live; " in status_line(status)


def test_unknown_facts_can_be_shown(redis_url: str, settings_for: SettingsFor) -> None:
    status = read_status(redis_url, settings_for())
    console = Console(width=120, file=None)
    with console.capture() as capture:
        console.print(status_view(status, None))
    assert SYMBOL in capture.get() and "unknown" in status_line(status)
