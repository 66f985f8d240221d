"""What all measurements share: a server as `marketswarm up` starts it, a board of contracts, frames of quotes."""

from __future__ import annotations

import asyncio
import random
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import redis

from consumers import embedded
from consumers.broker import Broker
from consumers.runner import Runner
from contracts.keys import Keys
from contracts.messages import ChainCompleted, encode
from contracts.settings import Settings, load_settings
from contracts.snapshot import ChainRow, ChainSnapshot, encode_snapshot
from contracts.stage import Stage
from contracts.symbology import format_ticker
from contracts.topology import StageName
from ops.wiring import keys_of, pure_stage

Contract = tuple[str, str, str, float]  # ticker, expiration, type, strike

SYMBOL = "SPX"
SPOT = 6900.0
EXPIRATIONS = ("2027-01-11", "2027-01-12", "2027-01-13", "2027-01-14", "2027-01-15")


@contextmanager
def server() -> Iterator[str]:
    """A fresh embedded server with the persistence of `marketswarm up`; yields its URL."""
    with tempfile.TemporaryDirectory(prefix="marketswarm-bench-") as folder:
        port = embedded.free_port()
        process = subprocess.Popen(embedded.command(Path(folder), port), stdout=subprocess.DEVNULL)
        url = f"redis://127.0.0.1:{port}"
        try:
            _wait_for_server(url)
            yield url
        finally:
            process.terminate()
            process.wait()


def _wait_for_server(url: str) -> None:
    client = redis.Redis.from_url(url)
    for _ in range(200):
        try:
            client.ping()
            return
        except redis.ConnectionError:
            time.sleep(0.05)
    raise RuntimeError("the embedded server did not start")


def bench_settings(url: str) -> Settings:
    """Settings of the measurements: one symbol, everything else as shipped."""
    return load_settings({"REDIS_URL": url, "MASSIVE_SYMBOLS": SYMBOL})


def contracts(count: int, expirations: Sequence[str] = EXPIRATIONS) -> list[Contract]:
    """A board of about so many: calls and puts at strikes 5 points apart around spot, alike on every expiration."""
    per_side = count // (2 * len(expirations))
    found: list[Contract] = []
    for expiration in expirations:
        for step in range(per_side):
            strike = SPOT + 5 * (step - per_side // 2)
            for kind in ("call", "put"):
                found.append((format_ticker("SPXW", expiration, kind, round(strike * 1000)), expiration, kind, strike))
    return found


def publish_chain(client: Any, keys: Keys, board: Sequence[Contract], fetch: int = 1, **values: object) -> None:
    """Write the snapshots of a board and announce them, as the massive stage does; `values` are more of each row."""
    now = time.time()
    told: dict[str, Any] = {"bid": 10.0, "ask": 10.2, "quote_ts": now - 3600, "oi": 100.0, **values}
    by_expiration: dict[str, list[ChainRow]] = {}
    for cid, expiration, kind, strike in board:
        row = ChainRow(cid, "SPXW", kind, strike, "pm", "european", 100, **told)
        by_expiration.setdefault(expiration, []).append(row)
    received = {}
    for expiration, rows in by_expiration.items():
        key = keys.chain_snapshot(SYMBOL, expiration, round(now * 1000))
        snapshot = ChainSnapshot(now, SYMBOL, expiration, round(SPOT), 500, tuple(rows))
        client.set(key, encode_snapshot(snapshot), px=600_000)
        received[expiration] = key
    message = ChainCompleted(SYMBOL, fetch, now, tuple(received), received, (), SPOT, now)
    client.xadd(keys.chain_stream(SYMBOL), encode(message))


def quote_frames(board: Sequence[Contract], events: int, frame_events: int, seed: int = 1) -> list[bytes]:
    """Frames of quotes in the provider's form; times and sequences ascend, contracts are drawn at random."""
    draw = random.Random(seed)
    start_ms = round(time.time() * 1000)
    frames, frame = [], []
    for number in range(events):
        bid = draw.randrange(20, 4000) * 5
        frame.append(
            {
                "ev": "Q",
                "sym": board[draw.randrange(len(board))][0],
                "bx": 302,
                "ax": 302,
                "bp": bid / 100,
                "ap": (bid + 10) / 100,
                "bs": draw.randrange(1, 500),
                "as": draw.randrange(1, 500),
                "t": start_ms + number // 1000,
                "q": number,
            }
        )
        if len(frame) == frame_events:
            frames.append(orjson.dumps(frame))
            frame = []
    return frames


def append_frames(client: Any, stream: str, frames: list[bytes]) -> None:
    """Put frames on the stream, pipelined."""
    for first in range(0, len(frames), 1000):
        pipeline = client.pipeline(transaction=False)
        for frame in frames[first : first + 1000]:
            pipeline.xadd(stream, {"ts": repr(time.time()), "payload": frame})
        pipeline.execute()


async def run_until(stages: list[Stage], url: str, settings: Settings, is_done: Callable[[], Awaitable[bool]]) -> float:
    """Run stages in this process until `is_done()`; seconds it took."""
    keys = keys_of(settings)
    stop = asyncio.Event()
    brokers = [Broker(url, stage.name, f"bench-{stage.name}", keys.cursor(stage.name, SYMBOL)) for stage in stages]
    runners = [
        Runner(stage, broker, keys, SYMBOL, claim_idle_ms=60_000, journal=False)
        for stage, broker in zip(stages, brokers, strict=True)
    ]
    started = time.perf_counter()
    tasks = [asyncio.create_task(runner.run(stop)) for runner in runners]
    while not await is_done():  # noqa: ASYNC110 (what ends it is in the server)
        await asyncio.sleep(0.002)
    elapsed = time.perf_counter() - started
    stop.set()
    await asyncio.gather(*tasks)
    for broker in brokers:
        await broker.close()
    return elapsed


def stage_of(name: StageName, settings: Settings) -> Stage:
    """A stage of the single partition."""
    return pure_stage(name, settings, (SYMBOL,))
