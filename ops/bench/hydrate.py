"""(a) to (c): from frames in Redis to committed contract HASHes, ours and three other ways, over a floor.

Every way does the same work: the same frames, the fields of every event applied to the same HASHes, every entry
acknowledged; the final state is compared and must be equal. The floor reads and decodes the frames and does nothing.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import time
from collections.abc import Callable
from typing import Any

import orjson
import redis
import walrus

from contracts.keys import Keys
from contracts.stage import Stage
from contracts.topology import StageName
from ops.bench.board import (
    SYMBOL,
    append_frames,
    bench_settings,
    contracts,
    publish_chain,
    quote_frames,
    run_until,
    server,
    stage_of,
)
from ops.wiring import keys_of
from stages.staging.records import cents, count, quote_record

CONTRACTS = 2000
EVENTS = {1: 30_000, 10: 60_000, 50: 200_000}
REPEATS = 3
GROUP = "other"
READ = 100
FIELDS = ("bid", "ask", "mid", "bid_size", "ask_size", "ts", "seq")

Way = Callable[[str, list[bytes]], tuple[float, dict[str, dict[bytes, bytes]]]]


def measure(frame_events: int, report: Callable[[str], None]) -> dict[str, float]:
    """Median events per second of each way for frames of a size."""
    board = contracts(CONTRACTS)
    frames = quote_frames(board, EVENTS[frame_events], frame_events)
    events = len(frames) * frame_events
    ways: dict[str, Way] = {"ours": ours, "plain": plain, "walrus": pipelined, "faststream": faststream, "floor": floor}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS):  # alternating, so that a slow minute of the machine is everybody's
        reference: dict[str, dict[bytes, bytes]] | None = None
        for name, way in ways.items():
            elapsed, state = way(name, frames)
            rates[name].append(events / elapsed)
            if name == "floor":
                continue
            if reference is not None and state != reference:
                different = [cid for cid in reference if state.get(cid) != reference[cid]]
                first = different[0] if different else sorted(state.keys() - reference.keys())[0]
                raise AssertionError(
                    f"{name} reached another final state: {len(different)} contracts, such as {first}: "
                    f"{state.get(first)} not {reference.get(first)}"
                )
            reference = state
    medians = {name: statistics.median(found) for name, found in rates.items()}
    for name, rate in medians.items():
        report(f"hydrate  {frame_events:3} events a frame  {name:10} {rate:12,.0f} events/s")
    return medians


def _final_state(client: Any, key_of: Callable[[str], str]) -> dict[str, dict[bytes, bytes]]:
    state = {}
    for cid, *_ in contracts(CONTRACTS):
        found = client.hmget(key_of(cid), list(FIELDS))
        state[cid] = {name.encode(): value for name, value in zip(FIELDS, found, strict=True) if value}
    return {cid: fields for cid, fields in state.items() if fields.get(b"seq")}


def _fields(event: dict[str, Any]) -> dict[str, str]:
    """The HASH fields of a quote, with the same strings as ours."""
    record = quote_record(
        event["t"], 1, event["q"], cents(event["bp"]), cents(event["ap"]), count(event["bs"]), count(event["as"])
    )
    return dict(zip(record.fields[::2], record.fields[1::2], strict=True))


# --- ours


def ours(_: str, frames: list[bytes]) -> tuple[float, dict[str, dict[bytes, bytes]]]:
    """One staging consumer on an active epoch of CONTRACTS contracts."""
    with server() as url:
        return asyncio.run(_ours(url, frames))


async def _ours(url: str, frames: list[bytes]) -> tuple[float, dict[str, dict[bytes, bytes]]]:
    settings = bench_settings(url)
    keys: Keys = keys_of(settings)
    client: Any = redis.Redis.from_url(url)
    publish_chain(client, keys, contracts(CONTRACTS))
    staging = stage_of(StageName.STAGING, settings)

    async def promoted() -> bool:
        return bool(client.hget(keys.building(SYMBOL), "phase") == b"done")

    await run_until([Stage(staging.name, staging.sources[:1])], url, settings, promoted)
    stream = keys.ws_stream(SYMBOL)
    append_frames(client, stream, frames)
    last = client.xinfo_stream(stream)["last-generated-id"]
    cursors: Any = redis.asyncio.Redis.from_url(url)

    async def acknowledged() -> bool:
        return bool(await cursors.hget(keys.cursor(StageName.STAGING, SYMBOL), stream) == last)

    elapsed = await run_until([Stage(staging.name, staging.sources[1:])], url, settings, acknowledged)
    await cursors.aclose()
    epoch = client.hget(keys.active(SYMBOL), SYMBOL).decode()
    return elapsed, _final_state(client, lambda cid: keys.contract(epoch, cid))


# --- other ways


def _prepared(url: str, frames: list[bytes], field: str = "payload") -> tuple[Any, Callable[[str], str]]:
    client: Any = redis.Redis.from_url(url)
    for first in range(0, len(frames), 1000):
        pipeline = client.pipeline(transaction=False)
        for frame in frames[first : first + 1000]:
            pipeline.xadd("frames", {field: frame})
        pipeline.execute()
    client.xgroup_create("frames", GROUP, "0")
    return client, lambda cid: f"contract:{cid}"


def plain(_: str, frames: list[bytes]) -> tuple[float, dict[str, dict[bytes, bytes]]]:
    """walrus ConsumerGroup with one HSET an event and one acknowledgement an entry, as its documentation shows."""
    with server() as url:
        client, key_of = _prepared(url, frames)
        database = walrus.Database.from_url(url)
        group = database.consumer_group(GROUP, ["frames"])
        started = time.perf_counter()
        while messages := group.read(count=READ, block=None):
            for _, entries in messages:
                for entry_id, body in entries:
                    for event in orjson.loads(body[b"payload"]):
                        database.hset(key_of(event["sym"]), mapping=_fields(event))
                    group.frames.ack(entry_id)
        elapsed = time.perf_counter() - started
        return elapsed, _final_state(client, key_of)


def pipelined(_: str, frames: list[bytes]) -> tuple[float, dict[str, dict[bytes, bytes]]]:
    """walrus reads of 100, and one pipeline of HSETs and acknowledgements for each."""
    with server() as url:
        client, key_of = _prepared(url, frames)
        database = walrus.Database.from_url(url)
        group = database.consumer_group(GROUP, ["frames"])
        started = time.perf_counter()
        while messages := group.read(count=READ, block=None):
            pipeline = database.pipeline(transaction=False)
            for _, entries in messages:
                for _, body in entries:
                    for event in orjson.loads(body[b"payload"]):
                        pipeline.hset(key_of(event["sym"]), mapping=_fields(event))
                pipeline.xack("frames", GROUP, *(entry_id for entry_id, _ in entries))
            pipeline.execute()
        elapsed = time.perf_counter() - started
        return elapsed, _final_state(client, key_of)


def faststream(_: str, frames: list[bytes]) -> tuple[float, dict[str, dict[bytes, bytes]]]:
    """FastStream's batch subscriber of 100 with a pipeline of HSETs; it acknowledges by itself."""
    with server() as url:
        client, key_of = _prepared(url, frames, field="__data__")
        elapsed = asyncio.run(_faststream(url, len(frames), key_of))
        assert client.xpending("frames", GROUP)["pending"] == 0
        return elapsed, _final_state(client, key_of)


