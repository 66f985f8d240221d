"""The provider over REST: its clock, its listing, chains page by page, and the spot.

The key travels in the `Authorization` header only: never in a URL, a log or an error. Errors say who must act:
`FatalError` (the key or the plan), `TransientError` (not now), `DataError` (an answer nobody can use).
"""

from __future__ import annotations

import random
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Protocol, TypeAlias
from urllib.parse import quote

import aiohttp
import msgspec
import structlog
from yarl import URL

from contracts.clock import MarketClock
from contracts.errors import DataError, FatalError, TransientError
from contracts.symbology import INDEX_SYMBOLS, NEW_YORK, new_york_date, provider_underlying
from stages.massive.rows import Row, last_settlement_ts, seconds

log = structlog.get_logger("provider")

PAGE_ROWS = 250
MAX_PAGES = 400
MAX_EXPIRATIONS = 1000
REQUEST_TIMEOUT_S = 15.0
CONNECT_TIMEOUT_S = 5.0
LONGEST_RETRY_AFTER_S = 60.0
FIRST_HOLD_S = 1.0  # after a 429 that does not say how long; doubles with each one that follows

_FAULTS: Mapping[int, str] = {401: "key_refused", 403: "not_entitled", 404: "not_found", 429: "throttled"}

_CHAIN = "/v3/snapshot/options/"
_INDICES = "/v3/snapshot/indices"
_STATUS = "/v1/marketstatus/now"


class NotEntitledError(FatalError):
    """The key is fine, its plan does not include what was asked for."""


class ThrottledError(TransientError):
    """The provider wants nobody to ask for a while."""


class PageRefusedError(DataError):
    """A page after the first is not ours to read: the chain cannot be had as a whole; the key itself is fine."""


class Budget(Protocol):
    """The requests of all who use this key."""

    async def wait(self) -> None:
        """Return when one more request may be sent."""
        ...

    async def hold(self, seconds: float) -> None:
        """The provider wants nobody to ask for so long."""
        ...


# keeps the body of an answer: path and query as asked, receive time (epoch seconds), raw bytes
Recorder: TypeAlias = "Callable[[str, float, bytes], Awaitable[None]]"


@dataclass
class RestActivity:
    """What a client did since somebody last looked. `faults` by kind: throttled, timeout, tls, ..."""

    requests: int = 0
    bytes: int = 0
    budget_wait_ms: int = 0
    faults: Counter[str] = field(default_factory=Counter)

    def counts(self) -> dict[str, int]:
        """The figures by name, those that are not zero."""
        found = {"requests": self.requests, "bytes": self.bytes, "budget_wait_ms": self.budget_wait_ms}
        found |= {f"fault_{kind}": count for kind, count in self.faults.items()}
        return {name: count for name, count in found.items() if count}


@dataclass(frozen=True, slots=True)
class Chain:
    """The raw rows of one query and how many pages they took. Pages are different moments."""

    rows: list[Row]
    pages: int


@dataclass(frozen=True, slots=True)
class Spot:
    """An underlying's value in points or dollars; `ts` in epoch seconds, None if the provider does not say."""

    value: float
    ts: float | None
    timeframe: str = ""  # REAL-TIME, DELAYED; empty if the provider does not say


def open_session() -> aiohttp.ClientSession:
    """A session for `ProviderClient` and `Feed`; proxies of the environment are not used."""
    return aiohttp.ClientSession(trust_env=False)


