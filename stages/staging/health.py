"""The health of a symbol: what a tick sees, as signals for programs and sentences for people.

A signal is `degraded` as long as it lasts; without a board the symbol is `down`. Ages are on the receive clock.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from contracts.feed_report import feed_signals, fresh_reports
from stages.staging.tick_state import STORM_PROMOTIONS, TickState, within_a_minute

SNAPSHOT_INTERVALS = 3  # a snapshot older than so many is stale
DIRTY_S = 2.0  # a change may wait so long to be computed
LAG_S = 5.0  # and an entry to be worked on
FEED_ACTIVE_S = 5.0  # an option event so long ago: the feed is active
PROGRESS_S = 15.0  # a fetch tells of itself three times as often
AHEAD_S = 2.0  # ids so far ahead of the server's time are somebody's own
HARMLESS_POLICY = "noeviction"

Stuck = Mapping[str, tuple[int, int, float]]  # `plane|layer` -> version, ticks it has not moved, since when


@dataclass(frozen=True, slots=True)
class HealthSettings:
    """What health needs from the settings. `requests_per_minute` None: as many as it takes."""

    chain_interval_s: float
    chain_interval_closed_s: float
    failing_s: float
    requests_per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class Signal:
    """Something is wrong: `name` and `value` for programs (seconds, a count, or 1), `sentence` for people."""

    name: str
    value: float
    sentence: str


def encode_health(state: TickState, stuck: Stuck, now_ts: float, settings: HealthSettings) -> bytes:
    """The value of `massive:health:{U}`: `status`, `reasons` (sentences), `signals` (name to value), `feeds`.

    `feeds`, by name: how each socket stands, how many contracts it carries, and how many live from the chain because
    it has no room for them. That is nothing wrong.
    """
    found = list(find_signals(state, stuck, now_ts, settings))
    status = "ok" if not found else "down" if state.board is None else "degraded"
    body = {
        "status": status,
        "reasons": [signal.sentence for signal in found],
        "signals": {signal.name: signal.value for signal in found},
        "feeds": {
            report.feed: {"state": report.state, "contracts": report.contracts, "from_chain": report.unsubscribed}
            for report in fresh_reports(state.sockets, now_ts)
        },
    }
    return json.dumps(body).encode()


def find_signals(state: TickState, stuck: Stuck, now_ts: float, settings: HealthSettings) -> Iterator[Signal]:
    """All that is wrong, in the order in which a person should read it."""
    yield from _board(state)
    yield from _provider(state, now_ts, settings)
    yield from _snapshot(state, now_ts, settings)
    yield from _expirations(state, now_ts, settings)
    yield from _uncomputed(stuck, now_ts)
    yield from _storm(state, now_ts)
    yield from _lag(state, now_ts)
    yield from _feed(state, now_ts)
    yield from _streams(state)
    if state.policy not in ("", HARMLESS_POLICY):
        yield Signal(
            "may_evict", 1, f"the server may evict keys: set maxmemory-policy from {state.policy} to noeviction"
        )


def _board(state: TickState) -> Iterator[Signal]:
    if state.epoch is None:
        yield Signal("no_epoch", 1, "no epoch yet")
    elif state.board is None:
        yield Signal("no_board", 1, "epoch keys gone; waiting for the chain to rebuild it")


def _interval_s(state: TickState, settings: HealthSettings) -> float:
    """How often a chain is due: slower on purpose when the market is closed, the provider slow or the budget small."""
    interval_s = settings.chain_interval_s if state.clock.is_open else settings.chain_interval_closed_s
    return max(interval_s, state.job.period_s)


def _provider(state: TickState, now_ts: float, settings: HealthSettings) -> Iterator[Signal]:
    """A fetch that is outstanding for too long: nobody works on it, or the provider does not answer."""
    job, interval_s = state.job, _interval_s(state, settings)
    silent_s = now_ts - (job.asked_ts or job.issued_ts)
    if not job.ticket or silent_s <= (SNAPSHOT_INTERVALS - 1) * interval_s:
        return
    if now_ts - job.progress_ts > PROGRESS_S:
        yield Signal("fetch_unattended_s", silent_s, f"no massive process works on the fetch of {silent_s:.0f} s ago")
    elif settings.requests_per_minute is not None:
        pace = f"{settings.requests_per_minute} requests a minute (MASSIVE_REQUESTS_PER_MINUTE)"
        yield Signal("fetch_paced_s", silent_s, f"the fetch has lasted {silent_s:.0f} s, with {pace}")
    else:
        yield Signal("provider_silent_s", silent_s, f"the provider has not answered for {silent_s:.0f} s")


def _snapshot(state: TickState, now_ts: float, settings: HealthSettings) -> Iterator[Signal]:
    snapshot_ts = float(state.meta.get(b"snapshot_ts") or 0)
    interval_s = _interval_s(state, settings)
    # snapshots are stamped on the market clock, which may run faster than ours
    age_s = (state.clock.market_time(now_ts) - snapshot_ts) / state.clock.rate
    if not snapshot_ts or age_s <= SNAPSHOT_INTERVALS * interval_s:
        return
    yield Signal("snapshot_age_s", age_s, f"chain snapshot is {age_s:.0f} s old, one is due every {interval_s:g} s")
    if state.event_ts is not None and now_ts - state.event_ts < FEED_ACTIVE_S:
        yield Signal("feed_without_chain", 1, "the feed is active but the chain snapshot is stale")


def _expirations(state: TickState, now_ts: float, settings: HealthSettings) -> Iterator[Signal]:
    since = json.loads(state.meta.get(b"failing_since") or b"{}")
    failing = [name for name, since_ts in since.items() if now_ts - since_ts > settings.failing_s]
    if failing:
        told = f"expirations failing for more than {settings.failing_s:g} s: {', '.join(failing)}"
        yield Signal("failing_expirations", len(failing), told)
    missing = [name for name in state.meta.get(b"failed_expirations", b"").decode().split(",") if name]
    if not missing:
        return
    yield Signal("missing_expirations", len(missing), f"expirations missing from the last fetch: {', '.join(missing)}")


def _uncomputed(stuck: Stuck, now_ts: float) -> Iterator[Signal]:
    """Planes of which the oldest change waits for too long, in tiles and then in what is published."""
    for layer, name, what in (
        ("tiles", "dirty_s", "persistently dirty"),
        ("published", "unpublished_s", "unpublished"),
    ):
        waits = {
            plane: now_ts - since_ts
            for (plane, _, found), (_, _, since_ts) in ((key.rpartition("|"), told) for key, told in stuck.items())
            if found == layer and now_ts - since_ts >= DIRTY_S
        }
        if waits:
            longest = max(waits.values())
            yield Signal(name, longest, f"{what}: the oldest change waits for {longest:.0f} s ({', '.join(waits)})")


def _storm(state: TickState, now_ts: float) -> Iterator[Signal]:
    recent = within_a_minute(state.timeline, state.clock.market_time(now_ts), state.clock)
    count = sum(state.reasons.get(epoch) != "dormancy" for epoch in recent)
    if count > STORM_PROMOTIONS:
        yield Signal("promotion_storm", count, f"promotion storm: {count} in the last minute, not counting dormancy")


def _lag(state: TickState, now_ts: float) -> Iterator[Signal]:
    """The oldest entry that waits; a fetch waits for the provider, of which we hear otherwise."""
    for name, backlog in state.backlogs.items():
        if not backlog.waiting_id or name == "jobs":
            continue
        if backlog.waiting_ts is not None:
            age_s = now_ts - backlog.waiting_ts
        else:
            age_s = (backlog.server_ms - _ms(backlog.waiting_id)) / 1000
        if age_s > LAG_S:
            yield Signal(
                f"lag_s:{name}", age_s, f"the oldest entry that waits on the {name} stream is {age_s:.0f} s old"
            )


def _feed(state: TickState, now_ts: float) -> Iterator[Signal]:
    """What the owners of the feeds report; one signal a kind, every feed in its sentence."""
    told: dict[str, list[str]] = {}
    for name, sentence in feed_signals(state.sockets, now_ts):
        told.setdefault(name, []).append(sentence)
    if (state.spot or {}).get("timeframe") == "DELAYED":
        told.setdefault("delayed", []).append("the provider tells this spot with delay (timeframe DELAYED)")
    for name, sentences in told.items():
        yield Signal(name, len(sentences), "; ".join(sentences))


def _streams(state: TickState) -> Iterator[Signal]:
    parked = {name: backlog.parked for name, backlog in state.backlogs.items() if backlog.parked}
    if parked:
        told = ", ".join(f"{count} of {name}" for name, count in parked.items())
        yield Signal("parked", sum(parked.values()), f"entries are parked: {told} (see `marketswarm parked list`)")
    for name, backlog in state.backlogs.items():
        ahead_s = (_ms(backlog.last_id) - backlog.server_ms) / 1000 if backlog.last_id else 0.0
        if ahead_s > AHEAD_S:
            yield Signal(
                f"ids_ahead_s:{name}",
                ahead_s,
                f"ids of the {name} stream are {ahead_s:.0f} s ahead of the server: its writer must append with `*`",
            )


def _ms(entry_id: str) -> int:
    return int(entry_id.partition("-")[0])
