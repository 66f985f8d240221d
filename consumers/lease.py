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

LEASE_MS = 2000
RENEW_EVERY_S = 0.5
LATE_MS = 1500  # periodic work may be so late before it passes on
STANDBY_EVERY_S = 0.25  # how often the others look whether it has


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


async def while_owned(
    broker: Broker, lease: str, work: Callable[[asyncio.Event], Awaitable[None]], stop: asyncio.Event
) -> None:
    """Run `work` for as long as we own the lease; end it before the lease can pass to somebody else.

    The lease is renewed four times in its life. When it cannot be renewed, `work` is cancelled at once.
    """
    while not stop.is_set():
        if not await _taken(broker, lease):
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), RENEW_EVERY_S)
            continue
        task = asyncio.ensure_future(work(stop))
        try:
            while not stop.is_set() and not task.done() and await _taken(broker, lease):
                await asyncio.wait({task}, timeout=RENEW_EVERY_S)
        finally:
            await ended(task)
            with suppress(TransientError):
                await broker.drop_lease(lease)
        if not task.cancelled():
            task.result()


async def _taken(broker: Broker, lease: str) -> bool:
    try:
        return await asyncio.wait_for(broker.take_lease(lease, LEASE_MS), LEASE_MS / 2000)
    except (TransientError, TimeoutError):
        return False
