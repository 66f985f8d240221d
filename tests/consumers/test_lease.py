"""Work with one owner at a time: it passes on when its holder stops or dies, and never has two."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from consumers import lease as lease_module
from consumers.broker import Broker
from consumers.lease import Share, every, while_owned
from contracts.errors import TransientError
from contracts.keys import Keys
from tests.waiting import wait_until_async

KEYS = Keys()
LEASE = KEYS.lease("tick", "SPX")


@pytest.fixture(autouse=True)
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases of 0.2 s, looked at every 20 ms."""
    short = {"HOLD_MS": 200, "LATE_MS": 200, "RENEW_EVERY_S": 0.02, "STANDBY_EVERY_S": 0.02, "COUNT_EVERY_S": 0.05}
    for name, value in short.items():
        monkeypatch.setattr(lease_module, name, value)


@pytest.fixture
async def brokers(redis_url: str) -> AsyncIterator[list[Broker]]:
    """Two holders."""
    found = [Broker(redis_url, "staging", name, KEYS.cursor("staging", "SPX")) for name in ("one", "two")]
    yield found
    for broker in found:
        await broker.close()


async def test_periodic_work_is_done_by_one_holder(brokers: list[Broker], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "LATE_MS", 60_000)  # nobody is that late
    done: list[str] = []
    stop = asyncio.Event()

    async def act(lease: str, owner: str) -> None:
        done.append(owner)

    tasks = [asyncio.create_task(every(broker, LEASE, 0.02, act, stop)) for broker in brokers]
    await wait_until_async(lambda: len(done) >= 10, "it is done again and again")
    stop.set()
    await asyncio.gather(*tasks)
    assert len(set(done)) == 1


async def test_periodic_work_passes_on_when_its_holder_stops(brokers: list[Broker]) -> None:
    done: list[str] = []
    stops = [asyncio.Event(), asyncio.Event()]

    async def act(lease: str, owner: str) -> None:
        done.append(owner)

    tasks = [asyncio.create_task(every(b, LEASE, 0.02, act, s)) for b, s in zip(brokers, stops, strict=True)]
    await wait_until_async(lambda: done, "somebody works")
    first = done[0]
    stops[["one", "two"].index(first)].set()
    await wait_until_async(lambda: done[-1] != first, "the other works")
    for stop in stops:
        stop.set()
    await asyncio.gather(*tasks)


async def test_periodic_work_passes_on_when_its_holder_dies(brokers: list[Broker]) -> None:
    done: list[str] = []
    stop = asyncio.Event()

    async def act(lease: str, owner: str) -> None:
        done.append(owner)

    dying = asyncio.create_task(every(brokers[0], LEASE, 0.02, act, asyncio.Event()))
    await wait_until_async(lambda: done, "the first works")
    dying.cancel()
    await asyncio.wait({dying})
    heir = asyncio.create_task(every(brokers[1], LEASE, 0.02, act, stop))
    await wait_until_async(lambda: done[-1] == "two", "the other works")
    stop.set()
    await heir


async def test_periodic_work_with_a_long_period_passes_on_as_soon_as_its_lease_ran_out(
    brokers: list[Broker], client: Any
) -> None:
    """The others do not wait for a whole period to look."""
    done: list[str] = []
    stop = asyncio.Event()

    async def act(lease: str, owner: str) -> None:
        done.append(owner)

    client.set(LEASE, "a holder that died", px=300)
    heir = asyncio.create_task(every(brokers[0], LEASE, 60.0, act, stop))
    await wait_until_async(lambda: done, "the heir works")
    stop.set()
    await heir


async def test_a_fault_of_periodic_work_does_not_end_it(brokers: list[Broker]) -> None:
    tries: list[int] = []
    stop = asyncio.Event()

    async def act(lease: str, owner: str) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise TransientError("away")

    task = asyncio.create_task(every(brokers[0], LEASE, 0.02, act, stop))
    await wait_until_async(lambda: len(tries) >= 4, "it goes on")
    stop.set()
    await task


class Held:
    """Work that notes who holds it."""

    def __init__(self) -> None:
        self.holders: list[str] = []
        self.begun = 0
        self.most = 0

    def by(self, name: str) -> Any:
        async def work(stop: asyncio.Event) -> None:
            self.holders.append(name)
            self.begun += 1
            self.most = max(self.most, len(self.holders))
            try:
                await stop.wait()
            finally:
                self.holders.remove(name)

        return work


@asynccontextmanager
async def working(broker: Broker) -> AsyncIterator[Held]:
    """One holder at work, until the body is over."""
    held = Held()
    stop = asyncio.Event()
    task = asyncio.create_task(while_owned(broker, LEASE, held.by("one"), stop))
    await wait_until_async(lambda: held.holders == ["one"], "it works")
    yield held
    stop.set()
    await task


async def test_held_work_has_one_holder_and_passes_on_when_it_stops(brokers: list[Broker], client: Any) -> None:
    held = Held()
    stops = [asyncio.Event(), asyncio.Event()]
    tasks = [
        asyncio.create_task(while_owned(broker, LEASE, held.by(broker.consumer), stop))
        for broker, stop in zip(brokers, stops, strict=True)
    ]
    await wait_until_async(lambda: held.holders, "somebody works")
    first = held.holders[0]
    stops[["one", "two"].index(first)].set()
    await wait_until_async(lambda: held.holders and held.holders[0] != first, "the other works")
    for stop in stops:
        stop.set()
    await asyncio.gather(*tasks)
    assert held.most == 1
    assert client.exists(LEASE) == 0


