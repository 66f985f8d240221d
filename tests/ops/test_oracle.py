"""The oracle sees what it promises to see: a lost quote, a wrong cell, a miscounted event."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import redis

from contracts.keys import Keys, Layer, Stat
from contracts.planes import HEADER_BYTES
from contracts.settings import Settings
from ops.oracle import differences
from tests.ops.pipeline import SYMBOL, small_pipeline
from tests.ops.test_audit import PLANE, is_level
from tests.waiting import wait_until_async

Damage = Callable[[Any, Keys, str], object]


def flip_bid(client: Any, keys: Keys, epoch: str) -> None:
    key, at = keys.plane(epoch, PLANE, Layer.QUOTES), HEADER_BYTES + 24
    bid = np.frombuffer(client.getrange(key, at, at + 3), "<i4")[0]
    client.setrange(key, at, np.int32(bid + 5).tobytes())


def flip_cell(client: Any, keys: Keys, epoch: str) -> None:
    client.setrange(keys.plane(epoch, PLANE, Layer.PUBLISHED), HEADER_BYTES, np.int32(77).tobytes())


DAMAGES: dict[str, Damage] = {
    "a value of the substrate": flip_bid,
    "a published cell": flip_cell,
    "an event counted twice": lambda c, k, e: c.hincrby(k.analytics(Stat.HYDRATE, SYMBOL), "applied", 1),
}


async def journaled(redis_url: str, settings: Settings, keys: Keys) -> tuple[Any, str]:
    client: Any = redis.Redis.from_url(redis_url)
    async with small_pipeline(redis_url, settings) as pipeline:
        pipeline.chain()
        await wait_until_async(lambda: client.exists(keys.model_state(SYMBOL)), "the first reset")
        for step in range(5):
            pipeline.quote(6900 + 5 * step, 10.0 + step, 10.4 + step)
        await wait_until_async(lambda: is_level(client, keys), "the quotes to be published")
    return client, client.hget(keys.active(SYMBOL), SYMBOL).decode()


@pytest.fixture
def settings(redis_url: str, settings_for: Callable[..., Settings]) -> Settings:
    return settings_for(REDIS_URL=redis_url, MASSIVE_SYMBOLS=SYMBOL, MARKETSWARM_JOURNAL="1")


async def test_an_undamaged_state_equals_the_fold(redis_url: str, settings: Settings, keys: Keys) -> None:
    client, _ = await journaled(redis_url, settings, keys)
    assert await asyncio.to_thread(differences, client, settings) == []


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
async def test_damage_is_found(damage: Damage, redis_url: str, settings: Settings, keys: Keys) -> None:
    client, epoch = await journaled(redis_url, settings, keys)
    damage(client, keys, epoch)
    assert await asyncio.to_thread(differences, client, settings) != []
