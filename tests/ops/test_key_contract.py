"""The locked keys of epochs, chains and the heatmap snapshot, on a running pipeline: type, fields and lifetime.

Other programs depend on these names (DESIGN 4.1), so they are spelled out here once more, on purpose.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from consumers.broker import Broker
from consumers.runner import Runner
from contracts.settings import Settings
from contracts.topology import StageName
from ops.ingestion import Ingestion
from ops.mock.provider import MockOptions
from ops.mock.server import serving
from ops.wiring import keys_of
from tests.ops.pipeline import SYMBOL, SmallPipeline, small_pipeline
from tests.waiting import wait_until_async

EPOCH = rf"{SYMBOL}:\d+:[0-9a-f]{{4}}"
DAY = r"\d{4}-\d\d-\d\d"
FOREVER = (-1, -1)
GONE = -2  # instead of a lifetime
EPOCH_TTL_S, SNAPSHOT_TTL_S = 120, 90

META = (
    "symbol created_ts snapshot_ts geometry_hash reason prev strike_count contract_count expirations excluded_count "
    "dormant_count forced_dirty had_ws_updates last_ws_ts superseded_ts"
)
CONTRACT = (
    "id underlying root expiration strike type settlement exercise multiplier eligible bid ask mid bid_size ask_size "
    "ts seq last last_size last_ts last_seq volume iv delta gamma theta vega oi chain_ts fmv fmv_ts"
)


@dataclass(frozen=True)
class Promise:
    """A key as the contract has it. Lifetime in seconds (least, most); `fields` of a HASH or a JSON object."""

    pattern: str
    type: str
    lifetime_s: tuple[int, int]
    fields: str = ""


PROMISES = (
    Promise("epoch:active", "hash", FOREVER, SYMBOL),
    Promise(f"epoch:meta:{EPOCH}", "hash", FOREVER, META),
    Promise("epoch:dirty", "set", FOREVER),
    Promise("epoch:clean", "set", FOREVER),
    Promise(f"epoch:timeline:{SYMBOL}", "list", FOREVER),
    Promise(f"epoch:{EPOCH}:had_ws_updates", "string", (1, EPOCH_TTL_S)),
    Promise(f"epoch:{EPOCH}:contract:O:SPXW?[0-9]{{6}}[CP][0-9]{{8}}", "hash", (1, EPOCH_TTL_S), CONTRACT),
    Promise(f"epoch:{EPOCH}:geometry:{DAY}", "zset", (1, EPOCH_TTL_S)),
    Promise(f"epoch:{EPOCH}:versions", "hash", (1, EPOCH_TTL_S)),
    Promise("epoch:stream", "stream", FOREVER),
    Promise(
        rf"massive:chain:snapshot:{SYMBOL}:{DAY}:\d{{13}}", "string", (1, SNAPSHOT_TTL_S),
        "ts underlying expiration atm range_points contracts",
    ),
    Promise(f"massive:chain:latest:{SYMBOL}:{DAY}", "string", (1, SNAPSHOT_TTL_S)),
    Promise("massive:chain:stream", "stream", FOREVER),
    Promise("massive:chain:analytics", "hash", FOREVER),
    Promise("massive:chain:latency", "zset", FOREVER),
    Promise("massive:epoch:analytics", "hash", FOREVER),
    Promise(f"massive:heatmap:snapshot:{SYMBOL}", "string", (1, 5), "symbol epoch tick ts complete_to spot planes"),
)  # fmt: skip


@asynccontextmanager
async def running(redis_url: str, settings: Settings) -> AsyncIterator[SmallPipeline]:
    """All four stages on the server of the session, chains and quotes from the mock provider."""
    keys, stop = keys_of(settings), asyncio.Event()
    brokers: list[Broker] = []

    def broker(symbol: str) -> Broker:
        brokers.append(Broker(redis_url, StageName.MASSIVE, "massive-1", keys.cursor(StageName.MASSIVE, symbol)))
        return brokers[-1]

    async with small_pipeline(redis_url, settings) as pipeline:
        ingestion = Ingestion(settings, keys, (SYMBOL,), broker)
        async with ingestion as stage, asyncio.TaskGroup() as tasks:
            runner = Runner(stage, broker(SYMBOL), keys, SYMBOL, claim_idle_ms=5000, journal=False)
            parts = (runner.run, *ingestion.work())
            running = [tasks.create_task(_awaited(part(stop))) for part in parts]
            yield pipeline
            for task in running:
                task.cancel()
        for one in brokers:
            await one.close()


async def _awaited(work: Awaitable[None]) -> None:
    await work


FLEETING = ("epoch:dirty",)  # a set without members is no key


class Observer:
    """Looks at the keys while the pipeline runs, and remembers what it found of each promise."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.kept: set[str] = set()
        self.broken: dict[str, str] = {}

    def look(self) -> None:
        """One look at everything there is."""
        names = [name.decode() for name in self._client.scan_iter(count=1000)]
        for promise in PROMISES:
            if promise.pattern in FLEETING and promise.pattern not in self.kept:
                self._watch(promise)
            for name in [name for name in names if re.fullmatch(promise.pattern, name)][:20]:
                wrong = self._wrong(promise, name)
                if wrong is None:
                    self.kept.add(promise.pattern)
                elif wrong:
                    self.broken[name] = wrong

    def _watch(self, promise: Promise) -> None:
        """Look at a key again and again: it is there for milliseconds at a time."""
        for _ in range(500):
            wrong = self._wrong(promise, promise.pattern)
            if wrong is None:
                self.kept.add(promise.pattern)
                return
            if wrong:
                self.broken[promise.pattern] = wrong
                return

    def _wrong(self, promise: Promise, name: str) -> str | None:
        """What is wrong with a key; None if nothing is, empty if it has just gone."""
        kind, ttl_s = self._client.type(name).decode(), self._client.ttl(name)
        if kind == "none" or ttl_s == GONE:
            return ""
        if kind != promise.type:
            return f"a {kind}, not a {promise.type}"
        least, most = promise.lifetime_s
        if not least - 1 <= ttl_s <= most:
            return f"lives for {ttl_s} s, not {least} to {most}"
        missing = set(promise.fields.split()) - self._fields(kind, name) if promise.fields else set()
        return f"without {sorted(missing)}" if missing else None

    def _fields(self, kind: str, name: str) -> set[str]:
        if kind == "hash":
            return {field.decode() for field in self._client.hkeys(name)}
        return set(orjson.loads(self._client.get(name) or b"{}"))


