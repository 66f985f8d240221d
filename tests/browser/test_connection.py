"""Breaks of the connection: nothing lost, nothing doubled, and a stale page says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from playwright.async_api import Browser, Route

from consumers import embedded
from contracts.settings import Settings
from ops.gateway.server import RunningGateway, serving
from tests.browser.conftest import Screen, screen_on
from tests.browser.cutting import relayed
from tests.browser.test_page import mid_at
from tests.ops.pipeline import SPOT, STRIKES, SYMBOL
from tests.ops.test_gateway import server_of_its_own
from tests.waiting import wait_until_async


async def test_cuts_in_mid_stream_are_resumed_with_nothing_lost_or_doubled(screen: Screen) -> None:
    """The browser itself comes again with the last id it has, and gets exactly the entries after it."""
    async with relayed("127.0.0.1", screen.gateway.port) as (relay, port):
        screen.gateway = RunningGateway("127.0.0.1", port)
        await screen.opened()
        began = await screen.tell("page.feed.book.seq")
        await screen.tell(HEAR_NUMBERS)
        for number in range(30):
            screen.pipeline.quote(STRIKES[number], 8.0, 8.5)
            if number % 10 == 5:
                assert relay.cut() >= 1
                await screen.until(f"breaks >= {relay.cuts}")
                screen.pipeline.quote(STRIKES[number], 9.0, 9.5)
                await screen.pipeline.publish_tick()
                await screen.until(f"page.feed.latest.gex.tick >= {screen.pipeline.state('tick')}")
        await screen.pipeline.settle()
        await wait_until_async(lambda: _has_all(screen), "everything published")
        last = screen.pipeline.state("seq")
        assert last > began + 10
        assert await screen.tell("heard") == list(range(began + 1, last + 1))
        assert await screen.tell("[page.feed.resets, page.feed.gaps]") == [1, 0]


HEAR_NUMBERS = """(() => {
  window.heard = [];
  for (const kind of ["reset", "diff", "tick", "gex", "liquidity", "mode", "gravity"])
    page.feed.source.addEventListener(kind, ({ data }) => heard.push(JSON.parse(data).seq));
  window.breaks = 0;
  page.feed.addEventListener("state", () => { if (page.feed.state === "disconnected") breaks += 1; });
})()"""


async def _has_all(screen: Screen) -> bool:
    return bool(await screen.tell("page.feed.book.seq") == screen.pipeline.state("seq"))


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
    assert await screen.tell("document.body.dataset.state === 'disconnected'")


async def test_what_the_gateway_tells_by_itself_is_no_sign_of_life(screen: Screen) -> None:
    """Without a tick the page is not live, however often the health changes."""
    await screen.opened()
    for number in range(8):
        await screen.hear("health", {"status": "degraded", "reasons": [f"lag of {number} s"]})
        await screen.page.wait_for_timeout(1000)
    assert await screen.tell("page.feed.state") == "quiet"
    assert "nothing new for" in await screen.text("#connection")
    await screen.pipeline.tick()
    await screen.until("page.feed.state === 'live'")


async def test_old_quotes_are_not_live_though_ticks_come(screen: Screen) -> None:
    """A dead feed or a closed market: the models go on, of quotes that are old."""
    await screen.opened()
    gex, seq, generation = await screen.tell("[page.feed.latest.gex, page.feed.book.seq, page.feed.book.generation]")
    ts = 1771513215.0  # 10:00:15 in New York
    told = {"ts": ts + 3600, "asof_quote": ts, "asof_spot": ts + 3599}
    await screen.hear("gex", {**gex, "seq": seq + 1, "generation": generation, **told})
    await screen.until("document.getElementById('connection').textContent === 'quotes of 19 Feb 10:00:15, 60 min old'")
    assert await screen.tell("document.body.dataset.state") == "quiet"


async def test_without_an_epoch_the_last_state_is_shown_with_its_time(screen: Screen) -> None:
    """Hours after the close: the epoch's keys are gone, the models are not."""
    screen.pipeline.spot(SPOT)
    await screen.pipeline.publish_tick()
    client, epoch = screen.pipeline.client, screen.pipeline.epoch()
    client.delete(*client.scan_iter(f"epoch:{epoch}:*"))
    await screen.page.goto(screen.gateway.url)
    await screen.until("!!window.page?.sheet && page.spot === 6900")
    assert await screen.tell("page.feed.state") == "waiting"
    words = await screen.text("#connection")
    assert words.startswith("no epoch is active: the state of ") and words.endswith(" New York")
    assert await mid_at(screen) == 2050
    assert await screen.tell("page.heatmap.at(page.heatmap.width - 9, page.axis.place(6900))") >= 0
    await screen.until("document.getElementById('health').dataset.status !== ''")
    assert "put wall" in await screen.text("#levels")
    screen.pipeline.chain()
    await screen.until("page.feed.state === 'live'")


