"""The provider over WebSocket: one connection of one cluster, its raw frames appended untouched.

Three tasks, so that reading never waits: the reader puts frames with their receive time into a bounded queue, the
appender writes them in batches, the subscriber keeps the subscriptions equal to what is wanted. The caller runs a
`Feed` only while it holds its lease and cancels it when the lease is lost.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import aiohttp
import msgspec
import structlog
from yarl import URL

from contracts.errors import FatalError, TransientError

log = structlog.get_logger("feed")

OPTIONS = "options"
INDICES = "indices"

MAX_QUOTES = 950  # the provider refuses a whole frame beyond 1,000 contracts
MAX_PARAMETERS = 200  # of one subscribe frame
QUEUE_FRAMES = 10_000
APPEND_FRAMES = 256
LONGEST_BACKOFF_S = 30.0
MAX_FRAME_BYTES = 16 * 2**20

_CONNECTED = "auth_success"
_ACKNOWLEDGED = {"subscribed to: ": "subscribe", "unsubscribed to: ": "unsubscribe"}
_ENDS = frozenset({"max_connections", "force_disconnect", "slow_consumer", "auth_timeout"})
_NO_ACCESS = ("plan", "entitled", "not authorized", "upgrade")  # what is said when the key itself is fine

Wanted: TypeAlias = "Callable[[], Awaitable[Sequence[str]]]"
Gap: TypeAlias = "Callable[[str, float], Awaitable[None]]"


class FrameStream(Protocol):
    """Where frames go; the broker is one."""

    async def append(self, stream: str, entries: Iterable[dict[str, bytes | str]]) -> None:
        """Append entries in one round trip, at least once."""
        ...


@dataclass(frozen=True, slots=True)
class FeedTimings:
    """Seconds. `stable`: data for so long makes the next backoff small again. `stall`: silence after data."""

    poll: float = 0.5
    connect: float = 10.0
    authenticate: float = 10.0
    acknowledge: float = 5.0
    heartbeat: float = 15.0
    stall: float = 60.0
    stable: float = 30.0
    backoff: float = 0.5
    cooldown: float = 60.0  # after max_connections: somebody else uses this key
    close: float = 0.5


@dataclass
class FeedActivity:
    """What this feed did and how it stands; for probes and the heartbeat. Local facts, not state."""

    frames: int = 0
    appended: int = 0
    dropped: int = 0  # oldest frames given up because appending did not keep up
    connections: int = 0
    gaps: int = 0
    refusals: int = 0  # `error` statuses
    subscribed: int = 0  # acknowledged pairs
    unsubscribed: int = 0  # wanted contracts beyond what one connection carries
    last_frame_ts: float = 0.0
    off: str = ""  # why this feed stays off although the pipeline runs


class _Ended(Exception):  # noqa: N818 (no error: every connection ends)
    """The connection is over, for this reason."""


class _Off(Exception):  # noqa: N818
    """The plan does not include this cluster."""


class Feed:
    """One connection to `{ws_url}/{cluster}`, kept up until stopped; frames go to `stream` of `frames`.

    `wanted()` gives tickers, most wanted first; each is subscribed on every topic. `gap(reason, seconds)` is told
    after each interruption (a start counts as one), once subscriptions are back. FatalError when the key is refused.
    """

    def __init__(
        self,
        cluster: str,
        ws_url: str,
        api_key: str,
        session: aiohttp.ClientSession,
        frames: FrameStream,
        stream: str,
        wanted: Wanted,
        gap: Gap,
        *,
        topics: Sequence[str] = ("Q",),
        limit: int = MAX_QUOTES,
        queue_frames: int = QUEUE_FRAMES,
        timings: FeedTimings | None = None,
    ) -> None:
        self.cluster = cluster
        self.activity = FeedActivity()
        self._url = _feed_url(ws_url, cluster)
        self._key = api_key
        self._session = session
        self._frames = frames
        self._stream = stream
        self._wanted = wanted
        self._gap = gap
        self._topics = tuple(topics)
        self._limit = limit
        self._timings = timings or FeedTimings()
        self._queue: deque[tuple[float, bytes]] = deque(maxlen=queue_frames)
        self._filled = asyncio.Event()
        self._lost: tuple[str, float] | None = None  # an interruption not yet told: why, and since when

    async def run(self, stop: asyncio.Event) -> None:
        """Stay connected until `stop` is set; when cancelled, the socket is closed at once."""
        # what a previous owner received and did not append is lost with it: a start is the end of a gap, too
        self._lost = self._lost or ("started", time.time())
        appender = asyncio.create_task(self._append_frames(), name=f"feed:{self.cluster}:append")
        connector = asyncio.create_task(self._stay_connected(), name=f"feed:{self.cluster}")
        stopped = asyncio.create_task(stop.wait())
        tasks = (connector, appender, stopped)
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _cancel(connector, stopped)
            await self._append_rest(appender)
        for task in done:
            task.result()

    # --- connection

    async def _stay_connected(self) -> None:
        delay = self._timings.backoff
        while True:
            connection = _Connection(self.cluster, self.activity)
            reason = "let go"  # of the lease; whoever holds it next, we or others, has missed something
            try:
                await self._connected(connection)
            except _Ended as ended:
                reason = str(ended)
            except _Off as off:
                await self._stay_off(str(off))
            finally:
                if connection.held and self._lost is None:
                    self._lost = (reason, connection.last_ts or time.time())
            delay = self._timings.backoff if connection.steady_s >= self._timings.stable else delay
            cooling = self._timings.cooldown if connection.evicted else 0.0
            pause = max(cooling, delay * random.uniform(0.5, 1.0))
            log.warning("feed_lost", cluster=self.cluster, reason=reason, retry_s=round(pause, 2))
            await asyncio.sleep(pause)
            delay = min(LONGEST_BACKOFF_S, delay * 2)

    async def _connected(self, connection: _Connection) -> None:
        """One connection from its handshake to its end; always raises."""
        async with self._socket() as socket:
            self.activity.connections += 1
            reader = asyncio.create_task(self._read(socket, connection))
            subscriber = asyncio.create_task(self._subscribe(socket, connection))
            watcher = asyncio.create_task(self._watch(connection))
            try:
                await asyncio.wait((reader, subscriber, watcher), return_when=asyncio.FIRST_COMPLETED)
                # what the provider said last (evicted?) may still be on its way to the reader
                await asyncio.wait((reader,), timeout=self._timings.close)
            finally:
                await _cancel(reader, subscriber, watcher)
                self.activity.subscribed = 0
            for task in (reader, subscriber, watcher):
                if not task.cancelled():
                    task.result()
        raise _Ended("closed")

    @asynccontextmanager
    async def _socket(self) -> AsyncIterator[aiohttp.ClientWebSocketResponse[bool]]:
        try:
            async with asyncio.timeout(self._timings.connect):
                socket = await self._session.ws_connect(
                    self._url,
                    timeout=aiohttp.ClientWSTimeout(ws_close=self._timings.close),
                    heartbeat=self._timings.heartbeat,
                    max_msg_size=MAX_FRAME_BYTES,
                    decode_text=False,
                )
        except TimeoutError:
            raise _Ended(f"{self._url.origin()} did not answer within {self._timings.connect:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise _Ended(f"{self._url.origin()} cannot be reached: {_words(error)}") from None
        try:
            yield socket
        except (aiohttp.ClientError, OSError) as error:
            raise _Ended(_words(error)) from None
        finally:
            await socket.close()

    async def _stay_off(self, reason: str) -> None:
        """The pipeline runs on snapshots; asking again would change nothing until the plan does."""
        self.activity.off = reason
        log.warning("feed_off", cluster=self.cluster, reason=reason, effect="snapshots only")
        await asyncio.Event().wait()

    # --- reading

    async def _read(self, socket: aiohttp.ClientWebSocketResponse[bool], connection: _Connection) -> None:
        """Queue market data, follow statuses. Ends by raising."""
        while True:
            message = await socket.receive()
            now = time.time()
            if message.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                raise connection.ended(_close_reason(socket, message.type, message.data))
            payload: bytes = message.data
            if b'"status"' in payload and self._only_statuses(payload, connection):
                continue
            connection.note_data(now)
            self._put(now, payload)

    def _put(self, now: float, payload: bytes) -> None:
        activity = self.activity
        activity.frames += 1
        activity.last_frame_ts = now
        activity.dropped += len(self._queue) == self._queue.maxlen
        self._queue.append((now, payload))
        self._filled.set()

    def _only_statuses(self, payload: bytes, connection: _Connection) -> bool:
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

    async def _watch(self, connection: _Connection) -> None:
        """A socket that carried data and fell silent may be dead above TCP; one that never did is just quiet."""
        while True:
            await asyncio.sleep(self._timings.stall / 4)
            silent = time.time() - connection.last_ts
            if connection.last_ts and silent > self._timings.stall:
                raise _Ended(f"no data for {silent:.0f} s")

    # --- subscribing

    async def _subscribe(self, socket: aiohttp.ClientWebSocketResponse[bool], connection: _Connection) -> None:
        await self._authenticate(socket, connection)
        while True:
            with suppress(TransientError):
                await self._follow(socket, connection, await self._wanted())
                if self._lost is not None and connection.held:
                    await self._tell_gap(*self._lost)
                    self._lost = None
            await asyncio.sleep(self._timings.poll)

    async def _authenticate(self, socket: aiohttp.ClientWebSocketResponse[bool], connection: _Connection) -> None:
        await socket.send_json({"action": "auth", "params": self._key})
        try:
            async with asyncio.timeout(self._timings.authenticate):
                await connection.authenticated.wait()
        except TimeoutError:
            raise _Ended(f"no answer to the login within {self._timings.authenticate:g} s") from None
        log.info("feed_connected", cluster=self.cluster)

    async def _follow(
        self, socket: aiohttp.ClientWebSocketResponse[bool], connection: _Connection, tickers: Sequence[str]
    ) -> None:
        """Make the subscriptions equal to what is wanted: first free room, then fill it, most wanted first."""
        carried = tickers[: self._limit]
        self.activity.unsubscribed = len(tickers) - len(carried)
        target = dict.fromkeys(f"{topic}.{ticker}" for ticker in carried for topic in self._topics)
        gone = [pair for pair in connection.asked if pair not in target]
        if gone:
            await self._send(socket, connection, "unsubscribe", gone)
            connection.forget(gone)
        await self._send(socket, connection, "subscribe", [pair for pair in target if pair not in connection.asked])
        self.activity.subscribed = len(connection.held)

    async def _send(
        self, socket: aiohttp.ClientWebSocketResponse[bool], connection: _Connection, action: str, pairs: list[str]
    ) -> None:
        for first in range(0, len(pairs), MAX_PARAMETERS):
            chunk = pairs[first : first + MAX_PARAMETERS]
            connection.expect(action, chunk)
            await socket.send_json({"action": action, "params": ",".join(chunk)})
            await self._settled(connection, action)

    async def _settled(self, connection: _Connection, action: str) -> None:
        """Wait until every pair of a chunk is acknowledged; what is refused or not answered is logged and left."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timings.acknowledge):
                await connection.settled.wait()
        if connection.awaited:
            # refusals may overtake the acknowledgements of accepted pairs
            await asyncio.sleep(min(0.2, self._timings.acknowledge))
        if connection.awaited:
            log.warning(
                "subscription_incomplete",
                cluster=self.cluster,
                action=action,
                pairs=len(connection.awaited),
                reason=connection.refusal or "no answer",
            )

    async def _tell_gap(self, reason: str, since_ts: float) -> None:
        seconds = time.time() - since_ts
        await self._gap(reason, seconds)
        self.activity.gaps += 1
        say = log.info if reason == "started" else log.warning
        say("feed_gap", cluster=self.cluster, reason=reason, seconds=round(seconds, 3))

    # --- appending

    async def _append_frames(self) -> None:
        """Write what is queued, for ever; a server that is away is waited for while the queue drops its oldest."""
        delay = self._timings.backoff
        while True:
            while self._queue:
                try:
                    await self._append_batch()
                    delay = self._timings.backoff
                except TransientError as error:
                    log.warning("frames_wait", cluster=self.cluster, queued=len(self._queue), reason=str(error))
                    await asyncio.sleep(delay * random.uniform(0.5, 1.0))
                    delay = min(LONGEST_BACKOFF_S, delay * 2)
            await self._filled.wait()
            self._filled.clear()

    async def _append_batch(self) -> None:
        batch = [self._queue.popleft() for _ in range(min(APPEND_FRAMES, len(self._queue)))]
        try:
            await self._frames.append(self._stream, [_entry(ts, payload) for ts, payload in batch])
        except BaseException:  # also cancellation: whoever appends the rest has it again
            room = (self._queue.maxlen or 0) - len(self._queue)
            kept = batch[max(0, len(batch) - room) :]
            self.activity.dropped += len(batch) - len(kept)
            self._queue.extendleft(reversed(kept))
            raise
        self.activity.appended += len(batch)

    async def _append_rest(self, appender: asyncio.Task[None]) -> None:
        """What was received is appended, if the server takes it now."""
        await _cancel(appender)
        with suppress(TimeoutError, TransientError):
            async with asyncio.timeout(self._timings.close):
                while self._queue:
                    await self._append_batch()


