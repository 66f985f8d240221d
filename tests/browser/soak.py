"""Pages that stay in step: every symbol in a Chromium, for as long as wanted, with cut connections all the time.

make up SCENARIO=promotions.toml
python -m tests.browser.soak http://127.0.0.1:8080 SPX NDX --minutes 60

The pages reach the gateway through a relay that breaks all connections at random moments, in mid event. A line a
minute tells what the pages' client module counted; the exit code is 1 if it ever found a gap or a checksum that
disagrees (both open the connection anew), if a reset came without a new epoch (a cut is resumed where it happened), or
if a page was not live at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from playwright.async_api import Browser, CDPSession, Page, async_playwright

from tests.browser.conftest import FLAGS, program
from tests.browser.cutting import Relay, relayed
from tests.waiting import wait_until_async

SHOWN = ("state", "epochs", "resets", "diffs", "checked", "gaps")
LEVEL_S = 30.0  # a page must be live again so soon after the last cut

HEAR_RESETS = """(() => {
  const { feed } = page;
  window.epochs = [feed.book.epoch];
  window.again = [];
  feed.addEventListener("reset", () => {
    if (epochs.includes(feed.book.epoch)) again.push([feed.book.epoch, feed.book.seq]);
    else epochs.push(feed.book.epoch);
  });
})()"""
COUNTS = """(() => ({
  state: page.feed.state, gaps: page.feed.gaps, reason: page.feed.reason, resets: page.feed.resets,
  diffs: page.feed.book.diffs, checked: page.feed.book.checked, epochs: epochs.length, again,
}))()"""


@dataclass
class Watched:
    """A page and what it has told so far."""

    symbol: str
    page: Page
    session: CDPSession
    counts: dict[str, Any] = field(default_factory=dict)
    heap_bytes: int = 0

    async def look(self) -> None:
        """Ask the client module of the page for its counts."""
        self.counts = await self.page.evaluate(COUNTS)

    async def weigh(self) -> None:
        """Ask what the page's heap holds when nothing in it is garbage."""
        for _ in range(3):
            await self.session.send("HeapProfiler.collectGarbage")
        self.heap_bytes = (await self.session.send("Runtime.getHeapUsage"))["usedSize"]

    def line(self) -> str:
        """The counts for a person."""
        told = "  ".join(f"{name} {self.counts[name]}" for name in SHOWN)
        heap = f"heap {self.heap_bytes / 1e6:.2f} MB"
        again = " ".join(f"again {epoch} at {seq}" for epoch, seq in self.counts["again"])
        return f"{self.symbol}  {told}  {heap}  {self.counts['reason']}{again}"

    def in_step(self) -> bool:
        """Whether it never lost its step, and is live."""
        lost = self.counts["gaps"] or self.counts["again"]
        return bool(self.counts["state"] == "live" and self.counts["checked"] > 0 and not lost)


async def watch(browser: Browser, url: str, symbol: str) -> Watched:
    """Open the page of a symbol."""
    context = await browser.new_context(viewport={"width": 1280, "height": 900})
    page = await context.new_page()
    await page.goto(f"{url}/#{symbol}")
    await wait_until_async(lambda: page.evaluate("!!window.page?.sheet"), f"a page of {symbol}", LEVEL_S)
    await page.evaluate(HEAR_RESETS)
    return Watched(symbol, page, await context.new_cdp_session(page))


async def soak(url: str, symbols: list[str], minutes: float, between_s: Sequence[float], dice: random.Random) -> bool:
    """Watch every symbol for so long; whether all stayed in step."""
    parts = urlsplit(url)
    async with relayed(parts.hostname or "127.0.0.1", parts.port or 80) as (relay, port), async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=program(), args=list(FLAGS))
        watched = [await watch(browser, f"http://127.0.0.1:{port}", symbol) for symbol in symbols]
        cutting = asyncio.create_task(_cut_again_and_again(relay, between_s, dice))
        end = time.monotonic() + minutes * 60.0
        while time.monotonic() < end:
            await _report_for_a_minute(watched, relay, end)
        cutting.cancel()
        await asyncio.sleep(LEVEL_S)
        for each in watched:
            await each.look()
            print(f"at the end  {each.line()}", flush=True)
        await browser.close()
        return all(each.in_step() for each in watched)


async def _cut_again_and_again(relay: Relay, between_s: Sequence[float], dice: random.Random) -> None:
    while True:
        await asyncio.sleep(dice.uniform(*between_s))
        relay.cut()


async def _report_for_a_minute(watched: list[Watched], relay: Relay, end: float) -> None:
    await asyncio.sleep(min(60.0, end - time.monotonic()))
    for each in watched:
        await each.look()
        await each.weigh()
        print(f"{time.strftime('%H:%M:%S')}  {each.line()}  cuts {relay.cuts}", flush=True)


def main() -> None:
    """Soak as the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("symbols", nargs="+")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--cut-every", nargs=2, type=float, default=(5.0, 45.0), metavar="SECONDS", help="at random")
    parser.add_argument("--seed", type=int, default=1)
    told = parser.parse_args()
    dice = random.Random(told.seed)
    sys.exit(0 if asyncio.run(soak(told.url, told.symbols, told.minutes, told.cut_every, dice)) else 1)


if __name__ == "__main__":
    main()