class ProviderClient:
    """Asks one provider with one key. `rest_url` is its origin; `session` stays the caller's to close.

    Raises `FatalError` at once when `rest_url` is no http(s) URL.
    """

    def __init__(
        self,
        rest_url: str,
        api_key: str,
        session: aiohttp.ClientSession,
        *,
        timeout_s: float = REQUEST_TIMEOUT_S,
        max_pages: int = MAX_PAGES,
        budget: Budget | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.activity = RestActivity()
        self._base = _base_url(rest_url)
        self._key = api_key
        self._session = session
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s))
        self._max_pages = max_pages
        self._budget = budget
        self._recorder = recorder
        self._throttled = 0  # times in a row
        self._without_indices = False  # the plan has no index values: said once, then not asked for again

    # --- what the pipeline asks

    async def clock(self) -> MarketClock:
        """The provider's time and how fast it runs, beside our own clock at the middle of the exchange."""
        await self._wait_for_budget()  # which may take minutes, and is no part of the exchange
        sent = time.time()
        body = await self._ask(self._url(_STATUS))
        received = time.time()
        try:
            server = datetime.fromisoformat(str(body.get("serverTime")))
        except ValueError:
            raise TransientError(f"{self._origin}{_STATUS}: no server time in the answer") from None
        if server.tzinfo is None:
            server = server.replace(tzinfo=NEW_YORK)
        extra = body.get("clock")  # not the provider's: a mock's or a recording's speed
        rate = extra.get("rate") if isinstance(extra, dict) else None
        rate = float(rate) if isinstance(rate, int | float) and rate > 0 else 1.0
        return MarketClock((sent + received) / 2, server.timestamp(), rate, body.get("market") == "open")

    async def expirations(self, symbol: str, count: int | None, market_ts: float) -> list[str]:
        """The next `count` tradable expirations the provider lists, ascending; None: all it lists, expired ones too.

        Hops from one expiration to the next with one row each. Tradable: its last series has not settled at
        `market_ts` (epoch seconds on the market clock).
        """
        bound = {} if count is None else {"expiration_date.gte": new_york_date(market_ts).isoformat()}
        found: list[str] = []
        last = ""
        for _ in range(MAX_EXPIRATIONS):
            if len(found) == count:
                break
            expiration = await self._first_expiration(symbol, bound)
            if expiration is None:
                break
            if expiration <= last:
                raise DataError(f"{self._origin}: expirations of {symbol} do not ascend ({last}, {expiration})")
            last, bound = expiration, {"expiration_date.gt": expiration}
            if count is None or last_settlement_ts(symbol, expiration) > market_ts:
                found.append(expiration)
        return found

    async def chain(self, symbol: str, expiration: str, low: float | None = None, high: float | None = None) -> Chain:
        """All rows of an expiration with strikes in [low, high] (points or dollars; None: no bound), every root."""
        query = {"expiration_date": expiration, "limit": str(PAGE_ROWS)}
        if low is not None:
            query["strike_price.gte"] = _price_text(low)
        if high is not None:
            query["strike_price.lte"] = _price_text(high)
        return await self._pages(self._chain_url(symbol).with_query(query))

    async def listed_strike(self, symbol: str, expiration: str, at: float, *, above: bool) -> float | None:
        """The nearest listed strike at or above (else at or below) a price; None if there is none."""
        side, order = ("gte", "asc") if above else ("lte", "desc")
        row = await self._first_row(
            symbol,
            {
                "expiration_date": expiration,
                f"strike_price.{side}": _price_text(at),
                "sort": "strike_price",
                "order": order,
            },
        )
        strike = _details(row).get("strike_price")
        return float(strike) if isinstance(strike, int | float) else None

    async def spot(self, symbol: str) -> Spot | None:
        """The underlying's value: of the index itself, else as the chain tells it; None if neither does."""
        if symbol in INDEX_SYMBOLS and not self._without_indices:
            try:
                found = await self._index_value(symbol)
            except NotEntitledError as error:
                self._without_indices = True
                log.warning("index_values_not_entitled", reason=str(error))
                found = None
            if found is not None:
                return found
        underlying = (await self._first_row(symbol, {}) or {}).get("underlying_asset")
        return _spot_of(underlying) if isinstance(underlying, dict) else None

    # --- requests

    @property
    def _origin(self) -> str:
        return str(self._base.origin())

    def _url(self, path: str) -> URL:
        return URL(f"{str(self._base).rstrip('/')}{path}", encoded=True)

    def _chain_url(self, symbol: str) -> URL:
        return self._url(_CHAIN + quote(provider_underlying(symbol), safe=":"))

    async def _first_row(self, symbol: str, query: Mapping[str, str]) -> Row | None:
        body = await self._get(self._chain_url(symbol).with_query({**query, "limit": "1"}))
        return next(iter(self._results(body)), None)

    async def _first_expiration(self, symbol: str, bound: Mapping[str, str]) -> str | None:
        row = await self._first_row(symbol, {**bound, "sort": "expiration_date", "order": "asc"})
        if row is None:
            return None
        expiration = str(_details(row).get("expiration_date"))
        try:
            return date.fromisoformat(expiration).isoformat()
        except ValueError:
            raise DataError(f"{self._origin}: {symbol} lists an expiration {expiration!r}") from None

    async def _index_value(self, symbol: str) -> Spot | None:
        name = provider_underlying(symbol)
        body = await self._get(self._url(_INDICES).with_query({"ticker.any_of": name, "limit": "1"}))
        rows = (row for row in self._results(body) if row.get("ticker") in (name, symbol))
        return next((spot for row in rows if (spot := _spot_of(row)) is not None), None)

    async def _pages(self, first: URL) -> Chain:
        """Follow `next_url` to the end: on our own origin only, no page twice, not for ever."""
        rows: list[Row] = []
        seen: set[URL] = set()
        url: URL | None = first
        while url is not None:
            if url in seen:
                raise self._unusable("page_loop", f"{url.path}: pages lead in a circle after {len(seen)}")
            if len(seen) == self._max_pages:
                raise self._unusable("page_cap", f"{url.path}: more than {self._max_pages} pages")
            seen.add(url)
            body = await self._page(url, len(seen))
            rows += self._results(body)
            url = self._next(body)
        return Chain(rows, len(seen))

    async def _page(self, url: URL, number: int) -> Row:
        try:
            return await self._get(url)
        except NotEntitledError as error:
            if number == 1:
                raise
            raise PageRefusedError(f"page {number} was refused after the others were given: {error}") from None

    def _next(self, body: Row) -> URL | None:
        text = body.get("next_url")
        if not text:
            return None
        try:
            url = self._base.join(URL(str(text), encoded=True))
            foreign = url.origin() != self._base.origin()
        except ValueError:
            raise self._unusable("next_url", ": next_url is no URL") from None
        if foreign:
            raise self._unusable(
                "foreign_origin", f": next_url leads to another origin, {url.origin()}; our key stays here"
            )
        return url

    def _unusable(self, kind: str, words: str) -> DataError:
        self.activity.faults[kind] += 1
        return DataError(f"{self._origin}{words}")

    def _results(self, body: Row) -> list[Row]:
        results = body.get("results", [])
        if not isinstance(results, list):
            raise TransientError(f"{self._origin} answered without a list of results")
        return [row for row in results if isinstance(row, dict)]

    async def _get(self, url: URL) -> Row:
        await self._wait_for_budget()
        return await self._ask(url)

    async def _ask(self, url: URL) -> Row:
        where = f"{self._origin}{url.path}"
        self.activity.requests += 1
        status, retry_after, body = await self._answer(url)
        self.activity.bytes += len(body)
        if status == 429:
            await self._hold(_wait_s(retry_after))
            raise self._error(status, where, body, retry_after)
        self._throttled = 0
        if status != 200:
            raise self._error(status, where, body, retry_after)
        if self._recorder is not None:
            await self._recorder(self._without_key(url.raw_path_qs), time.time(), self._blank_key(body))
        return self._decoded(where, body)

    async def _answer(self, url: URL) -> tuple[int, str | None, bytes]:
        """Status, Retry-After and body of one request; what prevents an answer is a TransientError."""
        headers = {"Authorization": f"Bearer {self._key}", "Accept": "application/json"}
        try:
            # a redirect would carry the key elsewhere, or hide a wrong MASSIVE_REST_URL
            async with self._session.get(
                url, headers=headers, timeout=self._timeout, allow_redirects=False
            ) as response:
                body = await response.read()
                return response.status, response.headers.get("Retry-After"), body
        except (aiohttp.ClientSSLError, ssl.SSLError) as error:
            kind, words = "tls", f": TLS failed ({error}); check MASSIVE_REST_URL"
        except TimeoutError:
            kind, words = "timeout", f" did not answer within {self._timeout.total:g} s"
        except (aiohttp.ClientError, OSError) as error:
            kind, words = "unreachable", f" cannot be reached: {str(error) or type(error).__name__}"
        self.activity.faults[kind] += 1
        raise TransientError(f"provider at {self._origin}{words}")

    async def _wait_for_budget(self) -> None:
        if self._budget is None:
            return
        started = time.monotonic()
        await self._budget.wait()
        self.activity.budget_wait_ms += round((time.monotonic() - started) * 1000)

    async def _hold(self, asked_s: float | None) -> None:
        """After a 429: everybody waits, for as long as it says, else longer each time."""
        grown_s = min(LONGEST_RETRY_AFTER_S, FIRST_HOLD_S * 2**self._throttled) * random.uniform(0.5, 1.0)
        self._throttled = min(self._throttled + 1, 10)
        if self._budget is not None:
            await self._budget.hold(grown_s if asked_s is None else asked_s)

    def _decoded(self, where: str, body: bytes) -> Row:
        try:
            decoded: object = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.activity.faults["not_json"] += 1
            raise TransientError(f"{where} answered with something that is not JSON") from None
        if not isinstance(decoded, dict):
            self.activity.faults["not_json"] += 1
            raise TransientError(f"{where} answered with something that is not an object")
        if decoded.get("status") == "NOT_AUTHORIZED":
            raise self._error(403, where, body, None)
        if decoded.get("status") == "ERROR":
            self.activity.faults["error_status"] += 1
            raise TransientError(f"{where} failed: {self._said(body)}")
        return decoded

    def _error(self, status: int, where: str, body: bytes, retry_after: str | None) -> Exception:
        """What an HTTP status means for us, in one line."""
        answer = f"(it answered {status}: {self._said(body)})"
        self.activity.faults[_FAULTS.get(status, f"http_{status // 100}xx")] += 1
        match status:
            case 401:
                return FatalError(
                    f"the provider at {self._origin} does not accept the key: set a valid MASSIVE_API_KEY {answer}"
                )
            case 403:
                return NotEntitledError(
                    f"the plan of this MASSIVE_API_KEY does not include {where}: upgrade it or use another key {answer}"
                )
            case 404:
                return TransientError(f"{where} does not exist: check MASSIVE_REST_URL and MASSIVE_SYMBOLS {answer}")
            case 429:
                return ThrottledError(f"the provider at {self._origin} asks to wait {answer}", _wait_s(retry_after))
        return TransientError(f"{where} failed {answer}", _wait_s(retry_after))

    def _said(self, body: bytes) -> str:
        """The provider's own words, short, without our key."""
        try:
            decoded: object = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return "no JSON" if body else "nothing"
        text = decoded.get("error") or decoded.get("message") if isinstance(decoded, dict) else None
        words = " ".join(str(text or "no reason given").split())[:200]
        return self._without_key(words)

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    def _blank_key(self, body: bytes) -> bytes:
        """The body as it came, unless the provider repeats our key in it."""
        key = self._key.encode()
        return body.replace(key, b"*" * len(key)) if key and key in body else body


def _base_url(rest_url: str) -> URL:
    try:
        url = URL(rest_url)
        if url.scheme in ("http", "https") and url.host and not url.query_string:
            return url
    except ValueError:
        pass
    raise FatalError(f"MASSIVE_REST_URL={rest_url!r}: an origin such as https://api.massive.com is expected")


def _price_text(price: float) -> str:
    return str(int(price)) if price == int(price) else repr(price)


def _wait_s(retry_after: str | None) -> float | None:
    """The seconds of a Retry-After header; a date or nonsense counts as not given."""
    try:
        return min(max(float(retry_after or ""), 0.0), LONGEST_RETRY_AFTER_S)
    except ValueError:
        return None


def _details(row: Row | None) -> Mapping[str, Any]:
    details = (row or {}).get("details")
    return details if isinstance(details, dict) else {}


def _spot_of(told: Mapping[str, Any]) -> Spot | None:
    """Indices tell a `value`, stocks a `price`."""
    for name in ("value", "price"):
        value = told.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            return Spot(float(value), seconds(told.get("last_updated")), str(told.get("timeframe", "")))
    return None
