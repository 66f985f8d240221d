"""`marketswarm mock --from FILE`: a capture played through the provider's own protocol.

Every authenticated client of a cluster gets the frames recorded there, byte for byte and in order, whatever it
subscribed to. REST answers from the recorded pages, and the market clock is that of the recording.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
from pathlib import Path

from aiohttp import web

from contracts.errors import DataError, FatalError
from contracts.symbology import NEW_YORK
from ops.capture_file import FRAME, LOST, PAGE, Record, read_capture
from ops.mock.recording import STATUS_PATH, RecordedAnswers, RecordedClock, status_body
from ops.mock.rest import error, json_body, key_of
from ops.mock.scenario import Fault
from ops.mock.server import listening, stop_signal
from ops.mock.sockets import Sockets

PLAYBACK_PATH = "/mock/playback"  # not the provider's: how far it is

_LOOK_AHEAD_S = 60.0  # of the recording: what is asked before the first page of its kind gets that page
_PATIENCE_S = 5.0  # for a client on every recorded cluster, once there is one on any
_LOOK_EVERY_S = 0.01
_YIELD_EVERY = 256  # records, when nothing else lets other work in


@dataclass(frozen=True, slots=True)
class PlayOptions:
    """What to play and where. `speed`: recorded seconds per second; None: as fast as the clients read."""

    recording: Path
    speed: float | None = 1.0
    host: str = "127.0.0.1"
    port: int = 8799
    key: str | None = None  # any is good unless given
    max_connections: int = 1


class Player:
    """One playing of a recording; it waits for its first clients. It is the rules of its sockets, too."""

    def __init__(self, options: PlayOptions) -> None:
        self.max_connections = options.max_connections
        self.frames = 0  # sent so far
        self.pages = 0
        self.lost = 0  # frames that the recording itself is missing
        self.over = asyncio.Event()
        self.failure = ""  # why it ended before the end of the recording
        self.sockets = Sockets(self)
        self._options = options
        self._answers = RecordedAnswers()
        self._clusters: set[str] = set()
        self._first_ts = self._passed_ts = 0.0
        self._started: float | None = None  # local time
        self._look_ahead()

    # --- what sockets ask

    def accepts(self, key: str) -> bool:
        """Whether this API key is good."""
        return bool(key) and self._options.key in (None, key)

    def refuses_sockets(self) -> bool:
        """Never."""
        return False

    def suffers(self, fault: Fault) -> bool:
        """Never: what went wrong is in the recording."""
        return False

    def lists(self, ticker: str) -> bool:
        """Nobody knows; frames come whatever is subscribed to."""
        return True

    # --- time

    def receive_ts(self) -> float:
        """Where we are in the recording (epoch seconds by the clock it was recorded with)."""
        if self._started is None or self._options.speed is None:
            return self._passed_ts
        return self._first_ts + (time.monotonic() - self._started) * self._options.speed

    def market_time(self) -> float:
        """The market time there (epoch seconds)."""
        return self._clock.market_time(self.receive_ts())

    @property
    def _clock(self) -> RecordedClock:
        # without a status page in the recording, market time is receive time
        return self._answers.clock or RecordedClock(0.0, 0.0)

    # --- playing

    async def run(self) -> None:
        """Play from beginning to end, once."""
        await self._clients()
        self._started = time.monotonic()
        try:
            for number, record in enumerate(read_capture(self._options.recording)):
                await self._until(record.ts)
                await self._play(record)
                if number % _YIELD_EVERY == 0:
                    await asyncio.sleep(0)
        except DataError as damage:
            self.failure = str(damage)
        self.over.set()

    async def _clients(self) -> None:
        """Wait for a client on every cluster of the recording, but not long for the second."""
        first: float | None = None
        while not (self.sockets.connections and all(self.sockets.of(cluster) for cluster in self._clusters)):
            if first is None and self.sockets.connections:
                first = time.monotonic()
            if first is not None and time.monotonic() - first > _PATIENCE_S:
                return
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _until(self, ts: float) -> None:
        if self._options.speed is not None and (early_s := (ts - self.receive_ts()) / self._options.speed) > 0.0:
            await asyncio.sleep(early_s)

    async def _play(self, record: Record) -> None:
        self._passed_ts = record.ts
        if record.kind == FRAME:
            self.frames += 1
            for connection in self.sockets.of(_cluster(record)):
                if self._options.speed is None:
                    await connection.deliver(record.payload)
                else:
                    connection.send(record.payload)
        elif record.kind == PAGE:
            self.pages += 1
            self._answers.put(record.fields["path"], record.ts, record.payload)
        elif record.kind == LOST:
            self.lost += int(record.fields["frames"])

    def _look_ahead(self) -> None:
        """Know the first answers and the clusters before anybody asks. DataError: no recording."""
        seen: set[str] = set()
        for record in _beginning(self._options.recording):
            self._first_ts = self._passed_ts = self._first_ts or record.ts
            if record.kind == FRAME:
                self._clusters.add(_cluster(record))
            elif record.kind == PAGE and record.fields["path"] not in seen:
                seen.add(record.fields["path"])
                self._answers.put(record.fields["path"], record.ts, record.payload)

    # --- REST

    def add_routes(self, app: web.Application) -> None:
        """Serve sockets and recorded answers from this app."""
        self.sockets.add_routes(app)
        app.router.add_get(PLAYBACK_PATH, self._progress)
        app.router.add_get("/{path:v[13]/.*}", self._answer)

    async def _answer(self, request: web.Request) -> web.Response:
        self.sockets.census.requested(time.monotonic())
        if not self.accepts(key_of(request)):
            return error(401, "Unknown API Key")
        try:
            body = self._answers.answer(request.raw_path, f"{request.scheme}://{request.host}")
        except DataError as malformed:
            return error(400, str(malformed))
        if request.path == STATUS_PATH:
            body = status_body(self._clock, self.receive_ts(), self._options.speed or 1.0, body)
        if body is None:
            return error(404, "this is not in the recording")
        return web.Response(body=body, content_type="application/json")

    async def _progress(self, _: web.Request) -> web.Response:
        return json_body(
            {
                "frames": self.frames,
                "pages": self.pages,
                "lost": self.lost,
                "receive_ts": self.receive_ts(),
                "market_ts": self.market_time(),
                "is_over": self.over.is_set(),
                "failure": self.failure,
            }
        )


@dataclass(frozen=True, slots=True)
class RunningPlayer:
    """A recording that is being served."""

    player: Player
    options: PlayOptions
    port: int

    @property
    def rest_url(self) -> str:
        """What `MASSIVE_REST_URL` takes; with `ws:` instead of `http:` what `MASSIVE_WS_URL` takes."""
        return f"http://{self.options.host}:{self.port}"

    def describe(self) -> str:
        """One line: where it is and what it plays."""
        moment = datetime.fromtimestamp(self.player.market_time(), NEW_YORK).isoformat(timespec="seconds")
        speed = "as fast as it is read" if self.options.speed is None else f"{self.options.speed:g} times as fast"
        return (
            f"mock provider on {self.rest_url} (REST, /options, /indices): recording {self.options.recording.name}, "
            f"from market time {moment}, {speed}; it starts with its first client"
        )


def parse_speed(text: str) -> float | None:
    """A speed of playing: a number of times, or None for `max`. FatalError says what is allowed."""
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0.0 < speed < math.inf:
        raise FatalError(f"--speed {text}: a number above 0, or max")
    return speed


def run_player(options: PlayOptions) -> None:
    """Play and serve until SIGINT or SIGTERM; prints a line when it is ready and one when the recording is over."""
    asyncio.run(_play_until_signalled(options))


@asynccontextmanager
async def playing(options: PlayOptions) -> AsyncIterator[RunningPlayer]:
    """The recording, served while the context lasts; port 0 takes a free one. DataError: no recording."""
    player = Player(options)
    app = web.Application(middlewares=[_plain_404])
    player.add_routes(app)
    async with listening(app, options.host, options.port, (player.run,)) as port:
        yield RunningPlayer(player, options, port)


async def _play_until_signalled(options: PlayOptions) -> None:
    stopped = stop_signal()
    async with playing(options) as running:
        print(running.describe(), flush=True)
        told = asyncio.create_task(_tell_end(running.player))
        await stopped.wait()
        told.cancel()


async def _tell_end(player: Player) -> None:
    await player.over.wait()
    end = f"the recording is over: {player.frames} frames, {player.pages} pages; answers stay"
    print(f"{player.failure}; {end}" if player.failure else end, flush=True)


@web.middleware
async def _plain_404(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    if request.match_info.http_exception is not None:
        return web.Response(status=404, text="404 page not found\n")
    return await handler(request)


def _beginning(recording: Path) -> Iterator[Record]:
    records = read_capture(recording)
    first = next(records, None)
    if first is None:
        raise DataError(f"{recording}: an empty recording")
    yield first
    yield from takewhile(lambda record: record.ts < first.ts + _LOOK_AHEAD_S, records)


def _cluster(record: Record) -> str:
    """The cluster of a frame's feed: `options` of `options:0`."""
    return str(record.fields["feed"]).partition(":")[0]
