"""The feed against a real WebSocket server that speaks the provider's protocol."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import WSCloseCode, web
from aiohttp.test_utils import TestServer
from structlog.testing import capture_logs

from contracts.clock import MarketClock
from contracts.errors import FatalError, TransientError
from contracts.messages import decode_frame
from stages.massive.feed import Feed, FeedTimings
from stages.massive.outbox import Outbox, OutboxActivity
from stages.massive.rest import open_session

KEY = "s3cret-key"
STREAM = "massive:ws:stream"
PATIENCE_S = 10.0
LET_GO_S = 1.0  # a lease lives for three: what must end before it passes on has less
# short where a test waits for it to pass; long where a machine that is busy elsewhere must not make it pass
FAST = FeedTimings(
    poll=0.005, connect=10.0, authenticate=10.0, acknowledge=0.1, heartbeat=30.0, stall=60.0, backoff=0.01,
    cooldown=0.5, close=0.2,
)  # fmt: skip
LOOKS_OFTEN = 1.0  # a stall so short that lag is sampled four times a second, and long enough for a busy machine


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Wait for a condition, and fail when it never comes."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        await asyncio.sleep(0.002)


@dataclass
class Client:
    """One connection as the server sees it."""

    socket: web.WebSocketResponse
    request: web.Request
    started: float = field(default_factory=time.monotonic)
    actions: list[tuple[str, list[str]]] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    ended: bool = False

    async def say(self, *statuses: tuple[str, str]) -> None:
        await self.send(json.dumps([{"ev": "status", "status": one, "message": text} for one, text in statuses]))

    async def send(self, raw: str) -> None:
        await self.socket.send_str(raw)

    def abort(self) -> None:
        assert self.request.transport is not None
        self.request.transport.abort()

    def asked(self, action: str) -> list[list[str]]:
        return [params for one, params in self.actions if one == action]


class Server:
    """The provider's side; `limit` contracts per connection, `login` is what it answers to the key."""

    def __init__(self, *, limit: int = 1000, login: tuple[str, str] = ("auth_success", "authenticated")) -> None:
        self.clients: list[Client] = []
        self.limit = limit
        self.login = login
        self.url = ""

    @property
    def last(self) -> Client:
        return self.clients[-1]

    async def serve(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        client = Client(socket, request)
        self.clients.append(client)
        await client.say(("connected", "Connected Successfully"))
        async for message in socket:
            await self._answer(client, json.loads(message.data))
        client.ended = True
        return socket

    async def _answer(self, client: Client, told: dict[str, str]) -> None:
        params = told["params"].split(",")
        client.actions.append((told["action"], params))
        match told["action"]:
            case "auth":
                await client.say(self.login)
            case "subscribe" if len(client.held) + len(params) > self.limit:
                await client.say(*[("error", "Subscription limit reached for feed.")] * len(params))
            case "subscribe":
                client.held += params
                await client.say(*[("success", f"subscribed to: {pair}") for pair in params])
            case "unsubscribe":
                client.held = [pair for pair in client.held if pair not in params]
                await client.say(*[("success", f"unsubscribed to: {pair}") for pair in params])


@dataclass
class Frames:
    """Where frames go; `open` lets them in, `faults` are raised first."""

    entries: list[dict[str, bytes | str]] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    faults: list[Exception] = field(default_factory=list)
    calls: int = 0
    open: asyncio.Event = field(default_factory=asyncio.Event)

    async def append(self, stream: str, entries: Iterable[dict[str, bytes | str]]) -> None:
        assert stream == STREAM
        self.calls += 1
        await self.open.wait()
        if self.faults:
            raise self.faults.pop(0)
        batch = list(entries)
        self.batches.append(len(batch))
        self.entries += batch

    @property
    def payloads(self) -> list[bytes]:
        return [bytes(entry["payload"]) for entry in self.entries]  # type: ignore[arg-type]


@dataclass
class Scene:
    """A server, a feed running against it, and what the feed is told and tells."""

    @property
    def outbox(self) -> OutboxActivity:
        return self.feed.outbox.activity

    server: Server
    feed: Feed
    frames: Frames
    tickers: list[str]
    gaps: list[tuple[str, float]]
    stop: asyncio.Event
    task: asyncio.Task[None] = field(init=False)
    wanted_faults: list[Exception] = field(default_factory=list)
    polls: int = 0

    async def gap(self, number: int) -> tuple[str, float]:
        """The newest of so many gaps."""
        await until(lambda: len(self.gaps) >= number, f"gap {number}")
        return self.gaps[-1]

    async def polled(self, times: int) -> None:
        """Wait until the feed has asked so many times more what is wanted."""
        enough = self.polls + times
        await until(lambda: self.polls >= enough, "polls of what is wanted")

    async def subscribed(self, count: int = 1, clients: int = 1) -> Client:
        """Wait for a connection that holds so many pairs."""
        await until(
            lambda: len(self.server.clients) >= clients and len(self.server.last.held) == count,
            f"{count} subscriptions on connection {clients}",
        )
        await until(lambda: self.feed.activity.subscribed == count, "acknowledgements")
        return self.server.last


@asynccontextmanager
async def serving(server: Server, own: socket.socket | None = None) -> AsyncIterator[str]:
    """Serve, on a socket that is bound already if one is given."""
    app = web.Application()
    app.router.add_get("/{cluster}", server.serve)
    place = {} if own is None else {"socket_factory": lambda *_: own}
    async with TestServer(app, **place) as running:  # type: ignore[arg-type]
        yield str(running.make_url("/")).replace("http", "ws", 1).rstrip("/")


@asynccontextmanager
async def following(
    *tickers: str,
    server: Server | None = None,
    url: str | None = None,
    cluster: str = "options",
    timings: FeedTimings = FAST,
    queue_frames: int = 10_000,
    **options: Any,
) -> AsyncIterator[Scene]:
    server = server or Server()
    async with serving(server) as own, open_session() as session:
        frames = Frames()
        frames.open.set()
        wanted_tickers, gaps, stop = list(tickers), list[tuple[str, float]](), asyncio.Event()

        async def wanted() -> Sequence[str]:
            scene.polls += 1
            if scene.wanted_faults:
                raise scene.wanted_faults[0]
            return scene.tickers

        async def gap(reason: str, seconds: float) -> None:
            gaps.append((reason, seconds))

        options.setdefault("gap", gap)
        outbox = Outbox(frames, STREAM, queue_frames=queue_frames)
        feed = Feed(cluster, url or own, KEY, session, outbox, wanted, timings=timings, **options)
        scene = Scene(server, feed, frames, wanted_tickers, gaps, stop)
        scene.task = asyncio.create_task(feed.run(stop))
        try:
            yield scene
        finally:
            scene.task.cancel()
            with suppress(asyncio.CancelledError, FatalError):
                await scene.task


def timings(**changes: float) -> FeedTimings:
    values = {name: getattr(FAST, name) for name in FeedTimings.__slots__}
    return FeedTimings(**{**values, **changes})


def names(count: int) -> list[str]:
    return [f"O:SPXW260116C{6000 + n:05d}000" for n in range(count)]


def quotes() -> Iterator[str]:
    number = 0
    while True:
        number += 1
        yield f'[{{"ev":"Q","sym":"O:SPXW260116C06850000","bp":1.0,"q":{number}}}]'


# --- login and subscriptions


async def test_it_logs_in_and_subscribes_in_chunks() -> None:
    tickers = names(450)
    async with following(*tickers) as scene:
        client = await scene.subscribed(450)
    assert client.actions[0] == ("auth", [KEY])
    chunks = client.asked("subscribe")
    assert [len(chunk) for chunk in chunks] == [200, 200, 50]
    assert [pair for chunk in chunks for pair in chunk] == [f"Q.{ticker}" for ticker in tickers]
    assert client.request.path == "/options" and KEY not in client.request.raw_path


async def test_every_topic_of_a_contract_is_subscribed() -> None:
    async with following("O:A", "O:B", topics=("Q", "T")) as scene:
        client = await scene.subscribed(4)
    assert client.held == ["Q.O:A", "T.O:A", "Q.O:B", "T.O:B"]


async def test_the_indices_cluster() -> None:
    async with following("I:SPX", "I:NDX", cluster="indices", topics=("V",)) as scene:
        client = await scene.subscribed(2)
    assert (client.request.path, client.held) == ("/indices", ["V.I:SPX", "V.I:NDX"])


async def test_only_the_difference_is_sent_when_the_epoch_changes() -> None:
    async with following("O:A", "O:B", "O:C") as scene:
        client = await scene.subscribed(3)
        before = len(client.actions)
        scene.tickers[:] = ["O:D", "O:C"]
        await until(lambda: sorted(client.held) == ["Q.O:C", "Q.O:D"])
        assert client.actions[before:] == [("unsubscribe", ["Q.O:A", "Q.O:B"]), ("subscribe", ["Q.O:D"])]
        await until(lambda: scene.feed.activity.subscribed == 2)
        assert scene.feed.activity.connections == 1 and len(scene.gaps) == 1


async def test_what_one_connection_cannot_carry_is_counted() -> None:
    async with following(*names(5), limit=3) as scene:
        client = await scene.subscribed(3)
        assert scene.feed.activity.unsubscribed == 2
    assert client.held == [f"Q.{ticker}" for ticker in names(3)]


async def test_a_refused_subscription_is_counted_and_not_repeated_until_there_is_room() -> None:
    async with following("O:A", "O:B", server=Server(limit=2)) as scene:
        client = await scene.subscribed(2)
        scene.tickers[:] = ["O:A", "O:B", "O:C"]
        await until(lambda: scene.feed.activity.refusals == 1)
        await scene.polled(5)
        assert client.asked("subscribe") == [["Q.O:A", "Q.O:B"], ["Q.O:C"]]
        scene.tickers[:] = ["O:A", "O:C"]
        await until(lambda: client.held == ["Q.O:A", "Q.O:C"])
        assert scene.feed.activity.connections == 1


async def test_a_refused_subscription_is_asked_for_again_after_a_while() -> None:
    async with following("O:A", "O:B", "O:C", server=Server(limit=2), timings=timings(again=0.1)) as scene:
        await until(lambda: scene.feed.activity.missing == 3)
        scene.server.limit = 3
        client = await scene.subscribed(3)
        assert scene.feed.activity.missing == 0 and scene.feed.activity.connections == 1
    assert client.held == ["Q.O:A", "Q.O:B", "Q.O:C"]


async def test_an_epoch_that_cannot_be_read_keeps_the_subscriptions() -> None:
    async with following("O:A") as scene:
        client = await scene.subscribed(1)
        scene.wanted_faults.append(TransientError("the server is away"))
        scene.tickers[:] = []
        await scene.polled(5)
        assert client.held == ["Q.O:A"]
        scene.wanted_faults.clear()
        await until(lambda: client.held == [])


# --- frames


async def test_frames_are_appended_untouched_with_their_receive_time() -> None:
    odd = '[{"ev":"Q" , "sym":"O:SPXW260116C06850000","bp":1.10, "x":"é\\u00e9","t":1768570200123}]'
    async with following("O:A") as scene:
        client = await scene.subscribed()
        before = time.time()
        await client.send(odd)
        await until(lambda: scene.frames.entries)
        (entry,) = scene.frames.entries
        assert set(entry) == {"ts", "payload"} and entry["payload"] == odd.encode()
        assert entry["ts"] == repr(float(entry["ts"]))
        frame = decode_frame({b"ts": str(entry["ts"]).encode(), b"payload": bytes(entry["payload"])})
        assert before <= frame.ts <= time.time()


async def test_status_frames_are_not_appended_but_market_data_beside_them_is() -> None:
    mixed = '[{"ev":"status","status":"success","message":"hello"},{"ev":"Q","sym":"O:A"}]'
    async with following("O:A") as scene:
        client = await scene.subscribed()
        await client.say(("success", "nothing of interest"))
        await client.send(mixed)
        await client.send('no json, yet it says "status"')
        await until(lambda: len(scene.frames.entries) == 2)
        assert scene.frames.payloads == [mixed.encode(), b'no json, yet it says "status"']


async def test_frames_wait_for_a_server_that_is_away() -> None:
    source = quotes()
    sent = [next(source) for _ in range(5)]
    async with following("O:A") as scene:
        client = await scene.subscribed()
        scene.frames.open.clear()
        scene.frames.faults += [TransientError("away"), TransientError("still away")]
        await client.send(sent[0])
        await until(lambda: scene.frames.calls == 1)  # the first fails alone, then all of them together
        for raw in sent[1:]:
            await client.send(raw)
        await until(lambda: scene.outbox.frames == 5)
        scene.frames.open.set()
        await until(lambda: len(scene.frames.entries) == 5)
        assert scene.frames.payloads == [raw.encode() for raw in sent]
        assert scene.outbox.dropped == 0


async def test_frames_that_wait_go_in_one_batch() -> None:
    source = quotes()
    async with following("O:A") as scene:
        client = await scene.subscribed()
        scene.frames.open.clear()
        for _ in range(30):
            await client.send(next(source))
        await until(lambda: scene.outbox.frames == 30)
        scene.frames.open.set()
        await until(lambda: len(scene.frames.entries) == 30)
        assert len(scene.frames.batches) <= 3


# --- interruptions


async def test_after_an_abort_it_is_back_with_everything_and_tells_the_gap() -> None:
    async with following("O:A", "O:B") as scene:
        first = await scene.subscribed(2)
        await first.send(next(quotes()))
        await until(lambda: scene.frames.entries)
        first.abort()
        second = await scene.subscribed(2, clients=2)
        reason, seconds = await scene.gap(2)
        assert second.held == ["Q.O:A", "Q.O:B"]
        assert reason and 0.0 <= seconds < PATIENCE_S
        assert scene.feed.activity.gaps == 2


@pytest.mark.parametrize("code", [WSCloseCode.OK, WSCloseCode.POLICY_VIOLATION, WSCloseCode.INTERNAL_ERROR])
async def test_every_close_is_followed_by_a_new_connection(code: int) -> None:
    async with following("O:A") as scene:
        first = await scene.subscribed()
        await first.socket.close(code=code)
        await scene.subscribed(clients=2)
        assert (await scene.gap(2))[0] == f"closed with {int(code)}"


async def test_a_gap_that_could_not_be_recorded_is_told_again() -> None:
    told: list[str] = []

    async def gap(reason: str, _: float) -> None:
        told.append(reason)
        if len(told) == 1:
            raise TransientError("away")

    async with following("O:A", gap=gap) as scene:
        await scene.subscribed()
        await until(lambda: scene.feed.activity.gaps == 1)
        await scene.polled(5)
    assert told == ["started", "started"]


async def test_a_start_is_the_end_of_a_gap_once_something_is_subscribed() -> None:
    async with following() as scene:
        await scene.polled(3)
        assert scene.server.last.held == [] and scene.gaps == []
        scene.tickers[:] = ["O:A"]
        assert (await scene.gap(1))[0] == "started"
        await scene.polled(3)
    assert len(scene.gaps) == 1


async def test_who_lets_the_lease_go_and_takes_it_again_tells_the_gap() -> None:
    async with following("O:A") as scene:
        await scene.subscribed()
        await scene.gap(1)
        scene.task.cancel()
        with suppress(asyncio.CancelledError):
            await scene.task
        scene.task = asyncio.create_task(scene.feed.run(scene.stop))
        assert (await scene.gap(2))[0] == "let go"


async def test_somebody_else_with_our_key_is_given_time() -> None:
    async with following("O:A", timings=timings(cooldown=0.4)) as scene:
        first = await scene.subscribed()
        ended = time.monotonic()
        await first.say(("max_connections", "Maximum number of websocket connections exceeded."))
        await first.socket.close(code=WSCloseCode.POLICY_VIOLATION)
        second = await scene.subscribed(clients=2)
        assert second.started - ended >= 0.4
        assert (await scene.gap(2))[0].startswith("max_connections: ")


async def test_somebody_who_evicts_us_again_and_again_is_given_more_time() -> None:
    async with following("O:A", timings=timings(cooldown=0.1)) as scene:
        for number in range(1, 4):
            client = await scene.subscribed(clients=number)
            await client.say(("max_connections", "Maximum number of websocket connections exceeded."))
            await client.socket.close(code=WSCloseCode.POLICY_VIOLATION)
        await scene.subscribed(clients=4)
        starts = [client.started for client in scene.server.clients]
        assert starts[3] - starts[2] >= 0.4


async def test_the_backoff_grows_while_connections_do_not_last() -> None:
    async with following("O:A", timings=timings(backoff=0.02, stable=1000.0)) as scene:
        for number in range(1, 7):
            client = await scene.subscribed(clients=number)
            client.abort()
        starts = [client.started for client in scene.server.clients]
        assert starts[5] - starts[4] >= 0.02 * 2**4 / 2


async def test_the_backoff_is_small_again_after_stable_data() -> None:
    source = quotes()
    with capture_logs() as logs:
        async with following("O:A", timings=timings(backoff=0.02, stable=0.0)) as scene:
            for number in range(1, 9):
                client = await scene.subscribed(clients=number)
                await client.send(next(source))
                await until(lambda: len(scene.frames.entries) == number)  # noqa: B023 (awaited at once)
                client.abort()
            await scene.subscribed(clients=9)
    pauses = [line["retry_s"] for line in logs if line["event"] == "feed_lost"]
    assert len(pauses) == 8 and max(pauses) <= 0.02


async def test_data_that_stops_coming_ends_the_connection() -> None:
    async with following("O:A", timings=timings(stall=0.1)) as scene:
        first = await scene.subscribed()
        await first.send(next(quotes()))
        await scene.subscribed(clients=2)
        assert (await scene.gap(2))[0].startswith("no data for")
        await until(lambda: scene.feed.activity.state == "silent", "the second is watched for as long")
        assert len(scene.server.clients) == 2  # nothing came on it: that is a quiet market, not a stall


async def test_a_clock_that_is_set_forward_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    async with following("O:A", timings=timings(stall=LOOKS_OFTEN)) as scene:
        client = await scene.subscribed()
        minutes = itertools.count(step=60.0)
        ours = time.time
        monkeypatch.setattr(time, "time", lambda: ours() + next(minutes))  # at every look another minute
        await sampled(scene, client, 0.0)
        assert scene.feed.activity.connections == 1


async def test_who_is_told_to_leave_leaves_when_nobody_closes() -> None:
    async with following("O:A", timings=timings(farewell=0.05, stall=0.2)) as scene:
        first = await scene.subscribed()
        await first.say(("slow_consumer", "you are too slow"))
        await scene.subscribed(clients=2)
        assert (await scene.gap(2))[0] == "slow_consumer: you are too slow"


async def test_a_login_that_is_not_answered_is_tried_again() -> None:
    server = Server(login=("auth_timeout", "authentication timed out"))
    async with following("O:A", server=server, timings=timings(authenticate=0.1)) as scene:
        await until(lambda: len(server.clients) >= 2)
        server.login = ("auth_success", "authenticated")
        await scene.subscribed(clients=len(server.clients))
        assert not scene.task.done()


async def test_subscribed_and_silent_in_an_open_market_is_said_and_waited_for() -> None:
    with capture_logs() as logs:
        async with following("O:A", timings=timings(stall=0.1)) as scene:
            await scene.subscribed()
            await until(lambda: scene.feed.activity.state == "silent")
            assert scene.feed.activity.connections == 1
    (said,) = [line for line in logs if line["event"] == "feed_silent"]
    assert "delayed.massive.com" in said["fix"] and said["effect"] == "snapshots only"


async def test_silence_in_a_closed_market_is_no_news() -> None:
    async with following("O:A", timings=timings(stall=0.02), clock=lambda: MarketClock(is_open=False)) as scene:
        await scene.subscribed()
        await scene.polled(50)
        assert (scene.feed.activity.state, scene.feed.activity.connections) == ("connecting", 1)


async def test_silence_without_end_is_worth_another_connection() -> None:
    async with following("O:A", timings=timings(stall=0.02)) as scene:
        await scene.subscribed()
        await scene.subscribed(clients=2)
        assert (await scene.gap(2))[0].startswith("no data since it was subscribed")


def stamped(event_ts: float) -> str:
    return f'[{{"ev":"Q","sym":"O:A","t":{round(event_ts * 1000)}}},{{"ev":"Q","sym":"O:B","t":1}}]'


async def sampled(scene: Scene, client: Client, lag_s: float) -> None:
    """Send frames with events so old until the lag is known."""
    while len(scene.feed.activity.samples) < 3:
        await client.send(stamped(time.time() - lag_s))
        await asyncio.sleep(0.005)


async def test_data_that_comes_late_is_told() -> None:
    with capture_logs() as logs:
        async with following("O:A", timings=timings(stall=LOOKS_OFTEN)) as scene:
            client = await scene.subscribed()
            await sampled(scene, client, 30.0)
            await until(lambda: scene.feed.activity.is_late)
            assert scene.feed.activity.lag_s == pytest.approx(30.0, abs=1.0)
    assert [line["late"] for line in logs if line["event"] == "feed_late"] == [True]


async def test_a_delayed_feed_is_labelled_and_not_late() -> None:
    async with following("O:A", timings=timings(stall=LOOKS_OFTEN)) as scene:
        client = await scene.subscribed()
        await sampled(scene, client, 900.0)
        await until(lambda: scene.feed.activity.delayed)
        assert not scene.feed.activity.is_late and scene.feed.activity.state == "live"


async def test_a_single_late_event_is_no_lag() -> None:
    async with following("O:A", timings=timings(stall=LOOKS_OFTEN)) as scene:
        client = await scene.subscribed()
        await client.send(stamped(time.time() - 30.0))
        await until(lambda: len(scene.feed.activity.samples) == 1)
        await sampled(scene, client, 0.0)
        assert not scene.feed.activity.is_late


async def test_each_connection_says_which_shard_it_is() -> None:
    async with following("O:A", shard=2) as scene:
        client = await scene.subscribed()
    assert client.request.headers["User-Agent"] == "marketswarm/options:2"


async def test_a_spot_that_moves_a_little_changes_no_subscription() -> None:
    """Ranks 4 and 5 change places around the limit of 5 with every spot: whoever was there first stays."""
    async with following(*names(8), limit=5, border=2) as scene:
        client = await scene.subscribed(5)
        before = len(client.actions)
        tickers = names(8)
        scene.tickers[:] = [*tickers[:4], tickers[5], tickers[4], *tickers[6:]]
        await scene.polled(5)
        assert len(client.actions) == before
        scene.tickers[:] = [*tickers[5:8], *tickers[:5]]
        await until(lambda: sorted(client.held) == sorted(f"Q.{one}" for one in [*tickers[5:8], *tickers[:2]]))


async def test_frames_that_were_given_up_are_a_gap() -> None:
    async with following("O:A") as scene:
        await scene.subscribed()
        await scene.gap(1)
        scene.outbox.dropped += 7
        assert (await scene.gap(2))[0].startswith("7 frames dropped")
        await scene.polled(3)
        assert len(scene.gaps) == 2


async def test_it_waits_for_a_provider_that_is_down() -> None:
    with socket.socket() as own:  # bound, so that nobody else takes its port; connections are refused until it serves
        own.bind(("127.0.0.1", 0))
        async with following("O:A", url=f"ws://127.0.0.1:{own.getsockname()[1]}") as scene:
            await until(lambda: "cannot be reached" in scene.feed.activity.reason, "it tries in vain")
            assert not scene.task.done()
            scene.server = Server()
            async with serving(scene.server, own):
                await scene.subscribed()
                assert (await scene.gap(1))[0] == "started"
                scene.task.cancel()
                with suppress(asyncio.CancelledError):
                    await scene.task


# --- who must act


async def test_a_refused_key_is_fatal_and_not_repeated() -> None:
    server = Server(login=("auth_failed", f"authentication failed for {KEY}"))
    async with following("O:A", server=server) as scene:
        with pytest.raises(FatalError, match="set a valid MASSIVE_API_KEY") as caught:
            await asyncio.wait_for(asyncio.shield(scene.task), PATIENCE_S)
        assert KEY not in str(caught.value)
    assert len(server.clients) == 1


async def test_a_plan_without_websocket_stays_off_until_stopped() -> None:
    server = Server(login=("auth_failed", "Your plan doesn't include websocket access."))
    async with following("O:A", server=server) as scene:
        await until(lambda: scene.feed.activity.state == "off")
        assert "Your plan doesn't include websocket access." in scene.feed.activity.reason
        scene.stop.set()
        await asyncio.wait_for(scene.task, PATIENCE_S)
    assert len(server.clients) == 1


async def test_when_the_lease_is_lost_the_socket_is_closed() -> None:
    async with following("O:A") as scene:
        client = await scene.subscribed()
        scene.task.cancel()
        begun = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await scene.task
        assert time.monotonic() - begun < LET_GO_S
        await until(lambda: client.ended, "the server sees the socket closed")


class Deaf(Server):
    """Sends on and on, and hears nothing once somebody is subscribed: not even that the other side closes."""

    async def _answer(self, client: Client, told: dict[str, str]) -> None:
        await super()._answer(client, told)
        if client.held:
            with suppress(ConnectionError):
                for quote in quotes():
                    await client.send(quote)
                    await asyncio.sleep(0.01)


async def test_a_provider_that_does_not_hear_the_close_is_left_all_the_same() -> None:
    """The lease runs out: the socket ends in time, frames are appended, and nothing is left running."""
    async with following("O:A", server=Deaf()) as scene:
        await until(lambda: scene.outbox.frames > 5, "frames")
        begun = time.monotonic()
        scene.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await scene.task
        assert time.monotonic() - begun < LET_GO_S
        assert scene.outbox.appended == scene.outbox.frames
        assert [task for task in asyncio.all_tasks() if task.get_name().startswith("feed:")] == []


async def test_what_was_received_is_appended_before_it_stops() -> None:
    async with following("O:A") as scene:
        client = await scene.subscribed()
        scene.frames.faults += [TransientError("away")]
        await client.send(next(quotes()))
        await until(lambda: not scene.frames.faults, "it could not be appended")
        scene.stop.set()
        await asyncio.wait_for(scene.task, PATIENCE_S)
        assert len(scene.frames.entries) == 1


async def test_a_server_that_refuses_us_is_fatal() -> None:
    async with following("O:A") as scene:
        client = await scene.subscribed()
        scene.frames.faults += [FatalError("check REDIS_URL")] * 2
        await client.send(next(quotes()))
        with pytest.raises(FatalError, match="check REDIS_URL"):
            await asyncio.wait_for(asyncio.shield(scene.task), PATIENCE_S)


@pytest.mark.parametrize("url", ["", "socket.massive.com", "https://socket.massive.com", "wss://"])
async def test_a_wrong_ws_url_is_named(url: str) -> None:
    async def nothing() -> Sequence[str]:
        return ()

    async def gap(_: str, __: float) -> None:
        return None

    async with open_session() as session:
        with pytest.raises(FatalError, match="MASSIVE_WS_URL="):
            Feed("options", url, KEY, session, Outbox(Frames(), STREAM), nothing, gap)
