"""The audit says what is wrong: every kind of damage it promises to see, done on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest
import redis

from contracts.analytics import decode_cut
from contracts.keys import Keys, Layer
from contracts.planes import HEADER_BYTES
from contracts.settings import Settings
from ops.audit import run_audit
from tests.ops.pipeline import SYMBOL, small_pipeline
from tests.waiting import wait_until_async

Damage = Callable[[Any, Keys, str], object]
PLANE = "SPXW:2031-01-15"


async def settled(redis_url: str, settings: Settings, keys: Keys) -> tuple[Any, str]:
    """A small pipeline with a few quotes and a published tick, stopped once everything is published."""
    client: Any = redis.Redis.from_url(redis_url)
    async with small_pipeline(redis_url, settings) as pipeline:
        pipeline.chain()
        await wait_until_async(lambda: client.exists(keys.model_state(SYMBOL)), "the first reset")
        for step in range(5):
            pipeline.quote(6900 + 5 * step, 10.0 + step, 10.4 + step)
        await pipeline.settle()
        await pipeline.publish_tick()
    return client, client.hget(keys.active(SYMBOL), SYMBOL).decode()


def audit(settings: Settings) -> int:
    return run_audit(SYMBOL, settings, timeout_s=1.0)


def flip_cell(layer: Layer) -> Damage:
    def damage(client: Any, keys: Keys, epoch: str) -> None:
        key = keys.plane(epoch, PLANE, layer)
        cell = np.frombuffer(client.getrange(key, HEADER_BYTES, HEADER_BYTES + 3), "<i4")[0]
        client.setrange(key, HEADER_BYTES, np.int32(cell + 1).tobytes())

    return damage


def change_cut(part: str, name: str) -> Damage:
    def damage(client: Any, keys: Keys, epoch: str) -> None:
        key = keys.plane(epoch, PLANE, Layer.ANALYTICS)
        cut = decode_cut(client.get(key))
        rows = getattr(cut, part).copy()
        rows[name][0] = 0.5
        client.set(key, replace(cut, **{part: rows}).encode(), keepttl=True)

    return damage


def change_of(name: str, **values: object) -> Damage:
    def damage(client: Any, keys: Keys, epoch: str) -> None:
        model = orjson.loads(client.get(keys.model(name, SYMBOL)))
        client.set(keys.model(name, SYMBOL), orjson.dumps({**model, **values}), keepttl=True)

    return damage


DAMAGES: dict[str, Damage] = {
    "a tile that is not its legs'": flip_cell(Layer.TILES),
    "a published cell that is not the tile": flip_cell(Layer.PUBLISHED),
    "a contract that was invented": lambda c, k, e: c.hset(k.contract(e, "O:SPXW310115C09999000"), "id", "x"),
    "a contract that lost its key": lambda c, k, e: c.delete(k.contract(e, "O:SPXW310115C06900000")),
    "a HASH that says another bid": lambda c, k, e: c.hset(k.contract(e, "O:SPXW310115C06900000"), "bid", "1.00"),
    "a clean epoch marked dirty too": lambda c, k, e: c.sadd(k.dirty(SYMBOL), e),
    "a wrong count of lagging planes": lambda c, k, e: c.hincrby(k.versions(e), "lagging", 1),
    "a greek that its rows do not give": change_cut("exposures", "vanna"),
    "a forward that its rows do not give": change_cut("plane", "forward"),
    "a model that its rows do not give": change_of("gex", net=1.0),
    "a mode that its rows do not give": change_of("mode", score=50.0),
    "a gravity that its inputs do not give": change_of("gravity", best=6900),
    "a trail that was not published": lambda c, k, e: c.set(k.trail(SYMBOL), b"[[1.0,2.0,3.0]]", ex=60),
    "a gravity that its minute history does not have": lambda c, k, e: c.delete(k.gravity_history(SYMBOL)),
    "an epoch that is on no timeline": lambda c, k, e: c.delete(k.timeline(SYMBOL)),
}


async def test_an_undamaged_epoch_passes(
    redis_url: str, keys: Keys, settings_for: Callable[..., Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_for(REDIS_URL=redis_url, MASSIVE_SYMBOLS=SYMBOL)
    await settled(redis_url, settings, keys)
    assert await asyncio.to_thread(audit, settings) == 0
    assert "1 planes, 82 contracts" in capsys.readouterr().out


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
async def test_damage_is_found(
    damage: Damage, redis_url: str, keys: Keys, settings_for: Callable[..., Settings]
) -> None:
    settings = settings_for(REDIS_URL=redis_url, MASSIVE_SYMBOLS=SYMBOL)
    client, epoch = await settled(redis_url, settings, keys)
    damage(client, keys, epoch)
    assert await asyncio.to_thread(audit, settings) == 1
    client.flushall()
