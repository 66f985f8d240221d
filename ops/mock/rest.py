"""The provider's REST endpoints that an options pipeline and the official clients use."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import uuid4

import numpy as np
import orjson
from aiohttp import web

from contracts.errors import DataError
from contracts.symbology import INDEX_SYMBOLS, NEW_YORK, new_york_date, provider_underlying
from ops.mock import rows, trading_days
from ops.mock.census import Census
from ops.mock.noise import IntArray
from ops.mock.pages import Query, page_of
from ops.mock.provider import PROVIDER, Provider
from ops.mock.scenario import Fault
from ops.mock.spoiling import spoiled

_SNAPSHOT_LIMIT = 250
_REFERENCE_LIMIT = 1000
_ANY_OF_LIMIT = 250
_TOO_MANY = "You've exceeded the maximum requests per minute, please wait or upgrade your subscription to continue."
_NOT_ENTITLED = "You are not entitled to this data. Please upgrade your plan at https://massive.com/pricing"
_WEB_PAGE = "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"

# Faults of pages need more than one page, also of a small chain.
_PAGE_FAULTS = (Fault.CURSOR_LOOP, Fault.DUPLICATE_ROWS, Fault.FORBIDDEN_MID_PAGE)
_SMALL_PAGE = 20

_INDEX_GROUPS = (
    "s_and_p",
    "nasdaq",
    "dow_jones",
    "cccy",
    "cgi",
    "msci",
    "ftse_russell",
    "mstar",
    "mstarc",
    "societe_generale",
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

CENSUS = web.AppKey("census", Census)


def add_routes(app: web.Application) -> None:
    """Serve REST from this app; `guard` must be among its middlewares."""
    app.router.add_get("/v3/snapshot/options/{underlying}", _chain)
    app.router.add_get("/v3/snapshot/options/{underlying}/{contract}", _chain_contract)
    app.router.add_get("/v3/reference/options/contracts", _contracts)
    app.router.add_get("/v3/reference/options/contracts/{ticker}", _contract)
    app.router.add_get("/v3/snapshot/indices", _indices)
    app.router.add_get("/v3/snapshot", _universal)
    app.router.add_get("/v1/marketstatus/now", _status_now)
    app.router.add_get("/v1/marketstatus/upcoming", _status_upcoming)


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What stands before every endpoint: outages, unknown routes, keys, throttling, malformed parameters."""
    provider = request.app[PROVIDER]
    if provider.suffers(Fault.OUTAGE) and request.transport is not None:
        request.transport.abort()
        return web.Response(status=503)  # nobody reads it
    if request.match_info.http_exception is not None:
        return web.Response(status=404, text="404 page not found\n")
    if not request.path.startswith(("/v1/", "/v3/")):
        return await handler(request)  # WebSockets authenticate by message
    request.app[CENSUS].requested(time.monotonic())
    if not provider.accepts(key_of(request)):
        return error(401, "Unknown API Key")
    if provider.suffers(Fault.THROTTLED):
        return _too_many(provider.count_answer(Fault.THROTTLED))
    if provider.suffers(Fault.HTML_502):
        return _web_page(provider.count_answer(Fault.HTML_502))
    try:
        return await handler(request)
    except DataError as malformed:
        return error(400, str(malformed))


async def _chain(request: web.Request) -> web.Response:
    provider, name = request.app[PROVIDER], request.match_info["underlying"]
    provider.refresh()
    market = provider.market
    query = Query.parse(request.query, _SNAPSHOT_LIMIT)
    if any(provider.suffers(fault) for fault in _PAGE_FAULTS):
        query = replace(query, limit=min(query.limit, _SMALL_PAGE))
    failing = provider.failing_expiration()
    if failing is not None and query.parameters.get("expiration_date") == failing:
        return error(500, "internal server error")
    if query.after is not None and provider.suffers(Fault.FORBIDDEN_MID_PAGE):
        return json_body({"status": "NOT_AUTHORIZED", "request_id": uuid4().hex, "error": _NOT_ENTITLED}, 403)
    page = page_of(market.listing, _listed(provider, name), query)
    greeks = name not in INDEX_SYMBOLS
    shown = page.rows.tolist()
    before = market.listing.row_of.get(query.after or "")
    if before is not None and provider.suffers(Fault.DUPLICATE_ROWS):
        shown = [before, *shown]
    results = [rows.snapshot_row(market, row, greeks=greeks) for row in shown]
    results = spoiled(results, provider.count_answer(Fault.OI_FLIP), provider.suffers)
    cursor = page.cursor
    if shown and provider.suffers(Fault.CURSOR_LOOP):
        cursor = query.cursor_in_circle(market.listing.contracts[shown[-1]].cid) or cursor
    return _answer(request, results, cursor)


async def _chain_contract(request: web.Request) -> web.Response:
    provider = request.app[PROVIDER]
    provider.refresh()
    row = provider.market.listing.row_of.get(request.match_info["contract"])
    if row is None or row not in _listed(provider, request.match_info["underlying"]):
        return error(404, "Options contract not found.")
    return _answer(request, rows.snapshot_row(provider.market, row))


async def _contracts(request: web.Request) -> web.Response:
    """Reference rows name an index without its prefix; with it nothing is found."""
    provider = request.app[PROVIDER]
    provider.refresh()
    market = provider.market
    query = Query.parse(request.query, _REFERENCE_LIMIT)
    asked = query.parameters.get("underlying_ticker")
    listed = np.arange(len(market.listing)) if asked is None else market.listing.rows_of(asked)
    page = page_of(market.listing, listed, query)
    return _answer(request, [rows.contract_row(market, row) for row in page.rows.tolist()], page.cursor)


