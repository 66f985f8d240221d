"""Breaks of the connection: nothing lost, nothing doubled, and a stale page says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from contracts.settings import Settings
from ops.gateway.server import serving
from tests.browser.conftest import Screen
from tests.browser.test_page import mid_at
from tests.ops.pipeline import STRIKES, SYMBOL
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