async def _faststream(url: str, total: int, key_of: Callable[[str], str]) -> float:
    from faststream.redis import RedisBroker, StreamSub

    quiet = logging.getLogger("bench.faststream")
    quiet.setLevel(logging.CRITICAL)
    broker = RedisBroker(url, logger=quiet)
    writer: Any = redis.asyncio.Redis.from_url(url)
    done = asyncio.Event()
    seen = 0

    async def apply(batch: list[Any]) -> None:
        nonlocal seen
        pipeline = writer.pipeline(transaction=False)
        for frame in batch:
            for event in frame:
                pipeline.hset(key_of(event["sym"]), mapping=_fields(event))
        await pipeline.execute()
        seen += len(batch)
        if seen == total:
            done.set()

    subscription = StreamSub("frames", group=GROUP, consumer="one", batch=True, max_records=READ, polling_interval=10)
    broker.subscriber(stream=subscription)(apply)
    started = time.perf_counter()
    await broker.start()
    await done.wait()
    elapsed = time.perf_counter() - started
    for _ in range(200):  # the last acknowledgement follows the handler
        if (await writer.xpending("frames", GROUP))["pending"] == 0:
            break
        await asyncio.sleep(0.01)
    await broker.stop()
    await writer.aclose()
    return elapsed


def floor(_: str, frames: list[bytes]) -> tuple[float, dict[str, dict[bytes, bytes]]]:
    """XREADGROUP and JSON decode of the same frames, nothing else."""
    with server() as url:
        client, _key_of = _prepared(url, frames)
        events = 0
        started = time.perf_counter()
        while reply := client.xreadgroup(GROUP, "one", {"frames": ">"}, count=READ):
            for _, body in reply[0][1]:
                events += len(orjson.loads(body[b"payload"]))
        elapsed = time.perf_counter() - started
        return elapsed, {}
