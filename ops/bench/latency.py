"""(d) and (e): four processes, frames in, published diffs out: how much in a second, and how long after the event.

A probe is a quote whose ask price is its own: the cell of the single call or put at that strike shows it in a diff.
The relay passes the same frames at the same rates over four hops of XADD and XREADGROUP.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import redis

from contracts.geometry import decode_geometry
from contracts.keys import Keys
from contracts.plan import cell_labels, compile_plan
from ops.bench.board import (
    SYMBOL,
    append_frames,
    bench_settings,
    contracts,
    publish_chain,
    quote_frames,
    server,
)
from ops.wiring import keys_of

CONTRACTS = 2000
FRAME_EVENTS = {200: 50, 2_000: 50, 20_000: 50}  # rate -> events a frame
SECONDS = 10.0
WARM_UP_S = 2.0
DRAIN_EVENTS = 1_000_000
STAGES = ("staging", "calculate", "models")

Cell = tuple[str, int]


@contextmanager
def pipeline_up(url: str) -> Iterator[tuple[Any, Keys]]:
    """The three stages behind the feed as processes on a server, with a board promoted and published."""
    settings = bench_settings(url)
    keys = keys_of(settings)
    client: Any = redis.Redis.from_url(url)
    publish_chain(client, keys, contracts(CONTRACTS))
    with tempfile.TemporaryDirectory() as logs:
        processes = [_start_stage(name, url, Path(logs)) for name in STAGES]
        try:
            _wait(lambda: client.exists(keys.gex_model(SYMBOL)), "the first published model", 60)
            yield client, keys
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()


def _start_stage(name: str, url: str, logs: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "REDIS_URL": url, "MASSIVE_SYMBOLS": SYMBOL, "MASSIVE_API_KEY": "bench"}
    command = [sys.executable, "-m", "ops.cli", "stage", name]
    with (logs / name).open("wb") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def _wait(holds: Callable[[], object], what: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(0.02)


# --- drain


def measure_drain(report: Callable[[str], None]) -> float:
    """Events per second from a full frame stream to published diffs, everything running."""
    with server() as url, pipeline_up(url) as (client, keys):
        frames = quote_frames(contracts(CONTRACTS), DRAIN_EVENTS, 50)
        started = time.perf_counter()
        append_frames(client, keys.ws_stream(SYMBOL), frames)
        last = client.xinfo_stream(keys.ws_stream(SYMBOL))["last-generated-id"]
        _wait(lambda: _is_drained(client, keys, last), "the drain", 120)
        rate = DRAIN_EVENTS / (time.perf_counter() - started)
    report(f"drain    50 events a frame, four processes  {rate:12,.0f} events/s")
    return rate


def _is_drained(client: Any, keys: Keys, last: bytes) -> bool:
    if client.hget(keys.cursor("staging", SYMBOL), keys.ws_stream(SYMBOL)) != last:
        return False
    epoch = client.hget(keys.active(SYMBOL), SYMBOL).decode()
    levels = client.hgetall(keys.versions(epoch))
    planes = {name.split(b"|")[0] for name in levels if name.endswith(b"|quotes")}
    return all(levels[plane + b"|quotes"] == levels.get(plane + b"|published") for plane in planes)


# --- latency


def measure_latency(rate: int, report: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """p50 and p99 (ms) of ours and of the relay at a rate of events per second."""
    ours, written = _ours(rate)
    relay = _relay(rate)
    for name, samples in (("ours", ours), ("relay", relay)):
        p50, p99 = np.percentile(samples, (50, 99))
        report(f"latency  {rate:6,} events/s  {name:6} p50 {p50:7.2f} ms  p99 {p99:7.2f} ms  ({len(samples)} samples)")
    report(f"         append-only file grew by {written / 1e6:.2f} MB/s at {rate:,} events/s")
    return {name: _percentiles(samples) for name, samples in (("ours", ours), ("relay", relay))}


def _percentiles(samples: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(samples, (50, 99))
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3)}


class _Feed(threading.Thread):
    """Appends frames at an even rate; remembers when each probe left."""

    def __init__(self, url: str, stream: str, rate: int, cells: dict[str, Cell] | None) -> None:
        super().__init__(daemon=True)
        self._client: Any = redis.Redis.from_url(url)
        self._stream = stream
        self._events = FRAME_EVENTS[rate]
        self._frames = round(rate * (SECONDS + WARM_UP_S) / self._events)
        self._interval_s = self._events / rate
        self._cells = cells
        self.sent: dict[tuple[str, int, int], float] = {}
        self.superseded = 0

    def run(self) -> None:
        draw = random.Random(1)
        board = [one[0] for one in contracts(CONTRACTS)]
        due = time.perf_counter()
        for number in range(self._frames):
            due += self._interval_s
            time.sleep(max(0.0, due - time.perf_counter()))
            asks = {draw.choice(board): 500 + 5 * draw.randrange(2000) for _ in range(self._events)}
            now = time.time()
            if self._cells is not None:
                for cid, ask in asks.items():
                    self.sent[(*self._cells[cid], ask)] = time.perf_counter()
            frame = [
                {"ev": "Q", "sym": cid, "bp": (ask - 20) / 100, "ap": ask / 100, "bs": 1, "as": 1,
                 "t": round(now * 1000), "q": number}
                for cid, ask in asks.items()
            ]  # fmt: skip
            self._client.xadd(self._stream, {"ts": repr(now), "payload": orjson.dumps(frame)})


def _ours(rate: int) -> tuple[list[float], float]:
    with server() as url, pipeline_up(url) as (client, keys):
        epoch = client.hget(keys.active(SYMBOL), SYMBOL).decode()
        feed = _Feed(url, keys.ws_stream(SYMBOL), rate, _single_cells(client.get(keys.listing(epoch))))
        last = client.xinfo_stream(keys.model_stream(SYMBOL))["last-generated-id"]
        before = client.info("persistence")["aof_current_size"]
        feed.start()
        begun = time.perf_counter()
        samples = []
        while feed.is_alive() or time.perf_counter() - begun < SECONDS + WARM_UP_S + 1:
            reply = client.xread({keys.model_stream(SYMBOL): last}, block=100)
            now = time.perf_counter()
            for entry_id, fields in reply[0][1] if reply else ():
                last = entry_id
                if fields[b"type"] == b"diff":
                    samples += [(now - at) * 1000 for at in _arrived(orjson.loads(fields[b"data"]), feed, begun)]
        written = (client.info("persistence")["aof_current_size"] - before) / (SECONDS + WARM_UP_S)
        return samples, written


def _arrived(diff: dict[str, Any], feed: _Feed, begun: float) -> Iterator[float]:
    """When the probes that a diff shows were sent, after the warm-up."""
    for cell, buy in zip(accumulate(diff["cells"]), diff["buy"], strict=True):
        at = feed.sent.pop((diff["plane"], cell, buy), None)
        if at is not None and at - begun > WARM_UP_S:
            yield at


def _single_cells(listing: bytes) -> dict[str, Cell]:
    """Ticker -> (plane, cell number of its single)."""
    geometry = decode_geometry(listing)
    cells: dict[str, Cell] = {}
    for plane in geometry.planes:
        tickers = {(row.type, row.strike_milli): row.cid for row in plane.rows}
        plan = compile_plan(plane, geometry.widths)
        for number, (strategy, side, strike, _) in enumerate(cell_labels(plan)):
            if strategy == "single":
                cells[tickers[str(side), round(float(strike) * 1000)]] = (plane.id, number)
    return cells


def _relay(rate: int) -> list[float]:
    with server() as url:
        hops = ["hop0", "hop1", "hop2", "hop3"]
        processes = [
            subprocess.Popen([sys.executable, "-m", "ops.bench.relay", url, source, target])
            for source, target in pairwise(hops)
        ]
        client: Any = redis.Redis.from_url(url)
        try:
            _wait(lambda: all(client.exists(hop) for hop in hops[:-1]), "the relay", 30)
            feed = _Feed(url, hops[0], rate, None)
            feed.start()
            begun = time.time()
            samples, last = [], "0"
            while feed.is_alive() or time.time() - begun < SECONDS + WARM_UP_S + 1:
                reply = client.xread({hops[-1]: last}, block=100)
                now = time.time()
                for entry_id, fields in reply[0][1] if reply else ():
                    last = entry_id
                    sent = float(fields[b"ts"])
                    if sent - begun > WARM_UP_S:
                        samples.append((now - sent) * 1000)
            return samples
        finally:
            for process in processes:
                process.kill()
                process.wait()
