"""The audit of derived models that have values: of the tick that computed the gravity, and of the ticks after it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial
from time import time
from typing import Any

import orjson

from contracts.keys import Keys
from contracts.messages import ChainCompleted, encode
from contracts.settings import Settings
from contracts.snapshot import ChainSnapshot, encode_snapshot
from contracts.symbology import CALL, PUT, settlement_ts
from ops.audit import run_audit
from tests.ops.pipeline import EXPIRATION, SPOT, STRIKES, SYMBOL, SmallPipeline, small_pipeline
from tests.pipeline import chain_row
from tests.stages.surfaces import black_price
from tests.waiting import wait_until_async


def announce_priced_chain(pipeline: SmallPipeline, keys: Keys) -> None:
    """A chain around 15 % volatility, with calls above spot and puts below it, and the spot on the feed."""
    now = time()
    years = (settlement_ts("SPXW", EXPIRATION) - now) / 60 / 525_600
    rows = []
    for strike in STRIKES:
        for kind in (CALL, PUT):
            fair = round(black_price(kind == CALL, SPOT, strike, years, 0.15), 2)
            interest = 900.0 if (kind == CALL) == (strike >= SPOT) else 100.0
            told: dict[str, Any] = {"bid": round(fair - 0.05, 2), "ask": round(fair + 0.05, 2), "oi": interest}
            told |= {"iv": None, "delta": None, "gamma": None, "volume": 10, "quote_ts": now - 10}
            rows.append(chain_row(strike, kind, EXPIRATION, **told))
    key = keys.chain_snapshot(SYMBOL, EXPIRATION, round(now * 1000))
    pipeline.client.set(key, encode_snapshot(ChainSnapshot(now, SYMBOL, EXPIRATION, 6900, 100, tuple(rows))), px=60_000)
    done = ChainCompleted(SYMBOL, 1, now, (EXPIRATION,), {EXPIRATION: key}, (), SPOT, now)
    pipeline.client.xadd(keys.chain_stream(SYMBOL), encode(done))
    value = {"ev": "V", "T": f"I:{SYMBOL}", "val": SPOT, "t": round(now * 1000)}
    pipeline.client.xadd(keys.ws_stream(SYMBOL), {"ts": repr(now), "payload": json.dumps([value])})


def is_published(pipeline: SmallPipeline, tick: int) -> bool:
    return pipeline.state("tick") == tick


async def test_models_of_the_tick_of_a_gravity_and_of_later_ticks_pass_and_damage_is_found(
    redis_url: str, keys: Keys, settings_for: Callable[..., Settings]
) -> None:
    settings = settings_for(REDIS_URL=redis_url, MASSIVE_SYMBOLS=SYMBOL)
    async with small_pipeline(redis_url, settings) as pipeline:
        client = pipeline.client
        announce_priced_chain(pipeline, keys)
        await wait_until_async(lambda: client.exists(keys.model_state(SYMBOL), keys.spot(SYMBOL)) == 2, "the reset")
        for tick in (1, 2, 3):
            await pipeline.tick()
            await wait_until_async(partial(is_published, pipeline, tick), "the tick's models")
            models = [orjson.loads(client.get(keys.model(one, SYMBOL))) for one in ("liquidity", "mode", "gravity")]
            assert [model["reason"] for model in models] == [None, None, None]
            assert await asyncio.to_thread(run_audit, SYMBOL, settings, 2.0) == 0
    gravity = orjson.loads(client.get(keys.model("gravity", SYMBOL)))
    client.set(keys.model("gravity", SYMBOL), orjson.dumps({**gravity, "best": gravity["best"] + 5}), keepttl=True)
    assert await asyncio.to_thread(run_audit, SYMBOL, settings, 1.0) == 1
    client.flushall()
