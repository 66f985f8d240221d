"""A small pipeline inside the test: staging, calculate and models as tasks, chains and frames by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from time import time
from typing import Any

import redis

from consumers.broker import Broker
from consumers.runner import Runner
from contracts.messages import ChainCompleted, encode
from contracts.settings import Settings
from contracts.snapshot import ChainRow, ChainSnapshot, encode_snapshot
from contracts.symbology import format_ticker
from contracts.topology import StageName
from contracts.versions import Versions
from ops.stage_process import apply_tick
from ops.wiring import keys_of, pure_stage, tickers
from tests.waiting import wait_until_async

SYMBOL = "SPX"
EXPIRATION = "2031-01-15"
PLANE = f"SPXW:{EXPIRATION}"
SPOT = 6900.0
STRIKES = tuple(range(6800, 7001, 5))


class SmallPipeline:
    """Feeds a pipeline of one symbol and ticks when told."""

    def __init__(self, redis_url: str, settings: Settings) -> None:
        self.client: Any = redis.Redis.from_url(redis_url)
        self.keys = keys_of(settings)
        self._broker = Broker(redis_url, StageName.STAGING, "ticker", self.keys.cursor(StageName.STAGING, SYMBOL))
        (self._ticker,) = tickers(settings, (SYMBOL,))
        self._fetch = 0
        self._sequence = 0
        self._quoted = ""  # the contract that was quoted last

    def chain(self, strikes: Sequence[int] = STRIKES) -> None:
        """Publish a fetched chain of these strikes."""
        self._fetch += 1
        now = time()
        rows = tuple(_row(strike, kind, now) for strike in strikes for kind in ("call", "put"))
        key = self.keys.chain_snapshot(SYMBOL, EXPIRATION, int(now * 1000) + self._fetch)
        self.client.set(key, encode_snapshot(ChainSnapshot(now, SYMBOL, EXPIRATION, int(SPOT), 100, rows)), px=60_000)
        done = ChainCompleted(SYMBOL, self._fetch, now, (EXPIRATION,), {EXPIRATION: key}, (), SPOT, now)
        self.client.xadd(self.keys.chain_stream(SYMBOL), encode(done))

    def quote(self, strike: int, bid: float, ask: float) -> None:
        """Append one frame with a quote of a call."""
        self._sequence += 1
        cid = self._quoted = format_ticker("SPXW", EXPIRATION, "call", strike * 1000)
        event = {"ev": "Q", "sym": cid, "bp": bid, "ap": ask, "bs": 1, "as": 1}
        event |= {"t": int(time() * 1000) + self._sequence, "q": self._sequence}
        frame = {"ts": repr(time()), "payload": json.dumps([event])}
        self.client.xadd(self.keys.ws_stream(SYMBOL), frame)

    def spot(self, value: float) -> None:
        """The newest spot."""
        body = {"symbol": SYMBOL, "value": value, "ts": time(), "source": "snapshot", "timeframe": "REAL-TIME"}
        self.client.set(self.keys.spot(SYMBOL), json.dumps(body))

    async def tick(self) -> None:
        """Take one tick."""
        lease = self.keys.lease("tick", SYMBOL)
        assert await self._broker.take_lease(lease, 30_000)
        await apply_tick(self._broker, self._ticker, lease, "ticker")

    async def settle(self) -> None:
        """Wait until every quote so far is published."""
        await wait_until_async(self._is_settled, "every quote to be published")

    async def publish_tick(self) -> None:
        """Take one tick and wait until its models are published."""
        await self.tick()
        number = int(self.client.hget(self.keys.tick(SYMBOL), "tick"))
        await wait_until_async(lambda: self.state("tick") >= number, "the models of the tick")

    def _is_settled(self) -> bool:
        """The newest quote is staged, so all are, and what is staged is published."""
        epoch = self.epoch()
        staged = self.client.hget(self.keys.contract(epoch, self._quoted), "seq")
        if staged != b"%d" % self._sequence:
            return False
        versions = Versions(self.client.hgetall(self.keys.versions(epoch)))
        return versions.level(PLANE, "published").version == versions.level(PLANE, "quotes").version > 0

    def state(self, name: str) -> int:
        """A number of what was published last."""
        return int(self.client.hget(self.keys.model_state(SYMBOL), name) or 0)

    def epoch(self) -> str:
        """The active epoch."""
        found: bytes = self.client.hget(self.keys.active(SYMBOL), SYMBOL) or b""
        return found.decode()

    async def live(self) -> None:
        """A first chain, its reset and the models of a tick."""
        self.chain()
        await wait_until_async(lambda: self.state("seq") >= 1, "the first reset")
        await self.publish_tick()

    async def close(self) -> None:
        """Close every connection."""
        await self._broker.close()
        self.client.close()


@asynccontextmanager
async def small_pipeline(redis_url: str, settings: Settings) -> AsyncIterator[SmallPipeline]:
    """The stages run while the body does."""
    keys = keys_of(settings)
    stop = asyncio.Event()
    brokers = [
        Broker(redis_url, name, f"{name}-1", keys.cursor(name, SYMBOL))
        for name in (StageName.STAGING, StageName.CALCULATE, StageName.MODELS)
    ]
    pipeline = SmallPipeline(redis_url, settings)
    try:
        async with asyncio.TaskGroup() as tasks:
            runners = []
            for broker in brokers:
                stage = pure_stage(StageName(broker.group), settings, (SYMBOL,))
                runner = Runner(stage, broker, keys, SYMBOL, claim_idle_ms=5000, journal=settings.marketswarm_journal)
                runners.append(tasks.create_task(runner.run(stop)))
            yield pipeline
            for task in runners:
                task.cancel()  # what a drain waits for is of no interest here
    finally:
        for broker in brokers:
            await broker.close()
        await pipeline.close()


def _row(strike: int, kind: str, now: float) -> ChainRow:
    cid = format_ticker("SPXW", EXPIRATION, kind, strike * 1000)
    return ChainRow(
        cid, "SPXW", kind, strike, "pm", "european", 100, 1,
        bid=10.0, ask=10.5, bid_size=5, ask_size=6, quote_ts=now - 1, volume=100,
        iv=0.2, delta=0.5, gamma=0.001, theta=-1.0, vega=2.0, oi=500.0,
    )  # fmt: skip
