"""The massive stage whole: several processes of it (as tasks) against a mock provider and a real server."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from consumers.broker import Broker
from consumers.runner import Runner, ended
from contracts.clock import MarketClock, encode_clock
from contracts.feed_report import FeedReport, feed_signals, fresh_reports
from contracts.geometry import build_geometry
from contracts.keys import Keys, Stat
from contracts.messages import ChainFetch, encode
from contracts.settings import Settings
from ops import ingestion as ingestion_module
from ops.ingestion import BUDGET_WINDOW_MS, MOST_REQUESTS_PER_S, Ingestion, RequestBudget
from ops.mock.provider import MockOptions
from ops.mock.server import RunningMock, serving
from ops.mock.sockets import STATE_PATH
from ops.recording import CAPTURE
from ops.wiring import keys_of, partitions
from stages.massive.feed import Feed
from tests.stages.boards import listing
from tests.waiting import wait_until_async

KEYS = Keys()
KEY = "s3cret-key"
EPOCH = KEYS.epoch_id("SPX", 1_768_500_000, "1f3a" * 16)
FEEDS = ["indices:0", "options:0", "options:1", "options:2", "options:3"]


class MassiveProcess:
    """One process of the stage; `kill` leaves leases and pending entries as they are."""

    def __init__(self, redis_url: str, settings: Settings, name: str) -> None:
        self.name = name
        self.stop = asyncio.Event()
        self.brokers: list[Broker] = []
        self.runners: list[Runner] = []
        self._url = redis_url
        self._settings = settings
        self.task = asyncio.create_task(self._run())

    def _broker(self, symbol: str) -> Broker:
        cursor = keys_of(self._settings).cursor("massive", symbol)
        self.brokers.append(Broker(self._url, "massive", self.name, cursor))
        return self.brokers[-1]

    async def _run(self) -> None:
        async with AsyncExitStack() as resources, asyncio.TaskGroup() as tasks:
            keys = keys_of(self._settings)
            for symbols in partitions(self._settings):
                ingestion = Ingestion(self._settings, keys, symbols, self._broker)
                stage = await resources.enter_async_context(ingestion)
                runner = Runner(stage, self._broker(symbols[0]), keys, symbols[0], claim_idle_ms=1000, journal=False)
                self.runners.append(runner)
                for work in (runner.run, *ingestion.work()):
                    tasks.create_task(work(self.stop))  # type: ignore[arg-type]

    async def end(self) -> None:
        """SIGTERM."""
        self.stop.set()
        await asyncio.wait({self.task}, timeout=10.0)

    async def kill(self) -> None:
        """SIGKILL: sockets break, leases run out."""

        async def nothing(key: str) -> None:
            return None

        for broker in self.brokers:
            broker.drop_lease = nothing  # type: ignore[method-assign]
        await ended(self.task)

    async def close(self) -> None:
        """Close every connection; a command of a killed process ends first."""
        assert self.task.done()
        if not self.stop.is_set():
            await asyncio.sleep(1.1)  # as long as a read blocks
        for broker in self.brokers:
            await broker.close()


Start = Callable[..., MassiveProcess]


@pytest.fixture
async def mock(tmp_path: Path) -> AsyncIterator[RunningMock]:
    """A provider of two symbols, with room for five sockets a key."""
    options = MockOptions(port=0, rate=2000, contracts=400, data=tmp_path, max_connections=5, key=KEY)
    async with serving(options) as running:
        yield running


@pytest.fixture
async def start(redis_url: str, mock: RunningMock, settings_for: Callable[..., Settings]) -> AsyncIterator[Start]:
    """Starts processes; all end with the test."""
    found: list[MassiveProcess] = []

    def begin(name: str, **environment: str) -> MassiveProcess:
        own = {
            "MASSIVE_API_KEY": KEY, "MASSIVE_REST_URL": mock.rest_url, "MASSIVE_WS_URL": mock.ws_url,
            "MASSIVE_WS_CONNECTIONS": "4", "MASSIVE_SYMBOLS": "SPX,NDX",
        }  # fmt: skip
        found.append(MassiveProcess(redis_url, settings_for(**{**own, **environment}), name))
        return found[-1]

    yield begin
    for process in found:
        if not process.task.done():
            await process.end()
        await process.close()


@pytest.fixture
def board(client: Any, mock: RunningMock) -> int:
    """An active epoch of everything the provider lists for SPX; returns how many contracts."""
    contracts = [one for one in mock.provider.market.listing.contracts if one.root in ("SPX", "SPXW")]
    rows = [listing(one.type, one.strike, one.root, one.expiration) for one in contracts]
    client.set(KEYS.listing(EPOCH), build_geometry("SPX", rows).encode(), px=600_000)
    client.hset(KEYS.active("SPX"), "SPX", EPOCH)
    client.set(KEYS.clock("SPX"), encode_clock(MarketClock(time.time(), mock.provider.clock.now())))
    return len(rows)


def reports(client: Any) -> dict[str, FeedReport]:
    fields = client.hgetall(KEYS.analytics(Stat.WS, "SPX"))
    return {report.feed: report for report in fresh_reports(fields, time.time())}


def owners(client: Any) -> dict[str, str]:
    """Who holds the lease of each feed."""
    found = client.mget([KEYS.lease(f"feed:{feed}", "SPX") for feed in FEEDS])
    return {feed: owner.decode() for feed, owner in zip(FEEDS, found, strict=True) if owner}


def share(client: Any) -> list[int]:
    names = list(owners(client).values())
    return sorted(names.count(name) for name in set(names))


def live(client: Any) -> bool:
    found = reports(client)
    return sorted(found) == FEEDS and all(report.state == "live" for report in found.values())


def options_of(client: Any) -> list[FeedReport]:
    """What the option feeds report."""
    return [report for feed, report in reports(client).items() if feed.startswith("options")]


def quoted(client: Any, *, conflated: bool = False) -> list[str]:
    """The tickers of all quotes in the stream, or of those that are the newest of many."""
    frames = [fields for _, fields in client.xrange(KEYS.ws_stream("SPX")) if not conflated or b"conflated" in fields]
    return [event["sym"] for fields in frames for event in json.loads(fields[b"payload"]) if event["ev"] == "Q"]


async def sockets(mock: RunningMock) -> dict[str, dict[str, int]]:
    """What the provider counted by what clients call themselves: live sockets, and the most at the same time."""
    async with aiohttp.ClientSession() as session, session.get(mock.rest_url + STATE_PATH) as response:
        rows = (await response.json())["clients"]
    return {row["client"].removeprefix("marketswarm/"): row for row in rows}


async def test_every_contract_is_subscribed_once_over_all_shards(start: Start, client: Any, board: int) -> None:
    start("one")
    await wait_until_async(lambda: live(client), "all feeds live")
    await wait_until_async(lambda: sum(one.subscribed for one in options_of(client)) >= board, "all are subscribed")
    assert sum(one.subscribed for one in options_of(client)) == board
    assert {one.missing for one in options_of(client)} == {0}
    await wait_until_async(lambda: len(set(quoted(client))) > board / 2, "their quotes come")


async def test_feeds_spread_over_processes_and_move_within_five_seconds_of_a_death(
    start: Start, client: Any, board: int, mock: RunningMock
) -> None:
    one = start("one")
    await wait_until_async(lambda: len(owners(client)) == 5, "alone it has all")
    start("two")
    three = start("three")
    await wait_until_async(lambda: share(client) == [1, 2, 2] and live(client), "two at most", 30.0)
    victim = one if list(owners(client).values()).count("one") == 2 else three
    await victim.kill()
    died = time.monotonic()
    await wait_until_async(
        lambda: len(owners(client)) == 5 and victim.name not in owners(client).values(), "the others have all"
    )
    assert time.monotonic() - died < 5.0
    await wait_until_async(lambda: live(client), "all live again")
    found = await sockets(mock)
    assert {feed: found[feed]["most"] for feed in FEEDS} == dict.fromkeys(FEEDS, 1)


async def test_a_gap_is_an_event_and_asks_for_a_chain(start: Start, client: Any, board: int) -> None:
    start("one", MASSIVE_WS_CONNECTIONS="1")
    await wait_until_async(lambda: client.xlen(KEYS.gaps_stream("SPX")) == 2, "both feeds start")
    _, gap = client.xrevrange(KEYS.gaps_stream("SPX"), count=1)[0]
    assert set(gap) == {b"feed", b"owner", b"reason", b"since_ts", b"ts"}
    assert (gap[b"owner"], gap[b"reason"]) == (b"one", b"started")
    assert float(gap[b"since_ts"]) <= float(gap[b"ts"]) <= time.time()
    assert client.hget(KEYS.job("SPX"), "again") == client.hget(KEYS.job("NDX"), "again") == b"gap"


async def test_what_one_connection_cannot_carry_is_told(
    start: Start, client: Any, board: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = partial(Feed, limit=100, border=5)
    monkeypatch.setattr(ingestion_module, "Feed", narrow)
    start("one", MASSIVE_WS_CONNECTIONS="1")
    await wait_until_async(lambda: [one.subscribed for one in options_of(client)] == [100], "as many as it may")
    assert [one.unsubscribed for one in options_of(client)] == [board - 100]


async def test_counts_of_requests_and_frames_are_told(start: Start, client: Any, board: int) -> None:
    def number(stat: Stat, name: str) -> int:
        return int(client.hget(KEYS.analytics(stat, "SPX"), name) or 0)

    start("one", MASSIVE_WS_CONNECTIONS="1", MASSIVE_CHAIN_NUM_EXPIRATIONS="1")
    for symbol in ("SPX", "NDX"):
        client.hset(KEYS.job(symbol), mapping={"ticket": 1, "last_ticket": 1})
        client.xadd(KEYS.jobs_stream(symbol), encode(ChainFetch(symbol, 1, "interval")))
    await wait_until_async(lambda: number(Stat.CHAIN, "fetches") == 2, "both fetched")
    await wait_until_async(lambda: number(Stat.CHAIN, "requests") >= 8, "requests are counted")
    await wait_until_async(lambda: number(Stat.CHAIN, "bytes") > 100_000, "and what they brought")
    await wait_until_async(lambda: number(Stat.WS, "appended") > 0, "frames are counted")
    frames, appended = client.hmget(KEYS.analytics(Stat.WS, "SPX"), "frames", "appended")  # at one moment
    assert int(frames) >= int(appended)
    assert sum(number(Stat.CHAIN, f"latency_le_{bound}") for bound in ("0.25", "0.5", "1", "2", "5", "10")) == 2


async def test_a_staging_that_is_away_makes_feeds_conflate_and_health_says_so(
    start: Start, client: Any, board: int
) -> None:
    start("one", MASSIVE_WS_CONNECTIONS="1", MARKETSWARM_STREAM_HIGH_WATER="100")
    stream, analytics = KEYS.ws_stream("SPX"), KEYS.analytics(Stat.WS, "SPX")
    told = [("conflating", f"feed {feed}:0 conflating: readers of its frames lag") for feed in ("indices", "options")]
    await wait_until_async(
        lambda: set(told) <= set(feed_signals(client.hgetall(analytics), time.time())), "both conflate"
    )
    held = client.xlen(stream)
    await wait_until_async(lambda: int(client.hget(analytics, "conflated") or 0) > 2000, "events give way", 30.0)
    assert client.xlen(stream) == held >= 100  # of all that came meanwhile nothing was appended
    client.xtrim(stream, maxlen=0)  # staging is back and has read everything
    back = time.monotonic()
    await wait_until_async(lambda: len(quoted(client, conflated=True)) > board / 2, "the newest events come")
    assert time.monotonic() - back < 3.0
    found = quoted(client, conflated=True)
    assert len(set(found)) == len(found)  # each contract that was quoted meanwhile, once


async def test_fetches_spread_over_processes(start: Start, client: Any, board: int) -> None:
    both = [start(name, MASSIVE_WS_CONNECTIONS="0", MASSIVE_CHAIN_NUM_EXPIRATIONS="1") for name in ("one", "two")]
    consumers = KEYS.jobs_stream("SPX"), "massive"
    await wait_until_async(lambda: client.exists(consumers[0]) and len(client.xinfo_consumers(*consumers)) == 2, "both")
    for ticket in range(1, 5):
        for symbol in ("SPX", "NDX"):
            client.hset(KEYS.job(symbol), mapping={"ticket": ticket, "last_ticket": ticket})
            client.xadd(KEYS.jobs_stream(symbol), encode(ChainFetch(symbol, ticket, "interval")))
        done = 2 * ticket
        await wait_until_async(
            lambda: int(client.hget(KEYS.analytics(Stat.CHAIN, "SPX"), "fetches") or 0) == done,  # noqa: B023
            "both fetched",
        )
    await wait_until_async(lambda: sum(process.runners[0].activity.entries for process in both) == 8, "all counted")
    assert min(process.runners[0].activity.entries for process in both) >= 2


async def test_the_key_is_nowhere_in_the_server(start: Start, client: Any, board: int) -> None:
    start("one", MASSIVE_WS_CONNECTIONS="1")
    await wait_until_async(lambda: client.xlen(KEYS.ws_stream("SPX")) > 20, "it runs")
    for key in client.scan_iter():
        blob = client.dump(key) or b""  # some live for seconds only
        assert KEY.encode() not in blob and KEY.encode() not in key


async def test_etfs_and_stocks_need_no_indices_feed_and_take_their_spot_from_the_chain(
    start: Start, client: Any, tmp_path: Path
) -> None:
    options = MockOptions(port=0, symbols=("SPY", "AAPL"), contracts=400, data=tmp_path / "etf", key=KEY)
    async with serving(options) as mock:
        urls = {"MASSIVE_REST_URL": mock.rest_url, "MASSIVE_WS_URL": mock.ws_url}
        start("one", **urls, MASSIVE_SYMBOLS="SPY,AAPL", MASSIVE_CHAIN_NUM_EXPIRATIONS="2", MASSIVE_WS_CONNECTIONS="1")
        for symbol in ("SPY", "AAPL"):
            client.hset(KEYS.job(symbol), mapping={"ticket": 1, "last_ticket": 1})
            client.xadd(KEYS.jobs_stream(symbol), encode(ChainFetch(symbol, 1, "interval")))
        await wait_until_async(lambda: client.xlen(KEYS.chain_stream("SPY")) == 2, "both fetched", 20.0)
        for _, fields in client.xrange(KEYS.chain_stream("SPY")):
            told = json.loads(fields[b"data"])
            assert len(told["received"]) == 2 and told["failed"] == []
            spot = json.loads(client.get(KEYS.spot(told["symbol"])))
            assert spot["value"] == pytest.approx(mock.provider.market.spot(told["symbol"]), rel=0.01)

        async def connected() -> bool:
            return set(await sockets(mock)) == {"options:0"}

        await wait_until_async(connected, "one socket, of options")


async def test_partitions_share_the_sockets_of_the_key(start: Start, client: Any, mock: RunningMock) -> None:
    """One option socket and one for indices over both partitions; each has its own frames, gaps and reports."""
    keys = Keys(partitioned=True)
    contracts = mock.provider.market.listing.contracts
    for symbol, roots in (("SPX", ("SPX", "SPXW")), ("NDX", ("NDX", "NDXP"))):
        rows = [listing(one.type, one.strike, one.root, one.expiration) for one in contracts if one.root in roots]
        epoch = keys.epoch_id(symbol, 1_768_500_000, "1f3a" * 16)
        client.set(keys.listing(epoch), build_geometry(symbol, rows).encode(), px=600_000)
        client.hset(keys.active(symbol), symbol, epoch)
    start("one", MASSIVE_WS_CONNECTIONS="1", MARKETSWARM_PARTITIONED="true")
    for symbol in ("SPX", "NDX"):
        await wait_until_async(lambda: client.xlen(keys.ws_stream(symbol)) > 20, "frames")  # noqa: B023 (awaited at once)
        await wait_until_async(lambda: client.xlen(keys.gaps_stream(symbol)) == 2, "gaps")  # noqa: B023
        assert client.hget(keys.job(symbol), "again") == b"gap"
        analytics = keys.analytics(Stat.WS, symbol)
        await wait_until_async(
            lambda: len(fresh_reports(client.hgetall(analytics), time.time())) == 2,  # noqa: B023
            "reports",
        )
        names = {event.get("sym") or event["T"] for _, fields in client.xrange(keys.ws_stream(symbol))
                 for event in json.loads(fields[b"payload"])}  # fmt: skip
        assert {name[2:5] for name in names} == {symbol}
    assert {feed: row["most"] for feed, row in (await sockets(mock)).items()} == {"options:0": 1, "indices:0": 1}


async def test_a_capture_has_the_pages_and_frames_of_every_partition(
    start: Start, client: Any, mock: RunningMock, settings_for: Callable[..., Settings]
) -> None:
    keys = Keys(partitioned=True)
    client.set(keys.lease(CAPTURE, "SPX"), "a capture", px=60_000)
    start("one", MASSIVE_WS_CONNECTIONS="1", MARKETSWARM_PARTITIONED="true", MASSIVE_CHAIN_NUM_EXPIRATIONS="1")

    def recorded() -> list[dict[bytes, bytes]]:
        return [fields for _, fields in client.xrange(keys.capture_stream("SPX"))]

    await wait_until_async(lambda: any(one[b"kind"] == b"frame" for one in recorded()), "frames of the indices feed")
    for symbol in ("SPX", "NDX"):
        client.hset(keys.job(symbol), mapping={"ticket": 1, "last_ticket": 1})
        client.xadd(keys.jobs_stream(symbol), encode(ChainFetch(symbol, 1, "interval")))
    for symbol in ("SPX", "NDX"):
        path = f"/v3/snapshot/options/I:{symbol}?".encode()
        await wait_until_async(lambda: any(one.get(b"path", b"").startswith(path) for one in recorded()), symbol)  # noqa: B023
    assert not client.exists(keys.capture_stream("NDX"))


# --- the request budget


@pytest.fixture
async def broker(redis_url: str) -> AsyncIterator[Broker]:
    """A connection of its own."""
    found = Broker(redis_url, "massive", "one", KEYS.cursor("massive", "SPX"))
    yield found
    await found.close()


async def test_no_window_ever_sees_more_requests_than_the_budget(broker: Broker) -> None:
    taken: list[tuple[float, float]] = []  # each of them between these two moments
    while len(taken) < 10:
        asked = time.monotonic()
        wait_s = await broker.reserve(KEYS.requests(), 3, 400)
        if wait_s:
            await asyncio.sleep(wait_s)
        else:
            taken.append((asked, time.monotonic()))
    assert taken[2][1] - taken[0][0] < 0.3  # the first go at once
    for (first, _), (_, fourth) in zip(taken, taken[3:], strict=False):
        assert fourth - first > 0.399  # the server's clock ticks in ms


async def test_who_wakes_up_late_does_not_send_beside_those_who_come_after(broker: Broker) -> None:
    """A slot is given when it is taken, not in advance: then a sleeper would make two of a window."""
    assert await broker.reserve(KEYS.requests(), 1, 300) == 0.0
    await asyncio.sleep(await broker.reserve(KEYS.requests(), 1, 300) + 0.4)  # too late by more than a window
    assert await broker.reserve(KEYS.requests(), 1, 300) == 0.0
    assert await broker.reserve(KEYS.requests(), 1, 60_000) > 30.0  # of a window so long, for whoever looks late


async def test_a_hold_is_seen_by_who_waits_already(broker: Broker) -> None:
    budget = RequestBudget(broker, KEYS.requests(), 0)
    await budget.hold(0.6)
    waiting, started = asyncio.create_task(budget.wait()), time.monotonic()
    await asyncio.sleep(0.05)
    await budget.hold(0.9)
    await waiting
    assert time.monotonic() - started >= 0.9


async def test_the_budget_is_shared_and_a_hold_is_everybody_s(broker: Broker, redis_url: str) -> None:
    other = Broker(redis_url, "massive", "two", KEYS.cursor("massive", "SPX"))
    assert await broker.reserve(KEYS.requests(), 1, 60_000) == 0.0
    assert 59.0 < await other.reserve(KEYS.requests(), 1, 60_000) <= 60.0
    unlimited = [RequestBudget(one, "massive:test:requests", 0) for one in (broker, other)]
    assert await broker.reserve("massive:test:requests", MOST_REQUESTS_PER_S, 1000) == 0.0
    started = time.monotonic()
    await unlimited[0].hold(0.3)
    await unlimited[1].wait()
    assert time.monotonic() - started >= 0.3
    await other.close()


async def test_without_a_budget_the_provider_still_sees_fewer_than_a_hundred_a_second(broker: Broker) -> None:
    budget, started = RequestBudget(broker, KEYS.requests(), 0), time.monotonic()
    await asyncio.gather(*(budget.wait() for _ in range(MOST_REQUESTS_PER_S + 5)))
    assert time.monotonic() - started >= 0.99
    assert MOST_REQUESTS_PER_S < 100


async def test_with_a_small_budget_fetches_are_slow_and_whole(
    start: Start, client: Any, board: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five calls a minute, the minute shortened to a second, shared by two processes."""
    monkeypatch.setattr(ingestion_module, "BUDGET_WINDOW_MS", 1000)
    for name in ("one", "two"):
        start(name, MASSIVE_WS_CONNECTIONS="0", MASSIVE_CHAIN_NUM_EXPIRATIONS="2", MASSIVE_REQUESTS_PER_MINUTE="5")
    begun = time.monotonic()
    for symbol in ("SPX", "NDX"):
        client.hset(KEYS.job(symbol), mapping={"ticket": 1, "last_ticket": 1})
        client.xadd(KEYS.jobs_stream(symbol), encode(ChainFetch(symbol, 1, "interval")))
    await wait_until_async(lambda: client.xlen(KEYS.chain_stream("SPX")) == 2, "both fetched", 20.0)
    assert time.monotonic() - begun > 1.5
    for _, fields in client.xrange(KEYS.chain_stream("SPX")):
        told = json.loads(fields[b"data"])
        assert len(told["requested"]) == len(told["received"]) == 2 and told["failed"] == []
    analytics = KEYS.analytics(Stat.CHAIN, "SPX")
    await wait_until_async(lambda: int(client.hget(analytics, "requests") or 0) >= 12, "requests are counted")
    counts = client.hgetall(analytics)
    assert int(counts[b"budget_wait_ms"]) > 1000
    assert not [name for name in counts if name.startswith((b"fault_", b"failed_"))]


def test_five_calls_a_minute_stay_five_even_when_they_arrive_late() -> None:
    assert BUDGET_WINDOW_MS > 60_000
