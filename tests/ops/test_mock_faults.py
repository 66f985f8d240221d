"""Every fault of the mock does on the wire what its name says, and is over when it is over."""

from __future__ import annotations

import math
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from datetime import time as clock
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from contracts.errors import FatalError
from contracts.symbology import NEW_YORK
from ops.mock.activity import IndexBars
from ops.mock.census import Census
from ops.mock.market import Market
from ops.mock.provider import MockOptions
from ops.mock.scenario import (
    DEFAULTS,
    SCENARIOS,
    Day,
    Fault,
    Scenario,
    Start,
    Step,
    lasting,
    parse_scenario,
)
from ops.mock.sockets import LOWERED_QUOTE_LIMIT, QUOTE_LIMIT
from tests.ops.mock_client import KEY, Client, closing, connected, events_of, receive, statuses, subscribe
from tests.waiting import PATIENCE_S

DOCUMENT = Path(__file__).resolve().parents[2] / "ops/docs/mock.md"
CHAIN = "/v3/snapshot/options/I:SPX"


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with connected(MockOptions(port=0, data=tmp_path, contracts=700, rate=2000)) as connection:
        yield connection


def contracts(client: Client, count: int = 5) -> list[str]:
    """Contracts at the money of the second expiration, which quote for long."""
    market = client.mock.provider.market
    spot, second = market.spot("SPX"), sorted({one.expiration for one in market.listing.contracts})[1]
    rows = [one for one in market.listing.contracts if one.root == "SPXW" and one.expiration == second]
    return [one.cid for one in sorted(rows, key=lambda one: abs(one.strike - spot))[:count]]


