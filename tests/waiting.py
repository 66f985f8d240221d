"""Waiting for something to become true, instead of sleeping for as long as it might take."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable

PATIENCE_S = 30.0  # of a machine that is busy with other things, too
_POLL_S = 0.005


def wait_until(predicate: Callable[[], object], description: str, timeout_s: float = PATIENCE_S) -> None:
    """Return once `predicate()` is true; fail the test with the description when it does not become so."""
    deadline = time.monotonic() + timeout_s
    while not predicate():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {description}"
        time.sleep(_POLL_S)


async def wait_until_async(predicate: Callable[[], object], description: str, timeout_s: float = PATIENCE_S) -> None:
    """The same while the event loop goes on; the predicate may be a coroutine function."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = predicate()
        if await found if inspect.isawaitable(found) else found:
            return
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {description}"
        await asyncio.sleep(_POLL_S)
