"""A worker process: it computes elsewhere, starts ahead when told, and its death is a fault that passes."""

from __future__ import annotations

import os
import sys

import pytest

from consumers.offload import WorkerProcess
from contracts.errors import TransientError


def imported(name: str) -> bool:
    """Whether a module is imported in the process that runs this."""
    return name in sys.modules


async def test_work_is_done_in_another_process() -> None:
    worker = WorkerProcess()
    try:
        assert await worker(os.getpid) != os.getpid()
    finally:
        worker.close()


async def test_a_started_worker_has_imported_what_it_will_need() -> None:
    worker = WorkerProcess("wave")
    worker.start()
    try:
        assert await worker(imported, "wave")
    finally:
        worker.close()


async def test_a_worker_that_dies_is_a_fault_that_passes() -> None:
    worker = WorkerProcess()
    try:
        with pytest.raises(TransientError, match="worker process died"):
            await worker(os._exit, 1)
        assert await worker(abs, -1) == 1
    finally:
        worker.close()
