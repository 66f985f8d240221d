"""What owners of feeds report, and what health says of it."""

from __future__ import annotations

from typing import Any

import pytest

from contracts.feed_report import (
    STALE_S,
    FeedReport,
    encode_report,
    feed_names,
    feed_signals,
    fresh_reports,
    report_field,
)

NOW = 1_768_500_000.0


def fields(*reports: FeedReport) -> dict[bytes, bytes]:
    told = {report_field(report.feed).encode(): encode_report(report) for report in reports}
    return {b"frames": b"17", **told}


def report(feed: str = "options:0", ts: float = NOW, state: str = "live", **facts: Any) -> FeedReport:
    return FeedReport(feed, "one", ts, state, **facts)


def test_reports_come_back_by_name() -> None:
    found = [report("indices:0"), report("options:0", lag_s=0.25), report("options:1")]
    assert fresh_reports(fields(*reversed(found)), NOW) == found


def test_there_is_a_feed_of_indices_if_a_symbol_is_one() -> None:
    assert feed_names(2, ("SPY", "NDX")) == ["options:0", "options:1", "indices:0"]
    assert feed_names(1, ("SPY", "AAPL")) == ["options:0"]


def test_a_report_of_a_feed_without_owner_is_forgotten() -> None:
    assert feed_signals(fields(report(ts=NOW - STALE_S - 1, conflating=True)), NOW) == []


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({}, None),
        ({"state": "connecting"}, None),
        ({"conflating": True}, "feed options:0 conflating: readers of its frames lag"),
        ({"state": "off", "reason": "not in the plan"}, "feed options:0 off: not in the plan"),
        ({"state": "silent", "reason": "no data"}, "feed options:0 silent: no data"),
        ({"state": "cooling", "reason": "max_connections"}, "feed options:0 cooling: max_connections"),
        ({"delayed": True, "lag_s": 900.2}, "feed options:0 delayed: 900 s behind the market"),
        ({"delayed": True}, "feed options:0 delayed"),
        ({"late": True, "lag_s": 12.34}, "feed options:0 late: 12.3 s behind the market"),
        ({"missing": 3, "refusal": "limit"}, "feed options:0: 3 subscriptions not acknowledged (limit)"),
        ({"missing": 3}, "feed options:0: 3 subscriptions not acknowledged"),
        ({"unsubscribed": 400}, None),  # by plan: they live from the chain
    ],
)
def test_what_health_says(facts: dict[str, Any], reason: str | None) -> None:
    told = [sentence for _, sentence in feed_signals(fields(report(**facts)), NOW)]
    assert told == ([] if reason is None else [reason])
