"""(h): what one quote costs on the event path as the board grows.

All boards are up at once and take turns, event by event, so that a slow second of the machine is everybody's. An event
is one frame with one quote of a listed contract, taken through staging, calculate and models against the server: read,
load, step, commit, to the published diff. Boards grow in two ways. By expirations, as real ones do: recorded chains
have 256 to 455 contracts a plane on average, however many there are in all. By strikes, five planes that widen to
4,000 contracts each: there the event pays for reading a plane's tiles whole, about 1 MB (ADR 0006).
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import orjson
import redis

from consumers.broker import Broker
from contracts.commit import Applied, EntryId
from contracts.keys import Keys
from contracts.settings import Settings
from contracts.stage import Entry, Source
from contracts.topology import StageName
from ops.bench.board import (
    SYMBOL,
    Contract,
    bench_settings,
    contracts,
    publish_chain,
    run_until,
    server,
    stage_of,
)
from ops.wiring import keys_of

SIZES = (1_000, 5_000, 20_000)
PLANE_CONTRACTS = 250
PLANES = 5
FIRST_DAY = date(2027, 1, 11)
EVENTS = 100
WARM_UP = 20


@dataclass(frozen=True, slots=True)
class Shape:
    """How many planes of how many contracts."""

    name: str
    planes: int
    contracts_per_plane: int

    @property
    def contracts(self) -> int:
        """All of them."""
        return self.planes * self.contracts_per_plane

    def board(self) -> list[Contract]:
        """Its contracts, expirations a day apart."""
        expirations = [(FIRST_DAY + timedelta(days=day)).isoformat() for day in range(self.planes)]
        return contracts(self.contracts, expirations)


def by_expirations() -> tuple[Shape, ...]:
    """Boards that grow by expirations."""
    return tuple(Shape("by expirations", max(1, size // PLANE_CONTRACTS), PLANE_CONTRACTS) for size in SIZES)


def by_strikes() -> tuple[Shape, ...]:
    """Boards that grow by strikes."""
    return tuple(Shape("by strikes", PLANES, size // PLANES) for size in SIZES)


def measure_growth(shapes: Sequence[Shape], report: Callable[[str], None]) -> dict[int, dict[str, float]]:
    """Median milliseconds of one event per board, by stage and in all; boards in the order of their size."""
    with ExitStack() as servers:
        urls = [servers.enter_context(server()) for _ in shapes]
        found = asyncio.run(_growth(shapes, urls))
    least = found[min(found)]["event"]
    for size, costs in found.items():
        parts = ", ".join(f"{name} {ms:.2f}" for name, ms in costs.items() if name != "event")
        report(
            f"event    {shapes[0].name:14} {size:7,} contracts  {costs['event']:6.2f} ms "
            f"({costs['event'] / least:.2f} x)  {parts}"
        )
    return found


async def _growth(shapes: Sequence[Shape], urls: Sequence[str]) -> dict[int, dict[str, float]]:
    async with AsyncExitStack() as opened:
        made = [EventBoard(shape, url) for shape, url in zip(shapes, urls, strict=True)]
        boards = [await opened.enter_async_context(board) for board in made]
        samples: list[list[dict[str, float]]] = [[] for _ in boards]
        for number in range(WARM_UP + EVENTS):
            for board, taken in zip(boards, samples, strict=True):
                costs = await board.event(number)
                if number >= WARM_UP:
                    taken.append(costs)
    return {
        shape.contracts: {name: statistics.median(one[name] for one in taken) * 1000 for name in taken[0]}
        for shape, taken in zip(shapes, samples, strict=True)
    }


class EventBoard:
    """A published board on a server of its own, and its three stages, worked by hand."""

    def __init__(self, shape: Shape, url: str) -> None:
        self._url = url
        self._settings: Settings = bench_settings(url)
        self._keys: Keys = keys_of(self._settings)
        self._client: Any = redis.Redis.from_url(url)
        self._board = shape.board()
        self._draw = np.random.default_rng(1)
        self._brokers = {
            name: Broker(url, name, f"bench-{name}", self._keys.cursor(name, SYMBOL))
            for name in (StageName.STAGING, StageName.CALCULATE, StageName.MODELS)
        }
        self._sources: dict[StageName, Source[Any, Any]] = {
            name: stage_of(name, self._settings).sources[-1] for name in self._brokers
        }

    async def __aenter__(self) -> EventBoard:
        publish_chain(self._client, self._keys, self._board)
        stages = [stage_of(name, self._settings) for name in self._brokers]

        async def is_published() -> bool:
            return bool(self._client.exists(self._keys.model_state(SYMBOL)))

        await run_until(stages, self._url, self._settings, is_published)
        for name, broker in self._brokers.items():
            await broker.ensure_group(self._sources[name].stream)
        return self

    async def __aexit__(self, *_: object) -> None:
        for broker in self._brokers.values():
            await broker.close()
        self._client.close()

    async def event(self, number: int) -> dict[str, float]:
        """Seconds that one quote took in each stage, and in all."""
        cid = self._board[int(self._draw.integers(len(self._board)))][0]
        bid = int(self._draw.integers(20, 4000)) * 5
        now = time.time()
        told = {"ev": "Q", "sym": cid, "bp": bid / 100, "ap": (bid + 10) / 100, "bs": 1, "as": 1}
        told |= {"t": round(now * 1000) + number, "q": number}
        self._client.xadd(self._keys.ws_stream(SYMBOL), {"ts": repr(now), "payload": orjson.dumps([told])})
        costs = {str(name): await self._work(name) for name in self._brokers}
        return costs | {"event": sum(costs.values())}

    async def _work(self, name: StageName) -> float:
        broker, source = self._brokers[name], self._sources[name]
        started = time.perf_counter()
        raw = await broker.read_new(source.stream, source.batch)
        entries = [Entry(EntryId(source.stream, one.id), source.decode(one.fields)) for one in raw]
        for commit in source.step(await source.load(broker, entries), entries):
            outcome = await broker.commit(commit)
            assert isinstance(outcome, Applied), outcome
        return time.perf_counter() - started
