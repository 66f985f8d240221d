"""Work that has one owner at a time: held under a lease that runs out when its holder dies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from consumers.broker import Broker
from consumers.runner import Backoff, ended
from contracts.errors import TransientError

log = structlog.get_logger("lease")

LATE_MS = 1500  # periodic work may be so late before it passes on
STANDBY_EVERY_S = 0.25  # how often the others look whether it has
HOLD_MS = 3000  # of work that is held
RENEW_EVERY_S = 0.25
COUNT_EVERY_S = 1.0

# parts of the life of a lease that is held
SAFE = 0.7  # without renewal the work is cancelled then: the rest is for its end
END = 0.2  # for so long it may end in its own way (a socket says goodbye), then it is cancelled again
GRACE = 0.2  # for so long a free lease is left to those with room for it
TAKEN = 0.25  # a lease that took longer to get is not used: too little of it is left
EXCESS = 0.7  # for so long a process holds more than its share before it gives one up


async def every(
    broker: Broker, lease: str, period_s: float, act: Callable[[str, str], Awaitable[None]], stop: asyncio.Event
) -> None:
    """Call `act(lease, owner)` every `period_s` while we own the lease; others wait for it.

    When its holder dies, another acts within the period, LATE_MS and STANDBY_EVERY_S after the holder's last time.
    `act` guards what it writes by the lease, so that a holder that slept through its time changes nothing.
    """
    backoff = Backoff()
    loop = asyncio.get_running_loop()
    due = loop.time()
    while not stop.is_set():
        wait_s = min(period_s, STANDBY_EVERY_S)
        try:
            if await broker.take_lease(lease, LATE_MS + round(period_s * 1000)):
                wait_s = period_s
                await act(lease, broker.consumer)
            backoff.reset()
        except TransientError as error:
            log.warning("waiting", lease=lease, reason=str(error))
            await backoff.wait(stop)
        due = max(due + wait_s, loop.time() - wait_s)
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), max(0.0, due - loop.time()))
    with suppress(TransientError):
        await broker.drop_lease(lease)


class Share:
    """How many of `leases` one process may hold, so that they spread evenly over the processes that compete.

    `processes()` counts them. A wrong count costs evenness only: a lease that stays free is taken by anybody.
    """

    def __init__(self, leases: int, processes: Callable[[], Awaitable[int]]) -> None:
        self._leases = leases
        self._processes = processes
        self._most = leases
        self._held = 0
        self._counted = float("-inf")
        self._excess_since: float | None = None

    @property
    def has_room(self) -> bool:
        """One more would not be more than our share."""
        return self._held < self._most

    async def count(self) -> None:
        """Look from time to time how many we are."""
        now = asyncio.get_running_loop().time()
        if now - self._counted < COUNT_EVERY_S:
            return
        self._counted = now
        with suppress(TransientError, TimeoutError):
            # a lease is being renewed meanwhile: the count may not take long
            processes = await asyncio.wait_for(self._processes(), HOLD_MS / 8000)
            self._most = -(-self._leases // max(1, processes))

    def take(self) -> None:
        """One more is ours."""
        self._held += 1

    def give_back(self) -> None:
        """One less is ours."""
        self._held -= 1
        self._excess_since = None

    def is_too_much(self) -> bool:
        """We have held more than our share for a while; the caller gives one back."""
        now = asyncio.get_running_loop().time()
        if self._held <= self._most:
            self._excess_since = None
            return False
        self._excess_since = self._excess_since or now
        if now - self._excess_since < EXCESS * HOLD_MS / 1000:
            return False
        self._excess_since = now  # one at a time
        return True


async def while_owned(
    broker: Broker,
    lease: str,
    work: Callable[[asyncio.Event], Awaitable[None]],
    stop: asyncio.Event,
    share: Share | None = None,
) -> None:
    """Run `work` for as long as we own the lease; end it before the lease can pass to somebody else.

    The lease is renewed twelve times in its life. At SAFE of it without renewal, or as soon as it is somebody else's,
    `work` is cancelled. With `share` it is left to processes that hold fewer.
    """
    while not stop.is_set():
        if not await _taken_in_turn(broker, lease, stop, share):
            continue
        try:
            await _hold(broker, lease, work, stop, share)
        finally:
            if share is not None:
                share.give_back()
        if share is not None and not share.has_room:
            await _pause(stop, GRACE * HOLD_MS / 1000)  # somebody with room for it comes first


async def _taken_in_turn(broker: Broker, lease: str, stop: asyncio.Event, share: Share | None) -> bool:
    """Try to take the lease once; a holder of enough others first sees it stay free for a while."""
    if share is None:
        if await _taken(broker, lease):
            return True
        await _pause(stop, RENEW_EVERY_S)
        return False
    await share.count()
    if not share.has_room:
        if not await _is_free(broker, lease):
            await _pause(stop, RENEW_EVERY_S)
            return False
        await _pause(stop, GRACE * HOLD_MS / 1000)
    share.take()  # before asking: the leases of one process are tried for at the same time
    if not stop.is_set() and await _taken(broker, lease):
        return True
    share.give_back()
    await _pause(stop, RENEW_EVERY_S)
    return False


async def _hold(
    broker: Broker,
    lease: str,
    work: Callable[[asyncio.Event], Awaitable[None]],
    stop: asyncio.Event,
    share: Share | None,
) -> None:
    """Run the work until it ends, we stop, or the lease is no longer safely ours."""
    loop = asyncio.get_running_loop()
    safe_until = loop.time() + (SAFE - TAKEN) * HOLD_MS / 1000
    task = asyncio.ensure_future(work(stop))
    try:
        while not stop.is_set() and not task.done() and loop.time() < safe_until:
            asked = loop.time()  # the lease lives at least HOLD_MS from here on
            owned = await _renewed(broker, lease, safe_until - asked)
            if owned is False:
                log.warning("lease_lost", lease=lease, reason="somebody else has it")
                break
            if owned:
                safe_until = asked + SAFE * HOLD_MS / 1000
            if share is not None:
                await share.count()
                if share.is_too_much():
                    log.info("lease_given_up", lease=lease, reason="more than our share")
                    break
            await asyncio.wait({task}, timeout=RENEW_EVERY_S)
        if loop.time() >= safe_until:
            log.warning("lease_lost", lease=lease, reason="it could not be renewed in time")
    finally:
        await ended(task, END * HOLD_MS / 1000)
        with suppress(TransientError):
            await broker.drop_lease(lease)
    if not task.cancelled():
        task.result()


async def _renewed(broker: Broker, lease: str, timeout_s: float) -> bool | None:
    """Whether the lease is ours; None: the server did not say."""
    try:
        return await asyncio.wait_for(broker.take_lease(lease, HOLD_MS), timeout_s)
    except (TransientError, TimeoutError):
        return None


async def _taken(broker: Broker, lease: str) -> bool:
    return await _renewed(broker, lease, TAKEN * HOLD_MS / 1000) is True


async def _is_free(broker: Broker, lease: str) -> bool:
    try:
        (owner,) = await broker.values(lease)
    except TransientError:
        return False
    return owner is None


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
