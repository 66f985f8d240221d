"""A worker process for long pure computations: the tick path must not make the event path wait."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module
from multiprocessing import get_context
from typing import TypeVar

from contracts.errors import TransientError

T = TypeVar("T")

NICENESS = 10  # quotes go first when both want the same core
PARENT_CHECK_S = 1.0


class WorkerProcess:
    """Runs functions in one process of its own, started at first use and again after its death.

    `modules` are imported when it starts: whoever takes over from a dead process has no time for it then.
    """

    def __init__(self, *modules: str) -> None:
        self._modules = modules
        self._pool: ProcessPoolExecutor | None = None

    def start(self) -> None:
        """Start the process ahead of its first use."""
        self._started().submit(_nothing)

    async def __call__(self, function: Callable[..., T], *arguments: object) -> T:
        """The result of a module-level function; TransientError if the worker died on the way."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._started(), function, *arguments)
        except BrokenProcessPool as error:
            self.close()
            raise TransientError(f"the worker process died: {error}") from error

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            given = (os.getpid(), self._modules)
            self._pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=_prepare, initargs=given)
        return self._pool

    def close(self) -> None:
        """End the worker."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


def _nothing() -> None:
    """A first task: the pool starts its process with it."""


def _prepare(parent: int, modules: tuple[str, ...]) -> None:
    os.nice(NICENESS)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    for name in modules:
        import_module(name)


def _end_with(parent: int) -> None:
    # the pool's queue keeps its own end open: without this a killed parent would leave the worker behind
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_S)
    os._exit(0)
