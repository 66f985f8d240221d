"""Who may ask the gateway, and what nobody can make it do."""

from __future__ import annotations

import asyncio
import logging
import string
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.errors import FatalError
from contracts.settings import Settings
from ops.gateway import server as server_module
from ops.gateway.endpoints import ENDPOINTS
from ops.gateway.security import HEADERS, RateLimit, check_exposure, is_loopback
from ops.gateway.server import RunningGateway, serving
from ops.programs import MockChoice, make_plan
from tests.ops.pipeline import SYMBOL
from tests.waiting import PATIENCE_S, wait_until_async

SettingsFor = Callable[..., Settings]

TOKEN = "a-token-of-some-length"
PATHS = tuple(one.path.replace("{symbol}", SYMBOL).replace("{model}", "gex") for one in ENDPOINTS)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def gateway(redis_url: str, settings_for: SettingsFor) -> AsyncIterator[RunningGateway]:
    """A gateway of this machine alone, without a pipeline."""
    async with serving(settings_for(MARKETSWARM_PORT="0"), redis_url) as gateway:
        yield gateway


@pytest.fixture
async def guarded(redis_url: str, settings_for: SettingsFor) -> AsyncIterator[RunningGateway]:
    """A gateway with a token."""
    async with serving(settings_for(MARKETSWARM_PORT="0", MARKETSWARM_TOKEN=TOKEN), redis_url) as gateway:
        yield gateway


# --- token


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "gateway.example"])
async def test_beyond_this_machine_a_token_is_required(host: str, redis_url: str, settings_for: SettingsFor) -> None:
    with pytest.raises(FatalError, match="set MARKETSWARM_TOKEN"):
        async with serving(settings_for(MARKETSWARM_HOST=host, MARKETSWARM_PORT="0"), redis_url):
            pass


def test_a_pipeline_whose_gateway_would_refuse_is_not_started(settings_for: SettingsFor) -> None:
    with pytest.raises(FatalError, match="set MARKETSWARM_TOKEN"):
        make_plan(MockChoice(), settings_for(MARKETSWARM_HOST="0.0.0.0"), {})


def test_a_token_that_is_easily_guessed_is_refused() -> None:
    with pytest.raises(FatalError, match="at least 16 characters"):
        check_exposure("127.0.0.1", "short")
    check_exposure("0.0.0.0", TOKEN)


def test_what_only_this_machine_reaches() -> None:
    assert is_loopback("127.0.0.1") and is_loopback("::1") and is_loopback("localhost")
    assert not any(map(is_loopback, ("0.0.0.0", "10.0.0.1", "localhost.example", "")))


async def test_without_the_token_everything_but_health_is_401(
    guarded: RunningGateway, http: aiohttp.ClientSession
) -> None:
    for path in ("/nothing", "/page/app.js", *PATHS):
        async with http.get(guarded.url + path) as response:
            assert response.status == (200 if path == "/healthz" else 401), path
    async with http.get(guarded.url + "/api/symbols", headers={"Expect": "nothing"}) as response:
        assert response.status == 401
    async with http.get(f"{guarded.url}/?token={TOKEN}") as response:
        assert response.status == 401  # an address is kept in logs
    for header in ("Bearer wrong", "Bearer", f"Basic {TOKEN}", TOKEN, "Bearer \u0663"):
        async with http.get(f"{guarded.url}/api/symbols", headers={"Authorization": header}) as response:
            assert response.status == 401, header


async def test_the_token_opens_by_header(guarded: RunningGateway, http: aiohttp.ClientSession) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with http.get(f"{guarded.url}/api/symbols", headers=headers) as response:
        assert response.status == 200
    async with http.ws_connect(f"{guarded.url}/ws/{SYMBOL}", headers=headers):
        pass


async def test_a_browser_logs_in_for_a_cookie(guarded: RunningGateway) -> None:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
        async with browser.get(guarded.url, headers={"Accept": "text/html"}) as response:
            assert response.status == 401 and '<form method="post" action="/login"' in await response.text()
        async with browser.post(f"{guarded.url}/login", data={"token": "wrong"}) as response:
            assert response.status == 401
        async with browser.post(f"{guarded.url}/login", data={"token": TOKEN}) as response:
            assert response.status == 200 and response.url.path == "/"
        async with browser.get(f"{guarded.url}/api/symbols") as response:
            assert response.status == 200
        (cookie,) = browser.cookie_jar
        assert cookie["httponly"] and cookie["samesite"] == "Strict"


