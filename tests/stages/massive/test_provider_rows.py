"""The real parser on the provider's own words: fixtures of its client, and every row its users have quoted."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from contracts.snapshot import ChainRow
from contracts.symbology import parse_ticker, settlement_ts
from stages.massive.conflation import Conflation
from stages.massive.rest import ProviderClient, Spot, open_session
from stages.massive.rows import ReadRow, Refused, read_row, read_surface, seconds
from stages.staging.frames import IndexValue, Quote, Trade, decode_entry

MOCKS = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "massive_client_mocks"

needs_mocks = pytest.mark.skipif(
    not MOCKS.is_dir(), reason="the shared data with the provider's own client fixtures is not here"
)


def row_of(raw: dict[str, Any], expiration: str, market_ts: float) -> ChainRow:
    read = read_row(raw, expiration, market_ts)
    assert isinstance(read, ReadRow), read
    return read.row


# --- the fixtures of the provider's own client, through our client over a socket

_FILES = {
    "/v1/marketstatus/now": "v1/marketstatus/now.json",
    "/v3/snapshot/options/AAPL": "v3/snapshot/options/AAPL.json",
    "/v3/snapshot/indices": "v3/snapshot/indices&ticker.any_of=SPX%2CAPx%2CAPy.json",
}


@pytest.fixture
async def client() -> AsyncIterator[ProviderClient]:
    """Our client on a server that answers with the fixtures."""

    async def answer(request: web.Request) -> web.Response:
        body = (MOCKS / _FILES[request.path]).read_bytes()
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.router.add_get("/{tail:.*}", answer)
    async with TestServer(app) as server, open_session() as session:
        yield ProviderClient(str(server.make_url("/")).rstrip("/"), "key", session)


@needs_mocks
async def test_the_fixture_of_a_chain(client: ProviderClient) -> None:
    chain = await client.chain("AAPL", "2023-06-16")
    surface = read_surface("2023-06-16", chain.rows, 1_651_254_260.0)
    (row,) = surface.rows
    assert (row.id, row.bid, row.ask, row.bid_size) == ("O:AAPL230616C00150000", 28.9, 29.25, 294)
    assert (row.volume, row.oi, row.fmv, row.last, row.last_size) == (8, 8133.0, 20.5, 29.25, 1)
    assert (row.quote_ts, row.last_ts) == (1_651_254_260.800060, 1_678_718_527.714666)
    assert (row.settlement, row.exercise, row.eligible) == ("pm", "american", 1)
    assert (row.delta, row.gamma, row.iv) == (0.6436614934293701, 0.0061735291012820675, 0.3570277203465058)
    assert surface.missing == "no puts" and surface.counts == {"one_sided_strikes": 1}


@needs_mocks
async def test_the_fixture_of_market_status(client: ProviderClient) -> None:
    clock = await client.clock()
    assert (clock.market_ts, clock.rate, clock.is_open) == (1_651_178_888.0, 1.0, False)


@needs_mocks
async def test_the_fixture_of_index_values(client: ProviderClient) -> None:
    assert await client.spot("SPX") == Spot(3822.39, None, "")


@needs_mocks
async def test_the_fixtures_of_a_single_contract_and_of_a_universal_snapshot() -> None:
    single = json.loads((MOCKS / "v3/snapshot/options/AAPL/O;AAPL230616C00150000.json").read_bytes())["results"]
    assert row_of(single, "2023-06-16", 1_651_254_260.0).fmv == 29.2
    rows = json.loads((MOCKS / "v3/snapshot.json").read_bytes())["results"]
    assert [read_row(raw, "2022-10-14", 0.0) for raw in rows] == [Refused("ticker")] * len(rows)  # no ticker inside


@needs_mocks
def test_the_tickers_of_the_contracts_fixture_agree_with_what_they_say() -> None:
    rows = json.loads((MOCKS / "v3/reference/options/contracts.json").read_bytes())["results"]
    for row in rows:
        ticker = parse_ticker(row["ticker"])
        assert (ticker.expiration, ticker.type) == (row["expiration_date"], row["contract_type"])
        assert ticker.strike == row["strike_price"]


# --- rows as users quoted them


MORNING = settlement_ts("SPX", "2024-01-19") - 3600.0


def details(ticker: str, expiration: str, kind: str, strike: float, **changes: Any) -> dict[str, Any]:
    own = {"ticker": ticker, "expiration_date": expiration, "contract_type": kind, "strike_price": strike}
    return {"details": {**own, "shares_per_contract": 100, "exercise_style": "european", **changes}}


def test_a_contract_that_never_traded() -> None:
    """SPY 2024-05-30: `day` and `last_trade` are empty objects, the greeks are not there."""
    raw = details("O:SPY240531C00450500", "2024-05-31", "call", 450.5, exercise_style="american") | {
        "day": {}, "last_trade": {}, "open_interest": 0, "break_even_price": 528.9,
        "last_quote": {"ask": 78.6, "ask_size": 250, "bid": 78.2, "bid_size": 200, "midpoint": 78.4,
                       "last_updated": 1717077600000000000, "timeframe": "DELAYED"},
        "underlying_asset": {"ticker": "SPY", "price": 523.6, "change_to_break_even": 5.3, "timeframe": "DELAYED"},
    }  # fmt: skip
    row = row_of(raw, "2024-05-31", 1_717_077_600.0)
    assert (row.strike, row.volume, row.last, row.delta, row.iv, row.oi) == (450.5, None, None, None, None, 0.0)
    assert (row.bid, row.ask, row.quote_ts) == (78.2, 78.6, 1_717_077_600.0)


def test_an_index_row_without_break_even_price() -> None:
    raw = details("O:SPXW230712C04425000", "2023-07-12", "call", 4425) | {
        "day": {"last_updated": 1689120000000000000, "volume": 12, "close": 34},
        "greeks": {"delta": 1, "gamma": 0, "theta": -2, "vega": 0.5}, "implied_volatility": 0.1186,
        "open_interest": 8133, "underlying_asset": {"ticker": "I:SPX", "value": 4439.26},
    }  # fmt: skip
    row = row_of(raw, "2023-07-12", 1_689_160_000.0)
    assert (row.root, row.iv, row.delta, row.oi, row.bid) == ("SPXW", 0.1186, 1.0, 8133.0, None)


def test_the_example_of_the_documents_is_no_contract() -> None:
    """Nine digits of strike, and an expiry the details do not confirm: identity is never taken from it."""
    raw = details("O:AAPL211022C000150000", "2021-10-15", "call", 150)
    assert read_row(raw, "2021-10-15", 0.0) == Refused("ticker")


def test_both_roots_of_a_third_friday_are_two_contracts() -> None:
    raws = [details(f"O:{root}240119C04700000", "2024-01-19", "call", 4700) for root in ("SPX", "SPXW")]
    rows = [row_of(raw, "2024-01-19", MORNING) for raw in raws]
    assert [(row.root, row.settlement) for row in rows] == [("SPX", "am"), ("SPXW", "pm")]
    assert len(read_surface("2024-01-19", raws, MORNING).rows) == 2


def test_a_strike_that_was_not_multiplied_is_refused() -> None:
    raw = details("O:SPX250520C00005935", "2025-05-20", "call", 5935)
    assert read_row(raw, "2025-05-20", 0.0) == Refused("strike")


@pytest.mark.parametrize(
    ("ticker", "root", "strike"),
    [("O:SDS1220204C00003000", "SDS1", 3.0), ("O:SDS1260116P00020500", "SDS1", 20.5),
     ("O:BRKB260116C00480000", "BRKB", 480.0), ("O:1SPX260116C06850000", "1SPX", 6850.0),
     ("O:VMRK1260116C00010000", "VMRK1", 10.0)],
)  # fmt: skip
def test_tickers_are_read_from_the_right(ticker: str, root: str, strike: float) -> None:
    found = parse_ticker(ticker)
    assert (found.root, found.strike) == (root, strike)


def test_an_adjusted_contract_is_listed_and_takes_no_part() -> None:
    raw = details("O:SDS1260116P00020500", "2026-01-16", "put", 20.5, shares_per_contract=20)
    assert row_of(raw, "2026-01-16", 1_768_500_000.0).eligible == "adjusted"


def test_nanoseconds_keep_what_a_double_would_lose() -> None:
    assert seconds(1_651_254_260_800_059_648) == 1_651_254_260.80006


# --- events as the wire has them


def decoded(payload: bytes) -> list[Any]:
    return list(decode_entry({b"ts": b"1765227583.6", b"payload": payload}).events)


TRADE = b'{"ev":"T","sym":"O:SPXW251208C06840000","x":302,"p":5.5,"s":1,"c":[236],"t":1765227583506,"q":1864261653}'


def test_a_real_trade_frame() -> None:
    (event,) = decoded(b"[" + TRADE + b"]")
    assert event == Trade("O:SPXW251208C06840000", 5.5, 1765227583506, 1, 1864261653)


def test_events_of_the_specification() -> None:
    quote = (
        b'{"ev":"Q","sym":"O:SPX241220P03650000","bx":302,"ax":302,"bp":9.8,"ap":10,"bs":17,"as":24,'
        b'"t":1644506128351,"q":844090872}'
    )
    value = b'{"ev":"V","val":3988.5,"T":"I:SPX","t":1678220098130}'
    first, second = decoded(b"[" + quote + b"," + value + b"]")
    assert isinstance(first, Quote) and (first.bp, first.ap, first.as_, first.q) == (9.8, 10, 24, 844090872)
    assert isinstance(second, IndexValue) and (second.T, second.val) == ("I:SPX", 3988.5)


def test_real_events_survive_conflation() -> None:
    conflation = Conflation()
    conflation.take(1.0, b"[" + TRADE + b"]")
    (frame,) = conflation.frames()
    assert frame.payload == b"[" + TRADE + b"]"