async def _contract(request: web.Request) -> web.Response:
    provider = request.app[PROVIDER]
    provider.refresh()
    row = provider.market.listing.row_of.get(request.match_info["ticker"])
    if row is None:
        return error(404, "Options contract not found.")
    return _answer(request, rows.contract_row(provider.market, row))


async def _indices(request: web.Request) -> web.Response:
    provider = request.app[PROVIDER]
    provider.refresh()
    indices = [symbol for symbol in provider.market.symbols if symbol in INDEX_SYMBOLS]
    return _by_ticker(request, [provider_underlying(symbol) for symbol in indices], _underlying_or_not_found)


async def _universal(request: web.Request) -> web.Response:
    """Contracts, indices and stocks by ticker; without tickers every underlying."""
    provider = request.app[PROVIDER]
    provider.refresh()
    everything = [provider_underlying(symbol) for symbol in provider.market.symbols]
    return _by_ticker(request, everything, _any_or_not_found)


async def _status_now(request: web.Request) -> web.Response:
    provider = request.app[PROVIDER]
    ts = provider.refresh()
    status = rows.market_status(ts)
    moment = datetime.fromtimestamp(ts, NEW_YORK)
    early, late = moment.time() < trading_days.OPEN, moment.time() >= trading_days.CLOSE
    return json_body(
        {
            "market": status,
            "earlyHours": status == "extended-hours" and early,
            "afterHours": status == "extended-hours" and late,
            "serverTime": moment.isoformat(timespec="milliseconds"),
            "exchanges": dict.fromkeys(("nyse", "nasdaq", "otc"), status),
            "currencies": {"fx": "open", "crypto": "open"},
            "indicesGroups": dict.fromkeys(_INDEX_GROUPS, "open" if status == "open" else "closed"),
            # Not the provider's: how fast this market's time runs beside ours.
            "clock": {"rate": provider.clock.rate},
        }
    )


async def _status_upcoming(request: web.Request) -> web.Response:
    today = new_york_date(request.app[PROVIDER].refresh())
    return json_body(
        [
            {"date": day.isoformat(), "exchange": exchange, "name": name, "status": "closed"}
            for day, name in trading_days.HOLIDAYS.items()
            if day >= today
            for exchange in ("NYSE", "NASDAQ")
        ]
    )


def _listed(provider: Provider, name: str) -> IntArray:
    """Rows of the underlying a path names; an index answers to `I:SPX` and, without greeks, to `SPX`."""
    symbol = name.removeprefix("I:")
    if name.startswith("I:") and symbol not in INDEX_SYMBOLS:
        return np.empty(0, dtype=np.int64)
    return provider.market.listing.rows_of(symbol)


def _by_ticker(
    request: web.Request, everything: list[str], row_of: Callable[[Provider, str], rows.Row]
) -> web.Response:
    """One row per ticker asked for, in ticker order and by pages."""
    query = Query.parse(request.query, _SNAPSHOT_LIMIT)
    asked = query.parameters.get("ticker.any_of", query.parameters.get("ticker"))
    tickers = sorted(set(asked.split(",")) if asked else everything, reverse=query.descending)
    if len(tickers) > _ANY_OF_LIMIT:
        raise DataError(f"ticker.any_of: more than {_ANY_OF_LIMIT} tickers")
    after = query.after
    if after is not None:
        tickers = [ticker for ticker in tickers if (ticker < after if query.descending else ticker > after)]
    page = tickers[: query.limit]
    cursor = query.cursor_after(page[-1]) if len(tickers) > query.limit else None
    return _answer(request, [row_of(request.app[PROVIDER], ticker) for ticker in page], cursor)


def _any_or_not_found(provider: Provider, ticker: str) -> rows.Row:
    row = provider.market.listing.row_of.get(ticker)
    if row is not None:
        return rows.universal_option_row(provider.market, row)
    return _underlying_or_not_found(provider, ticker)


def _underlying_or_not_found(provider: Provider, ticker: str) -> rows.Row:
    symbol = ticker.removeprefix("I:")
    if symbol in provider.market.symbols and provider_underlying(symbol) == ticker:
        return rows.underlying_row(provider.market, symbol)
    return rows.not_found_row(ticker)


def key_of(request: web.Request) -> str:
    """The API key of a request, from its header or its query; empty without one."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme == "Bearer" else request.query.get("apiKey", "")


def _answer(request: web.Request, results: object, cursor: str | None = None) -> web.Response:
    body: dict[str, Any] = {"request_id": uuid4().hex, "status": "OK", "results": results}
    if cursor is not None:
        body["next_url"] = f"{request.scheme}://{request.host}{request.path}?cursor={cursor}"
    return json_body(body)


def _too_many(answer: int) -> web.Response:
    """With a body, with none, and with a word when to come back: in turns."""
    if answer % 3 == 1:
        return web.Response(status=429)
    response = error(429, _TOO_MANY)
    if answer % 3 == 2:
        response.headers["Retry-After"] = "1"
    return response


def _web_page(answer: int) -> web.Response:
    """What a proxy in between says, under its own status or as if all were well: in turns."""
    return web.Response(status=200 if answer % 2 else 502, text=_WEB_PAGE, content_type="text/html")


def error(status: int, message: str) -> web.Response:
    """An error as the provider words it."""
    return json_body({"status": "ERROR", "request_id": uuid4().hex, "error": message}, status)


def json_body(body: object, status: int = 200) -> web.Response:
    """An answer in JSON."""
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")
