"""What the feed sustains: events a second over several sockets, how far the reader is behind, and what memory it takes.

    python -m ops.bench.feed --rate 50000 --seconds 60               # accept: the reader behind by at most 100 ms
    python -m ops.bench.feed --rate 50000 --seconds 60 --taken 500   # a burst: readers take 500 entries a second

Three processes: a provider that does nothing but send, the feeds of the massive stage with their outboxes, and this
one, which runs the server and stands in for staging: it takes entries (all there are, or so many a second) and
forgets them. The lag of a frame is its receive time minus the time the provider wrote into it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import time
from array import array
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import Any

import redis
from aiohttp import WSMsgType, web

from consumers.broker import Broker
from consumers.embedded import free_port
from contracts.keys import Keys
from contracts.ports import Waiting
from contracts.topology import StageName
from ops.bench.board import contracts, server
from stages.massive.feed import Feed
from stages.massive.high_water import HighWater
from stages.massive.outbox import Outbox
from stages.massive.rest import open_session
from stages.massive.window import shard_of

SYMBOL = "SPX"
KEYS = Keys()
WARM_UP_S = 3.0
SLICE_S = 0.005
LOOK_S = 0.5
RECOVERY_S = 120.0


def tickers(count: int) -> list[str]:
    """So many contracts of the bench's board."""
    return [row[0] for row in contracts(count)]


# --- the provider


class Provider:
    """Sends quotes of what a connection subscribed to, `rate` events a second over all connections, for a while."""

    def __init__(self, shards: int, rate: float, frame_events: int, seconds: float) -> None:
        self._shards = shards
        self._frames_per_s = rate / frame_events / shards
        self._frame_events = frame_events
        self._seconds = seconds
        self._ready = 0
        self._begin = asyncio.Event()
        self._ended = 0
        self.newest: dict[str, int] = {}
        self.sent = 0
        self.done = asyncio.Event()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """One connection."""
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        await socket.send_str('[{"ev":"status","status":"connected","message":"Connected Successfully"}]')
        pairs: list[str] = []
        sending: asyncio.Task[None] | None = None
        async for message in socket:
            told = json.loads(message.data)
            names = told["params"].split(",")
            if told["action"] == "auth":
                await socket.send_str('[{"ev":"status","status":"auth_success","message":"authenticated"}]')
                continue
            pairs += names
            acks = [{"ev": "status", "status": "success", "message": f"subscribed to: {name}"} for name in names]
            await socket.send_str(json.dumps(acks))
            if sending is not None:
                sending.cancel()
            sending = asyncio.create_task(self._send(socket, [pair[2:] for pair in pairs]))
        if sending is not None:
            sending.cancel()
        return socket

    async def _send(self, socket: web.WebSocketResponse, names: list[str]) -> None:
        await asyncio.sleep(1.0)  # more subscriptions begin this anew
        if self.done.is_set():
            return  # feeds that fell silent connect again: the measurement is over
        self._ready += 1
        if self._ready == self._shards:
            self._begin.set()
        await self._begin.wait()
        heads = [
            f'{{"ev":"Q","sym":"{name}","bx":302,"ax":302,"bs":10,"as":12,"bp":5.5,"ap":5.6,"t":' for name in names
        ]
        started, sent, number = time.monotonic(), 0, 0
        while (elapsed := time.monotonic() - started) < self._seconds:
            due = int(elapsed * self._frames_per_s) - sent
            for _ in range(due):
                now = int(time.time() * 1000)
                events = []
                for _ in range(self._frame_events):
                    place = number % len(heads)
                    number += 1
                    events.append(f'{heads[place]}{now},"q":{number}}}')
                    self.newest[names[place]] = number
                await socket.send_frame(f"[{','.join(events)}]".encode(), WSMsgType.TEXT)
            sent += due
            await asyncio.sleep(SLICE_S)
        self.sent += number
        self._ended += 1
        if self._ended == self._shards:
            self.done.set()