# --- other sites


async def test_a_page_of_another_site_may_not_ask(gateway: RunningGateway, http: aiohttp.ClientSession) -> None:
    for origin in ("https://evil.example", "null", f"http://127.0.0.1:{gateway.port + 1}", "http://[", ""):
        async with http.get(f"{gateway.url}/ws/{SYMBOL}", headers={"Origin": origin}) as response:
            assert response.status == 403, origin
    async with http.ws_connect(f"{gateway.url}/ws/{SYMBOL}", headers={"Origin": gateway.url}):
        pass


async def test_a_name_that_only_leads_to_this_machine_is_refused(
    gateway: RunningGateway, http: aiohttp.ClientSession
) -> None:
    for host in ("evil.example", "evil.example:8080", "127.0.0.1.evil.example", "[", ""):
        async with http.get(f"{gateway.url}/api/symbols", headers={"Host": host}) as response:
            assert response.status == 403, host
    for host in ("localhost", f"127.0.0.1:{gateway.port}", "[::1]:8080"):
        async with http.get(f"{gateway.url}/api/symbols", headers={"Host": host}) as response:
            assert response.status == 200, host


async def test_every_answer_has_its_headers(gateway: RunningGateway, http: aiohttp.ClientSession) -> None:
    for path in ("/", "/page/app.js", "/nothing", "/api/symbols", f"/events/{SYMBOL}", "/api/models/QQQ/gex"):
        async with http.get(gateway.url + path) as response:
            assert {name: response.headers.get(name) for name in HEADERS} == HEADERS, path
            assert not [name for name in response.headers if name.startswith("Access-Control")], path


# --- limits


def test_a_caller_gets_a_burst_and_then_so_many_a_second() -> None:
    limit = RateLimit(per_second=2.0, burst=3.0)
    assert [limit.allow("a", 0.0) for _ in range(4)] == [True, True, True, False]
    assert limit.allow("b", 0.0)
    assert [limit.allow("a", 1.0) for _ in range(3)] == [True, True, False]


async def test_who_asks_too_often_is_told_so(
    redis_url: str, settings_for: SettingsFor, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "REQUESTS_BURST", 5.0)
    monkeypatch.setattr(server_module, "REQUESTS_PER_S", 0.001)
    async with serving(settings_for(MARKETSWARM_PORT="0"), redis_url) as gateway:
        statuses = []
        for _ in range(7):
            async with http.get(f"{gateway.url}/healthz") as response:
                statuses.append(response.status)
    assert statuses == [200] * 5 + [429] * 2