async def test_held_work_ends_as_soon_as_the_lease_is_another_s(brokers: list[Broker], client: Any) -> None:
    async with working(brokers[0]) as held:
        client.set(LEASE, "somebody else", px=60_000)
        await wait_until_async(lambda: held.holders == [], "it ended")
        assert client.get(LEASE) == b"somebody else"


async def test_held_work_is_given_time_to_end_in_its_own_way(
    brokers: list[Broker], client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "HOLD_MS", 2000)
    said: list[str] = []
    stop = asyncio.Event()

    async def polite(stop: asyncio.Event) -> None:
        said.append("hello")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.2)
            said.append("goodbye")

    task = asyncio.create_task(while_owned(brokers[0], LEASE, polite, stop))
    await wait_until_async(lambda: said == ["hello"], "it works")
    client.set(LEASE, "somebody else", px=60_000)
    await wait_until_async(lambda: said == ["hello", "goodbye"], "it ended")
    stop.set()
    await task


async def test_held_work_ends_when_the_lease_cannot_be_renewed(
    brokers: list[Broker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is away: before the lease can pass to somebody else, the work is over."""
    monkeypatch.setattr(lease_module, "HOLD_MS", 2000)
    async with working(brokers[0]) as held:

        async def away(self: Broker, key: str, ttl_ms: int) -> bool:
            raise TransientError("away")

        monkeypatch.setattr(Broker, "take_lease", away)
        await wait_until_async(lambda: held.holders == [], "it ended", 2.0)


async def test_held_work_that_fails_tells_so(brokers: list[Broker]) -> None:
    async def fails(stop: asyncio.Event) -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        await asyncio.wait_for(while_owned(brokers[0], LEASE, fails, asyncio.Event()), 5.0)


async def test_held_work_that_ends_by_itself_is_begun_again(brokers: list[Broker]) -> None:
    begun: list[int] = []
    stop = asyncio.Event()

    async def short(_: asyncio.Event) -> None:
        begun.append(1)

    task = asyncio.create_task(while_owned(brokers[0], LEASE, short, stop))
    await wait_until_async(lambda: len(begun) >= 3, "it is begun again")
    stop.set()
    await task


async def test_one_answer_that_does_not_come_ends_nothing(
    brokers: list[Broker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "HOLD_MS", 2000)
    async with working(brokers[0]) as held:
        renew, asked = Broker.take_lease, [0]

        async def away_once(self: Broker, key: str, ttl_ms: int) -> bool:
            asked[0] += 1
            if asked[0] == 1:
                raise TransientError("away")
            return await renew(self, key, ttl_ms)

        monkeypatch.setattr(Broker, "take_lease", away_once)
        await wait_until_async(lambda: asked[0] > 5, "it is asked again and again")
        assert (held.holders, held.begun) == (["one"], 1)


# --- leases that spread


LEASES = [KEYS.lease(f"feed:options:{shard}", "SPX") for shard in range(4)]


class Fleet:
    """Processes that compete for LEASES; `counted` is how many they think they are."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.counted = 0
        self.holders: dict[str, list[str]] = {lease: [] for lease in LEASES}
        self.most = 0
        self.running: dict[str, tuple[Broker, asyncio.Event, list[asyncio.Task[None]]]] = {}

    def start(self, name: str) -> None:
        broker = Broker(self.url, "massive", name, KEYS.cursor("massive", "SPX"))
        share, stop = Share(len(LEASES), self.count), asyncio.Event()
        tasks = [
            asyncio.create_task(while_owned(broker, lease, self.work(lease, name), stop, share)) for lease in LEASES
        ]
        self.running[name] = broker, stop, tasks
        self.counted = len(self.running)

    async def count(self) -> int:
        return self.counted

    def work(self, lease: str, name: str) -> Any:
        async def hold(stop: asyncio.Event) -> None:
            self.holders[lease].append(name)
            self.most = max(self.most, len(self.holders[lease]))
            try:
                await stop.wait()
            finally:
                self.holders[lease].remove(name)

        return hold

    async def stop(self, name: str) -> None:
        broker, stop, tasks = self.running.pop(name)
        stop.set()
        await asyncio.gather(*tasks)
        await broker.close()
        self.counted = len(self.running)

    def shares(self) -> dict[str, int]:
        names = [name for found in self.holders.values() for name in found]
        return {name: names.count(name) for name in self.running}


@pytest.fixture
async def fleet(redis_url: str) -> AsyncIterator[Fleet]:
    """Nobody runs yet; whoever does is stopped."""
    found = Fleet(redis_url)
    yield found
    for name in list(found.running):
        await found.stop(name)


async def test_leases_spread_over_processes_that_start_one_after_the_other(fleet: Fleet) -> None:
    fleet.start("one")
    await wait_until_async(lambda: fleet.shares() == {"one": 4}, "alone it holds all")
    fleet.start("two")
    await wait_until_async(lambda: fleet.shares() == {"one": 2, "two": 2}, "they share")
    fleet.start("three")
    await wait_until_async(
        lambda: sum(fleet.shares().values()) == 4 and max(fleet.shares().values()) == 2, "nobody has more than two"
    )
    assert fleet.most == 1


async def test_the_leases_of_a_process_that_stops_go_to_the_others(fleet: Fleet) -> None:
    fleet.start("one")
    fleet.start("two")
    await wait_until_async(lambda: sum(fleet.shares().values()) == 4, "all are held")
    await fleet.stop("one")
    await wait_until_async(lambda: fleet.shares() == {"two": 4}, "the other has all")
    assert fleet.most == 1


async def test_a_wrong_count_leaves_no_lease_without_holder(fleet: Fleet) -> None:
    fleet.start("one")
    fleet.counted = 4  # three of which do not exist
    await wait_until_async(lambda: fleet.shares() == {"one": 4}, "it takes what stays free")
