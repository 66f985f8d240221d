"""Breaks of the connection: nothing lost, nothing doubled, and a stale page says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from playwright.async_api import Browser

from consumers import embedded
from contracts.settings import Settings
from ops.gateway.server import serving
from tests.browser.conftest import Screen, screen_on
from tests.browser.test_page import mid_at
from tests.ops.pipeline import STRIKES, SYMBOL
from tests.ops.test_gateway import server_of_its_own
from tests.waiting import wait_until_async


async def test_a_cut_in_mid_stream_resumes_without_a_reset(screen: Screen) -> None:
    await screen.opened()
    screen.pipeline.quote(STRIKES[3], 8.0, 8.5)
    await screen.until("page.feed.book.diffs === 1")
    await screen.context.set_offline(True)
    await screen.tell("page.feed.source.close(); page.feed.source.dispatchEvent(new Event('error'))")
    await screen.until("document.body.classList.contains('stale')")
    screen.pipeline.quote(STRIKES[3], 9.0, 9.5)
    await screen.context.set_offline(False)
    await screen.until("page.feed.state === 'live'")
    await wait_until_async(lambda: _has(screen, 3700), "the newest quote")
    assert await screen.tell("page.feed.gaps") == 0


async def _has(screen: Screen, twice_the_mid: int) -> bool:
    return bool(await mid_at(screen, STRIKES[3]) * 2 == twice_the_mid)


async def test_a_page_without_a_gateway_says_since_when(
    screen: Screen, redis_url: str, settings_for: Callable[..., Settings]
) -> None:
    async with serving(settings_for(MARKETSWARM_PORT="0"), redis_url) as gateway:
        screen.gateway = gateway
        await screen.opened()
    await screen.until("page.feed.state === 'disconnected'")
    assert "disconnected since" in await screen.text("#connection")
    assert await screen.tell("document.body.classList.contains('stale')")


async def test_a_restarted_gateway_is_followed_again(
    screen: Screen, redis_url: str, settings_for: Callable[..., Settings]
) -> None:
    async with serving(settings_for(MARKETSWARM_PORT="0"), redis_url) as gateway:
        screen.gateway = gateway
        await screen.opened()
    screen.pipeline.quote(STRIKES[3], 8.0, 8.5)
    async with serving(settings_for(MARKETSWARM_PORT=str(gateway.port)), redis_url):
        await screen.until("page.feed.state === 'live'", 20.0)
        await wait_until_async(lambda: _has(screen, 3300), "what was missed")
        assert await screen.tell("page.feed.gaps") == 0


async def test_alerts_of_a_break_are_in_the_list_afterwards(screen: Screen) -> None:
    missed = {"rule": "flip", "symbol": SYMBOL, "epoch": "e", "ts": 1771513215, "text": "SPX crossed meanwhile"}
    await screen.opened()
    await screen.page.route(f"**/api/alerts/{SYMBOL}?*", lambda route: route.fulfill(json={"alerts": [missed]}))
    await screen.tell("page.feed.source.dispatchEvent(new Event('error'))")
    await screen.pipeline.tick()
    await screen.until("document.getElementById('alerts-button').textContent === 'alerts 1'")
    assert await screen.page.locator("#alerts li").all_text_contents() == ["10:00:15 SPX crossed meanwhile"]


async def test_lost_entries_become_a_reset_and_the_page_goes_on(screen: Screen) -> None:
    await screen.opened()
    screen.pipeline.client.hincrby(screen.pipeline.keys.model_state(SYMBOL), "seq", 5)
    screen.pipeline.quote(STRIKES[3], 8.0, 8.5)
    await wait_until_async(lambda: _has(screen, 3300), "the newest quote")
    assert await screen.tell("page.feed.resets") == 2


async def test_a_slow_tab_gets_the_newest_of_each_cell(screen: Screen) -> None:
    """A tab that does nothing for a while comes back level, without a gap."""
    await screen.opened()
    busy = asyncio.create_task(screen.tell("(() => { const end = Date.now() + 3000; while (Date.now() < end); })()"))
    for number in range(120):
        screen.pipeline.quote(STRIKES[3], 8.0 + number / 100, 9.0)
        await asyncio.sleep(0.02)
    await busy
    await wait_until_async(lambda: _has(screen, 2 * (919 + 900)), "the newest quote")
    assert await screen.tell("page.feed.gaps") == 0


async def test_a_restarted_redis_is_followed_again(
    tmp_path: Path, settings_for: Callable[..., Settings], browser: Browser
) -> None:
    port = embedded.free_port()
    with server_of_its_own(tmp_path, port) as server:
        async with screen_on(f"redis://127.0.0.1:{port}", settings_for(MARKETSWARM_PORT="0"), browser) as screen:
            await screen.opened()
            server.terminate()
            await asyncio.to_thread(server.wait)
            await screen.until("page.feed.state === 'quiet'", 20.0)
            assert "nothing new for" in await screen.text("#connection")
            with server_of_its_own(tmp_path, port):
                screen.pipeline.quote(STRIKES[3], 8.0, 8.5)
                await wait_until_async(lambda: _has(screen, 3300), "the newest quote", 30.0)
                await screen.until("page.feed.state === 'live'")
                assert await screen.tell("page.feed.gaps") == 0


async def test_a_symbol_without_an_epoch_is_waited_for_and_another_one_is_a_click_away(
    redis_url: str, settings_for: Callable[..., Settings], browser: Browser
) -> None:
    settings = settings_for(MARKETSWARM_PORT="0", MASSIVE_SYMBOLS="SPX,NDX")
    async with screen_on(redis_url, settings, browser) as screen:
        await screen.opened()
        await screen.page.click("#symbols button[data-name=NDX]")
        await screen.until("page.feed.state === 'waiting'")
        assert await screen.text("#connection") == "connected; waiting for the first epoch"
        assert await screen.text("#epoch-facts") == "waiting for the first epoch"
        assert await screen.tell("page.sheet") is None
        await screen.page.click("#symbols button[data-name=SPX]")
        await screen.until("page.feed.state === 'live' && page.sheet !== null")


async def test_the_symbol_is_remembered_and_a_link_may_name_one(
    redis_url: str, settings_for: Callable[..., Settings], browser: Browser
) -> None:
    settings = settings_for(MARKETSWARM_PORT="0", MASSIVE_SYMBOLS="SPX,NDX")
    async with screen_on(redis_url, settings, browser) as screen:
        await screen.opened()
        await screen.page.click("#symbols button[data-name=NDX]")
        await screen.page.reload()
        await screen.until("window.page?.feed.symbol === 'NDX'")
        await screen.page.goto("about:blank")
        await screen.opened("/#SPX")
        await screen.page.goto("about:blank")
        await screen.page.goto(screen.gateway.url + "/#ABC")
        await screen.until("document.getElementById('notes').textContent.includes('no symbol ABC here')")


async def test_a_gateway_with_a_token_asks_for_it(
    redis_url: str, settings_for: Callable[..., Settings], browser: Browser
) -> None:
    token = "a token that nobody guesses"
    async with screen_on(redis_url, settings_for(MARKETSWARM_PORT="0", MARKETSWARM_TOKEN=token), browser) as screen:
        answer = await screen.page.goto(screen.gateway.url)
        assert answer is not None and answer.status == 401
        await screen.page.fill("#token", "a wrong one")
        await screen.page.click("button")
        await screen.page.fill("#token", token)
        await screen.page.click("button")
        await screen.until("!!(window.page?.sheet && page.feed.latest.gex)")
        await screen.context.clear_cookies()
        await screen.tell("page.feed.source.close(); page.feed.source.dispatchEvent(new Event('error'))")
        await screen.page.wait_for_selector("#token")
        screen.complaints.clear()  # a browser reports every 401
