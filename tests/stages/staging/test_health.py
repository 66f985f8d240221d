"""The health of a symbol: each thing that is wrong is one sentence and one number, and goes when it is mended."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from contracts.clock import MarketClock, encode_clock
from contracts.commit import Commit, SetFields, SetValue
from contracts.feed_report import FeedReport, encode_report, report_field
from contracts.keys import Stat
from contracts.ports import Backlog
from contracts.topology import StageName
from stages.staging.health import HealthSettings, find_signals
from tests.pipeline import EXPIRATION, LATER, NOW, Pipeline, chain_rows, cid_of, drive, frame, quote
from tests.stages.staging.small_board import FEW, NOW_MS


def healthy() -> Pipeline:
    """A published board, its last chain and quote at NOW, no fetch outstanding or due."""
    pipeline = Pipeline()
    pipeline.fetch(1, {EXPIRATION: chain_rows(FEW)})
    pipeline.feed(frame(quote(cid_of(6900), 9.0, 9.5, NOW_MS)))
    pipeline.run()
    put(pipeline, pipeline.keys.job("SPX"), not_before_ts=NOW + 1e6)
    return pipeline


def put(pipeline: Pipeline, key: str, **fields: str | float) -> None:
    """Write fields of a HASH."""
    pipeline.store.commit(Commit(writes=(SetFields(key, fields),)))


def set_clock(pipeline: Pipeline, clock: MarketClock) -> None:
    """Another market clock."""
    pipeline.store.commit(Commit(writes=(SetValue(pipeline.keys.clock("SPX"), encode_clock(clock)),)))


def health(pipeline: Pipeline, now_ts: float = NOW) -> dict[str, Any]:
    """What a tick tells."""
    pipeline.tick(now_ts)
    found: dict[str, Any] = json.loads(bytes(pipeline.store.strings[pipeline.keys.health("SPX")]))
    return found


def one_signal(found: dict[str, Any]) -> tuple[str, float, str]:
    """The only thing that is wrong: name, value, sentence."""
    assert found["status"] == "degraded"
    ((name, value),) = found["signals"].items()
    (sentence,) = found["reasons"]
    return name, value, sentence


def test_of_a_healthy_board_nothing_is_told() -> None:
    assert health(healthy(), NOW + 1) == {"status": "ok", "reasons": [], "signals": {}, "feeds": {}}


def test_without_an_epoch_or_its_keys_a_symbol_is_down() -> None:
    found = health(Pipeline())
    assert (found["status"], found["reasons"]) == ("down", ["no epoch yet"])
    assert found["signals"] == {"no_epoch": 1}
    pipeline = healthy()
    del pipeline.store.strings[pipeline.keys.listing(pipeline.active())]
    found = health(pipeline)
    assert (found["status"], list(found["signals"])) == ("down", ["no_board"])


# --- the chain


def test_a_snapshot_older_than_three_intervals_is_told() -> None:
    pipeline = healthy()
    assert health(pipeline, NOW + 30)["status"] == "ok"
    assert one_signal(health(pipeline, NOW + 31)) == (
        "snapshot_age_s", 31.0, "chain snapshot is 31 s old, one is due every 10 s",
    )  # fmt: skip


def test_of_a_closed_market_the_longer_interval_counts() -> None:
    pipeline = healthy()
    set_clock(pipeline, MarketClock(NOW, NOW, 1.0, is_open=False))
    assert health(pipeline, NOW + 90)["status"] == "ok"
    assert one_signal(health(pipeline, NOW + 91))[2] == "chain snapshot is 91 s old, one is due every 30 s"


def test_of_a_market_that_runs_faster_the_age_is_in_our_seconds() -> None:
    pipeline = healthy()
    set_clock(pipeline, MarketClock(NOW, NOW, 60.0))
    assert health(pipeline, NOW + 30)["status"] == "ok"
    assert one_signal(health(pipeline, NOW + 31))[1] == 31.0


def test_an_active_feed_beside_a_stale_snapshot_is_told() -> None:
    pipeline = healthy()
    put(pipeline, pipeline.keys.feed("SPX"), event_ts=NOW + 25)
    assert list(health(pipeline, NOW + 31)["signals"]) == ["snapshot_age_s"]
    put(pipeline, pipeline.keys.feed("SPX"), event_ts=NOW + 29)
    found = health(pipeline, NOW + 31)
    assert list(found["signals"]) == ["snapshot_age_s", "feed_without_chain"]
    assert found["reasons"][1] == "the feed is active but the chain snapshot is stale"


def test_a_provider_that_does_not_answer_is_why() -> None:
    pipeline = healthy()
    put(pipeline, pipeline.keys.job("SPX"), ticket=1, asked_ts=NOW + 10, issued_ts=NOW + 10, progress_ts=NOW + 28)
    found = health(pipeline, NOW + 31)
    assert found["reasons"] == [
        "the provider has not answered for 21 s", "chain snapshot is 31 s old, one is due every 10 s",
    ]  # fmt: skip
    assert found["signals"]["provider_silent_s"] == 21.0


def test_a_fetch_that_waits_for_its_budget_is_no_silent_provider() -> None:
    pipeline = healthy()
    put(pipeline, pipeline.keys.job("SPX"), ticket=1, asked_ts=NOW, issued_ts=NOW, progress_ts=NOW + 28)
    state = drive(pipeline.tickers["SPX"].load(pipeline.store))
    (found,) = find_signals(state, {}, NOW + 30, HealthSettings(10.0, 30.0, 300.0, requests_per_minute=5))
    assert (found.name, found.value) == ("fetch_paced_s", 30.0)
    assert found.sentence == "the fetch has lasted 30 s, with 5 requests a minute (MASSIVE_REQUESTS_PER_MINUTE)"


def test_a_fetch_that_nobody_works_on_is_told() -> None:
    pipeline = healthy()
    put(pipeline, pipeline.keys.job("SPX"), ticket=1, asked_ts=NOW, issued_ts=NOW)
    assert health(pipeline, NOW + 20)["status"] == "ok"
    assert one_signal(health(pipeline, NOW + 21)) == (
        "fetch_unattended_s", 21.0, "no massive process works on the fetch of 21 s ago",
    )  # fmt: skip


def test_missing_expirations_are_told() -> None:
    pipeline = healthy()
    pipeline.fetch(2, {EXPIRATION: chain_rows(FEW)}, failed=[LATER])
    assert one_signal(health(pipeline)) == (
        "missing_expirations", 1, f"expirations missing from the last fetch: {LATER}",
    )  # fmt: skip


def test_an_expiration_that_fails_for_longer_than_the_setting_is_told_again() -> None:
    pipeline = healthy()
    meta = pipeline.keys.meta(pipeline.active())
    put(pipeline, meta, failing_since=json.dumps({LATER: NOW - 300, EXPIRATION: NOW - 10}), snapshot_ts=NOW)
    assert health(pipeline)["status"] == "ok"
    assert one_signal(health(pipeline, NOW + 1)) == (
        "failing_expirations", 1, f"expirations failing for more than 300 s: {LATER}",
    )  # fmt: skip


# --- behind


def test_a_change_that_waits_to_be_computed_for_two_seconds_is_told() -> None:
    pipeline = healthy()
    pipeline.feed(frame(quote(cid_of(6900), 9.1, 9.5, NOW_MS + 1)))
    pipeline.run(StageName.STAGING)
    told = [health(pipeline, NOW + second) for second in range(3)]
    assert [one["status"] for one in told] == ["ok", "ok", "degraded"]
    sentence = f"persistently dirty: the oldest change waits for 2 s (SPXW:{EXPIRATION})"
    assert one_signal(told[2]) == ("dirty_s", 2.0, sentence)
    pipeline.run()
    assert health(pipeline, NOW + 3)["status"] == "ok"


def test_a_plane_that_is_never_level_but_moves_is_not_persistently_dirty() -> None:
    pipeline = healthy()
    for second in range(6):
        for part in range(2):
            at_ms = NOW_MS + 1000 * second + part + 1
            pipeline.feed(frame(quote(cid_of(6900), 1.0 + at_ms % 8 / 4, 9.5, at_ms), ts=NOW + second))
            pipeline.run(StageName.STAGING)
            if part == 0:
                pipeline.run(StageName.CALCULATE, StageName.MODELS)
        assert "dirty_s" not in health(pipeline, NOW + second)["signals"]


def test_computed_planes_that_nobody_publishes_are_told() -> None:
    pipeline = healthy()
    pipeline.feed(frame(quote(cid_of(6900), 9.1, 9.5, NOW_MS + 1)))
    pipeline.run(StageName.STAGING, StageName.CALCULATE)
    told = [health(pipeline, NOW + second) for second in range(3)]
    assert one_signal(told[2])[:2] == ("unpublished_s", 2.0)


@pytest.mark.parametrize("name", ["chain", "ws", "epoch", "strategy"])
def test_an_entry_that_waits_for_more_than_five_seconds_is_told(name: str) -> None:
    pipeline = healthy()
    stream = getattr(pipeline.keys, f"{name}_stream")("SPX")
    pipeline.store.backlogs[stream] = Backlog(f"{NOW_MS}-0", server_ms=NOW_MS + 5000)
    assert health(pipeline)["status"] == "ok"
    pipeline.store.backlogs[stream] = Backlog(f"{NOW_MS}-0", server_ms=NOW_MS + 7000)
    assert one_signal(health(pipeline)) == (
        f"lag_s:{name}", 7.0, f"the oldest entry that waits on the {name} stream is 7 s old",
    )  # fmt: skip


def test_a_frame_waits_since_it_was_received() -> None:
    pipeline = healthy()
    stream = pipeline.keys.ws_stream("SPX")
    pipeline.store.backlogs[stream] = Backlog(f"{NOW_MS}-0", waiting_ts=NOW - 6, server_ms=NOW_MS)
    assert one_signal(health(pipeline, NOW + 1))[:2] == ("lag_s:ws", 7.0)


def test_a_fetch_may_wait_for_the_provider() -> None:
    pipeline = healthy()
    pipeline.store.backlogs[pipeline.keys.jobs_stream("SPX")] = Backlog("1-0", server_ms=NOW_MS)
    assert health(pipeline)["status"] == "ok"


# --- the rest


def promoted(count: int, reason: str = "") -> Pipeline:
    """A board that was promoted `count` times more, a second apart."""
    pipeline = healthy()
    for number in range(count):
        pipeline.fetch(number + 2, {EXPIRATION: chain_rows(range(6800 + 5 * number, 6915, 5))}, ts=NOW + number + 1)
        if reason:
            put(pipeline, pipeline.keys.meta(pipeline.active()), reason=reason)
    pipeline.run()
    return pipeline


def test_more_than_six_promotions_in_a_minute_are_a_storm() -> None:
    assert one_signal(health(promoted(7), NOW + 30)) == (
        "promotion_storm", 8, "promotion storm: 8 in the last minute, not counting dormancy",
    )  # fmt: skip
    assert health(promoted(5), NOW + 30)["status"] == "ok"


def test_a_storm_is_over_when_a_minute_has_passed() -> None:
    pipeline = promoted(7)
    assert "promotion_storm" in health(pipeline, NOW + 60)["signals"]  # seven after the bootstrap
    assert "promotion_storm" not in health(pipeline, NOW + 61)["signals"]


def test_dormancy_is_no_storm() -> None:
    assert health(promoted(9, "dormancy"), NOW + 10)["status"] == "ok"


def test_a_feed_that_conflates_is_told() -> None:
    pipeline = healthy()
    analytics = pipeline.keys.analytics(Stat.WS, "SPX")
    report = FeedReport("options:0", "massive-1", NOW, "live", conflating=True)
    put(pipeline, analytics, **{report_field(report.feed): encode_report(report).decode()})
    assert one_signal(health(pipeline))[0] == "conflating"
    calm = encode_report(FeedReport("options:0", "massive-1", NOW, "live")).decode()
    put(pipeline, analytics, **{report_field(report.feed): calm})
    assert health(pipeline)["status"] == "ok"


def test_how_many_contracts_live_from_the_chain_is_told_and_is_nothing_wrong() -> None:
    pipeline = healthy()
    report = FeedReport("options:0", "massive-1", NOW, "live", contracts=950, subscribed=950, unsubscribed=826)
    put(
        pipeline, pipeline.keys.analytics(Stat.WS, "SPX"), **{report_field(report.feed): encode_report(report).decode()}
    )
    found = health(pipeline)
    assert found["status"] == "ok"
    assert found["feeds"] == {"options:0": {"state": "live", "contracts": 950, "from_chain": 826}}


def test_a_delayed_spot_is_told() -> None:
    pipeline = healthy()
    spot = {"symbol": "SPX", "value": 6900.0, "ts": NOW, "source": "snapshot", "timeframe": "DELAYED"}
    pipeline.store.commit(Commit(writes=(SetValue(pipeline.keys.spot("SPX"), json.dumps(spot)),)))
    assert one_signal(health(pipeline))[0] == "delayed"


def test_parked_entries_are_told_by_stream() -> None:
    pipeline = healthy()
    keys = pipeline.keys
    pipeline.store.backlogs |= {keys.ws_stream("SPX"): Backlog(parked=2), keys.epoch_stream("SPX"): Backlog(parked=1)}
    assert one_signal(health(pipeline)) == (
        "parked", 3, "entries are parked: 2 of ws, 1 of epoch (see `marketswarm parked list`)",
    )  # fmt: skip


def test_ids_ahead_of_the_server_are_told() -> None:
    pipeline = healthy()
    stream = pipeline.keys.ws_stream("SPX")
    pipeline.store.backlogs[stream] = Backlog(last_id=f"{NOW_MS + 3_600_000}-0", server_ms=NOW_MS)
    name, value, sentence = one_signal(health(pipeline))
    assert (name, value) == ("ids_ahead_s:ws", 3600.0)
    assert sentence == "ids of the ws stream are 3600 s ahead of the server: its writer must append with `*`"


def test_a_server_that_may_evict_is_told() -> None:
    pipeline = healthy()
    state = replace(drive(pipeline.tickers["SPX"].load(pipeline.store)), policy="allkeys-lru")
    found = list(find_signals(state, {}, NOW, HealthSettings(10.0, 30.0, 300.0)))
    assert [one.sentence for one in found] == [
        "the server may evict keys: set maxmemory-policy from allkeys-lru to noeviction"
    ]