class _Connection:
    """What one connection was told: login, acknowledgements, refusals, and when data came."""

    def __init__(self, cluster: str, activity: FeedActivity) -> None:
        self.authenticated = asyncio.Event()
        self.settled = asyncio.Event()
        self.asked: dict[str, None] = {}  # pairs requested on this connection, in order
        self.held: set[str] = set()  # pairs acknowledged
        self.awaited: set[str] = set()
        self.refusal = ""
        self.evicted = False
        self.last_ts = 0.0
        self._first_ts = 0.0
        self._cluster = cluster
        self._activity = activity
        self._goodbye = ""

    @property
    def steady_s(self) -> float:
        """Seconds between the first and the newest data."""
        return self.last_ts - self._first_ts

    def note_data(self, now: float) -> None:
        """Market data came."""
        self._first_ts = self._first_ts or now
        self.last_ts = now

    def expect(self, action: str, pairs: Sequence[str]) -> None:
        """These pairs are about to be (un)subscribed."""
        self.awaited = set(pairs)
        self.refusal = ""
        self.settled.clear()
        if action == "subscribe":
            self.asked |= dict.fromkeys(pairs)

    def forget(self, pairs: Iterable[str]) -> None:
        """These pairs are no longer ours; where there is room again, what was refused may be asked for again."""
        gone = set(pairs)
        self.held -= gone
        self.asked = {pair: None for pair in self.asked if pair in self.held}

    def take_status(self, status: str, message: str) -> None:
        """Act on a protocol message; raises `_Off` or FatalError when the login failed."""
        if status == _CONNECTED:
            self.authenticated.set()
        elif status == "auth_failed":
            raise self._login_error(message)
        elif status == "error":
            self._refused(message)
        elif status in _ENDS:
            self.evicted = self.evicted or status == "max_connections"
            self._goodbye = f"{status}: {message}"
            log.warning("feed_told", cluster=self._cluster, status=status, message=message)
        elif status == "success":
            self._acknowledged(message)

    def ended(self, reason: str) -> _Ended:
        """Why the connection is over: what the provider said last, else how it closed."""
        return _Ended(self._goodbye or reason)

    def _login_error(self, message: str) -> Exception:
        if any(word in message.lower() for word in _NO_ACCESS):
            return _Off(f"this plan has no WebSocket access to {self._cluster} ({message})")
        return FatalError(
            f"the provider's {self._cluster} feed does not accept the key: set a valid MASSIVE_API_KEY ({message})"
        )

    def _refused(self, message: str) -> None:
        if not self.refusal:
            log.warning("subscription_refused", cluster=self._cluster, message=message)
        self.refusal = message or "refused"
        self._activity.refusals += 1
        self.settled.set()

    def _acknowledged(self, message: str) -> None:
        for prefix, action in _ACKNOWLEDGED.items():
            if message.startswith(prefix):
                pair = message[len(prefix) :].strip()
                self.awaited.discard(pair)
                (self.held.add if action == "subscribe" else self.held.discard)(pair)
        if not self.awaited:
            self.settled.set()


def _entry(ts: float, payload: bytes) -> dict[str, bytes | str]:
    return {"ts": repr(ts), "payload": payload}


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