async def provide(options: argparse.Namespace) -> None:
    """Serve, send, tell what was sent, and stay until told to end."""
    provider = Provider(options.shards, options.rate, options.frame_events, options.seconds)
    app = web.Application()
    app.router.add_get("/options", provider.serve)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", options.port).start()
    await provider.done.wait()
    print(json.dumps({"sent": provider.sent, "newest": provider.newest}), flush=True)
    await asyncio.Event().wait()


# --- the feeds


async def read(options: argparse.Namespace) -> None:
    """The feeds of one process until SIGTERM; tells their lags and what became of the frames."""
    broker = Broker(options.redis_url, StageName.MASSIVE, "bench", KEYS.cursor(StageName.MASSIVE, SYMBOL))
    names = tickers(options.contracts)
    stream, lags, stop = KEYS.ws_stream(SYMBOL), array("d"), asyncio.Event()
    warm_at = [0.0]  # receive time from which lags count, and the CPU time of the first frame
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    def note(_: int, ts: float, payload: bytes) -> None:
        if not warm_at[0]:
            warm_at[0] = ts + WARM_UP_S
            warm_at.append(time.process_time())
        if ts > warm_at[0]:
            at = payload.index(b'"t":') + 4
            lags.append(ts - int(payload[at : at + 13]) / 1000)

    async def waiting() -> Waiting:
        return await broker.waiting(stream, StageName.STAGING, trimmed=True)

    async def gap(_: str, __: float) -> None:
        return None

    async with open_session() as session:
        feeds = []
        for shard in range(options.shards):
            own = [name for name in names if shard_of(name, options.shards) == shard]

            async def wanted(own: list[str] = own) -> Sequence[str]:
                return own

            outbox = Outbox(broker, stream, waiting=waiting, high_water=HighWater(options.high_water), recorder=note)
            url = f"ws://127.0.0.1:{options.port}"
            feeds.append(Feed("options", url, "bench-key", session, outbox, wanted, gap, shard=shard))
        await asyncio.gather(*(feed.run(stop) for feed in feeds))
    await broker.close()
    found = [feed.outbox.activity for feed in feeds]
    counts = {name: sum(getattr(one, name) for one in found) for name in ("frames", "appended", "conflated", "dropped")}
    lags_ms = sorted(lag * 1000 for lag in lags)
    at = {name: lags_ms[min(len(lags_ms) - 1, int(len(lags_ms) * part))] for name, part in PERCENTILES.items()}
    queued, cpu_s = max(one.queued_most for one in found), time.process_time() - warm_at[-1]
    cpu_us = cpu_s * 1e6 / max(1, counts["frames"])
    print(
        json.dumps(
            {
                **counts,
                "queued_most": queued,
                "cpu_us_per_frame": round(cpu_us, 1),
                "lag_ms": {name: round(ms, 1) for name, ms in at.items()},
            }
        )
    )


PERCENTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}


# --- staging's stand-in, and the report


class Staging:
    """Takes entries off the stream, all there are or `per_s`, and remembers the newest of each contract."""

    def __init__(self, client: Any, per_s: float) -> None:
        self.taken = 0
        self.conflated_at = 0.0
        self.newest: dict[str, int] = {}
        self._client = client
        self._per_s = per_s
        self._stream = KEYS.ws_stream(SYMBOL)
        self._started = time.monotonic()

    def take(self) -> int:
        """One round; returns how many entries are left."""
        allowed = 20_000 if not self._per_s else int((time.monotonic() - self._started) * self._per_s) - self.taken
        while allowed > 0:
            entries = self._client.xrange(self._stream, count=min(1000, allowed))
            if not entries:
                break
            for _, fields in entries:
                self._note(fields)
            self._client.xtrim(self._stream, minid=_after(entries[-1][0]), approximate=False)
            self.taken += len(entries)
            allowed -= len(entries)
        left: int = self._client.xlen(self._stream)
        return left

    def _note(self, fields: dict[bytes, bytes]) -> None:
        if b"conflated" in fields:
            self.conflated_at = time.monotonic()
        if not self._per_s:
            return  # at full speed nobody here has the time to look inside
        for event in json.loads(fields[b"payload"]):
            self.newest[event["sym"]] = max(self.newest.get(event["sym"], 0), event["q"])