@asynccontextmanager
async def quoting(client: Client) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A connection that gets quotes."""
    async with client.feed() as socket:
        await socket.send_str(subscribe(*(f"Q.{cid}" for cid in contracts(client))))
        await events_of(socket, "Q")
        yield socket


def begin(client: Client, fault: Fault, for_s: float = 0.0) -> None:
    """The fault comes now."""
    client.mock.provider.scenario = Scenario((Step(fault, client.mock.provider.elapsed_s(), for_s),))


def end(client: Client) -> None:
    client.mock.provider.scenario = Scenario()


async def goodbye(socket: aiohttp.ClientWebSocketResponse) -> list[tuple[str, str]]:
    """The last frame of statuses before a connection ends."""
    told: list[tuple[str, str]] = []
    while True:
        frame = await socket.receive(timeout=PATIENCE_S)
        if frame.type is not aiohttp.WSMsgType.TEXT:
            return told
        events = orjson.loads(frame.data)
        if events[0]["ev"] == "status":
            told = [(event["status"], event["message"]) for event in events]


# --- the feed


async def test_abort_ends_connections_without_a_close_frame_and_takes_new_ones(client: Client) -> None:
    async with quoting(client) as socket:
        begin(client, Fault.ABORT)
        await closing(socket)
        assert socket.close_code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE
    async with quoting(client):
        pass


async def test_close_1000_ends_connections_in_good_order(client: Client) -> None:
    async with quoting(client) as socket:
        begin(client, Fault.CLOSE_1000)
        assert (await closing(socket)).type is aiohttp.WSMsgType.CLOSE
        assert socket.close_code == aiohttp.WSCloseCode.OK
    async with quoting(client):
        pass


async def test_stall_silences_open_connections_for_ever_and_spares_new_ones(tmp_path: Path) -> None:
    options = MockOptions(port=0, data=tmp_path, contracts=700, rate=2000, max_connections=2)
    async with connected(options) as client, quoting(client) as stalled, client.feed("indices") as indices:
        await indices.send_str(subscribe("V.I:SPX"))
        await events_of(indices, "V")
        begin(client, Fault.STALL)
        began_ms = client.mock.provider.clock.now() * 1000
        await newest_that_waits(stalled)
        async with quoting(client) as fresh:
            while (await events_of(fresh, "Q"))[-1]["t"] < began_ms + 3000.0:
                pass
        for socket in (stalled, indices):
            assert await newest_that_waits(socket) < began_ms + 2000.0
            assert not socket.closed


async def newest_that_waits(socket: aiohttp.ClientWebSocketResponse) -> float:
    """The time of the newest event (ms) that a connection still has for us, 0 without any."""
    newest, until = 0.0, time.monotonic() + 1.0
    with suppress(TimeoutError):
        while time.monotonic() < until:
            frame = await socket.receive(timeout=0.3)
            newest = max(newest, *(event["t"] for event in orjson.loads(frame.data)))
    return newest


async def test_evict_oldest_takes_the_connection_away_again_and_again(client: Client) -> None:
    begin(client, Fault.EVICT_OLDEST, 60.0)
    for _ in range(2):
        began = time.monotonic()
        async with client.feed() as socket:
            ((status, message),) = await goodbye(socket)
            assert status == "max_connections" and "Maximum number" in message
            assert socket.close_code == aiohttp.WSCloseCode.POLICY_VIOLATION
            assert time.monotonic() - began > 0.5
    end(client)
    async with quoting(client):
        pass
    assert (await client.state())["evicted"] == 2


async def test_a_slow_consumer_gets_everything_late_and_then_its_end(client: Client) -> None:
    async with quoting(client) as socket:
        began_ms = client.mock.provider.clock.now() * 1000
        begin(client, Fault.SLOW_CONSUMER, 1.0)
        newest, oldest_age_ms = 0.0, 0.0
        while True:
            frame = await socket.receive(timeout=PATIENCE_S)
            if frame.type is not aiohttp.WSMsgType.TEXT:
                break
            events = orjson.loads(frame.data)
            if events[0]["ev"] == "Q":
                now_ms = client.mock.provider.clock.now() * 1000
                oldest_age_ms = max(oldest_age_ms, now_ms - events[0]["t"])
                newest = max(newest, events[-1]["t"])
            else:
                last = events[0]["status"]
        assert last == "slow_consumer"
        assert oldest_age_ms > 700.0
        assert newest > began_ms + 500.0
        assert socket.close_code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE
    async with quoting(client):
        pass


async def test_over_limit_refuses_a_frame_whole_at_a_tenth_of_the_usual(client: Client) -> None:
    listed = [one.cid for one in client.mock.provider.market.listing.contracts]
    assert LOWERED_QUOTE_LIMIT < QUOTE_LIMIT
    begin(client, Fault.OVER_LIMIT, 60.0)
    async with client.feed() as socket:
        await socket.send_str(subscribe(*(f"Q.{cid}" for cid in listed[:LOWERED_QUOTE_LIMIT])))
        assert {status for status, _ in await statuses(socket)} == {"success"}
        await socket.send_str(subscribe(f"Q.{listed[LOWERED_QUOTE_LIMIT]}"))
        ((status, message),) = await statuses(socket)
        assert status == "error" and message.startswith("Subscription limit reached")
        end(client)
        await socket.send_str(subscribe(f"Q.{listed[LOWERED_QUOTE_LIMIT]}"))
        assert [status for status, _ in await statuses(socket)] == ["success"]
    assert (await client.state())["subscriptions"]["refused"] == 1


async def test_unknown_topic_passes_quotes_over_without_a_word(client: Client) -> None:
    (cid,) = contracts(client, 1)
    begin(client, Fault.UNKNOWN_TOPIC, 60.0)
    async with client.feed() as socket:
        await socket.send_str(subscribe(f"Q.{cid}", f"T.{cid}", f"ZZ.{cid}"))
        assert await statuses(socket) == [("success", f"subscribed to: T.{cid}")]
        assert (await client.state())["subscriptions"]["ignored"] == 2
        end(client)
        await socket.send_str(subscribe(f"Q.{cid}"))
        assert await statuses(socket) == [("success", f"subscribed to: Q.{cid}")]


async def test_auth_timeout_answers_a_key_late_and_hangs_up(client: Client) -> None:
    begin(client, Fault.AUTH_TIMEOUT, 60.0)
    async with client.session.ws_connect(f"{client.mock.rest_url}/options") as socket:
        assert await statuses(socket) == [("connected", "Connected Successfully")]
        await socket.send_json({"action": "auth", "params": KEY})
        ((status, _),) = await goodbye(socket)
        assert status == "auth_timeout"
        assert socket.close_code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE
    end(client)
    async with quoting(client):
        pass


async def test_late_and_duplicate_events_keep_their_time_and_number(client: Client) -> None:
    async with quoting(client) as socket:
        begin(client, Fault.LATE_AND_DUPLICATE, 60.0)
        seen: set[int] = set()
        twice, highest_ms, late_ms = 0, 0, 0
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until and not (twice > 20 and late_ms > 1000):
            for event in await events_of(socket, "Q"):
                twice += event["q"] in seen
                seen.add(event["q"])
                highest_ms = max(highest_ms, event["t"])
                late_ms = max(late_ms, highest_ms - event["t"])
        assert twice > 20 and late_ms > 1000


async def test_after_disorder_nothing_is_missing(client: Client) -> None:
    async with quoting(client) as socket:
        first = max(event["q"] for event in await events_of(socket, "Q"))
        begin(client, Fault.LATE_AND_DUPLICATE, 0.5)
        over_ms = client.mock.provider.clock.now() * 1000 + 1000.0
        seen: set[int] = set()
        newest_ms = 0
        while newest_ms < over_ms:
            events = await events_of(socket, "Q")
            seen.update(event["q"] for event in events)
            newest_ms = max(newest_ms, *(event["t"] for event in events))
        later = sorted(number for number in seen if number > first)
        assert later == list(range(later[0], later[-1] + 1))


# --- REST


async def test_cursor_loop_leads_from_the_third_page_back_to_the_second(client: Client) -> None:
    begin(client, Fault.CURSOR_LOOP, 60.0)
    first = await client.get(CHAIN, limit=250)
    urls = [first["next_url"]]
    for _ in range(4):
        page = await client.get(urls[-1].removeprefix(client.mock.rest_url))
        assert page["results"]
        urls.append(page["next_url"])
    assert urls[0] == urls[2] == urls[4]
    assert urls[1] == urls[3] != urls[0]


async def test_duplicate_rows_come_again_on_the_next_page(client: Client) -> None:
    begin(client, Fault.DUPLICATE_ROWS, 60.0)
    pages = await client.pages(CHAIN, limit=250)
    tickers = [[row["details"]["ticker"] for row in page] for page in pages]
    assert len(pages) > 2
    assert all(page[-1] == following[0] for page, following in pairwise(tickers))
    listed = client.mock.provider.market.listing
    assert len({ticker for page in tickers for ticker in page}) == len(listed.rows_of("SPX"))


async def test_403_comes_with_the_second_page(client: Client) -> None:
    begin(client, Fault.FORBIDDEN_MID_PAGE, 60.0)
    first = await client.get(CHAIN, limit=250)
    status, body = await client.status(first["next_url"].removeprefix(client.mock.rest_url))
    assert status == 403
    assert orjson.loads(body)["status"] == "NOT_AUTHORIZED"


async def test_html_502_is_a_web_page_under_either_status(client: Client) -> None:
    begin(client, Fault.HTML_502, 60.0)
    answers = [await client.status(CHAIN) for _ in range(2)]
    assert sorted(status for status, _ in answers) == [200, 502]
    assert all(body.startswith("<html>") for _, body in answers)


async def test_429_comes_with_and_without_body_and_retry_after(client: Client) -> None:
    begin(client, Fault.THROTTLED, 60.0)
    seen = set()
    for _ in range(3):
        async with client.session.get(client.mock.rest_url + CHAIN) as response:
            assert response.status == 429
            seen.add((bool(await response.read()), response.headers.get("Retry-After")))
    assert seen == {(True, None), (False, None), (True, "1")}


async def test_missing_greeks_leaves_out_what_the_solver_and_the_day_would_tell(client: Client) -> None:
    begin(client, Fault.MISSING_GREEKS, 60.0)
    rows = (await client.get(CHAIN, limit=250))["results"]
    assert {row.get("greeks", "absent") if "greeks" not in row else "empty" for row in rows} == {"absent", "empty"}
    assert all(row["day"] == row["last_trade"] == {} and "implied_volatility" not in row for row in rows)
    assert not any(row.get("greeks") for row in rows)


async def test_empty_underlying_is_empty_absent_or_delayed(client: Client) -> None:
    begin(client, Fault.EMPTY_UNDERLYING, 60.0)
    rows = (await client.get(CHAIN, limit=250))["results"]
    told = [row.get("underlying_asset") for row in rows]
    assert None in told and {} in told
    assert {one["timeframe"] for one in told if one} == {"DELAYED"}


async def test_open_interest_flips_from_answer_to_answer(client: Client) -> None:
    async def interests() -> list[int]:
        return [row["open_interest"] for row in (await client.get(CHAIN, limit=50))["results"]]

    today = await interests()
    begin(client, Fault.OI_FLIP, 60.0)
    told = [await interests() for _ in range(4)]
    assert told[0] == told[2] != told[1] == told[3]
    assert today in told
    end(client)
    assert await interests() == await interests() == today


# --- the market


async def test_frozen_am_rows_stay_listed_with_quotes_that_do_not_move(tmp_path: Path) -> None:
    options = MockOptions(port=0, data=tmp_path, contracts=700, rate=2000, scenario="frozen-am")
    async with connected(options) as client:
        today = datetime.fromtimestamp(client.mock.provider.clock.now(), NEW_YORK).date().isoformat()

        async def quotes(root: str) -> dict[str, Any]:
            rows = [row for page in await client.pages(CHAIN, expiration_date=today, limit=250) for row in page]
            found = {row["details"]["ticker"]: row["last_quote"] for row in rows}
            return {cid: quote for cid, quote in found.items() if cid.startswith(f"O:{root}{today[2:4]}")}

        before, moving = await quotes("SPX"), await quotes("SPXW")
        async with client.feed() as socket:
            await socket.send_str(subscribe(*(f"Q.{cid}" for cid in [*before, *moving])))
            for _ in range(20):
                assert not {event["sym"] for event in await events_of(socket, "Q")} & set(before)
        assert before and await quotes("SPX") == before
        assert await quotes("SPXW") != moving


async def test_a_contract_vanishes_a_minute_after_the_close(tmp_path: Path) -> None:
    async with connected(MockOptions(port=0, data=tmp_path, contracts=200, scenario="expire-at-close")) as client:
        provider = client.mock.provider
        today = datetime.fromtimestamp(provider.clock.now(), NEW_YORK).date().isoformat()
        (row,) = (await client.get(CHAIN, expiration_date=today, limit=1))["results"]
        path = f"{CHAIN}/{row['details']['ticker']}"
        for minutes, status in ((1.0, 200), (1.0, 404)):  # 16:00 and 16:01
            provider.clock.skip(60.0 * minutes)
            assert (await client.status(path))[0] == status
        assert (await client.get(CHAIN, expiration_date=today, limit=1))["results"] == []


# --- topics


async def test_trades_come_at_the_quote_and_agree_with_the_chain(client: Client) -> None:
    (cid,) = contracts(client, 1)
    async with client.feed() as socket:
        await socket.send_str(subscribe(f"T.{cid}"))
        trade = (await events_of(socket, "T"))[-1]
        assert trade["sym"] == cid and trade["s"] > 0 and trade["p"] > 0
        assert {"x", "c", "t", "q"} <= set(trade)
        await socket.send_str(orjson.dumps({"action": "unsubscribe", "params": f"T.{cid}"}).decode())
        while (events := await receive(socket))[0]["ev"] == "T":
            trade = events[-1]
        (row,) = (await client.get(CHAIN, ticker=cid))["results"]
        assert row["last_trade"]["price"] == trade["p"]
        assert row["last_trade"]["sip_timestamp"] == trade["t"] * 1_000_000


async def test_aggregates_of_a_second_add_up_to_its_trades(client: Client) -> None:
    (cid,) = contracts(client, 1)
    async with client.feed() as socket:
        await socket.send_str(subscribe(f"T.{cid}", f"A.{cid}"))
        trades: list[dict[str, Any]] = []
        aggregates: list[dict[str, Any]] = []
        while len(aggregates) < 2:
            for event in await receive(socket):
                {"T": trades, "A": aggregates}.get(event["ev"], []).append(event)
        second = aggregates[-1]
        own = [trade for trade in trades if second["s"] <= trade["t"] < second["e"]]
        assert second["v"] == sum(trade["s"] for trade in own)
        assert (second["o"], second["c"]) == (own[0]["p"], own[-1]["p"])
        assert (second["l"], second["h"]) == (min(t["p"] for t in own), max(t["p"] for t in own))
        assert second["e"] - second["s"] == 1000 and second["av"] >= second["v"]


async def test_aggregates_of_an_index_say_what_its_values_were(client: Client) -> None:
    async with client.feed("indices") as socket:
        await socket.send_str(subscribe("V.I:SPX", "A.I:SPX", "A.I:NDX"))
        told: dict[str, list[dict[str, Any]]] = {}
        bars: list[dict[str, Any]] = []
        while len(bars) < 2:
            for event in await receive(socket):
                told.setdefault(event["ev"], []).append(event)
            # of the first second some values may have been sent before we subscribed
            bars = [bar for bar in told.get("A", []) if bar["sym"] == "I:SPX" and bar["s"] > told["V"][0]["t"]]
    assert {bar["sym"] for bar in told["A"]} == {"I:SPX", "I:NDX"}
    for bar in bars:
        own = [value["val"] for value in told["V"] if bar["s"] <= value["t"] < bar["e"]]
        assert (bar["o"], bar["c"], bar["l"], bar["h"]) == (own[0], own[-1], min(own), max(own))
        assert set(bar) == {"ev", "sym", "op", "o", "c", "h", "l", "s", "e"}  # an index has no volume
    (row,) = (await client.get("/v3/snapshot/indices", **{"ticker.any_of": "I:SPX"}))["results"]
    assert bars[0]["op"] == row["session"]["open"]


def test_a_minute_of_an_index_is_over_with_the_first_value_after_it() -> None:
    bars = IndexBars(Market.synthetic(("SPX",), contracts=20))
    values = {10_000: 6900.0, 30_000: 6910.5, 59_999: 6890.25}
    for t, value in values.items():
        assert [bar for bar in bars.take([{"T": "I:SPX", "val": value, "t": t}]) if bar["ev"] == "AM"] == []
    (minute,) = [bar for bar in bars.take([{"T": "I:SPX", "val": 1.0, "t": 60_000}]) if bar["ev"] == "AM"]
    assert (minute["o"], minute["h"], minute["l"], minute["c"]) == (6900.0, 6910.5, 6890.25, 6890.25)
    assert (minute["s"], minute["e"]) == (0, 60_000)


async def test_fair_values_are_stamped_in_nanoseconds(client: Client) -> None:
    (cid,) = contracts(client, 1)
    async with client.feed() as socket:
        await socket.send_str(subscribe(f"FMV.{cid}"))
        event = (await events_of(socket, "FMV"))[0]
        assert event["sym"] == cid and event["fmv"] > 0
        assert abs(event["t"] / 1e9 - client.mock.provider.clock.now()) < 5.0


async def test_trades_take_a_wildcard_and_quotes_do_not(client: Client) -> None:
    async with client.feed() as socket:
        await socket.send_str(subscribe("Q.*", "T.*"))
        assert await statuses(socket) == [("success", "subscribed to: T.*")]
        seen: set[str] = set()
        while len(seen) < 20:
            seen.update(event["sym"] for event in await events_of(socket, "T"))


# --- what the mock counts


async def test_the_census_tells_sockets_alive_at_the_same_time(tmp_path: Path) -> None:
    options = MockOptions(port=0, data=tmp_path, contracts=200, max_connections=2)
    async with connected(options) as client:
        for _ in range(2):
            async with client.feed(name="shard/0"):
                pass
        async with client.feed(name="shard/1"), client.feed(name="shard/1"):
            state = await client.state()
            assert [one["client"] for one in state["connections"]] == ["shard/1", "shard/1"]
        rows = {row["client"]: (row["most"], row["opened"]) for row in (await client.state())["clients"]}
        assert rows == {"shard/0": (1, 2), "shard/1": (2, 2)}
        (key,) = (await client.state())["keys"]
        assert (key["most"], key["opened"]) == (2, 4) and KEY not in str(key)


async def test_the_census_tells_requests(client: Client) -> None:
    for _ in range(3):
        await client.get("/v1/marketstatus/now")
    assert (await client.state())["requests"] == {"all": 3, "most_in_a_minute": 3}


def test_a_minute_of_requests_is_any_60_seconds() -> None:
    census = Census()
    for now in (0.0, 50.0, 59.9, 60.0, 109.0, 200.0):
        census.requested(now)
    assert (census.requests, census.most_requests) == (6, 4)  # those from 50.0 on, until 110.0


async def test_the_census_tells_subscriptions_nobody_needs(tmp_path: Path) -> None:
    options = MockOptions(port=0, data=tmp_path, contracts=200, max_connections=2)
    async with connected(options) as client, client.feed() as one, client.feed() as other:
        cid = client.mock.provider.market.listing.contracts[0].cid
        await one.send_str(subscribe(f"Q.{cid}"))
        await statuses(one)
        await one.send_str(subscribe(f"Q.{cid}", "Q.O:SPXW260107C06850000"))
        await statuses(one)
        await other.send_str(subscribe(f"Q.{cid}"))
        await statuses(other)
        counts = (await client.state())["subscriptions"]
        assert (counts["repeated"], counts["unlisted"], counts["doubled"]) == (1, 1, 1)


# --- scenarios over time


def test_every_fault_has_a_scenario_of_its_name() -> None:
    assert set(DEFAULTS) == set(Fault)
    assert all(SCENARIOS[fault].times_begun(fault, 100.0) for fault in Fault)


def test_every_scenario_is_documented_with_its_time() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \|.*\| ([^|]*) \|$", DOCUMENT.read_text(), re.MULTILINE)
    told = dict(rows)
    assert set(told) == set(SCENARIOS)
    for fault, step in DEFAULTS.items():
        if step.for_s == math.inf:
            assert told[fault] == "always"
            continue
        lasting_for = f" for {step.for_s:g} s" if step.for_s else ""
        every = f", every {step.every_s:g} s" if step.every_s < math.inf else ""
        assert told[fault].replace("20 min", "1200 s") == f"at {step.at_s:g} s{lasting_for}{every}"


SCRIPT = """
rate = 2.0
start = { day = "third-friday", clock = "09:25:00" }
delist_after = "60s"

