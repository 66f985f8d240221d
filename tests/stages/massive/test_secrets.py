"""The key is in the environment or in a file, and nowhere else: everything a run wrote is searched for it."""

from __future__ import annotations

import gzip
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from consumers.embedded import remembered_url
from contracts.keys import Keys
from ops.capture_file import parts_of
from tests.waiting import wait_until

pytestmark = pytest.mark.processes

KEYS = Keys()
PATIENCE_S = 90.0


@pytest.fixture
def key() -> str:
    """A key nobody else has."""
    return f"k-{secrets.token_hex(12)}"


@contextmanager
def running(folder: Path, name: str, environment: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command of ours, its output in `{name}.out`, until the body ends."""
    with (folder / f"{name}.out").open("wb") as output:
        command = [sys.executable, "-P", "-m", "ops.cli", *arguments]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(60.0)


def environment_of(address: str) -> dict[str, str]:
    """Of programs whose provider is there."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MASSIVE_", "MARKETSWARM_"))}
    plain.pop("REDIS_URL", None)
    own = {
        "MASSIVE_REST_URL": f"http://{address}", "MASSIVE_WS_URL": f"ws://{address}",
        "MARKETSWARM_PORT": "0", "MASSIVE_SYMBOLS": "SPX", "MASSIVE_CHAIN_INTERVAL_SEC": "2",
    }  # fmt: skip
    return plain | own


@contextmanager
def mock(folder: Path, scenario: str) -> Iterator[dict[str, str]]:
    """A provider on a free port, and the environment of programs that ask it."""

    def address() -> str:
        said = re.search(r"mock provider on http://([\d.:]+) ", (folder / "mock.out").read_text())
        return said[1] if said else ""

    options = ("--port", "0", "--contracts", "200", "--scenario", scenario)
    with running(folder, "mock", environment_of("nowhere"), "mock", *options):
        wait_until(address, "the mock is up", PATIENCE_S)
        yield environment_of(address())


def command_lines() -> list[bytes]:
    """Of every process of this machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes())
        except OSError:
            continue  # it has ended
    return found


def written(folder: Path) -> dict[Path, bytes]:
    """Every file below a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_writes_the_key_nowhere(tmp_path: Path, key: str) -> None:
    """The whole pipeline with a capture, through disconnections that are logged; the key comes from a file."""
    place, capture, key_file = tmp_path / "place", tmp_path / "place" / "day", tmp_path / "key"
    place.mkdir()
    key_file.write_text(f"{key}\n")
    (tmp_path / "cuts.toml").write_text('[[steps]]\nwhat = "reconnect"\nat = 10\nfor = 2\nevery = 15\n')
    with (
        mock(place, str(tmp_path / "cuts.toml")) as shared,
        running(place, "up", shared | {"MASSIVE_API_KEY_FILE": str(key_file)}, "up"),
    ):
        data = place / ".marketswarm"

        def gaps() -> list[str]:
            """Why feeds have missed something: each start counts as a gap."""
            url = remembered_url(data)
            if url is None:
                return []
            client: Any = redis.Redis.from_url(url)
            try:
                return [fields[b"reason"].decode() for _, fields in client.xrange(KEYS.gaps_stream("SPX"))]
            except redis.RedisError:
                return []
            finally:
                client.close()

        def interruptions() -> int:
            return len([reason for reason in gaps() if reason != "started"])

        wait_until(gaps, "the feeds have started", PATIENCE_S)
        with running(place, "capture", shared, "capture", "--out", str(capture)):
            wait_until(lambda: parts_of(capture), "something is captured", PATIENCE_S)
            before = interruptions()
            wait_until(lambda: interruptions() > before, "feeds were disconnected and are back", PATIENCE_S)
        assert not [line for line in command_lines() if key.encode() in line]
    assert parts_of(capture)
    found = written(place) | {path: gzip.decompress(path.read_bytes()) for path in parts_of(capture)}
    assert any("massive" in path.name for path in found) and len(found) > 8  # logs, configuration, the server's files
    assert [path for path, body in found.items() if key.encode() in body] == []


def test_a_refused_key_is_told_without_the_key(tmp_path: Path, key: str, redis_url: str) -> None:
    own = {"MASSIVE_API_KEY": key, "REDIS_URL": redis_url, "MARKETSWARM_DATA": str(tmp_path)}
    with mock(tmp_path, "401") as shared, running(tmp_path, "stage", shared | own, "stage", "massive") as stage:
        assert stage.wait(PATIENCE_S) == 2
    said = (tmp_path / "stage.out").read_text()
    assert "does not accept the key: set a valid MASSIVE_API_KEY" in said
    assert key not in said
