"""Promotions on the real server, whose groups know who owns an entry: killed, claimed and overtaken builders.

A promotion of each reason is cut after every one of its commits. Then its entry is claimed by another consumer, who
finishes it; and the one who was cut goes on as a zombie.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
import redis

from consumers.broker import Broker, RawEntry
from contracts.commit import Applied, Commit, EntryId, Lost
from contracts.keys import Keys, Stat
from contracts.messages import ChainCompleted, EpochForce, EpochPromoted, encode
from contracts.settings import Settings, load_settings
from contracts.snapshot import ChainRow, ChainSnapshot, encode_snapshot
from contracts.stage import Entry
from contracts.topology import StageName
from ops.wiring import keys_of, pure_stage
from tests.pipeline import EXPIRATION, LATER, NOW, chain_rows, frame, quote
from tests.stages.staging.small_board import CID, FEW, NOW_MS

SYMBOL = "SPX"
REASONS = ("bootstrap", "geometry", "dormancy", "operator")


class Consumer:
    """One consumer of staging, whose commits are made one by one."""

    def __init__(self, url: str, settings: Settings, name: str) -> None:
        self.keys = keys_of(settings)
        self.broker = Broker(url, StageName.STAGING, name, self.keys.cursor(StageName.STAGING, SYMBOL))
        self.chains, self.frames = pure_stage(StageName.STAGING, settings, (SYMBOL,)).sources

    async def close(self) -> None:
        await self.broker.close()

    async def work(self, source: Any, raw: Sequence[RawEntry], stop_after: int | None = None) -> list[Commit]:
        """Load, step and commit until nothing is left; or until so many commits, and the commits that were to come."""
        entries = [Entry(_entry_id(source, one), source.decode(one.fields)) for one in raw]
        made = 0
        while entries:
            commits = list(source.step(await source.load(self.broker, entries), entries))
            for number, commit in enumerate(commits):
                if made == stop_after:
                    return commits[number:]
                outcome = await self.broker.commit(commit)
                if isinstance(outcome, Lost):
                    return []
                if not isinstance(outcome, Applied):
                    break
                made += 1
                entries = [entry for entry in entries if entry.id not in commit.acknowledges]
        return []

    async def read(self, source: Any) -> list[RawEntry]:
        await self.broker.ensure_group(source.stream)
        return await self.broker.read_new(source.stream, 100)

    async def claim(self, source: Any) -> list[RawEntry]:
        """Take over whatever others left."""
        await self.broker.claim_idle(source.stream, 0, "0-0")
        return await self.broker.read_pending(source.stream, 100)


def _entry_id(source: Any, raw: RawEntry) -> EntryId:
    return EntryId(source.stream, raw.id)


class World:
    """A board as each reason of promotion needs it, and the entry that makes it promote, unread."""

    def __init__(self, url: str) -> None:
        self.settings = load_settings({"MASSIVE_SYMBOLS": SYMBOL})
        self.keys: Keys = keys_of(self.settings)
        self.url = url
        self.client: Any = redis.Redis.from_url(url)
        self.consumers: list[Consumer] = []

    def consumer(self, name: str) -> Consumer:
        found = Consumer(self.url, self.settings, name)
        self.consumers.append(found)
        return found

    async def close(self) -> None:
        for one in self.consumers:
            await one.close()
        self.client.close()

    def announce(self, number: int, chains: dict[str, list[ChainRow]], failed: tuple[str, ...] = ()) -> None:
        received = {}
        for expiration, rows in chains.items():
            key = self.keys.chain_snapshot(SYMBOL, expiration, NOW_MS + number)
            snapshot = ChainSnapshot(NOW + number, SYMBOL, expiration, 6900, 50, tuple(rows))
            self.client.set(key, encode_snapshot(snapshot), px=60_000)
            received[expiration] = key
        at = NOW + number
        told = ChainCompleted(SYMBOL, number, at, (*received, *failed), received, failed, 6900.0, at, at)
        self.client.xadd(self.keys.chain_stream(SYMBOL), encode(told))

    async def prepare(self, reason: str) -> None:
        first = self.consumer("before")
        await first.broker.ensure_group(first.chains.stream)
        if reason != "bootstrap":
            self.announce(1, {EXPIRATION: chain_rows(FEW), LATER: chain_rows(FEW, LATER)})
            await first.work(first.chains, await first.read(first.chains))
            self.client.xadd(self.keys.ws_stream(SYMBOL), frame(quote(CID, 9.0, 9.5, NOW_MS)))
            await first.work(first.frames, await first.read(first.frames))
        if reason == "dormancy":
            self.client.hset(self.keys.tick(SYMBOL), "feed_ts", repr(NOW + 60))
        if reason == "operator":
            self.client.xadd(self.keys.chain_stream(SYMBOL), encode(EpochForce(SYMBOL, "once", NOW + 60)))
        else:
            strikes = FEW if reason == "dormancy" else FEW[1:]
            self.announce(2, {EXPIRATION: chain_rows(strikes), LATER: chain_rows(FEW, LATER)})

    def epochs(self) -> list[bytes]:
        found: list[bytes] = self.client.lrange(self.keys.timeline(SYMBOL), 0, -1)
        return found

    def promoted(self) -> list[str]:
        entries = self.client.xrange(self.keys.epoch_stream(SYMBOL))
        bodies = [
            json.loads(fields[b"data"]) for _, fields in entries if fields[b"type"].decode() == EpochPromoted.TYPE
        ]
        return [body["epoch"] for body in bodies]

    def counted(self, name: str) -> int:
        return int(self.client.hget(self.keys.analytics(Stat.EPOCH, SYMBOL), name) or 0)

    def pending(self) -> int:
        return int(self.client.xpending(self.keys.chain_stream(SYMBOL), StageName.STAGING)["pending"])

    def dump(self) -> dict[bytes, object]:
        """Every key with its value, streams and their groups apart."""
        kinds = {b"string": self.client.get, b"hash": self.client.hgetall, b"set": self.client.smembers}
        kinds |= {
            b"list": lambda key: self.client.lrange(key, 0, -1),
            b"zset": lambda key: self.client.zrange(key, 0, -1, withscores=True),
        }
        kinds |= {b"stream": self.client.xlen}
        return {key: kinds[self.client.type(key)](key) for key in self.client.keys("*")}


def each_cut(
    redis_url: str, reason: str, check: Callable[[World, Consumer, list[RawEntry], list[Commit]], Awaitable[None]]
) -> None:
    """Cut the promotion after every commit in turn, on an empty server each time, and check what follows."""

    async def run() -> None:
        survived, left = 0, [Commit()]
        while left:
            world = World(redis_url)
            world.client.flushdb()
            try:
                await world.prepare(reason)
                owner = world.consumer("owner")
                raw = await owner.read(owner.chains)
                left = await owner.work(owner.chains, raw, survived)
                await check(world, owner, raw, left)
            finally:
                await world.close()
            survived += 1
        assert survived > 5

    asyncio.run(run())


@pytest.mark.parametrize("reason", REASONS)
def test_whoever_claims_a_cut_promotion_makes_exactly_one_epoch(redis_url: str, reason: str) -> None:
    async def check(world: World, owner: Consumer, raw: list[RawEntry], left: list[Commit]) -> None:
        claimer = world.consumer("claimer")
        await claimer.work(claimer.chains, await claimer.claim(claimer.chains))
        epochs = [epoch.decode() for epoch in reversed(world.epochs())]
        assert len(epochs) == (1 if reason == "bootstrap" else 2)
        assert world.promoted() == epochs
        assert world.counted(f"promotions_{reason}") == 1
        assert world.pending() == 0
        assert world.client.hget(world.keys.meta(epochs[-1]), "reason") == reason.encode()
        bid = world.client.hget(world.keys.contract(epochs[-1], CID), "bid")
        assert bid == (b"10.00" if reason == "bootstrap" else b"9.00")
        assert world.client.hget(world.keys.building(SYMBOL), "phase") == b"done"

    each_cut(redis_url, reason, check)


@pytest.mark.parametrize("reason", REASONS)
def test_a_builder_whose_entry_was_claimed_writes_nothing_more(redis_url: str, reason: str) -> None:
    """A zombie: it was paused, its entry went to another who finished, and now it goes on where it stood."""

    async def check(world: World, owner: Consumer, raw: list[RawEntry], left: list[Commit]) -> None:
        claimer = world.consumer("claimer")
        await claimer.work(claimer.chains, await claimer.claim(claimer.chains))
        finished = world.dump()
        for commit in left:
            assert not isinstance(await owner.broker.commit(commit), Applied)
        await owner.work(owner.chains, raw)
        assert world.dump() == finished

    each_cut(redis_url, reason, check)


@pytest.mark.parametrize("reason", ["dormancy", "operator"])
def test_a_builder_that_is_overtaken_before_its_switch_writes_nothing_more(redis_url: str, reason: str) -> None:
    """Its entry is still its own, but a newer fetch promoted meanwhile: it is refused, and starts over from there."""

    async def check(world: World, owner: Consumer, raw: list[RawEntry], left: list[Commit]) -> None:
        if not any(commit.decides for commit in left):
            return
        world.announce(3, {EXPIRATION: chain_rows(FEW[2:]), LATER: chain_rows(FEW, LATER)})
        other = world.consumer("other")
        await other.work(other.chains, await other.read(other.chains))
        overtaken = world.dump()
        for commit in left:
            assert not isinstance(await owner.broker.commit(commit), Applied)
        assert world.dump() == overtaken
        await owner.work(owner.chains, raw)
        assert world.counted("promotions_operator") == (1 if reason == "operator" else 0)
        assert world.counted("stale_fetches") == (0 if reason == "operator" else 1)
        assert world.client.hget(world.keys.meta(world.epochs()[0].decode()), "fetch") == b"3"
        assert len(set(world.epochs())) == len(world.epochs())

    each_cut(redis_url, reason, check)


def test_the_keys_of_a_forced_epoch_live_as_long_as_its_settings_say(redis_url: str) -> None:
    async def run() -> None:
        world = World(redis_url)
        await world.prepare("operator")
        owner = world.consumer("owner")
        await owner.work(owner.chains, await owner.read(owner.chains))
        epoch = world.epochs()[0].decode()
        lifetimes = {key: world.client.pttl(key) for key in world.client.keys(f"epoch:{epoch}:*")}
        assert len(lifetimes) > 20
        assert {key for key, ttl in lifetimes.items() if not 290_000 < ttl <= 300_000} == set()
        await world.close()

    asyncio.run(run())
