"""The tick of real processes: one a second however many there are, and still there when its holder is killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from contracts.keys import Keys
from contracts.settings import load_settings
from tests.ops.pipeline import SYMBOL, SmallPipeline
from tests.waiting import wait_until

pytestmark = pytest.mark.processes

PROCESSES = 3
LEASE_MS = 2500  # so long after its holder's last tick it is free; the others look four times a second
TAKEN_OVER_S = 3.0
KEYS = Keys()


@pytest.fixture
def staging(redis_url: str, tmp_path: Path) -> Iterator[None]:
    """Three staging processes, a bootstrapped epoch and its first snapshot."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MASSIVE_", "MARKETSWARM_"))
    }
    environment |= {"REDIS_URL": redis_url, "MASSIVE_SYMBOLS": SYMBOL, "MARKETSWARM_DATA": str(tmp_path)}
    command = [sys.executable, "-P", "-m", "ops.cli", "stage", "staging"]
    with ExitStack() as started:
        for _ in range(PROCESSES):
            with (tmp_path / "log").open("a") as log:
                process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
            started.callback(process.wait, 10)
            started.callback(process.kill)
        yield


async def publish_chain(redis_url: str) -> None:
    """A chain of which the processes make an epoch."""
    pipeline = SmallPipeline(redis_url, load_settings({"MASSIVE_SYMBOLS": SYMBOL}))
    pipeline.chain()
    await pipeline.close()


def snapshot(client: Any) -> dict[str, Any] | None:
    body = client.get(KEYS.heatmap_snapshot(SYMBOL))
    found: dict[str, Any] | None = json.loads(body) if body else None
    return found


def test_a_snapshot_a_second_from_any_number_of_processes_survives_its_holder(
    redis_url: str, client: Any, staging: None
) -> None:
    wait_until(lambda: client.hlen(KEYS.heartbeat()) == PROCESSES, "all processes are up", 30.0)
    asyncio.run(publish_chain(redis_url))
    wait_until(lambda: snapshot(client), "the first snapshot")
    first = snapshot(client)
    assert first is not None
    wait_until(lambda: (snapshot(client) or first)["tick"] >= first["tick"] + 5, "five more", 10.0)
    fifth = snapshot(client)
    assert fifth is not None
    ticks, passed_s = fifth["tick"] - first["tick"], fifth["ts"] - first["ts"]
    assert ticks <= passed_s + 1.5  # two that tick would be at twice as many; a busy machine makes them fewer

    holder = client.get(KEYS.lease("tick", SYMBOL)).decode()
    os.kill(json.loads(client.hget(KEYS.heartbeat(), holder))["pid"], signal.SIGKILL)
    last = snapshot(client)
    assert last is not None
    assert client.pttl(KEYS.lease("tick", SYMBOL)) <= LEASE_MS
    wait_until(lambda: (snapshot(client) or last)["tick"] > last["tick"], "another process ticks", TAKEN_OVER_S)
    assert client.get(KEYS.lease("tick", SYMBOL)).decode() != holder
    assert 0 < client.pttl(KEYS.heatmap_snapshot(SYMBOL)) <= 5000
