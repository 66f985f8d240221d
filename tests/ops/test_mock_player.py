"""A capture played by the mock: the frames as they were, the pages that were known, the clock of then."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from contracts.errors import DataError, FatalError, MarketSwarmError
from ops.mock.player import PlayOptions, RunningPlayer, parse_speed, playing
from ops.mock.recording import RecordedAnswers
from tests.ops.mock_client import KEY, statuses, until
from tests.waiting import PATIENCE_S

RECORDED_TS = 1_771_513_200.0  # the receive clock of the recording
MARKET = "2026-02-19T10:00:00-05:00"
MARKET_TS = datetime.fromisoformat(MARKET).timestamp()
ORIGIN = "https://api.massive.com"
CHAIN = "/v3/snapshot/options/I:SPX"

# What a market says may be anything: the player does not read frames.
FRAMES = [b'[{"ev":"Q","sym":"O:SPXW260219C06900000","bp":1.0}]', b"[1]", '["\u00e9"]'.encode(), b"no JSON", b"[]"] * 40


def record(kind: str, after_s: float, payload: bytes = b"", **fields: Any) -> bytes:
    """One record of a capture, so many seconds after its beginning."""
    header = {"kind": kind, "ts": RECORDED_TS + after_s, "bytes": len(payload), **fields}
    return orjson.dumps(header) + b"\n" + payload + b"\n"


def page(after_s: float, path: str, **body: Any) -> bytes:
    return record("page", after_s, orjson.dumps({"status": "OK", "request_id": "1", **body}), path=path, id="1-0")


def status(after_s: float, moment: str = MARKET, rate: float = 1.0) -> bytes:
    body = {"market": "open", "serverTime": moment, "clock": {"rate": rate}, "indicesGroups": {"s_and_p": "open"}}
    return record("page", after_s, orjson.dumps(body), path="/v1/marketstatus/now", id="1-0")


def row(strike: int, bid: float, kind: str = "C") -> dict[str, Any]:
    details = {
        "ticker": f"O:SPXW260219{kind}0{strike}000",
        "contract_type": "call" if kind == "C" else "put",
        "expiration_date": "2026-02-19",
        "strike_price": strike,
    }
    return {"details": details, "last_quote": {"bid": bid}}


def frames(every_s: float = 0.001, feed: str = "options:0") -> list[bytes]:
    return [record("frame", 1.0 + every_s * n, text, feed=feed, n=n, id=f"{n}-0") for n, text in enumerate(FRAMES)]


def written(folder: Path, records: Iterable[bytes]) -> Path:
    """A capture of these records, a gzip member for every few."""
    parts = [record("capture", 0.0, format="marketswarm-capture", version=1, part=0, symbols=["SPX"]), *records]
    path = folder / "day.capture"
    path.write_bytes(b"".join(gzip.compress(b"".join(parts[at : at + 7])) for at in range(0, len(parts), 7)))
    return path


@asynccontextmanager
async def served(
    path: Path, speed: float | None = None, **options: Any
) -> AsyncIterator[tuple[RunningPlayer, aiohttp.ClientSession]]:
    headers = {"Authorization": f"Bearer {KEY}"}
    async with (
        playing(PlayOptions(path, speed, port=0, **options)) as running,
        aiohttp.ClientSession(running.rest_url, headers=headers) as session,
    ):
        yield running, session


@asynccontextmanager
async def authenticated(
    session: aiohttp.ClientSession, cluster: str = "options"
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with session.ws_connect(f"/{cluster}") as socket:
        await statuses(socket)
        await socket.send_json({"action": "auth", "params": KEY})
        assert await statuses(socket) == [("auth_success", "authenticated")]
        yield socket


async def received(socket: aiohttp.ClientWebSocketResponse, count: int) -> list[bytes]:
    return [(await socket.receive(timeout=PATIENCE_S)).data.encode() for _ in range(count)]


async def body_of(session: aiohttp.ClientSession, path: str) -> Any:
    async with session.get(path) as response:
        assert response.status == 200, await response.text()
        return orjson.loads(await response.read())


# --- frames


@pytest.mark.parametrize("speed", [None, 100.0])
async def test_every_frame_comes_byte_for_byte_in_order_without_a_subscription(
    tmp_path: Path, speed: float | None
) -> None:
    async with served(written(tmp_path, frames()), speed) as (_, session), authenticated(session) as socket:
        assert await received(socket, len(FRAMES)) == FRAMES


async def test_more_frames_than_any_buffer_holds_come_all_at_max_speed(tmp_path: Path) -> None:
    texts = [b"[%d,%s]" % (n, b"1" * 1000) for n in range(30_000)]
    records = [record("frame", n / 1000, text, feed="options:0", n=n, id="1-0") for n, text in enumerate(texts)]
    async with served(written(tmp_path, records)) as (running, session), authenticated(session) as socket:
        while running.player.frames < 15_000 and not running.player.over.is_set():  # a reader that takes its time
            before = running.player.frames
            await asyncio.sleep(0.3)
            if running.player.frames == before:
                break  # everything is full: the player waits for us
        assert not running.player.over.is_set()
        assert await received(socket, len(texts)) == texts


async def test_all_clients_of_a_cluster_get_its_frames_and_no_others(tmp_path: Path) -> None:
    value = record("frame", 1.5, b'[{"ev":"V"}]', feed="indices:0", n=0, id="1-0")
    path = written(tmp_path, [*frames(), value])
    async with (
        served(path, max_connections=2) as (_, session),
        session.ws_connect("/options") as first,
        authenticated(session) as second,
        authenticated(session, "indices") as indices,
    ):
        assert await received(indices, 1) == [b'[{"ev":"V"}]']
        assert await received(second, len(FRAMES)) == FRAMES
        assert await statuses(first) == [("connected", "Connected Successfully")]
        with pytest.raises(TimeoutError):
            await first.receive(timeout=0.2)  # it never authenticated


async def test_it_starts_with_its_first_client_and_says_how_far_it_is(tmp_path: Path) -> None:
    async with served(written(tmp_path, frames())) as (running, session):
        assert await body_of(session, "/mock/playback") == {
            "frames": 0,
            "pages": 0,
            "lost": 0,
            "receive_ts": RECORDED_TS + 1.0,
            "market_ts": RECORDED_TS + 1.0,
            "is_over": False,
            "failure": "",
        }
        async with authenticated(session) as socket:
            await received(socket, len(FRAMES))
            await until(running.player.over.is_set, "the end")
        told = await body_of(session, "/mock/playback")
        assert (told["frames"], told["is_over"]) == (len(FRAMES), True)


async def test_speed_is_how_many_recorded_seconds_pass_in_one(tmp_path: Path) -> None:
    records = [record("frame", after_s, b"[]", feed="options:0", n=0, id="1-0") for after_s in (0.0, 5.0)]
    began = time.monotonic()
    async with served(written(tmp_path, records), 10.0) as (_, session), authenticated(session) as socket:
        await received(socket, 2)
        assert 0.45 < time.monotonic() - began < 2.0  # and not five seconds


async def test_a_subscription_is_acknowledged_amid_the_frames(tmp_path: Path) -> None:
    async with served(written(tmp_path, frames(0.01)), 1.0) as (_, session), authenticated(session) as socket:
        await socket.send_json({"action": "subscribe", "params": "Q.O:NONE"})
        while not (await receive_status(socket)):
            pass


async def receive_status(socket: aiohttp.ClientWebSocketResponse) -> bool:
    return b"subscribed to: Q.O:NONE" in (await socket.receive(timeout=PATIENCE_S)).data.encode()


async def test_a_recording_that_is_damaged_later_plays_up_to_there_and_says_so(tmp_path: Path) -> None:
    path = written(tmp_path, [*frames(), record("frame", 100.0, b"[]", feed="options:0", n=0, id="1-0")])
    path.write_bytes(path.read_bytes() + b"damage" * 10)
    async with served(path) as (running, session), authenticated(session) as socket:
        assert await received(socket, len(FRAMES)) == FRAMES
        await until(running.player.over.is_set, "the end")
        assert "damaged" in (await body_of(session, "/mock/playback"))["failure"]


# --- pages and the clock


async def test_a_recorded_question_gets_its_newest_answer_so_far(tmp_path: Path) -> None:
    asked = f"{CHAIN}?expiration_date=2026-02-19&limit=250"
    later = page(2.0, asked, results=[row(6900, 2.0)])
    records = [page(0.5, asked, results=[row(6900, 1.0)]), *frames(), later]
    async with served(written(tmp_path, records)) as (running, session):
        same = f"{CHAIN}?limit=250&expiration_date=2026-02-19"  # the order of a query says nothing
        assert (await body_of(session, same))["results"] == [row(6900, 1.0)]
        async with authenticated(session):
            await until(running.player.over.is_set, "the end")
        assert (await body_of(session, same))["results"] == [row(6900, 2.0)]


async def test_the_next_page_is_asked_here_and_not_at_the_recorded_provider(tmp_path: Path) -> None:
    records = [
        page(0.5, f"{CHAIN}?limit=1", results=[row(6900, 1.0)], next_url=f"{ORIGIN}{CHAIN}?cursor=abc"),
        page(0.6, f"{CHAIN}?cursor=abc", results=[row(6910, 1.0)]),
    ]
    async with served(written(tmp_path, records)) as (running, session):
        first = await body_of(session, f"{CHAIN}?limit=1")
        assert first["next_url"] == f"{running.rest_url}{CHAIN}?cursor=abc"
        assert (await body_of(session, first["next_url"]))["results"] == [row(6910, 1.0)]


async def test_another_question_about_a_chain_is_answered_from_the_rows_that_are_known(tmp_path: Path) -> None:
    low, high = [row(6890, 1.0), row(6900, 1.0)], [row(6900, 2.0), row(6910, 2.0)]
    records = [
        page(0.5, f"{CHAIN}?strike_price.lte=6900", results=low),
        page(0.6, f"{CHAIN}?strike_price.gte=6900", results=high),
    ]
    async with served(written(tmp_path, records)) as (running, session):
        body = await body_of(session, f"{CHAIN}?strike_price.gte=6895&limit=1&sort=strike_price")
        assert body["results"] == [row(6900, 2.0)]
        assert body["next_url"].startswith(running.rest_url)
        assert (await body_of(session, body["next_url"]))["results"] == [row(6910, 2.0)]
        async with session.get(f"{CHAIN}?limit=many") as response:
            assert response.status == 400


def test_a_contract_that_was_not_seen_for_long_is_gone() -> None:
    answers = RecordedAnswers()
    for ts, strike in ((0.0, 6900), (300.0, 6910)):
        answers.put(f"{CHAIN}?strike_price={strike}", ts, orjson.dumps({"results": [row(strike, 1.0)]}))
    body = answers.answer(f"{CHAIN}?limit=10", ORIGIN)
    assert body is not None and orjson.loads(body)["results"] == [row(6910, 1.0)]


async def test_what_is_not_in_the_recording_is_not_found_and_keys_are_asked_for(tmp_path: Path) -> None:
    async with served(written(tmp_path, [status(0.1)])) as (_, session):
        async with session.get("/v3/snapshot/indices") as response:
            assert response.status == 404
        async with session.get(CHAIN) as response:
            assert response.status == 404
        async with session.get("/v1/marketstatus/now", headers={"Authorization": "none"}) as response:
            assert response.status == 401


async def test_the_market_clock_is_that_of_the_recording_at_the_speed_of_playing(tmp_path: Path) -> None:
    records = [status(0.0, rate=2.0), *frames(0.1)]
    async with served(written(tmp_path, records), 10.0) as (_, session):
        before = await body_of(session, "/v1/marketstatus/now")
        assert (before["market"], before["indicesGroups"]) == ("open", {"s_and_p": "open"})
        assert datetime.fromisoformat(before["serverTime"]).timestamp() == MARKET_TS
        assert before["clock"] == {"rate": 20.0}
        began = time.monotonic()
        async with authenticated(session):
            await asyncio.sleep(0.5)
            after = await body_of(session, "/v1/marketstatus/now")
            passed = datetime.fromisoformat(after["serverTime"]).timestamp() - MARKET_TS
            assert 8.0 < passed < 20.0 * (time.monotonic() - began) + 2.0


# --- what cannot be played


def test_speeds() -> None:
    assert (parse_speed("max"), parse_speed("1"), parse_speed("2.5")) == (None, 1.0, 2.5)
    for text in ("fast", "0", "-1", "nan", "inf"):
        with pytest.raises(FatalError, match="--speed"):
            parse_speed(text)


async def test_no_recording_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("something else")
    for path in (tmp_path / "nowhere", tmp_path / "other"):
        with pytest.raises(MarketSwarmError, match=path.name):
            async with playing(PlayOptions(path, port=0)):
                pass


def test_an_empty_recording_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.write_bytes(b"")
    with pytest.raises(DataError, match="empty"):
        asyncio.run(serve_for_a_moment(path))


async def serve_for_a_moment(path: Path) -> None:
    async with playing(PlayOptions(path, port=0)):
        pass
