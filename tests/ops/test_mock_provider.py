"""The mock provider over real sockets: REST rows and pages, the feed's protocol, its clock and its scenarios."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from statistics import median

import aiohttp
import orjson
import pytest

from contracts.errors import DataError, FatalError
from contracts.symbology import NEW_YORK, parse_ticker
from ops.mock import trading_days
from ops.mock.provider import MockOptions
from ops.mock.scenario import SCENARIOS, Day, Fault, Scenario, Step, lasting
from ops.mock.server import serving
from tests.ops.mock_client import KEY, Client, closing, connected, events_of, statuses, subscribe, until
from tests.waiting import PATIENCE_S

CHAINS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "chains"


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with connected(MockOptions(port=0, data=tmp_path, contracts=700, rate=2000)) as connection:
        yield connection


# --- REST


async def test_a_chain_pages_completely_in_ticker_order(client: Client) -> None:
    pages = await client.pages("/v3/snapshot/options/I:SPX", limit=250)
    tickers = [row["details"]["ticker"] for page in pages for row in page]
    listed = client.mock.provider.market.listing
    assert [len(page) for page in pages][:-1] == [250] * (len(pages) - 1)
    assert tickers == [listed.contracts[row].cid for row in listed.rows_of("SPX").tolist()]
    assert {parse_ticker(ticker).root for ticker in tickers} == {"SPX", "SPXW"}


@pytest.mark.parametrize("sort", ["ticker", "expiration_date", "strike_price"])
@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_any_order_pages_without_gap_or_repetition(client: Client, sort: str, order: str) -> None:
    pages = await client.pages("/v3/snapshot/options/I:NDX", limit=97, sort=sort, order=order)
    details = [row["details"] for page in pages for row in page]
    keys = [(detail[sort], detail["ticker"]) for detail in details]
    assert keys == sorted(keys, reverse=order == "desc")
    assert len(set(keys)) == len(client.mock.provider.market.listing.rows_of("NDX"))


async def test_filters_travel_in_the_cursor(client: Client) -> None:
    market = client.mock.provider.market
    day = sorted({contract.expiration for contract in market.listing.contracts})[1]
    pages = await client.pages(
        "/v3/snapshot/options/I:SPX",
        **{"expiration_date": day, "strike_price.gte": 6850, "strike_price.lt": 6950},
        contract_type="put",
        limit=5,
    )
    details = [row["details"] for page in pages for row in page]
    wanted = [
        contract.cid
        for contract in market.listing.contracts
        if (contract.expiration, contract.type) == (day, "put")
        and contract.root in ("SPX", "SPXW")
        and 6850 <= contract.strike < 6950
    ]
    assert len(pages) > 1
    assert [detail["ticker"] for detail in details] == wanted


async def test_paging_goes_on_after_a_contract_that_is_gone(client: Client) -> None:
    market = client.mock.provider.market
    first = await client.get("/v3/snapshot/options/I:SPX", limit=10, sort="strike_price")
    last = first["results"][-1]["details"]["ticker"]
    kept = [contract for contract in market.listing.contracts if contract.cid != last]
    market.listing = type(market.listing).of(market.symbols, kept)
    second = await client.get(first["next_url"].removeprefix(client.mock.rest_url))
    strikes = [row["details"]["strike_price"] for page in (first, second) for row in page["results"]]
    tickers = [row["details"]["ticker"] for page in (first, second) for row in page["results"]]
    assert strikes == sorted(strikes)
    assert len(set(tickers)) == 20


async def test_a_row_leaves_out_what_is_unknown(client: Client) -> None:
    rows = [row for page in await client.pages("/v3/snapshot/options/I:SPX", limit=250) for row in page]
    assert not [row for row in rows if None in row.values()]
    assert all(set(row["underlying_asset"]) >= {"ticker", "value"} for row in rows)
    assert all("break_even_price" not in row for row in rows)
    traded = [row for row in rows if row["day"]]
    assert traded
    assert [row for row in rows if row["day"] == {} and row["last_trade"] == {}]
    assert [row for row in rows if row["greeks"] == {} and "implied_volatility" not in row]
    assert all(set(row["greeks"]) in (set(), {"delta", "gamma", "theta", "vega"}) for row in rows)
    for row in rows:
        quote = row["last_quote"]
        assert quote["midpoint"] == pytest.approx((quote["bid"] + quote["ask"]) / 2)
        assert quote["last_updated"] % 1_000_000 == 0
        assert isinstance(row["details"]["strike_price"], int)


async def test_a_stock_row_has_price_and_break_even(tmp_path: Path) -> None:
    async with connected(MockOptions(port=0, data=tmp_path, contracts=200, symbols=("SPY",))) as client:
        (row,) = (await client.get("/v3/snapshot/options/SPY", limit=1, contract_type="call"))["results"]
        middle = row["last_quote"]["midpoint"]
        assert "value" not in row["underlying_asset"]
        assert row["break_even_price"] == pytest.approx(row["details"]["strike_price"] + middle)
        assert row["details"]["exercise_style"] == "american"
        assert (await client.get("/v3/snapshot/options/I:SPY"))["results"] == []


async def test_underlying_names_are_as_the_provider_wants_them(client: Client) -> None:
    without_prefix = await client.get("/v3/snapshot/options/SPX")
    assert len(without_prefix["results"]) == 10
    assert not [row for row in without_prefix["results"] if "greeks" in row]
    assert (await client.get("/v3/snapshot/options/SPXW"))["results"] == []
    assert (await client.get("/v3/reference/options/contracts", underlying_ticker="I:SPX"))["results"] == []
    reference = await client.pages("/v3/reference/options/contracts", underlying_ticker="SPX", limit=1000)
    assert sum(map(len, reference)) == len(client.mock.provider.market.listing.rows_of("SPX"))
    assert {row["underlying_ticker"] for page in reference for row in page} == {"SPX"}


async def test_single_contracts(client: Client) -> None:
    ticker = client.mock.provider.market.listing.contracts[-1].cid
    row = (await client.get(f"/v3/snapshot/options/I:SPX/{ticker}"))["results"]
    assert row["details"]["ticker"] == ticker
    contract = (await client.get(f"/v3/reference/options/contracts/{ticker}"))["results"]
    assert (contract["ticker"], contract["exercise_style"]) == (ticker, "european")
    status, body = await client.status("/v3/snapshot/options/I:SPX/O:SPXW200101C00001000")
    assert status == 404
    assert orjson.loads(body)["error"] == "Options contract not found."
    assert (await client.status(f"/v3/snapshot/options/I:NDX/{ticker}"))[0] == 404


async def test_indices_and_universal_snapshots_answer_every_ticker(client: Client) -> None:
    indices = (await client.get("/v3/snapshot/indices", **{"ticker.any_of": "I:SPX,I:NOPE"}))["results"]
    assert [row.get("error") for row in indices] == ["NOT_FOUND", None]
    assert indices[1]["session"]["low"] <= indices[1]["value"] <= indices[1]["session"]["high"]
    ticker = client.mock.provider.market.listing.contracts[0].cid
    pages = await client.pages("/v3/snapshot", **{"ticker.any_of": f"I:SPX,{ticker},I:NDX"}, limit=1)
    assert [page[0]["ticker"] for page in pages] == ["I:NDX", "I:SPX", ticker]
    assert pages[2][0]["type"] == "options"
    assert "ticker" not in pages[2][0]["details"]


async def test_market_status_tells_the_market_clock(client: Client) -> None:
    now = await client.get("/v1/marketstatus/now")
    server_time = datetime.fromisoformat(now["serverTime"])
    assert now["market"] == "open"
    assert now["clock"] == {"rate": 1.0}
    assert "." in now["serverTime"]
    assert server_time.utcoffset() is not None
    assert abs(server_time.timestamp() - client.mock.provider.clock.now()) < 5.0
    upcoming = await client.get("/v1/marketstatus/upcoming")
    assert {row["exchange"] for row in upcoming} == {"NYSE", "NASDAQ"}
    assert min(row["date"] for row in upcoming) >= now["serverTime"][:10]


async def test_keys_routes_and_parameters_are_refused_as_the_provider_does(client: Client) -> None:
    chain = "/v3/snapshot/options/I:SPX"
    async with aiohttp.ClientSession() as nobody:
        async with nobody.get(client.mock.rest_url + chain) as response:
            body = await response.json()
        assert (response.status, body["status"], body["error"]) == (401, "ERROR", "Unknown API Key")
        async with nobody.get(f"{client.mock.rest_url}{chain}?apiKey=any") as response:
            assert response.status == 200
    assert await client.status("/v3/nowhere") == (404, "404 page not found\n")
    for query in ("limit=251", "limit=0", "limit=x", "sort=size", "order=up", "contract_type=other"):
        assert (await client.status(f"{chain}?{query}"))[0] == 400
    for query in ("strike_price.gte=low", "expiration_date=2026-13-01", "strike_price.near=1", "cursor=%25"):
        assert (await client.status(f"{chain}?{query}"))[0] == 400


async def test_only_the_given_key_is_accepted(tmp_path: Path) -> None:
    async with connected(MockOptions(port=0, data=tmp_path, contracts=200, key="secret")) as client:
        assert (await client.status("/v1/marketstatus/now"))[0] == 401
        assert (await client.status("/v1/marketstatus/now", {"Authorization": "Bearer secret"}))[0] == 200
        async with client.session.ws_connect(f"{client.mock.rest_url}/options") as socket:
            await statuses(socket)
            await socket.send_json({"action": "auth", "params": "wrong"})
            assert await statuses(socket) == [("auth_failed", "authentication failed")]
            await closing(socket)
            assert socket.close_code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE


# --- Feed


async def test_subscribed_contracts_stream_and_no_others(client: Client) -> None:
    near, far = (client.mock.provider.market.listing.contracts[row].cid for row in (0, -1))
    async with client.feed() as socket:
        await socket.send_str(subscribe(f"Q.{near}", f"T.{near}", "ZZ.ignored", f"Q.{near}"))
        assert await statuses(socket) == [
            ("success", f"subscribed to: Q.{near}"),
            ("success", f"subscribed to: T.{near}"),
        ]
        quotes = [event for _ in range(3) for event in await events_of(socket, "Q")]
        assert {event["sym"] for event in quotes} == {near}
        assert set(quotes[0]) == {"ev", "sym", "bx", "ax", "bp", "ap", "bs", "as", "t", "q"}
        await socket.send_str(subscribe(f"Q.{near}", f"Q.{far}"))
        assert await statuses(socket) == [("success", f"subscribed to: Q.{far}")]
        await socket.send_json({"action": "unsubscribe", "params": f"Q.{near},Q.{near}"})
        assert await statuses(socket) == [("success", f"unsubscribed to: Q.{near}")]
        assert {event["sym"] for event in await events_of(socket, "Q")} == {far}


async def test_pipelined_authentication_and_subscription(client: Client) -> None:
    cid = client.mock.provider.market.listing.contracts[0].cid
    async with client.session.ws_connect(f"{client.mock.rest_url}/options") as socket:
        await socket.send_json({"action": "auth", "params": KEY})
        await socket.send_str(subscribe(f"Q.{cid}"))
        assert [(await statuses(socket))[0][0] for _ in range(3)] == ["connected", "auth_success", "success"]


async def test_nothing_is_subscribed_before_authentication(client: Client) -> None:
    async with client.session.ws_connect(f"{client.mock.rest_url}/options") as socket:
        await statuses(socket)
        await socket.send_str(subscribe("Q.O:SPXW260107C06850000"))
        assert [status for status, _ in await statuses(socket)] == ["auth_required"]
        await socket.send_str("not json")
        assert [status for status, _ in await statuses(socket)] == ["error"]


async def test_index_values(client: Client) -> None:
    async with client.feed("indices") as socket:
        await socket.send_str(subscribe("V.I:SPX", "Q.O:SPXW260107C06850000"))
        assert await statuses(socket) == [("success", "subscribed to: V.I:SPX")]
        (event,) = await events_of(socket, "V")
        assert set(event) == {"ev", "val", "T", "t"}
        assert event["T"] == "I:SPX"
        assert event["val"] == pytest.approx(client.mock.provider.market.spot("SPX"), rel=1e-3)


async def test_a_frame_over_the_quote_limit_is_refused_whole(client: Client) -> None:
    pairs = [f"Q.{contract.cid}" for contract in client.mock.provider.market.listing.contracts[:1100]]
    async with client.feed() as socket:
        await socket.send_str(subscribe(*pairs[:990]))
        acknowledged = [status for _ in range(2) for status in await statuses(socket)]
        assert len(acknowledged) == 990
        await socket.send_str(subscribe(*pairs[990:1001]))
        refused = await statuses(socket)
        assert {status for status, _ in refused} == {"error"}
        assert refused[0][1].startswith("Subscription limit reached for feed.")
        assert len(refused) == 11
        await socket.send_json({"action": "unsubscribe", "params": pairs[0]})
        await statuses(socket)
        await socket.send_str(subscribe(*pairs[990:1001]))
        assert {status for status, _ in await statuses(socket)} == {"success"}


async def test_a_newer_connection_evicts_the_older_of_its_key_and_cluster(client: Client) -> None:
    async with client.feed() as older, client.feed("indices") as indices, client.feed(key="other") as other:
        async with client.feed():
            assert [status for status, _ in await statuses(older)] == ["max_connections"]
            assert (await closing(older)).data == aiohttp.WSCloseCode.POLICY_VIOLATION
            await indices.send_str(subscribe("V.I:SPX"))
            assert [status for status, _ in await statuses(indices)] == ["success"]
        assert not other.closed


async def test_more_connections_when_allowed(tmp_path: Path) -> None:
    async with (
        connected(MockOptions(port=0, data=tmp_path, contracts=200, max_connections=2)) as client,
        client.feed() as first,
        client.feed(),
    ):
        await first.send_str(subscribe("T.O:SPXW260107C06850000"))
        assert [status for status, _ in await statuses(first)] == ["success"]


async def test_a_slow_reader_is_dropped_and_holds_up_nobody(tmp_path: Path) -> None:
    options = MockOptions(port=0, data=tmp_path, contracts=400, rate=40_000, frame_events=20, max_connections=2)
    async with connected(options) as client:
        contracts = client.mock.provider.market.listing.contracts[:200]
        pairs = [f"Q.{contract.cid}" for contract in contracts]
        reader, writer = await asyncio.open_connection("127.0.0.1", client.mock.port, limit=1024)
        writer.write(
            b"GET /options HTTP/1.1\r\nHost: mock\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")
        for message in (orjson.dumps({"action": "auth", "params": "slow"}), subscribe(*pairs).encode()):
            writer.write(masked(message))
        async with client.feed() as fast:
            await fast.send_str(subscribe(*pairs))
            dropped = asyncio.create_task(gone(writer))
            newest = 0
            while not dropped.done():
                newest = max(newest, (await events_of(fast, "Q"))[-1]["t"])
            assert client.mock.provider.clock.now() * 1000 - newest < 1000.0
        writer.close()


async def gone(writer: asyncio.StreamWriter) -> None:
    """Until the server has dropped a connection that we do not read: then writing to it fails."""
    deadline = time.monotonic() + 4 * PATIENCE_S
    while time.monotonic() < deadline:
        try:
            writer.write(masked(b"{}"))
            await writer.drain()
        except ConnectionError:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the slow reader was never dropped")


def masked(message: bytes) -> bytes:
    """A client text frame with a mask of zeros."""
    length = len(message)
    head = bytes([0x81, 0x80 | length]) if length < 126 else bytes([0x81, 0xFE]) + length.to_bytes(2, "big")
    return head + bytes(4) + message


async def test_the_rate_is_kept_and_frames_are_filled(client: Client) -> None:
    pairs = [f"Q.{contract.cid}" for contract in client.mock.provider.market.listing.contracts[:300]]
    async with client.feed() as socket:
        await socket.send_str(subscribe(*pairs))
        await statuses(socket)
        sizes: set[int] = set()
        times: list[int] = []
        while not times or times[-1] < times[0] + 2500:
            events = await events_of(socket, "Q")
            sizes.add(len(events))
            times += [event["t"] for event in events]
        in_half_seconds = Counter((ms - times[0]) // 500 for ms in times)
        assert median(in_half_seconds[n] for n in range(5)) == pytest.approx(1000, rel=0.2)
        assert sizes == {10}


# --- Scenarios and the clock


async def test_silence_stops_quotes_but_not_index_values(client: Client) -> None:
    provider = client.mock.provider
    cid = provider.market.listing.contracts[0].cid
    async with client.feed() as options, client.feed("indices") as indices:
        await options.send_str(subscribe(f"Q.{cid}"))
        await indices.send_str(subscribe("V.I:SPX"))
        await events_of(options, "Q")
        provider.scenario = lasting(Fault.SILENCE)
        began_ms = provider.clock.now() * 1000
        value_ms = [(await events_of(indices, "V"))[0]["t"] for _ in range(3)][-1]
        provider.scenario = Scenario()
        while (quote := (await events_of(options, "Q"))[0])["t"] < began_ms + 500.0:
            pass
        assert value_ms > began_ms + 500.0 and quote["t"] >= value_ms  # none in between


async def test_a_disconnection_aborts_and_refuses_sockets_while_rest_answers(client: Client) -> None:
    async with client.feed() as socket:
        client.mock.provider.scenario = lasting(Fault.RECONNECT)
        await closing(socket)
        assert socket.close_code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE
    with pytest.raises(aiohttp.ClientError):
        await client.session.ws_connect(f"{client.mock.rest_url}/options")
    await client.get("/v1/marketstatus/now")
    client.mock.provider.scenario = Scenario()
    async with client.feed():
        pass


async def test_an_outage_drops_everything(client: Client) -> None:
    client.mock.provider.scenario = lasting(Fault.OUTAGE)
    with pytest.raises(aiohttp.ClientError):
        await client.get("/v1/marketstatus/now")
    with pytest.raises(aiohttp.ClientError):
        await client.session.ws_connect(f"{client.mock.rest_url}/options")


async def test_refused_keys_and_throttling(client: Client) -> None:
    client.mock.provider.scenario = lasting(Fault.UNAUTHORISED)
    assert (await client.status("/v1/marketstatus/now"))[0] == 401
    client.mock.provider.scenario = lasting(Fault.THROTTLED)
    status, body = await client.status("/v1/marketstatus/now")
    assert status == 429
    assert "exceeded the maximum requests per minute" in orjson.loads(body)["error"]


async def test_one_expiration_fails_alone(client: Client) -> None:
    provider = client.mock.provider
    provider.scenario = lasting(Fault.PARTIAL_CHAIN)
    days = sorted({contract.expiration for contract in provider.market.listing.contracts})
    answers = [(await client.status(f"/v3/snapshot/options/I:SPX?expiration_date={day}"))[0] for day in days[:3]]
    assert answers == [200, 500, 200]


async def test_a_new_strike_and_a_gap_come_at_their_time(client: Client) -> None:
    provider = client.mock.provider
    listed, spot = len(provider.market.listing), provider.market.spot("SPX")
    at = provider.elapsed_s() + 0.2
    provider.scenario = Scenario((Step(Fault.NEW_STRIKE, at), Step(Fault.SPOT_GAP, at, by=0.03)))
    await until(lambda: len(provider.market.listing) == listed + 4, "a new strike in both symbols")
    await until(lambda: provider.market.spot("SPX") > 1.02 * spot, "a gap of three percent")


async def test_the_market_goes_on_where_it_stopped(tmp_path: Path) -> None:
    options = MockOptions(port=0, data=tmp_path, contracts=200)
    async with connected(options) as client:
        first = client.mock.provider.clock.now()
        await until(lambda: client.mock.provider.clock.now() > first + 0.05, "time passes")
        stopped = client.mock.provider.clock.now()
    async with connected(options) as client:
        assert stopped <= client.mock.provider.clock.now() < stopped + 5.0


async def test_a_recorded_chain_is_served_as_it_is(tmp_path: Path) -> None:
    quotes = [
        {
            "symbol": f"{root}260717{kind[0].upper()}0{strike}000",
            "expiration": "2026-07-17",
            "side": kind,
            "strike": float(strike),
            "bid": 12.3,
            "ask": 12.9,
            "last": 12.5,
            "volume": 4.0,
            "openInterest": 17.0,
            "iv": 0.12,
            "delta": 0.5,
            "gamma": 0.0016,
            "theta": -1.0,
            "vega": 2.0,
        }
        for root in ("SPX", "SPXW")
        for kind in ("call", "put")
        for strike in (7500, 7600)
    ]
    moment = "2026-07-12T04:34:47.125-04:00"
    document = {"symbol": "SPX", "updated": moment, "underlyingPrice": 7575.39, "quotes": quotes}
    path = tmp_path / "chain.json"
    path.write_bytes(orjson.dumps(document))
    options = MockOptions(port=0, data=tmp_path / "data", chain=path, rate=0)
    async with connected(options) as client:
        now = await client.get("/v1/marketstatus/now")
        assert 0.0 <= (datetime.fromisoformat(now["serverTime"]) - datetime.fromisoformat(moment)).total_seconds() < 5.0
        assert now["market"] == "closed"
        rows = (await client.get("/v3/snapshot/options/I:SPX", limit=250))["results"]
        assert len(rows) == len(quotes)
        assert {(row["last_quote"]["bid"], row["last_quote"]["ask"]) for row in rows} == {(12.3, 12.9)}
        assert {row["greeks"]["gamma"] for row in rows} == {0.0016}
        assert {row["open_interest"] for row in rows} == {17}
        assert "sip_timestamp" not in rows[0]["last_trade"]
        assert rows[0]["underlying_asset"]["value"] == 7575.39


@pytest.mark.skipif(not CHAINS.is_dir(), reason="the recorded chains are not beside the project")
async def test_a_real_chain_comes_out_of_the_pages_whole(tmp_path: Path) -> None:
    path = CHAINS / "spx_2026-07-12_optionsdesk.json"
    async with connected(MockOptions(port=0, data=tmp_path, chain=path, rate=0)) as client:
        rows = [row for page in await client.pages("/v3/snapshot/options/I:SPX", limit=250) for row in page]
    assert len({row["details"]["ticker"] for row in rows}) == len(rows) == 4160
    net = sum(
        (1 if row["details"]["contract_type"] == "call" else -1)
        * row["greeks"]["gamma"]
        * row.get("open_interest", 0)
        * row["underlying_asset"]["value"] ** 2
        for row in rows
    )
    assert net == pytest.approx(49.23827316e9, rel=1e-6)


async def test_what_cannot_be_served_says_what_to_fix(tmp_path: Path, client: Client) -> None:
    port = client.mock.port
    for options, complaint in (
        (MockOptions(port=port, data=tmp_path, contracts=200), f"port {port} on 127.0.0.1 is in use"),
        (MockOptions(port=0, data=tmp_path, rate=-1), "--rate -1"),
        (MockOptions(port=0, data=tmp_path, frame_events=0), "--frame-events 0"),
        (MockOptions(port=0, data=tmp_path, symbols=("I:SPX",)), "--symbols 'I:SPX'"),
        (MockOptions(port=0, data=tmp_path, scenario="rain"), "no scenario 'rain'"),
    ):
        with pytest.raises(FatalError, match=complaint):
            async with serving(options):
                pass
    with pytest.raises(DataError, match=r"nowhere\.json"):
        async with serving(MockOptions(port=0, data=tmp_path, chain=tmp_path / "nowhere.json")):
            pass


@pytest.mark.parametrize("scenario", ["am-settlement", "expiration-roll", "drift"])
async def test_the_status_tells_the_moment_a_scenario_starts_at_and_its_rate(tmp_path: Path, scenario: str) -> None:
    wanted = SCENARIOS[scenario].start
    assert wanted is not None
    async with connected(MockOptions(port=0, data=tmp_path, contracts=200, scenario=scenario)) as client:
        status = await client.get("/v1/marketstatus/now")
        moment = datetime.fromisoformat(status["serverTime"])
        late_s = (moment - datetime.combine(moment.date(), wanted.clock, moment.tzinfo)).total_seconds()
        assert 0.0 <= late_s < 5.0 * SCENARIOS[scenario].rate
        assert trading_days.is_third_friday(moment.date()) == (wanted.day is Day.THIRD_FRIDAY)
        assert status["market"] == ("extended-hours" if scenario == "am-settlement" else "open")
        assert status["clock"] == {"rate": SCENARIOS[scenario].rate}


async def test_a_scenario_that_starts_again_in_a_data_folder_never_goes_back(tmp_path: Path) -> None:
    options = MockOptions(port=0, data=tmp_path, contracts=200, scenario="am-settlement")
    days = []
    for _ in range(2):
        async with connected(options) as client:
            days.append(datetime.fromtimestamp(client.mock.provider.clock.now(), NEW_YORK))
    assert days[0] < days[1]
    assert {day.strftime("%A %H:%M") for day in days} == {"Friday 09:29"}


async def test_a_recorded_chain_refuses_a_scenario_with_a_time_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "chain.json"
    quote = {"symbol": "RUT260715C02000000", "side": "call", "strike": 2000, "expiration": "2026-07-15"}
    path.write_bytes(
        orjson.dumps({"symbol": "RUT", "underlyingPrice": 2000.0, "updated": "2026-07-12T10:00:00", "quotes": [quote]})
    )
    with pytest.raises(FatalError, match="a recorded chain has its own time"):
        async with serving(MockOptions(port=0, data=tmp_path, chain=path, scenario="drift")):
            pass
