"""`marketswarm up` as a user runs it: from nothing to live models, stopped, started again, killed, cleaned up."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from consumers.embedded import free_port
from tests.waiting import wait_until

pytestmark = pytest.mark.processes

LIVE_S = 90.0
STOP_S = 60.0


@dataclass
class Place:
    """A folder with a pipeline's data, and how commands are run there."""

    folder: Path
    environment: dict[str, str]

    def start(self, *options: str) -> subprocess.Popen[str]:
        """Start `up`; its output goes to `up.log`."""
        with (self.folder / "up.log").open("w") as log:
            return subprocess.Popen(
                self._command("up", "--contracts", "200", *options),
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self._command(*arguments),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=STOP_S,
            check=False,
        )

    def status(self) -> dict[str, Any]:
        """`status --json`; empty while it cannot be had."""
        done = self.run("status", "--json")
        return dict(json.loads(done.stdout)) if done.returncode == 0 else {}

    def output(self) -> str:
        """What `up` printed."""
        return (self.folder / "up.log").read_text()

    def processes(self) -> set[int]:
        """Every process of the pipeline: the supervisor and its children."""
        pid_file = self.folder / ".marketswarm" / "supervisord.pid"
        if not pid_file.exists():
            return set()
        supervisor = int(pid_file.read_text())
        return {supervisor, *_children(supervisor)}

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-P", "-m", "ops.cli", *arguments]


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """An empty folder; whatever still runs afterwards is stopped."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MASSIVE_", "MARKETSWARM_"))}
    plain.pop("REDIS_URL", None)
    place = Place(tmp_path, plain | {"MARKETSWARM_PORT": str(free_port()), "MASSIVE_CHAIN_INTERVAL_SEC": "2"})
    yield place
    place.run("down")


@contextmanager
def up(place: Place, *options: str) -> Iterator[subprocess.Popen[str]]:
    """`up` while the body runs, then stopped as Ctrl-C does; nothing may be left."""
    with place.start(*options) as process:
        try:
            yield process
            left = place.processes()
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(STOP_S)
    assert code == 0, place.output()
    assert not [pid for pid in left if _runs(pid)]


def is_live(rows: dict[str, Any]) -> bool:
    """Both symbols have models and diffs flow."""
    return set(rows) == {"SPX", "NDX"} and all(
        row["epoch"] and row["last_diff_age_s"] is not None and row["last_diff_age_s"] < 3.0 for row in rows.values()
    )


def until_live(place: Place) -> dict[str, Any]:
    """Wait for live diffs; the status then."""
    seen: list[dict[str, Any]] = []

    def is_seen() -> bool:
        seen.append(place.status().get("symbols", {}))
        return is_live(seen[-1])

    wait_until(is_seen, "both symbols to be live", LIVE_S)
    return seen[-1]


def test_from_nothing_to_live_and_again_with_the_same_epoch(place: Place) -> None:
    with up(place):
        first = until_live(place)
        assert all(row["snapshot_age_s"] < 15.0 for row in first.values())
        second = place.run("up")
        assert second.returncode == 2 and "is up already; `marketswarm down` stops it" in second.stderr
        assert len(second.stderr.splitlines()) == 1
    said = place.output().splitlines()
    assert [line.split()[0] for line in said][:3] == ["server", "provider", "stages"]
    assert "models    SPX live" in said and "models    NDX live" in said and "Traceback" not in place.output()
    with up(place):
        again = until_live(place)
        assert {symbol: row["epoch"] for symbol, row in again.items()} == {
            symbol: row["epoch"] for symbol, row in first.items()
        }
        assert all(again[symbol]["seq"] > first[symbol]["seq"] for symbol in first)


def test_a_killed_stage_comes_back_and_more_consumers_join(place: Place) -> None:
    with up(place):
        until_live(place)
        (before,) = place.status()["groups"]["models"]["consumers"]
        os.kill(int(before["name"].split("-")[-2]), signal.SIGKILL)
        wait_until(lambda: "models: ended and was started again" in place.output(), "the restart", LIVE_S)
        until_live(place)
        joined = subprocess.Popen(
            [sys.executable, "-P", "-m", "ops.cli", "stage", "staging", "--consumer", "guest"],
            cwd=place.folder,
            env=place.environment,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until(lambda: _commits_of(place, "guest") > 0, "commits of the guest", LIVE_S)
        finally:
            joined.terminate()
            assert joined.wait(STOP_S) == 0


def _commits_of(place: Place, name: str) -> int:
    groups = place.status().get("groups", {})
    return sum(one["commits"] or 0 for one in groups.get("staging", {}).get("consumers") or () if one["name"] == name)


def test_what_a_killed_up_leaves_behind_is_found_and_stopped(place: Place) -> None:
    with place.start() as process:
        _wait_for_word(place, "stages")
        process.kill()
    left = place.processes()
    assert len(left) > 5 and all(_runs(pid) for pid in left)
    second = place.run("up")
    assert second.returncode == 2 and "was left running; `marketswarm down` stops it" in second.stderr
    assert place.run("down").stdout == "stopped\n"
    assert not [pid for pid in left if _runs(pid)]
    assert place.run("down").stdout.startswith("nothing is up")


def test_no_process_outlives_a_killed_supervisor(place: Place) -> None:
    with place.start() as process:
        _wait_for_word(place, "stages")
        left = place.processes()
        os.kill(int((place.folder / ".marketswarm" / "supervisord.pid").read_text()), signal.SIGKILL)
        assert process.wait(STOP_S) == 1
    assert "the process supervisor was killed" in place.output()
    wait_until(lambda: not [pid for pid in left if _runs(pid)], "every process to end", STOP_S)


def test_what_a_person_must_fix_ends_it_with_one_line(place: Place) -> None:
    with place.start("--scenario", "401") as process:
        assert process.wait(LIVE_S) == 1
    (line,) = [line for line in place.output().splitlines() if line.startswith("marketswarm: ")]
    assert "set a valid MASSIVE_API_KEY" in line and "Traceback" not in place.output()


def test_a_gateway_port_that_is_taken_ends_it_with_one_line(place: Place) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(place.environment["MARKETSWARM_PORT"])))
        taken.listen()
        with place.start() as process:
            assert process.wait(LIVE_S) == 1
    assert "the port is in use" in place.output()


def test_it_waits_for_a_redis_that_is_down(place: Place) -> None:
    place.environment["REDIS_URL"] = f"redis://127.0.0.1:{free_port()}"
    with up(place):
        _wait_for_word(place, "waiting")
        time.sleep(0.5)
    waiting = [line for line in place.output().splitlines() if line.startswith("waiting")]
    assert len(waiting) == 1 and "is not available" in waiting[0]
    assert not (place.folder / ".marketswarm" / "redis-url").exists()


def test_a_restart_of_the_embedded_server_finds_its_port_again(place: Place) -> None:
    urls = []
    for _ in range(2):
        with up(place):
            _wait_for_word(place, "stages")
            urls.append((place.folder / ".marketswarm" / "redis-url").read_text())
            client: Any = redis.Redis.from_url(urls[-1])
            assert client.config_get("appendonly") == {"appendonly": "yes"}
            client.close()
    assert urls[0] == urls[1]


def _wait_for_word(place: Place, word: str) -> None:
    def is_said() -> bool:
        return any(line.startswith(word) for line in place.output().splitlines())

    wait_until(is_said, f"{word!r} in the output", LIVE_S)