async def test_every_locked_key_is_there_with_its_type_fields_and_lifetime(
    redis_url: str, settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    async with serving(MockOptions(port=0, data=tmp_path, symbols=(SYMBOL,), contracts=200, rate=200)) as mock:
        settings = settings_for(
            REDIS_URL=redis_url, MASSIVE_SYMBOLS=SYMBOL, MASSIVE_API_KEY="key", MASSIVE_REST_URL=mock.rest_url,
            MASSIVE_WS_URL=mock.rest_url.replace("http", "ws", 1), MASSIVE_EPOCH_TTL=str(EPOCH_TTL_S),
            MASSIVE_CHAIN_SNAPSHOT_TTL=str(SNAPSHOT_TTL_S),
        )  # fmt: skip
        client: Any = redis.Redis.from_url(redis_url)
        observer = Observer(client)
        async with running(redis_url, settings) as pipeline:

            async def all_kept() -> bool:
                await pipeline.tick()
                await asyncio.to_thread(observer.look)
                return len(observer.kept) == len(PROMISES)

            try:
                await wait_until_async(all_kept, "every key", timeout_s=60.0)
            except AssertionError:
                missing = [promise.pattern for promise in PROMISES if promise.pattern not in observer.kept]
                pytest.fail(f"never found as promised: {missing}; {observer.broken}")
        client.close()
    assert not observer.broken
