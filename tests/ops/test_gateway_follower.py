"""Clients of one follower: they share what was read and what was made of it, and slow ones cost the others nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager

import orjson
import pytest

from consumers.broker import Broker
from consumers.clients import Commands
from contracts.settings import Settings
from ops.gateway import follower as follower_module
from ops.gateway.event import Event
from ops.gateway.follower import COALESCE_FROM, RETRY_S, Follower
from tests.ops.pipeline import STRIKES, SYMBOL, SmallPipeline, small_pipeline
from tests.waiting import PATIENCE_S, wait_until_async

SettingsFor = Callable[..., Settings]
Stream = AsyncGenerator[list[Event], None]


@pytest.fixture
async def pipeline(redis_url: str, settings_for: SettingsFor) -> AsyncIterator[SmallPipeline]:
    """A pipeline with its first models."""
    async with small_pipeline(redis_url, settings_for()) as pipeline:
        await pipeline.live()
        yield pipeline


@asynccontextmanager
async def following(redis_url: str, pipeline: SmallPipeline) -> AsyncIterator[Follower]:
    """A follower that reads."""
    commands, broker = Commands(redis_url), Broker(redis_url, "gateway", "test", "")
    follower, stop = Follower(commands, broker, pipeline.keys, SYMBOL), asyncio.Event()
    reading = asyncio.create_task(follower.run(stop))
    try:
        yield follower
    finally:
        stop.set()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await broker.close()
        await commands.close()


@pytest.fixture
async def follower(redis_url: str, pipeline: SmallPipeline) -> AsyncIterator[Follower]:
    async with following(redis_url, pipeline) as follower:
        yield follower


async def published(pipeline: SmallPipeline, follower: Follower, count: int) -> None:
    """So many diffs, each read by the follower."""
    for number in range(count):
        before, read = pipeline.state("seq"), follower.events
        pipeline.quote(STRIKES[number % len(STRIKES)], 5.0 + number / 10, 5.5 + number / 10)
        await wait_until_async(lambda before=before: pipeline.state("seq") > before, "a diff")  # type: ignore[misc]
        await wait_until_async(lambda read=read: follower.events > read, "it to be read")  # type: ignore[misc]


async def entries(stream: Stream) -> list[Event]:
    """The next entries of the stream that a client is sent."""
    async with asyncio.timeout(PATIENCE_S):
        while not (found := [event for event in await anext(stream) if event.seq]):
            pass
    return found


async def test_clients_that_come_one_after_the_other_share_a_reset(pipeline: SmallPipeline, follower: Follower) -> None:
    first, second = follower.stream(None), follower.stream(None)
    (reset,) = await entries(first)
    await published(pipeline, follower, 2)
    assert reset.kind == "reset" and await entries(second) == [reset, *await entries(first)]


async def test_who_comes_back_is_sent_the_very_events_of_the_others(
    pipeline: SmallPipeline, follower: Follower
) -> None:
    stayed = follower.stream(None)
    (reset,) = await entries(stayed)
    await published(pipeline, follower, 3)
    assert await entries(follower.stream(reset.id)) == await entries(stayed)


async def test_who_comes_back_is_sent_every_single_event_however_many(
    pipeline: SmallPipeline, follower: Follower
) -> None:
    (reset,) = await entries(follower.stream(None))
    await published(pipeline, follower, COALESCE_FROM)
    found = await entries(follower.stream(reset.id))
    assert [event.seq for event in found] == [reset.seq + 1 + number for number in range(COALESCE_FROM)]


async def test_who_comes_back_to_another_gateway_goes_on_there(
    pipeline: SmallPipeline, follower: Follower, redis_url: str
) -> None:
    stream = follower.stream(None)
    (reset,) = await entries(stream)
    await published(pipeline, follower, 3)
    missed = await entries(stream)
    async with following(redis_url, pipeline) as another:
        found = await entries(another.stream(reset.id))
    assert [(event.id, event.body) for event in found] == [(event.id, event.body) for event in missed]


async def test_who_comes_back_to_a_busy_gateway_misses_nothing_and_needs_no_reset(
    pipeline: SmallPipeline, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    (reset,) = await entries(follower.stream(None))
    goes_on, read = asyncio.Event(), follower._read

    async def read_late(reader: object) -> None:
        await goes_on.wait()
        await read(reader)

    monkeypatch.setattr(follower, "_read", read_late)
    await published(pipeline, follower, 1)  # the reader was waiting for this one; what comes now it reads late
    before = pipeline.state("seq")
    pipeline.quote(STRIKES[1], 7.0, 7.5)
    await wait_until_async(lambda: pipeline.state("seq") > before, "a diff")
    missed = asyncio.create_task(entries(follower.stream(reset.id)))
    await asyncio.sleep(1.5 * RETRY_S)
    goes_on.set()
    assert [event.kind for event in await missed] == ["diff", "diff"]


async def test_what_many_slow_clients_wait_for_is_merged_once(pipeline: SmallPipeline, follower: Follower) -> None:
    slow = [follower.stream(None) for _ in range(3)]
    resets = [await entries(stream) for stream in slow]
    await published(pipeline, follower, COALESCE_FROM)
    waiting = [await entries(stream) for stream in slow]
    assert len(waiting[0]) == 1 and waiting[0] == waiting[1] == waiting[2]
    told, reset = orjson.loads(waiting[0][0].body), resets[0][0]
    assert (told["since_seq"], told["seq"]) == (reset.seq, reset.seq + COALESCE_FROM)


async def test_a_client_too_far_behind_starts_over(
    pipeline: SmallPipeline, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_module, "KEPT_BYTES", 1000)
    async with following(redis_url, pipeline) as follower:
        slow = follower.stream(None)
        (reset,) = await entries(slow)
        await published(pipeline, follower, 20)
        (again,) = await entries(slow)
        assert (reset.kind, again.kind, again.seq) == ("reset", "reset", reset.seq + 20)


async def test_alerts_reach_a_client_that_is_behind(
    pipeline: SmallPipeline, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_module, "KEPT_BYTES", 1000)
    async with following(redis_url, pipeline) as follower:
        slow = follower.stream(None)
        await entries(slow)
        follower.tell(Event(None, "alert", b"1"))
        await published(pipeline, follower, 20)
        assert [event.kind for event in await anext(slow) if event.id or event.kind == "alert"] == ["reset", "alert"]


async def test_a_stream_that_begins_again_before_our_place_is_another_history(
    pipeline: SmallPipeline, follower: Follower
) -> None:
    stream = follower.stream(None)
    (reset,) = await entries(stream)
    client, name = pipeline.client, pipeline.keys.model_stream(SYMBOL)
    client.delete(name)
    client.xadd(name, {"type": "tick", "seq": reset.seq + 1, "generation": "1", "data": "{}"}, id="1-1")
    (again,) = await entries(stream)
    assert again.kind == "reset" and again.id == (1, 1)
