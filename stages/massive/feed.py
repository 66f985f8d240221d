"""The provider over WebSocket: one connection of one cluster, its raw frames handed on untouched.

Tasks of their own, so that reading never waits: the reader puts frames with their receive time into the outbox, the
subscriber keeps the subscriptions equal to what is wanted, the watcher looks at silence and lag. The caller runs a
`Feed` only while it holds its lease and cancels it when the lease is lost.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import aiohttp
import msgspec
import structlog
from yarl import URL

from contracts.clock import LOCAL, MarketClock
from contracts.errors import FatalError, TransientError
from contracts.feed_report import feed_name
from stages.massive.conflation import newest_event_time
from stages.massive.connection import Connection, Ended, Off, tickers_of
from stages.massive.outbox import Sink
from stages.massive.rows import seconds
from stages.massive.window import steady_selection

log = structlog.get_logger("feed")

MAX_QUOTES = 950  # the provider refuses a whole frame beyond 1,000 contracts
BORDER_QUOTES = 95  # ranks around the last one within which what is subscribed stays
MAX_PARAMETERS = 200  # of one subscribe frame
LONGEST_BACKOFF_S = 30.0
MAX_FRAME_BYTES = 16 * 2**20
UNDISTURBED_S = 600.0  # of data: then nobody else uses the key any more
MOST_DOUBLINGS = 4  # of the cooldown
LATE_S = 5.0  # lag that is told
DELAYED_S = 600.0  # a feed so far behind is delayed by plan, not by accident
SILENT_STALLS = 10  # times the stall: then a connection without any data is tried anew, in case it is its own fault
LAG_SAMPLES = 3  # the least of so many counts: a single late event is no lag

CONNECTING, LIVE, SILENT, COOLING, STAYS_OFF = "connecting", "live", "silent", "cooling", "off"

Wanted: TypeAlias = "Callable[[], Awaitable[Sequence[str]]]"
Gap: TypeAlias = "Callable[[str, float], Awaitable[None]]"
Clock: TypeAlias = "Callable[[], MarketClock | None]"  # None: not known yet


@dataclass(frozen=True, slots=True)
class FeedTimings:
    """Seconds. `stable`: data for so long makes the next backoff small again. `stall`: silence after data."""

    poll: float = 0.5
    connect: float = 10.0
    authenticate: float = 10.0
    acknowledge: float = 5.0
    again: float = 60.0  # then what was refused or not answered is asked for once more
    heartbeat: float = 15.0
    stall: float = 30.0
    stable: float = 30.0
    backoff: float = 0.5
    cooldown: float = 60.0  # after max_connections: somebody else uses this key
    farewell: float = 2.0  # after the provider said that it ends; then we do
    close: float = 0.5


@dataclass
class FeedActivity:
    """What this feed did and how it stands; for analytics, probes and the heartbeat. Local facts, not state."""

    state: str = CONNECTING  # live, silent (subscribed, no data), cooling (somebody else has our key), off
    reason: str = ""  # of the last interruption, or why it is silent or off
    connections: int = 0
    gaps: int = 0
    refusals: int = 0  # `error` statuses
    refusal: str = ""  # the words of the last one
    contracts: int = 0  # acknowledged on at least one topic
    subscribed: int = 0  # acknowledged pairs
    missing: int = 0  # pairs asked for and not acknowledged
    unsubscribed: int = 0  # wanted contracts beyond what one connection carries
    last_frame_ts: float = 0.0
    lag_s: float | None = None  # receive time minus event time of the newest events
    delayed: bool = False  # by plan: then the lag tells nothing
    samples: deque[float] = field(default_factory=lambda: deque(maxlen=LAG_SAMPLES), repr=False)

    def note_lag(self, lag_s: float) -> None:
        """One more sample of the lag."""
        self.samples.append(lag_s)
        self.lag_s = min(self.samples)

    @property
    def is_late(self) -> bool:
        """Data comes later than it should: the connection is too slow for it."""
        return not self.delayed and len(self.samples) == LAG_SAMPLES and (self.lag_s or 0.0) > LATE_S


class Feed:
    """One connection to `{ws_url}/{cluster}`, kept up until stopped; frames go to `outbox`.

    `wanted()` gives tickers, most wanted first; each is subscribed on every topic, `limit` of them: those within
    `border` ranks of the last stay as they are, so that the spot may move. `gap(reason, seconds)` is told after each
    interruption (a start counts as one), once subscriptions are back. `shard` is the number of this connection among
    those of its cluster. FatalError when the key is refused.
    """

    def __init__(
        self,
        cluster: str,
        ws_url: str,
        api_key: str,
        session: aiohttp.ClientSession,
        outbox: Sink,
        wanted: Wanted,
        gap: Gap,
        *,
        shard: int = 0,
        topics: Sequence[str] = ("Q",),
        limit: int = MAX_QUOTES,
        border: int = BORDER_QUOTES,
        clock: Clock = lambda: LOCAL,
        timings: FeedTimings | None = None,
    ) -> None:
        self.name = feed_name(cluster, shard)
        self.activity = FeedActivity()
        self.outbox = outbox
        self._cluster = cluster
        self._url = _feed_url(ws_url, cluster)
        self._key = api_key
        self._session = session
        self._wanted = wanted
        self._gap = gap
        self._topics = tuple(topics)
        self._limit = limit
        self._border = border
        self._clock = clock
        self._timings = timings or FeedTimings()
        self._lost: tuple[str, float] | None = None  # an interruption not yet told: why, and since when
        self._evictions = 0  # in a row
        self._dropped = 0  # frames whose loss is told

    async def run(self, stop: asyncio.Event) -> None:
        """Stay connected until `stop` is set; when cancelled, the socket is closed at once."""
        # what a previous owner received and did not append is lost with it: a start is the end of a gap, too
        self._lost = self._lost or ("started", time.time())
        appender = asyncio.create_task(self.outbox.run(), name=f"feed:{self.name}:outbox")
        connector = asyncio.create_task(self._stay_connected(), name=f"feed:{self.name}")
        stopped = asyncio.create_task(stop.wait())
        tasks = (connector, appender, stopped)
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _cancel(connector, stopped)  # the socket first: the lease may be running out
            await _cancel(appender)
            await self.outbox.drain(self._timings.close)
        for task in done:
            task.result()

    # --- connection

    async def _stay_connected(self) -> None:
        delay = self._timings.backoff
        while True:
            self.activity.state = CONNECTING
            connection = Connection(self.name)
            reason = "let go"  # of the lease; whoever holds it next, we or others, has missed something
            try:
                await self._connected(connection)
            except Ended as ended:
                reason = str(ended)
            except Off as off:
                await self._stay_off(str(off))
            finally:
                if connection.held and self._lost is None:
                    self._lost = (reason, connection.last_ts or time.time())
            delay = self._timings.backoff if connection.steady_s >= self._timings.stable else delay
            pause = max(self._cooling_s(connection), delay * random.uniform(0.5, 1.0))
            self.activity.state, self.activity.reason = COOLING if connection.evicted else CONNECTING, reason
            log.warning("feed_lost", feed=self.name, reason=reason, retry_s=round(pause, 2))
            await asyncio.sleep(pause)
            delay = min(LONGEST_BACKOFF_S, delay * 2)

    def _cooling_s(self, connection: Connection) -> float:
        """How long to leave the key to somebody else who uses it: longer each time, lest two evict each other."""
        if connection.steady_s >= UNDISTURBED_S:
            self._evictions = 0
        if not connection.evicted:
            return 0.0
        self._evictions += 1
        return self._timings.cooldown * 2.0 ** min(self._evictions - 1, MOST_DOUBLINGS)

    async def _connected(self, connection: Connection) -> None:
        """One connection from its handshake to its end; always raises."""
        async with self._socket() as socket:
            self._begin()
            reader = asyncio.create_task(self._read(socket, connection))
            subscriber = asyncio.create_task(self._subscribe(socket, connection))
            watcher = asyncio.create_task(self._watch(connection))
            try:
                await asyncio.wait((reader, subscriber, watcher), return_when=asyncio.FIRST_COMPLETED)
                # what the provider said last (evicted?) may still be on its way to the reader
                await asyncio.wait((reader,), timeout=self._timings.close)
            finally:
                await _cancel(reader, subscriber, watcher)
                self.activity.contracts = self.activity.subscribed = self.activity.missing = 0
            for task in (reader, subscriber, watcher):
                if not task.cancelled():
                    task.result()
        raise Ended("closed")

    def _begin(self) -> None:
        activity = self.activity
        activity.connections += 1
        activity.delayed = (self._url.host or "").startswith("delayed")
        activity.lag_s = None
        activity.samples.clear()

    @asynccontextmanager
    async def _socket(self) -> AsyncIterator[aiohttp.ClientWebSocketResponse[bool]]:
        try:
            async with asyncio.timeout(self._timings.connect):
                socket = await self._session.ws_connect(
                    self._url,
                    headers={"User-Agent": f"marketswarm/{self.name}"},
                    timeout=aiohttp.ClientWSTimeout(ws_close=self._timings.close),
                    heartbeat=self._timings.heartbeat,
                    max_msg_size=MAX_FRAME_BYTES,
                    decode_text=False,
                )
        except TimeoutError:
            raise Ended(f"{self._url.origin()} did not answer within {self._timings.connect:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Ended(f"{self._url.origin()} cannot be reached: {_words(error)}") from None
        try:
            yield socket
        except (aiohttp.ClientError, OSError) as error:
            raise Ended(_words(error)) from None
        finally:
            await socket.close()

    async def _stay_off(self, reason: str) -> None:
        """The pipeline runs on snapshots; asking again would change nothing until the plan does."""
        self.activity.state, self.activity.reason = STAYS_OFF, reason
        log.warning("feed_off", feed=self.name, reason=reason, effect="snapshots only")
        await asyncio.Event().wait()

    # --- reading

    async def _read(self, socket: aiohttp.ClientWebSocketResponse[bool], connection: Connection) -> None:
        """Queue market data, follow statuses. Ends by raising."""
        while True:
            message = await socket.receive()
            now = time.time()
            if message.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                raise connection.ended(_close_reason(socket, message.type, message.data))
            payload: bytes = message.data
            if b'"status"' in payload and self._only_statuses(payload, connection):
                continue
            connection.note_data(now, payload)
            self.activity.last_frame_ts = now
            self.outbox.put(now, payload)

    def _only_statuses(self, payload: bytes, connection: Connection) -> bool:
        """Act on the statuses in a frame; whether it carries nothing else."""
        try:
            events = msgspec.json.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False
        if not isinstance(events, list):
            events = [events]
        statuses = [one for one in events if isinstance(one, dict) and one.get("ev") == "status"]
        for status in statuses:
            connection.take_status(str(status.get("status", "")), self._without_key(str(status.get("message", ""))))
        return len(statuses) == len(events)

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    # --- watching

    async def _watch(self, connection: Connection) -> None:
        """Silence and lag. A socket that carried data and fell silent may be dead above TCP: that ends it."""
        while True:
            await asyncio.sleep(min(0.5, self._timings.stall / 4))
            now_s = time.monotonic()
            if connection.said_goodbye_s and now_s - connection.said_goodbye_s > self._timings.farewell:
                raise connection.ended("told to leave")
            if connection.last_s and now_s - connection.last_s > self._timings.stall:
                raise Ended(f"no data for {now_s - connection.last_s:.0f} s")
            self._note_state(connection, now_s)
            self._note_lag(connection)

    def _note_state(self, connection: Connection, now_s: float) -> None:
        """Live with the first data. Subscribed in an open market and never any data: wrong host for this key, perhaps.

        That is no reason to connect again soon: a quiet contract looks the same.
        """
        if connection.last_s:
            self.activity.state, self.activity.reason = LIVE, ""
            return
        clock = self._clock()
        is_open = clock is None or clock.is_open
        quiet_s = now_s - connection.held_since_s if connection.held_since_s and is_open else 0.0
        if quiet_s > SILENT_STALLS * self._timings.stall:
            raise Ended(f"no data since it was subscribed {quiet_s:.0f} s ago")
        if quiet_s > self._timings.stall and self.activity.state != SILENT:
            self.activity.state = SILENT
            self.activity.reason = "subscribed, but no data comes"
            fix = "a key of a delayed plan needs MASSIVE_WS_URL=wss://delayed.massive.com"
            log.warning("feed_silent", feed=self.name, host=self._url.host, effect="snapshots only", fix=fix)

    def _note_lag(self, connection: Connection) -> None:
        """How far behind the newest frame is. A delayed feed is labelled, and judged by receive time alone."""
        newest, connection.newest = connection.newest, None
        event_ts = seconds(newest_event_time(newest[1])) if newest else None
        clock, was_late = self._clock(), self.activity.is_late
        if newest is None or event_ts is None or clock is None:
            return
        self.activity.note_lag((clock.market_time(newest[0]) - event_ts) / (clock.rate or 1.0))
        if (self.activity.lag_s or 0.0) > DELAYED_S and not self.activity.delayed:
            self.activity.delayed = True
            log.warning("feed_delayed", feed=self.name, lag_s=round(self.activity.lag_s or 0.0, 1))
        if self.activity.is_late != was_late:
            say = log.warning if self.activity.is_late else log.info
            say("feed_late", feed=self.name, late=self.activity.is_late, lag_s=round(self.activity.lag_s or 0.0, 1))

    # --- subscribing

    async def _subscribe(self, socket: aiohttp.ClientWebSocketResponse[bool], connection: Connection) -> None:
        await self._authenticate(socket, connection)
        while True:
            with suppress(TransientError):
                await self._follow(socket, connection, await self._wanted())
                if self._lost is not None and connection.held:
                    await self._tell_gap(*self._lost)
                    self._lost = None
                await self._tell_drops()
            await asyncio.sleep(self._timings.poll)

    async def _authenticate(self, socket: aiohttp.ClientWebSocketResponse[bool], connection: Connection) -> None:
        await socket.send_json({"action": "auth", "params": self._key})
        try:
            async with asyncio.timeout(self._timings.authenticate):
                await connection.authenticated.wait()
        except TimeoutError:
            raise Ended(f"no answer to the login within {self._timings.authenticate:g} s") from None
        log.info("feed_connected", feed=self.name)

    async def _follow(
        self, socket: aiohttp.ClientWebSocketResponse[bool], connection: Connection, tickers: Sequence[str]
    ) -> None:
        """Make the subscriptions equal to what is wanted: first free room, then fill it, most wanted first."""
        carried = steady_selection(tickers, connection.tickers, self._limit, self._border)
        self.activity.unsubscribed = len(tickers) - len(carried)
        if self.activity.missing and time.monotonic() - connection.asked_s > self._timings.again:
            connection.forget(())
        target = dict.fromkeys(f"{topic}.{ticker}" for ticker in carried for topic in self._topics)
        gone = [pair for pair in connection.asked if pair not in target]
        if gone:
            await self._send(socket, connection, "unsubscribe", gone)
            connection.forget(gone)
        await self._send(socket, connection, "subscribe", [pair for pair in target if pair not in connection.asked])
        self.activity.contracts = len(tickers_of(connection.held))
        self.activity.subscribed = len(connection.held)
        self.activity.missing = len(connection.asked) - len(connection.held & connection.asked.keys())

    async def _send(
        self, socket: aiohttp.ClientWebSocketResponse[bool], connection: Connection, action: str, pairs: list[str]
    ) -> None:
        for first in range(0, len(pairs), MAX_PARAMETERS):
            chunk = pairs[first : first + MAX_PARAMETERS]
            connection.expect(action, chunk)
            await socket.send_json({"action": action, "params": ",".join(chunk)})
            await self._settled(connection, action)

    async def _settled(self, connection: Connection, action: str) -> None:
        """Wait until every pair of a chunk is acknowledged; what is refused or not answered is logged and left."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timings.acknowledge):
                await connection.settled.wait()
        if connection.awaited:
            # refusals may overtake the acknowledgements of accepted pairs
            await asyncio.sleep(min(0.2, self._timings.acknowledge))
        self.activity.refusals += connection.refusals
        connection.refusals = 0
        self.activity.refusal = connection.refusal or self.activity.refusal
        if connection.awaited:
            log.warning(
                "subscription_incomplete",
                feed=self.name,
                action=action,
                pairs=len(connection.awaited),
                reason=connection.refusal or "no answer",
            )

    async def _tell_drops(self) -> None:
        """Frames that were given up are a gap, too."""
        dropped = self.outbox.activity.dropped
        if dropped > self._dropped:
            await self._tell_gap(f"{dropped - self._dropped} frames dropped, the server takes too few", time.time())
            self._dropped = dropped

    async def _tell_gap(self, reason: str, since_ts: float) -> None:
        seconds = time.time() - since_ts
        await self._gap(reason, seconds)
        self.activity.gaps += 1
        say = log.info if reason == "started" else log.warning
        say("feed_gap", feed=self.name, reason=reason, seconds=round(seconds, 3))


def _feed_url(ws_url: str, cluster: str) -> URL:
    try:
        url = URL(ws_url)
        if url.scheme in ("ws", "wss") and url.host and not url.query_string:
            return url / cluster
    except ValueError:
        pass
    raise FatalError(f"MASSIVE_WS_URL={ws_url!r}: a stem such as wss://socket.massive.com is expected")


def _close_reason(socket: aiohttp.ClientWebSocketResponse[bool], kind: aiohttp.WSMsgType, data: object) -> str:
    if kind is aiohttp.WSMsgType.ERROR:
        return _words(data)
    code = socket.close_code
    return "closed without a close frame" if code in (None, 1006) else f"closed with {code}"


def _words(error: object) -> str:
    return str(error) or type(error).__name__


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait for their end; their failures are the business of whoever waits for their results."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
