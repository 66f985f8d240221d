"""The massive stage with its effects: the provider's REST client, fetch jobs, and the sockets it may own."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain, zip_longest
from types import TracebackType

from consumers.broker import Broker
from consumers.lease import Share, while_owned
from contracts.clock import MarketClock, decode_clock
from contracts.commit import Commit, Count, Emit, Scalar, SetFields
from contracts.errors import DataError, FatalError, TransientError
from contracts.feed_report import INDICES, OPTIONS, FeedReport, encode_report, feed_name, gaps_field, report_field
from contracts.geometry import Listing, decode_geometry
from contracts.keys import Keys, Stat
from contracts.ports import GetFields, GetValue
from contracts.settings import Settings
from contracts.stage import Stage
from contracts.symbology import INDEX_SYMBOLS
from contracts.topology import StageName
from ops.recording import Recording
from stages.massive.feed import Feed, Wanted
from stages.massive.fetch import FetchSettings, massive_source
from stages.massive.high_water import HighWater
from stages.massive.outbox import FrameRecorder, Outbox, Sink
from stages.massive.rest import ProviderClient, RestActivity, open_session
from stages.massive.split import SplitOutbox
from stages.massive.window import WindowSettings, nearest_first, shard_of

ALL = 2**31  # the feed cuts, and counts what it cuts
RANK_EVERY_S = 2.0  # contracts by their distance from the spot: it moves, the border of a feed is wider
REPORT_EVERY_S = 1.0
AWAY_MS = 3000  # a consumer that has not asked for work for so long has no share of the feeds
GAPS_KEPT = 1000
BUDGET_WINDOW_MS = 61_000  # a minute, and a second for requests that take long to arrive
MOST_REQUESTS_PER_S = 90  # without a budget; the provider wants to see fewer than 100

Work = Callable[[asyncio.Event], Awaitable[None]]


class RequestBudget:
    """The REST requests of all consumers together: `per_minute` of them (0: MOST_REQUESTS_PER_S), none while held."""

    def __init__(self, broker: Broker, key: str, per_minute: int) -> None:
        self._broker = broker
        self._key = key
        self._slots = (per_minute, BUDGET_WINDOW_MS) if per_minute else (MOST_REQUESTS_PER_S, 1000)

    async def wait(self) -> None:
        """Return when one more request may be sent."""
        wait_s = await self._broker.reserve(self._key, *self._slots)
        while wait_s:
            await asyncio.sleep(wait_s)
            wait_s = await self._broker.reserve(self._key, *self._slots)

    async def hold(self, seconds: float) -> None:
        """The provider wants nobody to ask for so long."""
        hold_ms = max(1, round(seconds * 1000))
        await self._broker.reserve(self._key, *self._slots, hold_ms)


class Ingestion:
    """Everything of the massive stage that touches the provider, for one partition. Enter it to get the stage."""

    def __init__(
        self, settings: Settings, keys: Keys, symbols: tuple[str, ...], broker_for: Callable[[str], Broker]
    ) -> None:
        if not settings.massive_api_key:
            raise FatalError("MASSIVE_API_KEY is not set: the massive stage cannot ask the provider")
        self._settings = settings
        self._key = settings.massive_api_key
        self._keys = keys
        self._symbols = symbols
        # sockets are few and belong to the key: where symbols have partitions, the first one's feeds serve all
        partitioned = settings.marketswarm_partitioned
        is_first = symbols[0] == settings.massive_symbols[0]
        self._fed = settings.massive_symbols if partitioned and is_first else () if partitioned else symbols
        self._broker = broker_for(symbols[0])
        self._session = open_session()
        # there is one capture of all partitions
        self._recording = Recording(self._broker, keys, settings.massive_symbols[0])
        self._budget = RequestBudget(self._broker, keys.requests(), settings.massive_requests_per_minute or 0)
        self._client: ProviderClient | None = None
        self._clock: MarketClock | None = None
        self._listings: dict[str, tuple[Listing, ...]] = {}
        self._ranked: list[list[str]] = []  # per option feed, most wanted first
        self._ranked_at = float("-inf")
        self._ranked_epochs: tuple[str, ...] = ()

    async def __aenter__(self) -> Stage:
        """The stage: fetch jobs."""
        settings = self._settings
        client = self._client = ProviderClient(
            settings.massive_rest_url,
            self._key,
            self._session,
            budget=self._budget,
            recorder=self._recording.page,
        )
        # a journal keeps its inputs: snapshots must be there when they are folded
        ttl_ms = 0 if settings.marketswarm_journal else settings.massive_chain_snapshot_ttl * 1000
        fetch = FetchSettings(
            settings.massive_chain_num_expirations,
            settings.massive_chain_interval_sec,
            settings.massive_chain_interval_closed_sec,
            ttl_ms,
            WindowSettings(
                settings.massive_chain_sigma, settings.massive_chain_window_points, settings.massive_chain_fallback_iv
            ),
            budgeted=settings.massive_requests_per_minute is not None,
        )
        return Stage(StageName.MASSIVE, (massive_source(self._keys, self._symbols[0], client, fetch, self._progress),))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    def work(self) -> list[Work]:
        """The sockets, one owner each over all massive processes, and what is told about all this."""
        shards = self._settings.massive_ws_connections
        topics = self._settings.massive_ws_topics
        self._ranked = [[] for _ in range(shards)]
        found: list[Work] = [self._recording.work, self._tell_requests]
        if not self._fed:
            return found
        feeds = [self._feed(OPTIONS, shard, partial(self._wanted_options, shard), topics) for shard in range(shards)]
        if any(symbol in INDEX_SYMBOLS for symbol in self._fed):
            feeds.append(self._feed(INDICES, 0, self._wanted_indices, ("V",)))
        share = Share(len(feeds), self._count_processes)
        return [*found, *(partial(self._own, feed, share) for feed in feeds)]

    @property
    def _partitions(self) -> tuple[str, ...]:
        """A symbol of each partition that our feeds serve."""
        return self._fed if self._settings.marketswarm_partitioned else self._symbols[:1]

    # --- the sockets

    def _feed(self, cluster: str, shard: int, wanted: Wanted, topics: tuple[str, ...]) -> Feed:
        settings, name = self._settings, feed_name(cluster, shard)
        recorder = self._recording.of_feed(name)
        outbox: Sink
        if settings.marketswarm_partitioned:
            outbox = SplitOutbox({symbol: self._outbox(symbol) for symbol in self._fed}, recorder)
        else:
            outbox = self._outbox(self._symbols[0], recorder)
        return Feed(
            cluster,
            settings.massive_ws_url,
            self._key,
            self._session,
            outbox,
            wanted,
            partial(self._gap, name),
            shard=shard,
            topics=topics,
            clock=lambda: self._clock,
        )

    def _outbox(self, symbol: str, recorder: FrameRecorder | None = None) -> Outbox:
        settings, stream = self._settings, self._keys.ws_stream(symbol)
        trimmed = not settings.marketswarm_journal
        return Outbox(
            self._broker,
            stream,
            waiting=partial(self._broker.waiting, stream, StageName.STAGING, trimmed=trimmed),
            high_water=HighWater(
                settings.marketswarm_stream_high_water,
                settings.marketswarm_stream_high_water_bytes,
                settings.marketswarm_stream_high_water_sec,
            ),
            recorder=recorder,
        )

    async def _own(self, feed: Feed, share: Share, stop: asyncio.Event) -> None:
        """Run the feed whenever its lease is ours."""
        lease = self._keys.lease(f"feed:{feed.name}", self._symbols[0])
        told = FeedCounts(feed)

        async def run(stop: asyncio.Event) -> None:
            report = asyncio.create_task(self._report(feed, told))
            try:
                await feed.run(stop)
            finally:
                report.cancel()
                await asyncio.gather(report, return_exceptions=True)

        await while_owned(self._broker, lease, run, stop, share)

    async def _count_processes(self) -> int:
        return await self._broker.live_consumers(self._keys.jobs_stream(self._symbols[0]), AWAY_MS)

    # --- what to subscribe

    async def _wanted_options(self, shard: int) -> Sequence[str]:
        """Contracts of the active epochs that this shard carries, nearest to spot first; symbols take turns."""
        now = asyncio.get_running_loop().time()
        epochs = tuple([await self._active(symbol) for symbol in self._fed])
        if epochs != self._ranked_epochs or now - self._ranked_at >= RANK_EVERY_S:
            per_symbol = [await self._nearest(symbol, epoch) for symbol, epoch in zip(self._fed, epochs, strict=True)]
            ranked: list[list[str]] = [[] for _ in self._ranked]
            for cid in chain.from_iterable(zip_longest(*per_symbol)):
                if cid is not None:
                    ranked[shard_of(cid, len(ranked))].append(cid)
            self._ranked, self._ranked_epochs, self._ranked_at = ranked, epochs, now
        return self._ranked[shard]

    async def _active(self, symbol: str) -> str:
        (active,) = await self._broker.read(GetFields(self._keys.active(symbol)))
        assert isinstance(active, dict)
        epoch: str = active.get(symbol.encode(), b"").decode()
        return epoch

    async def _nearest(self, symbol: str, epoch: str) -> list[str]:
        (spot,) = await self._broker.values(self._keys.spot(symbol))
        value = json.loads(spot)["value"] if spot else None
        return nearest_first(await self._listed(epoch), value, ALL)

    async def _listed(self, epoch: str) -> tuple[Listing, ...]:
        if epoch and epoch not in self._listings:
            (blob,) = await self._broker.values(self._keys.listing(epoch))
            if blob is None:
                # not "nothing wanted": the feed keeps what it has until the board is back
                raise TransientError(f"epoch {epoch} has lost its listing")
            while len(self._listings) >= 2 * len(self._fed):
                del self._listings[next(iter(self._listings))]
            geometry = decode_geometry(blob)
            self._listings[epoch] = tuple(row for plane in geometry.planes for row in plane.rows)
        return self._listings.get(epoch, ())

    async def _wanted_indices(self) -> Sequence[str]:
        return [f"I:{symbol}" for symbol in self._fed if symbol in INDEX_SYMBOLS]

    # --- what is told

    async def _progress(self, symbol: str) -> None:
        await self._broker.set_field(self._keys.job(symbol), "progress_ts", repr(time.time()).encode())

    async def _gap(self, feed: str, reason: str, seconds: float) -> None:
        """An interruption of a feed: recorded, counted, and a chain asked for, which brings what was missed."""
        now = time.time()
        event: dict[str, Scalar] = {"feed": feed, "owner": self._broker.consumer, "reason": reason}
        event |= {"since_ts": now - seconds, "ts": now}
        facts: dict[str, Scalar] = {"last_gap": reason, "last_gap_s": round(seconds, 3), "last_gap_ts": now}
        for partition in self._partitions:
            analytics = self._keys.analytics(Stat.WS, partition)
            fed = (partition,) if self._settings.marketswarm_partitioned else self._fed
            again = tuple(SetFields(self._keys.job(symbol), {"again": "gap"}) for symbol in fed)
            record = Emit(self._keys.gaps_stream(partition), event, keep=GAPS_KEPT)
            counted = (Count(analytics, {"gaps": 1, gaps_field(feed): 1}), SetFields(analytics, facts))
            await self._broker.commit(Commit(writes=(*counted, record, *again)))

    async def _report(self, feed: Feed, told: FeedCounts) -> None:
        """Once a second, how a feed of ours stands and what it did since; and look at the market clock for it."""
        while True:
            with suppress(TransientError, DataError):
                (clock,) = await self._broker.read(GetValue(self._keys.clock(self._symbols[0])))
                self._clock = decode_clock(clock) if isinstance(clock, bytes) else None
                report = encode_report(report_of(feed, self._broker.consumer, time.time()))
                counts = told.since_last()
                for partition in self._partitions:
                    analytics = self._keys.analytics(Stat.WS, partition)
                    facts = SetFields(analytics, {report_field(feed.name): report})
                    counted = (Count(analytics, counts),) if counts else ()
                    await self._broker.commit(Commit(writes=(facts, *counted)))
            await asyncio.sleep(REPORT_EVERY_S)

    async def _tell_requests(self, stop: asyncio.Event) -> None:
        """Once a second, what the REST client did: also of fetches that brought nothing."""
        analytics = self._keys.analytics(Stat.CHAIN, self._symbols[0])
        while not stop.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), REPORT_EVERY_S)
            if self._client is None or not (counts := self._client.activity.counts()):
                continue
            self._client.activity = RestActivity()
            with suppress(TransientError):
                await self._broker.commit(Commit(writes=(Count(analytics, counts),)))


class FeedCounts:
    """What a feed has counted since it was last told."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._told: dict[str, int] = {}

    def since_last(self) -> dict[str, int]:
        """By name, what is not zero; taken as told: telling twice is worse than telling once too few."""
        outbox, activity = self._feed.outbox.activity, self._feed.activity
        now = {name: getattr(outbox, name) for name in ("frames", "bytes", "appended", "conflated", "dropped")}
        now |= {"connections": activity.connections, "refusals": activity.refusals}
        added = {name: value - self._told.get(name, 0) for name, value in now.items()}
        self._told = now
        return {name: value for name, value in added.items() if value}


def report_of(feed: Feed, owner: str, now_ts: float) -> FeedReport:
    """How a feed stands."""
    activity = feed.activity
    return FeedReport(
        feed=feed.name,
        owner=owner,
        ts=now_ts,
        state=activity.state,
        reason=activity.reason,
        delayed=activity.delayed,
        late=activity.is_late,
        lag_s=None if activity.lag_s is None else round(activity.lag_s, 3),
        conflating=feed.outbox.activity.conflating,
        contracts=activity.contracts,
        subscribed=activity.subscribed,
        missing=activity.missing,
        unsubscribed=activity.unsubscribed,
        refusal=activity.refusal,
        last_frame_ts=activity.last_frame_ts,
    )
