"""Pages that stay in step: every symbol in a Chromium, for as long as wanted, with cut connections all the time.

make up SCENARIO=promotions.toml
python -m tests.browser.soak http://127.0.0.1:8080 SPX NDX --minutes 60

The pages reach the gateway through a relay that breaks all connections at random moments, in mid event. A line a
minute tells what the pages' client module counted; the exit code is 1 if it ever found a gap or a checksum that
disagrees (both open the connection anew), or was not live at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from playwright.async_api import Browser, CDPSession, Page, async_playwright

from tests.browser.conftest import FLAGS, program
from tests.waiting import wait_until_async

CUT_EVERY_S = (5.0, 45.0)  # between two cuts, at random
CHUNK_BYTES = 4096
LEVEL_S = 30.0  # a page must be live again so soon after the last cut

COUNTS = """(() => ({
  state: page.feed.state, gaps: page.feed.gaps, reason: page.feed.reason, resets: page.feed.resets,
  diffs: page.feed.book.diffs, checked: page.feed.book.checked, epoch: page.feed.book.epoch,
}))()"""


@dataclass
class Relay:
    """Every connection to the gateway, on its way through here."""

    host: str
    port: int
    cuts: int = 0
    open: set[asyncio.StreamWriter] = field(default_factory=set)

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it or it is cut."""
        try:
            onward_reader, onward_writer = await asyncio.open_connection(self.host, self.port)
        except OSError:
            writer.transport.abort()
            return
        self.open |= {writer, onward_writer}
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_copy(reader, onward_writer))
                tasks.create_task(_copy(onward_reader, writer))
        finally:
            self.open -= {writer, onward_writer}

    def cut(self) -> None:
        """Break every connection where it stands."""
        self.cuts += 1
        for writer in self.open:
            writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def relaying(url: str) -> AsyncIterator[tuple[Relay, str]]:
    """A relay to the gateway at `url`, and the address of the relay."""
    parts = urlsplit(url)
    relay = Relay(parts.hostname or "127.0.0.1", parts.port or 80)
    async with await asyncio.start_server(relay.carry, "127.0.0.1", 0) as server:
        yield relay, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@dataclass
class Watched:
    """A page and what it has told so far."""

    symbol: str
    page: Page
    session: CDPSession
    epochs: set[str] = field(default_factory=set)
    counts: dict[str, Any] = field(default_factory=dict)
    heap_bytes: int = 0

    async def look(self) -> None:
        """Ask the client module of the page for its counts."""
        self.counts = await self.page.evaluate(COUNTS)
        self.epochs.add(self.counts["epoch"])

    async def weigh(self) -> None:
        """Ask what the page's heap holds when nothing in it is garbage."""
        for _ in range(3):
            await self.session.send("HeapProfiler.collectGarbage")
        self.heap_bytes = (await self.session.send("Runtime.getHeapUsage"))["usedSize"]

    def line(self) -> str:
        """The counts for a person."""
        told = "  ".join(f"{name} {self.counts[name]}" for name in ("state", "resets", "diffs", "checked", "gaps"))
        heap = f"heap {self.heap_bytes / 1e6:.2f} MB"
        return f"{self.symbol}  {told}  epochs {len(self.epochs)}  {heap}  {self.counts['reason']}"

    def in_step(self) -> bool:
        """Whether it never lost its step, and is live."""
        return bool(self.counts["state"] == "live" and self.counts["gaps"] == 0 and self.counts["checked"] > 0)


async def watch(browser: Browser, url: str, symbol: str) -> Watched:
    """Open the page of a symbol."""
    context = await browser.new_context(viewport={"width": 1280, "height": 900})
    page = await context.new_page()
    await page.goto(f"{url}/#{symbol}")
    await wait_until_async(lambda: page.evaluate("!!window.page?.sheet"), f"a page of {symbol}", LEVEL_S)
    return Watched(symbol, page, await context.new_cdp_session(page))


async def soak(url: str, symbols: list[str], minutes: float, dice: random.Random) -> bool:
    """Watch every symbol for so long; whether all stayed in step."""
    async with relaying(url) as (relay, relayed), async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program(), args=list(FLAGS))
        watched = [await watch(browser, relayed, symbol) for symbol in symbols]
        cutting = asyncio.create_task(_cut_again_and_again(relay, dice))
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


async def _cut_again_and_again(relay: Relay, dice: random.Random) -> None:
    while True:
        await asyncio.sleep(dice.uniform(*CUT_EVERY_S))
        relay.cut()


async def _report_for_a_minute(watched: list[Watched], relay: Relay, end: float) -> None:
    until = min(end, time.monotonic() + 60.0)
    while time.monotonic() < until:
        await asyncio.sleep(1.0)  # epochs may be short
        for each in watched:
            await each.look()
    for each in watched:
        await each.weigh()
        print(f"{time.strftime('%H:%M:%S')}  {each.line()}  cuts {relay.cuts}", flush=True)


def main() -> None:
    """Soak as the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("symbols", nargs="+")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    told = parser.parse_args()
    sys.exit(0 if asyncio.run(soak(told.url, told.symbols, told.minutes, random.Random(told.seed))) else 1)


if __name__ == "__main__":
    main()