async def test_connections_are_limited(
    gateway: RunningGateway, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MAX_CLIENTS", 1)
    url = f"{gateway.url}/events/{SYMBOL}"
    async with http.get(url) as first, asyncio.timeout(PATIENCE_S):
        assert first.status == 200
        await first.content.readline()
        while True:
            async with http.get(url) as second:
                if second.status == 503:
                    assert "connected already" in (await second.json())["error"]
                    return


async def test_the_page_is_served_from_its_folder_only(gateway: RunningGateway, http: aiohttp.ClientSession) -> None:
    too_long = "/page/" + "9" * 400
    for path in ("/page/../server.py", "/page/..%2fserver.py", "/page/%2e%2e/server.py", "/page//etc/passwd", too_long):
        async with http.get(gateway.url + path) as response:
            assert response.status == 404, path
    async with http.get(f"{gateway.url}/page/vendor/uPlot.js") as response:
        assert response.status == 200


# --- fuzz

TEXT = st.text(max_size=30) | st.sampled_from(
    ["SPX", "..", "%00", "nan", "-1", "1e999", "2031-01-15", "\x7f", "9" * 40]
)
QUERY = st.dictionaries(
    st.sampled_from(["strategy", "side", "plane", "planes", "strike", "width", "count", "since", "models", "format"]),
    TEXT | st.sampled_from(["butterfly", "call", "SPXW:2031-01-15", "6900", "20", "inf", "-inf", "1e400", "0"]),
    max_size=6,
)
HEADER_TEXT = st.text(st.sampled_from(string.printable[:95] + "é\xff"), max_size=60)
FUZZED_HEADERS = st.dictionaries(
    st.sampled_from(
        ["Last-Event-ID", "Accept-Encoding", "Authorization", "Cookie", "Accept", "If-None-Match", "Range"]
    ),
    HEADER_TEXT,
    max_size=3,
)
PATH = st.sampled_from(PATHS) | st.lists(TEXT, max_size=4).map(lambda parts: "/" + "/".join(parts))


async def test_nothing_that_is_asked_is_a_fault_of_ours(
    redis_url: str, settings_for: SettingsFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "REQUESTS_PER_S", 1e6)
    monkeypatch.setattr(server_module, "REQUESTS_BURST", 1e6)
    loop = asyncio.get_running_loop()
    async with serving(settings_for(MARKETSWARM_PORT="0"), redis_url) as gateway, aiohttp.ClientSession() as http:

        @settings(max_examples=200, suppress_health_check=list(HealthCheck), database=None)
        @given(PATH, QUERY, FUZZED_HEADERS, st.sampled_from(["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS"]))
        def ask(path: str, query: dict[str, str], headers: dict[str, str], method: str) -> None:
            status = asyncio.run_coroutine_threadsafe(
                _status(http, method, gateway.url + path, query, headers), loop
            ).result(PATIENCE_S)
            assert status < 500, (method, path, query, headers)

        # until it has met the server it says rightly that it is not ready: 503
        await wait_until_async(lambda: _is_ready(http, gateway), "the gateway to be ready")
        await asyncio.to_thread(ask)


async def _is_ready(http: aiohttp.ClientSession, gateway: RunningGateway) -> bool:
    return await _status(http, "GET", gateway.url + "/readyz", {}, {}) == 200


async def _status(
    http: aiohttp.ClientSession, method: str, url: str, query: dict[str, str], headers: dict[str, str]
) -> int:
    try:
        async with http.request(method, url, params=query, headers=headers, allow_redirects=False) as response:
            return response.status
    except (ValueError, aiohttp.InvalidURL):
        return 0  # no client of this kind can ask that


RAW_REQUESTS = (
    b"GET /events/\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /api/tiles/SPX?strike=\xff&strategy=\xc3( HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /events/SPX HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: \xff\xff-1\r\n\r\n",
    b"GET /api/models/SPX/\xed\xa0\x80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /events/SPX?models=\xed\xa0\x80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /api/chain/SPX/%ff%fe HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /api/symbols HTTP/1.1\r\nHost: localhost\r\nExpect: \xff\r\n\r\n",
    b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nExpect: \xff\r\n\r\n",
    b"PUT /api/symbols HTTP/1.1\r\nHost: localhost\r\nExpect: \xff\r\n\r\n",
    b"GET /page/app.js HTTP/1.1\r\nHost: localhost\r\nExpect: \xff\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nno header\r\n\r\n",
    b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n\xff\xff\xff\xff\xff",
    b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    b"Content-Length: 7\r\n\r\n--x\r\n\r\n",
)


@pytest.mark.parametrize("raw", RAW_REQUESTS)
async def test_raw_bytes_are_no_fault_of_ours(
    raw: bytes, gateway: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    await _ask_raw(raw, gateway)
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("raw", RAW_REQUESTS)
async def test_raw_bytes_from_strangers_are_no_fault_of_ours(raw: bytes, guarded: RunningGateway) -> None:
    await _ask_raw(raw, guarded)


async def _ask_raw(raw: bytes, gateway: RunningGateway) -> None:
    reader, writer = await asyncio.open_connection(gateway.host, gateway.port)
    writer.write(raw)
    async with asyncio.timeout(PATIENCE_S):
        line = await reader.readline()
    writer.close()
    await asyncio.sleep(0.02)  # a server that has not yet seen the end would wait for it as it stops
    assert line.startswith(b"HTTP/1.") and int(line.split()[1]) < 500, line


def test_the_login_form_is_there() -> None:
    assert (Path(server_module.PAGE) / "login.html").is_file()