async def test_a_page_that_waits_is_live_three_seconds_after_the_first_models(
    redis_url: str, settings_for: Callable[..., Settings], browser: Browser
) -> None:
    async with screen_on(redis_url, settings_for(MARKETSWARM_PORT="0"), browser, live=False) as screen:
        await screen.page.goto(screen.gateway.url)
        await screen.until("window.page?.feed.state === 'waiting'")
        screen.pipeline.spot(SPOT)
        await screen.pipeline.live()
        await screen.until(
            "document.body.dataset.state === 'live' && page.heatmap.sheet && page.exposures.byStrike.size > 0", 3.0
        )


async def test_a_restarted_gateway_is_followed_again(
    screen: Screen, redis_url: str, settings_for: Callable[..., Settings]
) -> None:
    async with serving(settings_for(MARKETSWARM_PORT="0"), redis_url) as gateway:
        screen.gateway = gateway
        await screen.opened()
    screen.pipeline.quote(STRIKES[3], 8.0, 8.5)
    async with serving(settings_for(MARKETSWARM_PORT=str(gateway.port)), redis_url):
        await screen.until("page.feed.state === 'live'")
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


async def test_an_alert_that_comes_while_the_list_is_asked_for_stays_in_it(screen: Screen) -> None:
    """The answer may be older than what the stream has told meanwhile: then the page asks again."""
    before, meanwhile = (
        {"rule": "flip", "symbol": SYMBOL, "epoch": "e", "ts": 1771513215, "text": text}
        for text in ("before", "meanwhile")
    )
    answers = [[before], [meanwhile, before]]

    async def answer(route: Route) -> None:
        if len(answers) == 2:
            await screen.hear("alert", meanwhile)
        await route.fulfill(json={"alerts": answers.pop(0)})

    await screen.page.route(f"**/api/alerts/{SYMBOL}?*", answer)
    await screen.opened()
    await screen.until("document.getElementById('alerts-button').textContent === 'alerts 2'")
    assert await screen.page.locator("#alerts li").all_text_contents() == ["10:00:15 meanwhile", "10:00:15 before"]


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
            await screen.until("page.feed.state === 'quiet'")
            assert "nothing new for" in await screen.text("#connection")
            with server_of_its_own(tmp_path, port):
                screen.pipeline.quote(STRIKES[3], 8.0, 8.5)
                await wait_until_async(lambda: _has(screen, 3300), "the newest quote")
                screen.pipeline.quote(STRIKES[4], 8.0, 8.5)  # five seconds after the last it would no longer be live
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
        await screen.page.wait_for_url("**/login")  # the form of the answer, not that of before
        await screen.page.fill("#token", token)
        await screen.page.click("button")
        await screen.until("!!(window.page?.sheet && page.feed.latest.gex)")
        await screen.context.clear_cookies()
        await screen.tell("page.feed.source.close(); page.feed.source.dispatchEvent(new Event('error'))")
        await screen.page.wait_for_selector("#token")
        screen.complaints.clear()  # a browser reports every 401
