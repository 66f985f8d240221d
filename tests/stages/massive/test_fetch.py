"""The fetch: from a ticket to one commit, on the memory twin of the store."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from consumers.memory import MemoryStore
from contracts.clock import MarketClock, decode_clock
from contracts.commit import Applied, Commit, Emit, EntryId, FieldIs, Refused, SetFields, SetNewest, SetValue
from contracts.errors import DataError, FatalError, TransientError
from contracts.job import Job, decode_job
from contracts.keys import Keys, Stat
from contracts.messages import ChainCompleted, ChainFetch, decode, encode
from contracts.snapshot import ChainSnapshot, decode_snapshot
from contracts.stage import Entry
from contracts.symbology import settlement_ts
from stages.massive.fetch import (
    Failure,
    Fetched,
    Fetching,
    FetchSettings,
    FetchState,
    latency_bucket,
    massive_source,
    steadied,
)
from stages.massive.rest import Chain, PageRefusedError, Spot, ThrottledError
from stages.massive.rows import read_surface
from stages.massive.window import Windows, WindowSettings
from tests.stages.massive.chains import EXPIRATION, MORNING, both_sides, wire_row

KEYS = Keys()
JOB = KEYS.job("SPX")
NEXT = "2026-01-20"
CLOSE = settlement_ts("SPXW", EXPIRATION)
SETTINGS = FetchSettings(expirations=2, interval_s=10.0, interval_closed_s=30.0, snapshot_ttl_ms=60_000)
STRIKES = [6500.0 + 5 * n for n in range(141)]  # to 7200


@dataclass
class FakeProvider:
    """A market of two expirations with every strike of STRIKES; faults by expiration."""

    open: bool = True
    days: list[str] = field(default_factory=lambda: [EXPIRATION, NEXT])
    faults: dict[str, Exception] = field(default_factory=dict)
    told_spot: Spot | Exception | None = field(default_factory=lambda: Spot(6850.0, MORNING, "REAL-TIME"))
    clock_fault: Exception | None = None
    volatility: float = 0.12
    asked: list[tuple[str, float | None, float | None]] = field(default_factory=list)
    before_chain: Callable[[], Awaitable[None]] | None = None

    async def clock(self) -> MarketClock:
        if self.clock_fault:
            raise self.clock_fault
        return MarketClock(1000.0, MORNING, 0.0, self.open)  # stands still: every answer has the same time

    async def expirations(self, symbol: str, count: int | None, market_ts: float) -> list[str]:
        if "listing" in self.faults:
            raise self.faults["listing"]
        return self.days[:count]

    async def chain(self, symbol: str, expiration: str, low: float | None = None, high: float | None = None) -> Chain:
        self.asked.append((expiration, low, high))
        if self.before_chain:
            await self.before_chain()
        if expiration in self.faults:
            raise self.faults[expiration]
        inside = [strike for strike in STRIKES if (low or 0) <= strike <= (high or 1e9)]
        rows = [row | {"implied_volatility": self.volatility} for row in both_sides(inside, expiration=expiration)]
        return Chain(rows, 2)

    async def listed_strike(self, symbol: str, expiration: str, at: float, *, above: bool) -> float | None:
        if above:
            return min((strike for strike in STRIKES if strike >= at), default=None)
        return max((strike for strike in STRIKES if strike <= at), default=None)

    async def spot(self, symbol: str) -> Spot | None:
        if isinstance(self.told_spot, Exception):
            raise self.told_spot
        return self.told_spot


class TimePasses(FakeProvider):
    """A market a second before the close, which comes while it is asked."""

    async def clock(self) -> MarketClock:
        return MarketClock(time.time(), CLOSE - 1.0, 1.0, self.open)

    async def chain(self, symbol: str, expiration: str, low: float | None = None, high: float | None = None) -> Chain:
        await asyncio.sleep(1.1)
        return await super().chain(symbol, expiration, low, high)


async def no_progress(_: str) -> None:
    return None


def entry(ticket: int, sequence: int = 1) -> Entry[ChainFetch]:
    return Entry(EntryId(KEYS.jobs_stream("SPX"), f"1-{sequence}"), ChainFetch("SPX", ticket, "interval"))


def store_with(ticket: int, **fields: object) -> MemoryStore:
    store = MemoryStore()
    job = {"ticket": ticket, "last_ticket": ticket, "fetch": 41, "again": "", **fields}
    store.hashes[JOB] = {name: str(value).encode() for name, value in job.items()}
    return store


async def fetch(
    provider: FakeProvider, store: MemoryStore, settings: FetchSettings = SETTINGS, ticket: int = 7
) -> Commit:
    fetching = Fetching(KEYS, provider, settings, no_progress)
    entries = [entry(ticket)]
    (commit,) = fetching.step(await fetching.load(store, entries), entries)
    return commit


def completed(commit: Commit) -> ChainCompleted:
    (emit,) = (write for write in commit.writes if isinstance(write, Emit))
    assert emit.stream == KEYS.chain_stream("SPX")
    fields = {name.encode(): str(value).encode() for name, value in emit.fields.items() if name != "data"}
    message = decode({**fields, b"data": bytes(emit.fields["data"])}, (ChainCompleted,))  # type: ignore[arg-type]
    assert isinstance(message, ChainCompleted)
    return message


def job_of(commit: Commit) -> dict[str, Any]:
    (fields,) = (write.fields for write in commit.writes if isinstance(write, SetFields) and write.key == JOB)
    return dict(fields)


def counts_of(store: MemoryStore) -> dict[str, int]:
    return {name: int(value) for name, value in store.hashes[KEYS.analytics(Stat.CHAIN, "SPX")].items()}


async def snapshots_of(store: MemoryStore, message: ChainCompleted) -> dict[str, ChainSnapshot]:
    blobs = await store.values(*message.received.values())
    return {one: decode_snapshot(blob or b"") for one, blob in zip(message.received, blobs, strict=True)}


# --- the commit


async def test_a_fetch_is_one_commit_guarded_by_its_ticket() -> None:
    store = store_with(7)
    commit = await fetch(FakeProvider(), store)
    assert commit.acknowledges == (entry(7).id,)
    assert commit.guards == (FieldIs(JOB, "ticket", 7),)
    assert store.commit(commit) == Applied(0)
    job = decode_job(await store.fields(JOB))
    assert (job.ticket, job.last_ticket, job.fetch) == (0, 7, 42)
    assert isinstance(store.commit(commit), Refused)  # the ticket is spent


async def test_snapshots_pointers_and_the_event_agree() -> None:
    store = store_with(7)
    store.commit(commit := await fetch(FakeProvider(), store))
    message = completed(commit)
    assert (message.symbol, message.fetch, message.requested, message.failed) == ("SPX", 42, (EXPIRATION, NEXT), ())
    assert (message.spot, message.spot_ts, message.market_ts) == (6850.0, MORNING, MORNING)
    ts_ms = round(MORNING * 1000)
    assert message.received == {day: f"massive:chain:snapshot:SPX:{day}:{ts_ms}" for day in (EXPIRATION, NEXT)}
    for expiration, snapshot in (await snapshots_of(store, message)).items():
        pointer = store.strings[KEYS.chain_latest("SPX", expiration)].decode()
        assert pointer == message.received[expiration]
        assert (snapshot.underlying, snapshot.expiration, snapshot.ts) == ("SPX", expiration, MORNING)
        assert (snapshot.atm, {row.eligible for row in snapshot.contracts}) == (6850, {1})
        strikes = [row.strike for row in snapshot.contracts]
        assert snapshot.range_points == round((strikes[-1] - strikes[0]) / 2)
        assert strikes == sorted(strikes) and 20 < len(strikes) < len(STRIKES) * 2


async def test_everything_that_expires_says_so() -> None:
    commit = await fetch(FakeProvider(), store_with(7))
    lifetimes = {
        write.key: write.ttl_ms for write in commit.writes if isinstance(write, SetValue) and ":chain:" in write.key
    }
    assert len(lifetimes) == 4 and set(lifetimes.values()) == {60_000}


async def test_the_facts_of_a_fetch_are_counted() -> None:
    store = store_with(7)
    store.commit(commit := await fetch(FakeProvider(), store))
    rows = sum(len(snapshot.contracts) for snapshot in (await snapshots_of(store, completed(commit))).values())
    counts = counts_of(store)
    assert {name: counts[name] for name in ("fetches", "expirations", "pages", "rows")} == {
        "fetches": 1, "expirations": 2, "pages": 4, "rows": rows,
    }  # fmt: skip
    assert "failed_expirations" not in counts
    assert len(store.scores[KEYS.latency(Stat.CHAIN, "SPX")]) == 1


async def test_spot_and_clock_are_recorded() -> None:
    store = store_with(7)
    store.commit(await fetch(FakeProvider(open=False), store))
    spot = json.loads(bytes(store.strings[KEYS.spot("SPX")]))
    assert spot == {
        "symbol": "SPX", "value": 6850.0, "ts": MORNING, "source": "snapshot", "timeframe": "REAL-TIME",
    }  # fmt: skip
    clock = decode_clock(bytes(store.strings[KEYS.clock("SPX")]))
    assert (clock.market_time(5e9), clock.is_open) == (MORNING, False)


# --- tickets


@pytest.mark.parametrize("valid", [0, 8])
async def test_an_entry_without_the_valid_ticket_is_only_acknowledged(valid: int) -> None:
    store, provider = store_with(valid), FakeProvider()
    commit = await fetch(provider, store, ticket=7)
    assert provider.asked == []
    assert (commit.acknowledges, commit.guards) == ((entry(7).id,), ())
    before = dict(store.hashes[JOB])
    store.commit(commit)
    assert store.hashes[JOB] == before and not store.streams and not store.strings
    assert counts_of(store) == {"stale_tickets": 1}


async def test_older_tickets_go_with_the_valid_one() -> None:
    store, provider = store_with(7), FakeProvider()
    fetching = Fetching(KEYS, provider, SETTINGS, no_progress)
    entries = [entry(6, 1), entry(7, 2)]
    (commit,) = fetching.step(await fetching.load(store, entries), entries)
    assert commit.acknowledges == (entries[0].id, entries[1].id)
    assert completed(commit).fetch == 42


async def test_a_ticket_replaced_during_the_fetch_publishes_nothing() -> None:
    store = store_with(7)
    commit = await fetch(FakeProvider(), store)
    store.hashes[JOB]["ticket"] = b"8"
    assert isinstance(store.commit(commit), Refused)
    assert not store.streams and not store.strings


async def test_a_request_made_during_the_fetch_is_kept() -> None:
    store = store_with(7)
    commit = await fetch(FakeProvider(), store)
    store.hashes[JOB]["again"] = b"partial"
    store.commit(commit)
    assert decode_job(await store.fields(JOB)).due(0.0) == "partial"


# --- failures


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (TransientError("502"), "unavailable"),
        (DataError("pages lead in a circle"), "malformed"),
        (PageRefusedError("page 2 was refused"), "refused"),
    ],
)
async def test_a_failed_expiration_is_recorded_and_the_rest_published(fault: Exception, kind: str) -> None:
    store = store_with(7)
    store.commit(commit := await fetch(FakeProvider(faults={NEXT: fault}), store))
    message = completed(commit)
    assert (set(message.received), message.failed, message.requested) == ({EXPIRATION}, (NEXT,), (EXPIRATION, NEXT))
    assert KEYS.chain_latest("SPX", NEXT) not in store.strings
    counts = counts_of(store)
    assert (counts["failed_expirations"], counts[f"failed_{kind}"], counts["expirations"]) == (1, 1, 1)
    assert json.loads(job_of(commit)["failed"]) == {NEXT: str(fault)}


async def test_a_first_partial_failure_asks_for_an_extra_fetch_and_a_lasting_one_for_none() -> None:
    store = store_with(7)
    store.commit(await fetch(FakeProvider(faults={NEXT: TransientError("502")}), store))
    assert decode_job(await store.fields(JOB)).due(0.0) == "partial"
    store.hashes[JOB] |= {"ticket": b"8", "again": b""}  # the extra fetch, which fails as well
    store.commit(await fetch(FakeProvider(faults={NEXT: TransientError("502")}), store, ticket=8))
    assert decode_job(await store.fields(JOB)).due(0.0) == ""


async def test_a_failure_that_says_when_to_come_back_is_left_alone_until_then() -> None:
    store = store_with(7)
    store.commit(await fetch(FakeProvider(faults={NEXT: TransientError("throttled", 20.0)}), store))
    job = decode_job(await store.fields(JOB))
    assert job.due(0.0) == "" and job.not_before_ts > time.time() + 15.0


async def test_half_a_surface_is_a_failed_expiration() -> None:
    class CallsOnly(FakeProvider):
        async def chain(
            self, symbol: str, expiration: str, low: float | None = None, high: float | None = None
        ) -> Chain:
            chain = await super().chain(symbol, expiration, low, high)
            if expiration == NEXT:
                return Chain([row for row in chain.rows if row["details"]["contract_type"] == "call"], 1)
            return chain

    store = store_with(7)
    store.commit(commit := await fetch(CallsOnly(), store))
    assert completed(commit).failed == (NEXT,)
    assert counts_of(store)["failed_incomplete"] == 1


@pytest.mark.parametrize(
    "faults",
    [
        {EXPIRATION: TransientError("down", 3.0), NEXT: TransientError("down", 5.0)},
        {EXPIRATION: DataError("odd"), NEXT: TransientError("down", 5.0)},
        {"listing": TransientError("down", 5.0)},
    ],
)
async def test_an_outage_is_waited_for(faults: dict[str, Exception]) -> None:
    with pytest.raises(TransientError) as caught:
        await fetch(FakeProvider(faults=faults), store_with(7))
    assert caught.value.retry_after_s == 5.0


async def test_a_listing_nobody_can_use_does_not_park_the_job() -> None:
    with pytest.raises(TransientError, match="do not ascend"):
        await fetch(FakeProvider(faults={"listing": DataError("do not ascend")}), store_with(7))


async def test_a_refused_key_is_fatal() -> None:
    with pytest.raises(FatalError, match="MASSIVE_API_KEY"):
        await fetch(FakeProvider(faults={NEXT: FatalError("set a valid MASSIVE_API_KEY")}), store_with(7))


async def test_a_symbol_without_listing_is_tried_again_later() -> None:
    store = store_with(7)
    store.commit(commit := await fetch(FakeProvider(days=[]), store))
    assert not any(isinstance(write, Emit) for write in commit.writes)
    job = decode_job(await store.fields(JOB))
    assert job.ticket == 0 and job.due(job.not_before_ts - 1) == "" and job.due(job.not_before_ts) == "interval"
    assert counts_of(store)["empty_listings"] == 1


async def test_without_the_status_endpoint_the_known_clock_goes_on() -> None:
    store = store_with(7)
    known = MarketClock(1000.0, MORNING + 60, 0.0)
    store.strings[KEYS.clock("SPX")] = bytearray(
        json.dumps({"receive_ts": 1000.0, "market_ts": known.market_ts, "rate": 0.0}).encode()
    )
    commit = await fetch(FakeProvider(clock_fault=TransientError("away")), store)
    assert completed(commit).market_ts == MORNING + 60


async def test_a_clock_that_nobody_told_yet_is_not_recorded() -> None:
    store = store_with(7)
    store.commit(commit := await fetch(FakeProvider(clock_fault=TransientError("away")), store))
    assert completed(commit).received
    assert KEYS.clock("SPX") not in store.strings


async def test_what_is_throttled_from_its_first_question_on_is_not_fetched() -> None:
    """The next question would wait for as long as the provider wants, in the middle of a fetch."""
    with pytest.raises(TransientError, match="slow down"):
        await fetch(FakeProvider(clock_fault=ThrottledError("slow down", 7.0)), store_with(7))


async def test_waiting_for_our_turn_makes_no_slow_provider() -> None:
    class Throttling(FakeProvider):
        async def clock(self) -> MarketClock:
            await asyncio.sleep(0.3)  # for the budget
            return await super().clock()

    started = time.monotonic()
    commit = await fetch(Throttling(), store_with(7))
    assert float(job_of(commit)["latency_s"]) <= time.monotonic() - started - 0.3


# --- the next turn


def fetched(**changes: Any) -> Fetched:
    surface = read_surface(EXPIRATION, both_sides([6850.0]), MORNING)
    clock = MarketClock(0.0, MORNING, 0.0)
    full = Fetched((EXPIRATION,), {EXPIRATION: surface}, {}, 1, None, Windows(), clock, MORNING, 5000.0, 1.0)
    return replace(full, **changes)


@pytest.mark.parametrize(
    ("changes", "pause"),
    [
        ({}, 10.0),
        ({"latency_s": 4.0}, 10.0),
        ({"latency_s": 25.0}, 50.0),
        ({"clock": MarketClock(0.0, MORNING, 0.0, False)}, 30.0),
        ({"failures": {NEXT: Failure("unavailable", "429", 45.0)}}, 45.0),
        (
            {"clock": MarketClock(0.0, MORNING, 0.0, False), "failures": {NEXT: Failure("unavailable", "502")}},
            10.0,
        ),
    ],
)
def test_the_pause_before_the_next_fetch(changes: dict[str, Any], pause: float) -> None:
    fetching = Fetching(KEYS, FakeProvider(), SETTINGS, no_progress)
    state = FetchState("SPX", Job(ticket=7, fetch=41), fetched(**changes))
    (commit,) = fetching.step(state, [entry(7)])
    assert job_of(commit)["not_before_ts"] == 5000.0 + pause
    lifetimes = {write.ttl_ms for write in commit.writes if isinstance(write, SetValue) and ":chain:" in write.key}
    latency_s = changes.get("latency_s", 1.0)
    assert job_of(commit)["period_s"] == pause + latency_s
    assert lifetimes == {max(60_000, round(2000 * (pause + latency_s)))}


def test_with_a_request_budget_a_slow_fetch_is_no_slow_provider() -> None:
    """Five calls a minute: a fetch takes minutes, and the next one may begin after the interval all the same."""
    fetching = Fetching(KEYS, FakeProvider(), replace(SETTINGS, budgeted=True), no_progress)
    (commit,) = fetching.step(FetchState("SPX", Job(ticket=7), fetched(latency_s=150.0)), [entry(7)])
    assert job_of(commit)["not_before_ts"] == 5000.0 + 10.0
    lifetimes = {write.ttl_ms for write in commit.writes if isinstance(write, SetValue) and ":chain:" in write.key}
    assert lifetimes == {320_000}  # what was told lives until the next fetch has ended, twice over


@pytest.mark.parametrize(
    ("latency_s", "bucket"), [(0.1, "latency_le_0.25"), (0.25, "latency_le_0.25"), (9.0, "latency_le_10"),
                              (301.0, "latency_le_inf")],
)  # fmt: skip
def test_fetches_are_counted_by_what_they_take(latency_s: float, bucket: str) -> None:
    assert latency_bucket(latency_s) == bucket


def test_a_journal_keeps_its_snapshots() -> None:
    fetching = Fetching(KEYS, FakeProvider(), replace(SETTINGS, snapshot_ttl_ms=0), no_progress)
    (commit,) = fetching.step(FetchState("SPX", Job(ticket=7), fetched(latency_s=500.0)), [entry(7)])
    lifetimes = [write.ttl_ms for write in commit.writes if isinstance(write, SetValue) and ":chain:" in write.key]
    assert lifetimes == [0, 0]


def test_the_step_is_a_function_of_its_state() -> None:
    fetching = Fetching(KEYS, FakeProvider(), SETTINGS, no_progress)
    state = FetchState("SPX", Job(ticket=7, fetch=41), fetched())
    assert fetching.step(state, [entry(7)]) == fetching.step(state, [entry(7)])


def test_without_spot_the_middle_strike_stands_in() -> None:
    fetching = Fetching(KEYS, FakeProvider(), SETTINGS, no_progress)
    state = FetchState("SPX", Job(ticket=7), fetched())
    (commit,) = fetching.step(state, [entry(7)])
    assert not any(isinstance(write, SetNewest) for write in commit.writes)
    (blob,) = (write.value for write in commit.writes if isinstance(write, SetValue) and ":snapshot:" in write.key)
    assert isinstance(blob, bytes)
    assert (decode_snapshot(blob).atm, decode_snapshot(blob).range_points) == (6850, 0)
    assert (completed(commit).spot, completed(commit).spot_ts) == (None, None)


# --- windows


async def test_a_first_fetch_looks_at_the_money_and_keeps_listed_strikes() -> None:
    store, provider = store_with(7), FakeProvider()
    commit = await fetch(provider, store)
    kept = json.loads(job_of(commit)["windows"])
    assert set(kept) == {EXPIRATION, NEXT}
    for low, high in kept.values():
        assert low in STRIKES and high in STRIKES and low < 6850 < high
    assert json.loads(job_of(commit)["sigma"]) == {EXPIRATION: 0.12, NEXT: 0.12}
    probes, chains = provider.asked[:2], provider.asked[2:]
    assert {(low, high) for _, low, high in probes} == {(6850 * 0.99, 6850 * 1.01)}
    assert chains == [(day, *kept[day]) for day in (EXPIRATION, NEXT)]


async def test_with_a_request_budget_nothing_is_asked_but_the_chain() -> None:
    store, provider = store_with(7), FakeProvider()
    store.commit(commit := await fetch(provider, store, replace(SETTINGS, budgeted=True)))
    kept = json.loads(job_of(commit)["windows"])
    assert provider.asked == [(day, *kept[day]) for day in (EXPIRATION, NEXT)]
    assert json.loads(job_of(commit)["sigma"]) == {EXPIRATION: 0.12, NEXT: 0.12}  # of the chain itself


async def test_later_fetches_ask_for_the_kept_window_only() -> None:
    store, provider = store_with(7), FakeProvider()
    store.commit(await fetch(provider, store))
    kept = store.hashes[JOB]["windows"]
    store.hashes[JOB]["ticket"] = b"8"
    provider.asked.clear()
    provider.told_spot, provider.volatility = Spot(6852.0, MORNING + 1), 0.125
    store.commit(await fetch(provider, store, ticket=8))
    assert store.hashes[JOB]["windows"] == kept
    assert len(provider.asked) == 2
    assert json.loads(store.hashes[JOB]["sigma"]) == {EXPIRATION: 0.125, NEXT: 0.125}


async def test_no_window_asks_for_everything() -> None:
    provider = FakeProvider()
    settings = replace(SETTINGS, window=WindowSettings(points="all"))
    store = store_with(7)
    store.commit(commit := await fetch(provider, store, settings))
    assert provider.asked == [(EXPIRATION, None, None), (NEXT, None, None)]
    for snapshot in (await snapshots_of(store, completed(commit))).values():
        assert len(snapshot.contracts) == 2 * len(STRIKES)
        assert snapshot.range_points == round((STRIKES[-1] - STRIKES[0]) / 2)


async def test_a_newer_spot_of_the_feed_is_kept() -> None:
    store = store_with(7)
    stored = json.dumps({"symbol": "SPX", "value": 6900.0, "ts": MORNING + 5, "source": "indices"}).encode()
    store.strings[KEYS.spot("SPX")] = bytearray(stored)
    store.commit(commit := await fetch(FakeProvider(told_spot=TransientError("away")), store))
    assert (completed(commit).spot, completed(commit).spot_ts) == (6900.0, MORNING + 5)
    assert bytes(store.strings[KEYS.spot("SPX")]) == stored


async def test_a_spot_without_a_stamp_is_as_old_as_its_answer() -> None:
    commit = await fetch(FakeProvider(told_spot=Spot(6850.0, None)), store_with(7))
    assert completed(commit).spot_ts == MORNING


# --- around


async def test_a_long_fetch_says_that_it_is_alive() -> None:
    told: list[str] = []
    heard = asyncio.Event()

    async def progress(symbol: str) -> None:
        told.append(symbol)
        heard.set()
        if len(told) == 1:
            raise TransientError("the server is away: no reason to give up the fetch")

    async def until_told() -> None:
        await asyncio.wait_for(heard.wait(), 5.0)

    fetching = Fetching(KEYS, FakeProvider(before_chain=until_told), SETTINGS, progress)
    await fetching.load(store_with(7), [entry(7)])
    assert told == ["SPX"]


def test_the_clock_does_not_jitter() -> None:
    known = MarketClock(1000.0, 5000.0, 1.0, True)
    assert steadied(known, MarketClock(2000.0, 6001.5, 1.0, False)) == MarketClock(1000.0, 5000.0, 1.0, False)
    jumped = MarketClock(2000.0, 6002.5, 1.0, True)
    assert steadied(known, jumped) == jumped
    faster = MarketClock(2000.0, 6000.0, 10.0, True)
    assert steadied(known, faster) == faster
    assert steadied(faster, MarketClock(2001.0, 6025.0, 10.0, True)) == faster


def test_the_source_reads_jobs_strictly() -> None:
    source = massive_source(KEYS, "SPX", FakeProvider(), SETTINGS, no_progress)
    assert (source.stream, source.concurrent) == ("massive:jobs:stream", True)
    message = ChainFetch("NDX", 3, "interval")
    fields = {
        name.encode(): value if isinstance(value, bytes) else str(value).encode()
        for name, value in encode(message).items()
    }
    assert source.decode(fields) == message
    assert source.partition(message) == "NDX"
    with pytest.raises(DataError):
        source.decode({**fields, b"type": b"chain.completed"})


def test_rows_without_use_are_counted() -> None:
    surface = read_surface(EXPIRATION, [*both_sides([6850.0]), {"details": {}}, wire_row()], MORNING)
    fetching = Fetching(KEYS, FakeProvider(), SETTINGS, no_progress)
    state = FetchState("SPX", Job(ticket=7), fetched(surfaces={EXPIRATION: surface}))
    store = store_with(7)
    (commit,) = fetching.step(state, [entry(7)])
    store.commit(commit)
    counts = counts_of(store)
    assert (counts["rows"], counts["refused_rows"], counts["refused_ticker"], counts["duplicate_rows"]) == (2, 1, 1, 1)


async def test_what_settles_while_a_fetch_lasts_is_the_next_fetches_to_say() -> None:
    """Else a fetch over the close changes the contract set, and the next one changes it once more."""
    store = store_with(7)
    store.commit(commit := await fetch(TimePasses(), store))
    message = completed(commit)
    assert CLOSE - 1.0 <= message.market_ts < CLOSE
    snapshot = (await snapshots_of(store, message))[EXPIRATION]
    assert {row.eligible for row in snapshot.contracts} == {1}
