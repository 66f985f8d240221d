"""The massive stage with its effects: the provider's REST client, fetch jobs, and the sockets it may own."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain, zip_longest
from types import TracebackType

from consumers.broker import Broker
from consumers.lease import while_owned
from contracts.commit import Commit, Count, SetFields
from contracts.errors import FatalError, TransientError
from contracts.geometry import Listing, decode_geometry
from contracts.keys import Keys, Stat
from contracts.ports import GetFields, GetValue
from contracts.settings import Settings
from contracts.stage import Stage
from contracts.symbology import INDEX_SYMBOLS
from contracts.topology import StageName
from stages.massive.feed import Feed
from stages.massive.fetch import FetchSettings, massive_source
from stages.massive.rest import ProviderClient, open_session
from stages.massive.window import WindowSettings, nearest_first

ALL = 2**31  # the feed cuts, and counts what it cuts
MAX_QUOTES = 950  # subscriptions of one connection; the provider refuses above about 1,000

Work = Callable[[asyncio.Event], Awaitable[None]]


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
        self._broker = broker_for(symbols[0])
        self._broker_for = broker_for
        self._session = open_session()
        self._listings: dict[str, tuple[Listing, ...]] = {}

    async def __aenter__(self) -> Stage:
        """The stage: fetch jobs."""
        settings = self._settings
        client = ProviderClient(settings.massive_rest_url, self._key, self._session)
        # a journal keeps its inputs: snapshots must be there when they are folded
        ttl_ms = 0 if settings.marketswarm_journal else settings.massive_chain_snapshot_ttl * 1000
        fetch = FetchSettings(
            settings.massive_chain_num_expirations,
            settings.massive_chain_interval_sec,
            settings.massive_chain_interval_closed_sec,
            ttl_ms,
            WindowSettings(settings.massive_chain_sigma, settings.massive_chain_window_points),
        )
        return Stage(StageName.MASSIVE, (massive_source(self._keys, self._symbols[0], client, fetch, self._progress),))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    def work(self) -> list[Work]:
        """The sockets: one owner each over all massive processes."""
        found: list[Work] = []
        if self._settings.massive_ws_connections:
            found.append(self._owned("options", self._wanted_options, self._settings.massive_ws_topics))
        if any(symbol in INDEX_SYMBOLS for symbol in self._symbols):
            found.append(self._owned("indices", self._wanted_indices, ("V",)))
        return found

    def _owned(self, cluster: str, wanted: Callable[[], Awaitable[Sequence[str]]], topics: tuple[str, ...]) -> Work:
        broker = self._broker_for(self._symbols[0])
        feed = Feed(
            cluster,
            self._settings.massive_ws_url,
            self._key,
            self._session,
            broker,
            self._keys.ws_stream(self._symbols[0]),
            wanted,
            self._gap,
            topics=topics,
            limit=MAX_QUOTES,
        )
        lease = self._keys.lease(f"feed:{cluster}:0", self._symbols[0])

        async def work(stop: asyncio.Event) -> None:
            await while_owned(broker, lease, feed.run, stop)

        return work

    # --- what to subscribe

    async def _wanted_options(self) -> Sequence[str]:
        """Contracts of the active epochs, nearest to spot first; symbols take turns within the limit."""
        per_symbol = [await self._nearest(symbol) for symbol in self._symbols]
        turns = chain.from_iterable(zip_longest(*per_symbol))
        return [cid for cid in turns if cid is not None]

    async def _nearest(self, symbol: str) -> list[str]:
        active, spot = await self._broker.read(GetFields(self._keys.active(symbol)), GetValue(self._keys.spot(symbol)))
        assert isinstance(active, dict)
        epoch = active.get(symbol.encode(), b"").decode()
        value = json.loads(spot)["value"] if isinstance(spot, bytes) else None
        return nearest_first(await self._listed(epoch), value, ALL)

    async def _listed(self, epoch: str) -> tuple[Listing, ...]:
        if epoch and epoch not in self._listings:
            (blob,) = await self._broker.values(self._keys.listing(epoch))
            if blob is None:
                # not "nothing wanted": the feed keeps what it has until the board is back
                raise TransientError(f"epoch {epoch} has lost its listing")
            while len(self._listings) >= 2 * len(self._symbols):
                del self._listings[next(iter(self._listings))]
            geometry = decode_geometry(blob)
            self._listings[epoch] = tuple(row for plane in geometry.planes for row in plane.rows)
        return self._listings.get(epoch, ())

    async def _wanted_indices(self) -> Sequence[str]:
        return [f"I:{symbol}" for symbol in self._symbols if symbol in INDEX_SYMBOLS]

    # --- what is told

    async def _progress(self, symbol: str) -> None:
        await self._broker.set_field(self._keys.job(symbol), "progress_ts", repr(time.time()).encode())

    async def _gap(self, reason: str, seconds: float) -> None:
        """An interruption of a feed: counted, and a chain asked for, which brings what was missed."""
        analytics = self._keys.analytics(Stat.WS, self._symbols[0])
        again = tuple(SetFields(self._keys.job(symbol), {"again": "gap"}) for symbol in self._symbols)
        facts = SetFields(analytics, {"last_gap": reason, "last_gap_s": round(seconds, 3), "last_gap_ts": time.time()})
        await self._broker.commit(Commit(writes=(Count(analytics, {"gaps": 1}), facts, *again)))
