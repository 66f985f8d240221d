"""The oracle sees what it promises to see: a lost quote, a wrong cell, a miscounted event."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from contracts.keys import Keys, Layer, Stat
from contracts.planes import HEADER_BYTES
from contracts.settings import Settings
from ops.oracle import differences
from tests.ops.pipeline import SYMBOL
from tests.ops.test_audit import PLANE, settled

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


@pytest.fixture
def settings(redis_url: str, settings_for: Callable[..., Settings]) -> Settings:
    return settings_for(REDIS_URL=redis_url, MASSIVE_SYMBOLS=SYMBOL, MARKETSWARM_JOURNAL="1")


async def test_an_undamaged_state_equals_the_fold(redis_url: str, settings: Settings, keys: Keys) -> None:
    client, _ = await settled(redis_url, settings, keys)
    assert await asyncio.to_thread(differences, client, settings) == []


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
async def test_damage_is_found(damage: Damage, redis_url: str, settings: Settings, keys: Keys) -> None:
    client, epoch = await settled(redis_url, settings, keys)
    damage(client, keys, epoch)
    assert await asyncio.to_thread(differences, client, settings) != []
