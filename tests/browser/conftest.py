"""A page in a real Chromium before a gateway and a small pipeline; everything in the loop of the test.

Which Chromium: BROWSER if set, else Debian's. Browser tests are marked `browser` and are not part of `make test`:
`make test-browser` runs them, and `.ci/run` installs what they need.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, async_playwright

from contracts.settings import Settings
from ops.gateway.server import RunningGateway, serving
from tests.ops.pipeline import SmallPipeline, small_pipeline
from tests.waiting import PATIENCE_S, wait_until_async

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs a browser."""
    here = Path(__file__).parent
    for item in items:
        if here in Path(item.path).parents:
            item.add_marker("browser")


def program() -> str:
    """The Chromium to start."""
    return os.environ.get("BROWSER", "/usr/bin/chromium")


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """A Chromium of its own for each test: nothing is left of the last one."""
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=program(), args=list(FLAGS))
        yield chromium
        await chromium.close()


@dataclass
class Screen:
    """A page that a person would see, with what a test wants to know of it."""

    pipeline: SmallPipeline
    gateway: RunningGateway
    page: Page
    context: BrowserContext
    complaints: list[str] = field(default_factory=list)

    async def opened(self, path: str = "/") -> Screen:
        """Load the page and wait for the first cells."""
        await self.page.goto(self.gateway.url + path)
        await self.until("!!(window.page?.sheet && page.feed.latest.gex)")
        return self

    async def tell(self, script: str) -> Any:
        """The value of a script in the page."""
        return await self.page.evaluate(script)

    async def until(self, script: str, timeout_s: float = PATIENCE_S) -> None:
        """Wait until a script in the page is true. (The page's own policy forbids the driver's way of waiting.)"""
        await wait_until_async(lambda: self.page.evaluate(script), script, timeout_s)

    async def hear(self, kind: str, data: dict[str, Any]) -> None:
        """Let the page take an event as if its gateway had sent it."""
        event = json.dumps({"kind": kind, "data": json.dumps(data)})
        await self.tell(
            f"(({{ kind, data }}) => page.feed.source.dispatchEvent(new MessageEvent(kind, {{ data }})))({event})"
        )

    async def text(self, selector: str) -> str:
        """What an element says."""
        return await self.page.inner_text(selector)


@pytest.fixture
async def screen(redis_url: str, settings_for: Callable[..., Settings], browser: Browser) -> AsyncIterator[Screen]:
    """A live pipeline, its gateway, and a page that is not loaded yet; a console error fails the test."""
    async with screen_on(redis_url, settings_for(MARKETSWARM_PORT="0"), browser) as found:
        yield found


@asynccontextmanager
async def screen_on(
    redis_url: str, settings: Settings, browser: Browser, *, live: bool = True
) -> AsyncIterator[Screen]:
    """The same on a server and with settings of the test's own; without `live` there is no chain yet."""
    async with small_pipeline(redis_url, settings) as pipeline, serving(settings, redis_url) as gateway:
        if live:
            await pipeline.live()
        context = await browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="dark")
        page = await context.new_page()
        screen = Screen(pipeline, gateway, page, context)

        def complain(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning") and "ERR_" not in message.text:
                screen.complaints.append(message.text)

        page.on("console", complain)
        page.on("pageerror", lambda error: screen.complaints.append(str(error)))
        yield screen
        await context.close()
        assert screen.complaints == []