def _after(entry_id: bytes) -> str:
    ms, _, sequence = entry_id.decode().partition("-")
    return f"{ms}-{int(sequence) + 1}"


def rss_mb(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run it and report: lags, counts, memory over time, and after a burst how long until all newest values are in."""
    with server() as url:
        client: Any = redis.Redis.from_url(url)
        options.port, options.redis_url = free_port(), url
        provider = _child("provide", options, stdout=subprocess.PIPE)
        time.sleep(1.5)
        reader = _child("read", options, stdout=subprocess.PIPE)
        staging = Staging(client, options.taken)
        memory: list[tuple[float, float]] = []
        provided = _line_of(provider)
        most, look_at = 0, 0.0
        while not provided.done():
            most = max(most, staging.take())
            if time.monotonic() >= look_at:
                look_at = time.monotonic() + LOOK_S
                memory.append((rss_mb(reader.pid), int(client.info("memory")["used_memory"]) / 2**20))
            time.sleep(0.02)
        sent = json.loads(provided.result())
        recovered_s = _recovery(staging, sent["newest"])
        provider.kill()
        reader.send_signal(signal.SIGTERM)
        assert reader.stdout is not None
        told = json.loads(reader.stdout.read().splitlines()[-1])  # logs come before it
        reader.wait()
        provider.wait()
        client.close()
    settled = memory[len(memory) // 3 :]  # after the programs have started
    return {
        "events": sent["sent"], "events_per_s": round(sent["sent"] / options.seconds), **told,
        "taken": staging.taken, "stream_most": most, "recovered_s": recovered_s,
        "reader_mb": [round(settled[0][0], 1), round(max(one[0] for one in memory), 1), round(settled[-1][0], 1)],
        "server_mb": [round(settled[0][1], 1), round(max(one[1] for one in memory), 1), round(settled[-1][1], 1)],
    }  # fmt: skip


def _line_of(process: subprocess.Popen[bytes]) -> Future[bytes]:
    """The first line a process prints, once it does."""
    found: Future[bytes] = Future()
    assert process.stdout is not None
    read_line = process.stdout.readline
    Thread(target=lambda: found.set_result(read_line()), daemon=True).start()
    return found


def _recovery(staging: Staging, newest: dict[str, int]) -> float | None:
    """Seconds from the end of the burst until the newest value of every contract was taken; None: never."""
    if not staging._per_s:
        return None
    started = time.monotonic()
    while time.monotonic() - started < RECOVERY_S:
        left = staging.take()
        if left == 0 and staging.newest == newest:
            return round(time.monotonic() - started, 1)
        time.sleep(0.02)
    return None


def _child(role: str, options: argparse.Namespace, **streams: Any) -> subprocess.Popen[bytes]:
    given = {name: value for name, value in vars(options).items() if name not in ("role",) and value is not None}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    return subprocess.Popen([sys.executable, "-m", "ops.bench.feed", role, *flags], **streams)


def main() -> None:
    """Parse, run, print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", nargs="?", default="measure", choices=("measure", "provide", "read"))
    parser.add_argument("--rate", type=float, default=50_000, help="events a second")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--contracts", type=int, default=3000)
    parser.add_argument("--frame-events", type=int, default=10)
    parser.add_argument("--taken", type=float, default=0, help="entries a second that readers take; 0: all")
    parser.add_argument("--high-water", type=int, default=50_000)
    parser.add_argument("--port", type=int)
    parser.add_argument("--redis-url")
    options = parser.parse_args()
    if options.role == "measure":
        print(json.dumps(measure(options)))
        return
    asyncio.run(provide(options) if options.role == "provide" else read(options))


if __name__ == "__main__":
    main()
