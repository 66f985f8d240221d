"""The sockets over real processes: spread, one owner each, taken over within seconds when the owner is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from consumers.embedded import free_port, remembered_url
from contracts.feed_report import feed_names
from contracts.keys import Keys
from ops.mock.sockets import STATE_PATH
from stages.massive.window import shard_of
from tests.ops.test_up import LIVE_S, STOP_S, Place, up
from tests.waiting import wait_until

pytestmark = pytest.mark.processes

KEYS = Keys()
SHARDS = 2
FEEDS = feed_names(SHARDS, ("SPX",))
MOVES_WITHIN_S = 5.0


class FrameWatch:
    """Follows the stream of frames: when the newest frame of each shard came."""

    def __init__(self, url: str) -> None:
        self.newest = dict.fromkeys(range(SHARDS), 0.0)
        self._client: Any = redis.Redis.from_url(url)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def _follow(self) -> None:
        last = b"$"
        while not self._stop.is_set():
            for _, entries in self._client.xread({KEYS.ws_stream("SPX"): last}, count=1000, block=200) or ():
                for entry_id, fields in entries:
                    last = entry_id
                    for event in json.loads(fields[b"payload"]):
                        if event["ev"] == "Q":
                            self.newest[shard_of(event["sym"], SHARDS)] = float(fields[b"ts"])

    def close(self) -> None:
        """Follow no longer."""
        self._stop.set()
        self._thread.join()
        self._client.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """An empty folder for a pipeline of two option sockets."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MASSIVE_", "MARKETSWARM_"))}
    plain.pop("REDIS_URL", None)
    own = {
        "MARKETSWARM_PORT": str(free_port()), "MASSIVE_CHAIN_INTERVAL_SEC": "2", "MASSIVE_SYMBOLS": "SPX",
        "MASSIVE_WS_CONNECTIONS": str(SHARDS),
    }  # fmt: skip
    place = Place(tmp_path, plain | own)
    yield place
    place.run("down")


@contextmanager
def joined(place: Place, count: int) -> Iterator[None]:
    """So many more massive processes while the body runs, as `make run-stage` starts them."""
    command = [sys.executable, "-P", "-m", "ops.cli", "stage", "massive"]
    with ExitStack() as started:
        for _ in range(count):
            process = subprocess.Popen(command, cwd=place.folder, env=place.environment, stderr=subprocess.DEVNULL)
            started.callback(process.wait, STOP_S)
            started.callback(process.terminate)
        yield


def pid_of(owner: str) -> int:
    return int(owner.split("-")[-2])


def census(place: Place) -> dict[str, dict[str, int]]:
    """What the mock counts, by what its clients call themselves."""
    line = next(line for line in place.output().splitlines() if line.startswith("provider"))
    url = next(word for word in line.split() if word.startswith("http")).rstrip(":")
    with urllib.request.urlopen(url + STATE_PATH) as answer:
        rows = json.load(answer)["clients"]
    return {row["client"].removeprefix("marketswarm/"): row for row in rows}


def test_a_killed_owner_is_replaced_within_five_seconds_and_no_socket_has_two(place: Place) -> None:
    with up(place, "--rate", "200"), ExitStack() as resources:
        wait_until(lambda: "models    SPX live" in place.output(), "live models", LIVE_S)
        resources.enter_context(joined(place, 3))
        url = remembered_url(place.folder / ".marketswarm")
        assert url is not None
        client: Any = redis.Redis.from_url(url)
        resources.callback(client.close)
        watch = FrameWatch(url)
        resources.callback(watch.close)

        def owners() -> dict[str, str]:
            found = client.mget([KEYS.lease(f"feed:{feed}", "SPX") for feed in FEEDS])
            return {feed: owner.decode() for feed, owner in zip(FEEDS, found, strict=True) if owner}

        def fetches() -> list[int]:
            bodies = map(json.loads, client.hvals(KEYS.heartbeat()))
            return [body["commits"] for body in bodies if body["role"] == "massive"]

        wait_until(lambda: len(set(owners().values())) == len(FEEDS), "each socket at another process", LIVE_S)
        wait_until(lambda: all(time.time() - ts < 1.0 for ts in watch.newest.values()), "frames of both", LIVE_S)
        wait_until(lambda: len(fetches()) == 4 and all(fetches()), "fetches by all four", LIVE_S)
        for shard in range(SHARDS):
            feed = f"options:{shard}"
            victim = owners()[feed]
            killed = time.time()
            os.kill(pid_of(victim), signal.SIGKILL)
            wait_until(lambda: owners().get(feed, victim) != victim, "another owner")  # noqa: B023 (called at once)
            moved = time.time()
            wait_until(lambda: watch.newest[shard] > moved, "its frames")  # noqa: B023
            assert watch.newest[shard] - killed < MOVES_WITHIN_S
        assert {feed: row["most"] for feed, row in census(place).items()} == dict.fromkeys(FEEDS, 1)
