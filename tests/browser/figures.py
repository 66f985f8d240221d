"""How fast and how still the page is, measured on a running pipeline.

make up
python -m tests.browser.figures http://127.0.0.1:8080

Prints for every symbol how long it takes from opening (or choosing) it to a live heatmap with gamma exposure, then the
layout shift of some seconds of updates. Whatever the browser complains of ends it with exit code 1.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from time import monotonic

from playwright.async_api import Page, async_playwright

from tests.browser.conftest import FLAGS, program
from tests.waiting import wait_until_async

WATCHED_S = 20
SEEN = """(symbol) => !!window.page && page.feed.symbol === symbol && document.body.dataset.state === "live"
  && page.sheet !== null && page.spot !== null && page.exposures.byStrike.size > 0 && !page.heatmap.whole"""
WATCH = """window.shift = 0; new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) shift += entry.value;
}).observe({ type: "layout-shift" });"""


async def measure(url: str) -> list[str]:
    """Print the figures; returns what the browser complained of."""
    complaints: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program(), args=list(FLAGS))
        page = await browser.new_page(viewport={"width": 1280, "height": 900})
        page.on("console", lambda told: complaints.append(told.text) if told.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        began = monotonic()
        await page.goto(url)
        await wait_until_async(lambda: page.evaluate("!!window.page?.feed"), "the page to begin")
        first: str = await page.evaluate("page.feed.symbol")
        await _tell_when_seen(page, first, began)
        for symbol in await page.evaluate("page.symbols"):
            if symbol != first:
                began = monotonic()
                await page.click(f"#symbols [data-name={symbol}]")
                await _tell_when_seen(page, symbol, began)
        await page.evaluate(WATCH)
        await asyncio.sleep(WATCHED_S)
        shift, diffs = await page.evaluate("[shift, page.feed.book.diffs]")
        say(f"layout shift in {WATCHED_S} s and {diffs} diffs: {shift:.4f}")
        await browser.close()
    return complaints


async def _tell_when_seen(page: Page, symbol: str, began: float) -> None:
    await wait_until_async(lambda: page.evaluate(SEEN, symbol), f"{symbol} to be live", 60)
    say(f"{symbol}: live after {monotonic() - began:.2f} s")


def say(line: str) -> None:
    """One line of the answer."""
    sys.stdout.write(line + "\n")


def main() -> None:
    """Measure the page the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    complaints = asyncio.run(measure(parser.parse_args().url))
    say(f"complaints of the browser: {complaints or 'none'}")
    raise SystemExit(1 if complaints else 0)


if __name__ == "__main__":
    main()
