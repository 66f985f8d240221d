"""The provider client against a real server on a real socket."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from contracts.errors import DataError, FatalError, MarketSwarmError, TransientError
from contracts.symbology import settlement_ts
from stages.massive.rest import NotEntitledError, PageRefusedError, ProviderClient, Spot, open_session
from tests.stages.massive.chains import EXPIRATION, MORNING, both_sides, wire_row

KEY = "s3cret-key"
CHAIN = "/v3/snapshot/options/I:SPX"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FakeProvider:
    """Answers every request with `answer`, and keeps what was asked."""

    def __init__(self, answer: Handler) -> None:
        self._answer = answer
        self.requests: list[web.Request] = []
        self.origin = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        return await self._answer(request)

    @property
    def queries(self) -> list[dict[str, str]]:
        return [dict(request.query) for request in self.requests]


def ok(results: object, **more: object) -> web.Response:
    return web.json_response({"status": "OK", "request_id": "1", "results": results, **more})


def error(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"status": "ERROR", "error": message}, status=status, headers=headers)


@asynccontextmanager
async def asking(answer: Handler, **options: Any) -> AsyncIterator[tuple[ProviderClient, FakeProvider]]:
    provider = FakeProvider(answer)
    app = web.Application()
    app.router.add_get("/{tail:.*}", provider.handle)
    async with TestServer(app) as server, open_session() as session:
        provider.origin = str(server.make_url("/")).rstrip("/")
        yield ProviderClient(provider.origin, KEY, session, **options), provider


def always(make: Callable[[], web.StreamResponse]) -> Handler:
    async def answer(_: web.Request) -> web.StreamResponse:
        return make()

    return answer


def pages_of(rows: list[dict[str, Any]], size: int) -> Handler:
    """Pages as the provider makes them: an absolute next_url on the host that was called."""

    async def answer(request: web.Request) -> web.Response:
        first = int(request.query.get("cursor", 0))
        after = first + size
        more = {"next_url": f"{request.url.origin()}{request.path}?cursor={after}"} if after < len(rows) else {}
        return ok(rows[first:after], **more)

    return answer


async def test_a_chain_comes_page_by_page() -> None:
    rows = both_sides([6800.0 + 5 * n for n in range(300)])
    async with asking(pages_of(rows, 250)) as (client, provider):
        chain = await client.chain("SPX", EXPIRATION, 6700.0, 7002.5)
    assert (chain.rows, chain.pages) == (rows, 3)
    assert [request.path for request in provider.requests] == [CHAIN] * 3
    assert provider.requests[0].raw_path.startswith(f"{CHAIN}?")  # the colon as it is
    assert provider.queries == [
        {
            "expiration_date": EXPIRATION,
            "limit": "250",
            "strike_price.gte": "6700",
            "strike_price.lte": "7002.5",
        },
        {"cursor": "250"},
        {"cursor": "500"},
    ]


async def test_the_key_is_in_the_header_of_every_page_and_nowhere_else() -> None:
    async with asking(pages_of(both_sides([6800.0, 6805.0]), 1)) as (client, provider):
        await client.chain("SPX", EXPIRATION)
    assert len(provider.requests) == 4
    for request in provider.requests:
        assert request.headers["Authorization"] == f"Bearer {KEY}"
        assert KEY not in request.raw_path


async def test_without_bounds_there_is_no_strike_filter() -> None:
    async with asking(pages_of(both_sides([6800.0]), 250)) as (client, provider):
        await client.chain("SPY", EXPIRATION)
    assert provider.queries == [{"expiration_date": EXPIRATION, "limit": "250"}]
    assert provider.requests[0].path == "/v3/snapshot/options/SPY"


async def test_a_circle_of_pages_is_noticed() -> None:
    async def answer(request: web.Request) -> web.Response:
        following = "b" if request.query.get("cursor") == "a" else "a"
        return ok([wire_row()], next_url=f"{request.url.origin()}{request.path}?cursor={following}")

    async with asking(answer) as (client, provider):
        with pytest.raises(DataError, match="circle after 3"):
            await client.chain("SPX", EXPIRATION)
    assert len(provider.requests) == 3


async def test_pages_without_end_are_given_up() -> None:
    def numbered() -> Iterator[int]:
        yield from range(1, 1000)

    numbers = numbered()

    async def answer(request: web.Request) -> web.Response:
        return ok([], next_url=f"{request.url.origin()}{request.path}?cursor={next(numbers)}")

    async with asking(answer, max_pages=7) as (client, provider):
        with pytest.raises(DataError, match="more than 7 pages"):
            await client.chain("SPX", EXPIRATION)
    assert len(provider.requests) == 7


async def test_a_next_url_elsewhere_is_not_followed() -> None:
    followed: list[web.Request] = []

    async def elsewhere(request: web.Request) -> web.Response:
        followed.append(request)
        return ok([])

    async with asking(elsewhere) as (_, other):
        answer = always(lambda: ok([wire_row()], next_url=f"{other.origin}{CHAIN}?cursor=1"))
        async with asking(answer) as (client, _):
            with pytest.raises(DataError, match="another origin"):
                await client.chain("SPX", EXPIRATION)
    assert followed == []


async def test_a_redirect_is_not_followed() -> None:
    async def answer(request: web.Request) -> web.Response:
        if request.path == "/moved":
            return ok([])
        return web.Response(status=302, headers={"Location": "/moved"})

    async with asking(answer) as (client, provider):
        with pytest.raises(TransientError, match="302"):
            await client.chain("SPX", EXPIRATION)
    assert len(provider.requests) == 1


@pytest.mark.parametrize(
    ("response", "kind", "words"),
    [
        (lambda: error(401, f"Unknown API Key {KEY}"), FatalError, "set a valid MASSIVE_API_KEY"),
        (lambda: error(403, "You are not entitled to this data."), NotEntitledError, "plan of this MASSIVE_API_KEY"),
        (
            lambda: web.json_response({"status": "NOT_AUTHORIZED", "message": "upgrade"}),
            NotEntitledError,
            "plan of this MASSIVE_API_KEY",
        ),
        (lambda: web.Response(status=404, text="404 page not found\n"), TransientError, "check MASSIVE_REST_URL"),
        (lambda: error(500, "oops"), TransientError, "500: oops"),
        (
            lambda: web.Response(status=502, text="<html>Bad Gateway</html>", content_type="text/html"),
            TransientError,
            "502",
        ),
        (lambda: web.Response(text="<html>hello</html>", content_type="text/html"), TransientError, "not JSON"),
        (lambda: web.Response(text="[1]"), TransientError, "not an object"),
        (lambda: web.json_response({"status": "ERROR", "error": "broken"}), TransientError, "broken"),
        (lambda: ok(None), TransientError, "without a list of results"),
    ],
)
async def test_answers_that_are_no_chain(response: Callable[[], web.Response], kind: type, words: str) -> None:
    async with asking(always(response)) as (client, provider):
        with pytest.raises(kind) as caught:
            await client.chain("SPX", EXPIRATION)
    said = str(caught.value)
    assert type(caught.value) is kind
    assert words in said and provider.origin in said
    assert KEY not in said and "\n" not in said


@pytest.mark.parametrize(
    ("headers", "wait"),
    [({"Retry-After": "7"}, 7.0), ({"Retry-After": "9999"}, 60.0), ({"Retry-After": "tomorrow"}, None), ({}, None)],
)
@pytest.mark.parametrize("body", ['{"status":"ERROR","error":"too many"}', ""])
async def test_throttling_says_how_long_to_wait(headers: dict[str, str], wait: float | None, body: str) -> None:
    async with asking(always(lambda: web.Response(status=429, text=body, headers=headers))) as (client, _):
        with pytest.raises(TransientError, match="asks to wait") as caught:
            await client.chain("SPX", EXPIRATION)
    assert caught.value.retry_after_s == wait


async def test_a_page_refused_after_others_is_the_end_of_this_chain_only() -> None:
    async def answer(request: web.Request) -> web.Response:
        if "cursor" in request.query:
            return error(403, "You are not entitled to this data.")
        return ok([wire_row()], next_url=f"{request.url.origin()}{request.path}?cursor=1")

    async with asking(answer) as (client, _):
        with pytest.raises(PageRefusedError, match="page 2 was refused after the others were given"):
            await client.chain("SPX", EXPIRATION)
        assert client.activity.faults == {"not_entitled": 1}


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (lambda: error(401, "Unknown API Key"), "key_refused"),
        (lambda: error(403, "no"), "not_entitled"),
        (lambda: error(404, "no"), "not_found"),
        (lambda: error(429, "slow down"), "throttled"),
        (lambda: error(502, "oops"), "http_5xx"),
        (lambda: web.Response(text="<html>hello</html>", content_type="text/html"), "not_json"),
        (lambda: web.json_response({"status": "ERROR"}), "error_status"),
        (lambda: ok([], next_url="https://elsewhere.example/x"), "foreign_origin"),
    ],
)
async def test_faults_are_counted_by_kind(response: Callable[[], web.Response], kind: str) -> None:
    async with asking(always(response)) as (client, _):
        with pytest.raises(MarketSwarmError):
            await client.chain("SPX", EXPIRATION)
        counts = client.activity.counts()
    assert counts[f"fault_{kind}"] == 1 and counts["requests"] == 1 and counts["bytes"] > 0


async def test_a_body_that_trickles_is_given_up() -> None:
    released = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"status":"OK",')
        await released.wait()
        return response

    async with asking(answer, timeout_s=0.1) as (client, _):
        with pytest.raises(TransientError, match=r"did not answer within 0\.1 s"):
            await client.chain("SPX", EXPIRATION)
        released.set()
        assert client.activity.faults == {"timeout": 1}


class Budget:
    """Notes what is asked of it."""

    def __init__(self) -> None:
        self.waits = 0
        self.holds: list[float] = []

    async def wait(self) -> None:
        self.waits += 1

    async def hold(self, seconds: float) -> None:
        self.holds.append(seconds)


async def test_every_request_waits_for_the_budget() -> None:
    budget = Budget()
    async with asking(pages_of(both_sides([6800.0, 6805.0]), 1), budget=budget) as (client, provider):
        await client.chain("SPX", EXPIRATION)
        assert budget.waits == len(provider.requests) == 4


async def test_throttling_holds_everybody_longer_each_time_until_an_answer() -> None:
    budget, answers = Budget(), [429, 429, 429, 200, 429]

    async def answer(_: web.Request) -> web.Response:
        status = answers.pop(0)
        return ok([wire_row()]) if status == 200 else web.Response(status=status)

    async with asking(answer, budget=budget) as (client, _):
        for _ in range(5):
            with suppress(TransientError):
                await client.chain("SPX", EXPIRATION)
    first, second, third, after = budget.holds
    assert 0.5 <= first <= 1 <= second <= 2 <= third <= 4 and after <= 1


async def test_throttling_that_says_how_long_holds_everybody_for_so_long() -> None:
    budget = Budget()
    answer = always(lambda: web.Response(status=429, headers={"Retry-After": "7"}))
    async with asking(answer, budget=budget) as (client, _):
        with pytest.raises(TransientError):
            await client.chain("SPX", EXPIRATION)
    assert budget.holds == [7.0]


async def test_answers_are_recorded_as_they_came_without_the_key() -> None:
    pages: list[tuple[str, float, bytes]] = []

    async def record(path: str, ts: float, body: bytes) -> None:
        pages.append((path, ts, body))

    raw = ['{"status":"OK" , "results":[]}', json.dumps({"results": [], "request_id": KEY})]

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=raw[len(pages)], content_type="application/json")

    async with asking(answer, recorder=record) as (client, _):
        await client.chain("SPX", EXPIRATION, 6700.0)
        await client.chain("SPX", EXPIRATION)
    (path, _, body), (_, _, blanked) = pages
    assert path == f"{CHAIN}?expiration_date={EXPIRATION}&limit=250&strike_price.gte=6700"
    assert body == raw[0].encode()
    assert KEY.encode() not in blanked and len(blanked) == len(raw[1])


async def test_a_provider_that_is_down() -> None:
    async with open_session() as session:
        client = ProviderClient("http://127.0.0.1:1", KEY, session)  # nobody serves there
        with pytest.raises(TransientError, match=r"http://127\.0\.0\.1:1 cannot be reached"):
            await client.clock()


async def test_a_provider_that_hangs_up() -> None:
    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with asking(answer) as (client, _):
        with pytest.raises(TransientError, match="cannot be reached"):
            await client.clock()


async def test_a_provider_that_does_not_answer() -> None:
    released = asyncio.Event()

    async def answer(_: web.Request) -> web.Response:
        await released.wait()
        return web.Response()

    async with asking(answer, timeout_s=0.05) as (client, _):
        with pytest.raises(TransientError, match="did not answer within 0"):
            await client.clock()
        released.set()


async def test_a_provider_without_tls() -> None:
    async with asking(always(lambda: ok([]))) as (_, provider), open_session() as session:
        client = ProviderClient(provider.origin.replace("http:", "https:"), KEY, session)
        with pytest.raises(TransientError, match="TLS failed"):
            await client.clock()


@pytest.mark.parametrize("url", ["", "api.massive.com", "ftp://x", "http://", "https://x/?apiKey=1"])
async def test_a_wrong_rest_url_is_named(url: str) -> None:
    async with open_session() as session:
        with pytest.raises(FatalError, match="MASSIVE_REST_URL="):
            ProviderClient(url, KEY, session)


# --- the listing


def listing(*expirations: str) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        query = request.query
        kept = [
            day
            for day in sorted(expirations)
            if day >= query.get("expiration_date.gte", "") and day > query.get("expiration_date.gt", "")
        ]
        assert (query["sort"], query["order"], query["limit"]) == ("expiration_date", "asc", "1")
        return ok([wire_row(expiration=kept[0])] if kept else [])

    return answer


DAYS = ("2026-01-14", "2026-01-15", "2026-01-16", "2026-01-20", "2026-02-20")


async def test_the_next_tradable_expirations() -> None:
    async with asking(listing(*DAYS)) as (client, provider):
        assert await client.expirations("SPX", 2, MORNING) == ["2026-01-16", "2026-01-20"]
        assert len(provider.requests) == 2
        assert await client.expirations("SPX", 5, MORNING) == ["2026-01-16", "2026-01-20", "2026-02-20"]


async def test_an_expiration_is_tradable_until_its_last_series_settles() -> None:
    async with asking(listing(*DAYS)) as (client, _):
        for market_ts, first in (
            (settlement_ts("SPX", EXPIRATION), EXPIRATION),
            (settlement_ts("SPXW", EXPIRATION) - 1, EXPIRATION),
            (settlement_ts("SPXW", EXPIRATION), "2026-01-20"),
        ):
            assert await client.expirations("SPX", 1, market_ts) == [first]


async def test_all_are_all_that_is_listed_expired_ones_too() -> None:
    async with asking(listing(*DAYS)) as (client, _):
        assert await client.expirations("SPX", None, settlement_ts("SPXW", "2026-02-20") + 1) == list(DAYS)
    async with asking(listing()) as (client, _):
        assert await client.expirations("SPX", None, MORNING) == []


async def test_a_listing_that_ignores_the_filter_ends() -> None:
    async with asking(always(lambda: ok([wire_row()]))) as (client, provider):
        with pytest.raises(DataError, match="do not ascend"):
            await client.expirations("SPX", 5, MORNING)
    assert len(provider.requests) == 2


async def test_the_nearest_listed_strikes() -> None:
    async with asking(pages_of([wire_row(6852.5)], 250)) as (client, provider):
        assert await client.listed_strike("SPX", EXPIRATION, 6851.0, above=True) == 6852.5
        await client.listed_strike("SPX", EXPIRATION, 6853.25, above=False)
    above, below = provider.queries
    assert (above["strike_price.gte"], above["order"], above["sort"]) == ("6851", "asc", "strike_price")
    assert (below["strike_price.lte"], below["order"]) == ("6853.25", "desc")


# --- spot and clock


def by_path(**answers: web.Response | Callable[[], web.Response]) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        name = "indices" if request.path == "/v3/snapshot/indices" else "chain"
        made = answers[name]
        return made if isinstance(made, web.Response) else made()

    return answer


async def test_spot_of_the_index() -> None:
    row = {"ticker": "I:SPX", "value": 6850, "last_updated": 1_768_570_200_500_000_000, "timeframe": "REAL-TIME"}
    async with asking(by_path(indices=ok([row]))) as (client, provider):
        assert await client.spot("SPX") == Spot(6850.0, 1_768_570_200.5, "REAL-TIME")
    assert provider.queries == [{"ticker.any_of": "I:SPX", "limit": "1"}]


@pytest.mark.parametrize(
    "indices",
    [
        lambda: ok([{"ticker": "I:SPX", "error": "NOT_ENTITLED", "message": "Not entitled."}]),
        lambda: ok([{"ticker": "I:NDX", "value": 1.0}]),
        lambda: ok([]),
        lambda: error(403, "You are not entitled to this data."),
    ],
)
async def test_spot_from_the_chain_when_there_is_no_index_value(indices: Callable[[], web.Response]) -> None:
    async with asking(by_path(indices=indices, chain=lambda: ok([wire_row()]))) as (client, provider):
        assert await client.spot("SPX") == Spot(6850.5, 1_768_570_200.123457, "DELAYED")
        assert provider.requests[1].path == CHAIN
        assert provider.queries[1] == {"limit": "1"}


async def test_an_index_plan_that_is_missing_is_not_asked_for_again() -> None:
    answers = by_path(indices=lambda: error(403, "no"), chain=lambda: ok([wire_row()]))
    async with asking(answers) as (client, provider):
        await client.spot("SPX")
        await client.spot("SPX")
    assert [request.path for request in provider.requests].count("/v3/snapshot/indices") == 1


@pytest.mark.parametrize("underlying", [None, {}, {"price": 0}, {"price": "689"}])
async def test_no_spot_at_all(underlying: object) -> None:
    async with asking(by_path(chain=ok([wire_row(underlying_asset=underlying)]))) as (client, _):
        assert await client.spot("SPY") is None


async def test_spot_of_a_stock_is_its_price() -> None:
    told = {"ticker": "SPY", "price": 689.25}
    async with asking(by_path(chain=ok([wire_row(underlying_asset=told)]))) as (client, _):
        assert await client.spot("SPY") == Spot(689.25, None, "")


@pytest.mark.parametrize(
    ("body", "market", "rate", "is_open"),
    [
        (
            {"market": "open", "serverTime": "2026-01-16T09:31:00-05:00"},
            "2026-01-16T09:31:00-05:00",
            1.0,
            True,
        ),
        (
            {"market": "closed", "serverTime": "2026-01-16T14:31:00.250Z", "clock": {"rate": 60}},
            "2026-01-16T09:31:00.250-05:00",
            60.0,
            False,
        ),
        ({"market": "extended-hours", "serverTime": "2026-01-16T04:30:00"}, "2026-01-16T04:30:00-05:00", 1.0, False),
    ],
)
async def test_the_market_clock(body: object, market: str, rate: float, is_open: bool) -> None:
    async with asking(always(lambda: web.json_response(body))) as (client, _):
        clock = await client.clock()
    assert clock.market_ts == datetime.fromisoformat(market).timestamp()
    assert (clock.rate, clock.is_open) == (rate, is_open)
    assert clock.receive_ts > 0


async def test_waiting_for_the_budget_does_not_set_the_clock_wrong() -> None:
    class Slow(Budget):
        async def wait(self) -> None:
            await super().wait()
            await asyncio.sleep(0.5)

    body, asked = {"market": "open", "serverTime": "2026-01-16T09:31:00-05:00"}, time.time()
    async with asking(always(lambda: web.json_response(body)), budget=(budget := Slow())) as (client, _):
        clock = await client.clock()
    assert clock.receive_ts >= asked + 0.5 and budget.waits == 1


async def test_a_status_without_time_is_no_clock() -> None:
    async with asking(always(lambda: web.json_response({"market": "open"}))) as (client, _):
        with pytest.raises(TransientError, match="no server time"):
            await client.clock()