[[steps]]
what = "silence"
at = "5s"
for = 3
every = "1m"

[[steps]]
what = "spot-gap"
at = 7
by = -0.02
"""


def test_a_file_scripts_faults_over_time(tmp_path: Path) -> None:
    expected = Scenario(
        (Step(Fault.SILENCE, 5.0, 3.0, 60.0), Step(Fault.SPOT_GAP, 7.0, by=-0.02)),
        Start(Day.THIRD_FRIDAY, clock(9, 25)),
        2.0,
        60.0,
    )
    path = tmp_path / "morning.toml"
    path.write_text(SCRIPT)
    assert parse_scenario(str(path)) == expected
    told = {
        "rate": 2.0,
        "start": {"day": "third-friday", "clock": "09:25:00"},
        "delist_after": 60,
        "steps": [{"what": "silence", "at": 5, "for": 3, "every": 60}, {"what": "spot-gap", "at": "7s", "by": -0.02}],
    }
    (tmp_path / "morning.json").write_bytes(orjson.dumps(told))
    assert parse_scenario(str(tmp_path / "morning.json")) == expected


def test_a_step_that_leaves_something_out_is_as_the_scenario_of_its_name(tmp_path: Path) -> None:
    path = tmp_path / "short.toml"
    path.write_text('[[steps]]\nwhat = "reconnect"\n')
    assert parse_scenario(str(path)) == SCENARIOS["reconnect"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[[", "Invalid"),
        ("speed = 2", "unknown field `speed`"),
        ("rate = 2", "needs a start"),
        ("rate = 0", "must be above 0"),
        ('start = { day = "sunday", clock = "09:30" }', "sunday"),
        ('start = { day = "third-friday", clock = "nine" }', "nine"),
        ('[[steps]]\nwhat = "rain"', "rain.*steps"),
        ("[[steps]]\nat = 3", "what"),
        ('[[steps]]\nwhat = "abort"\nfor = 3', "leave out `for`"),
        ('[[steps]]\nwhat = "abort"\nby = 3', "leave out `by`"),
        ('[[steps]]\nwhat = "silence"\nat = "soon"', "not a duration in 'soon'"),
        ('[[steps]]\nwhat = "silence"\nat = -1', "no number of seconds"),
        ('[[steps]]\nwhat = "silence"\nfor = 0', "above 0"),
        ('[[steps]]\nwhat = "silence"\nfor = 9\nevery = 5', "below `every`"),
    ],
)
def test_a_file_with_a_mistake_is_refused_by_name(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(FatalError, match=f"(?s)wrong.toml: .*{complaint}"):
        parse_scenario(str(path))


def test_a_file_that_is_not_there_is_told() -> None:
    with pytest.raises(FatalError, match=r"nowhere\.toml: cannot be read"):
        parse_scenario("nowhere.toml")


def test_a_fault_alone_lasts_from_the_beginning() -> None:
    assert lasting(Fault.STALL).times_begun(Fault.STALL, 0.0) == 1
    assert lasting(Fault.SILENCE).acts(Fault.SILENCE, 1e9)
