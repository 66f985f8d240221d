"""How a feed stands, as its owner tells it once a second: a field `feed:{name}` of `massive:ws:analytics`.

A feed is one connection of a cluster: `options:0`, `options:1`, `indices:0`.

Health and dashboards read it; a report older than STALE_S is of a feed that nobody owns any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from contracts.symbology import INDEX_SYMBOLS

OPTIONS = "options"
INDICES = "indices"

FIELD_PREFIX = "feed:"
STALE_S = 10.0


class FeedReport(msgspec.Struct, frozen=True):
    """One connection. Times in epoch seconds by the receive clock.

    `state`: connecting, live, silent (subscribed in an open market, no data), cooling (somebody else uses the key), or
    off (not in the plan). `contracts`: those it carries, acknowledged on at least one topic; `subscribed`: the same as
    pairs of topic and contract. `unsubscribed`: wanted contracts beyond what the connection carries; they live from
    the chain. `missing`: pairs asked for and not acknowledged. `lag_s`: receive time minus event time of the newest
    events.
    """

    feed: str
    owner: str
    ts: float
    state: str
    reason: str = ""
    delayed: bool = False
    late: bool = False
    lag_s: float | None = None
    conflating: bool = False
    contracts: int = 0
    subscribed: int = 0
    missing: int = 0
    unsubscribed: int = 0
    refusal: str = ""
    last_frame_ts: float = 0.0


def feed_name(cluster: str, shard: int) -> str:
    """The name of a cluster's connection."""
    return f"{cluster}:{shard}"


def feed_names(option_connections: int, symbols: Iterable[str]) -> list[str]:
    """The connections there are to be: so many of options, and one of indices if a symbol is one."""
    names = [feed_name(OPTIONS, shard) for shard in range(option_connections)]
    return names + [feed_name(INDICES, 0)] * any(symbol in INDEX_SYMBOLS for symbol in symbols)


def gaps_field(feed: str) -> str:
    """The counter of a feed's interruptions in `massive:ws:analytics`, such as `gaps:options:0`."""
    return f"gaps:{feed}"


def report_field(feed: str) -> str:
    """The field of a feed, such as `feed:options:0`."""
    return FIELD_PREFIX + feed


def encode_report(report: FeedReport) -> bytes:
    """The value of the field."""
    return msgspec.json.encode(report)


def fresh_reports(fields: Mapping[bytes, bytes], now_ts: float) -> list[FeedReport]:
    """The reports among the fields of `massive:ws:analytics` that are not older than STALE_S, by name."""
    prefix = FIELD_PREFIX.encode()
    found = [_DECODER.decode(body) for name, body in sorted(fields.items()) if name.startswith(prefix)]
    return [report for report in found if now_ts - report.ts <= STALE_S]


def feed_signals(fields: Mapping[bytes, bytes], now_ts: float) -> list[tuple[str, str]]:
    """What health has to say about the feeds, as (name, sentence); empty when all is well, or no feed reports."""
    return [signal for report in fresh_reports(fields, now_ts) for signal in _signals(report)]


def _signals(report: FeedReport) -> Iterator[tuple[str, str]]:
    name = f"feed {report.feed}"
    if report.conflating:
        yield "conflating", f"{name} conflating: readers of its frames lag"
    if report.state in ("silent", "cooling", "off"):
        yield report.state, f"{name} {report.state}: {report.reason}"
    if report.delayed:
        yield (
            "delayed",
            f"{name} delayed" + ("" if report.lag_s is None else f": {report.lag_s:.0f} s behind the market"),
        )
    if report.late:
        yield "late", f"{name} late: {report.lag_s or 0.0:.1f} s behind the market"
    if report.missing:
        why = f" ({report.refusal})" if report.refusal else ""
        yield "unacknowledged", f"{name}: {report.missing} subscriptions not acknowledged{why}"


_DECODER = msgspec.json.Decoder(FeedReport)
