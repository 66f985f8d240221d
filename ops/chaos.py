"""`make chaos`: kill -9 under load, over and over, with a seed, a verdict and an oracle.

One after the other, a random stage process dies by SIGKILL at a random moment and is started again; after each kill
the flow must resume. A pipeline that is up (on this machine) is used as it is: its supervisor restarts what was killed,
and at the end the audit must be clean. Without one, chaos brings its own: a fresh embedded server with the journal on,
the mock provider, two processes of each stage. Then the feed stops at the end, and the state must also equal the fold
of the recorded inputs in journal order.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from consumers import embedded
from consumers.embedded import find_url
from contracts.errors import FatalError
from contracts.keys import Keys
from contracts.settings import Settings, load_settings
from contracts.topology import StageName
from ops.audit import run_audit
from ops.oracle import differences
from ops.wiring import keys_of

PROCESSES_PER_STAGE = 2
RESUME_WITHIN_S = 15.0
QUIET_WITHIN_S = 30.0
START_WITHIN_S = 60.0
PAUSE_S = (0.05, 1.2)  # between kills
SYMBOLS = ("SPX", "NDX")


@dataclass
class Process:
    """One process of the pipeline and how to start it again."""

    role: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it (again)."""
        with self.log.open("ab") as log:
            self.running = subprocess.Popen(self.command, env=self.environment, stdout=log, stderr=log)

    def end(self, number: signal.Signals) -> int:
        """Send a signal and wait for the end; the process id it had."""
        assert self.running is not None
        self.running.send_signal(number)
        self.running.wait()
        return self.running.pid


@dataclass
class Pipeline:
    """A whole pipeline as child processes."""

    settings: Settings
    client: Any
    server: Process
    mock: Process
    stages: list[Process] = field(default_factory=list)


def run_chaos(kills: int, settings: Settings, seed: int = 1) -> int:
    """Kill `kills` times in the pipeline that is up, or else in one of its own; returns the exit code."""
    return _in_running(kills, settings, seed) if _is_up(settings) else run_own(kills, seed)


def _is_up(settings: Settings) -> bool:
    try:
        url = find_url(settings.redis_url, settings.marketswarm_data)
        return bool(_stage_processes(redis.Redis.from_url(url), keys_of(settings)))
    except (FatalError, redis.ConnectionError):
        return False


def run_own(kills: int, seed: int = 1, rate: int = 5000, contracts: int = 1000) -> int:
    """Chaos in a pipeline of its own, compared with the fold at the end."""
    print(f"chaos: seed {seed}, {kills} kills, {rate:,} events/s, {PROCESSES_PER_STAGE} processes of each stage")
    with (
        tempfile.TemporaryDirectory(prefix="marketswarm-chaos-") as folder,
        pipeline_up(Path(folder), rate, contracts, seed) as pipeline,
    ):

        def kill(draw: random.Random) -> tuple[str, int]:
            victim = draw.choice(pipeline.stages)
            pid = victim.end(signal.SIGKILL)
            victim.start()
            return victim.role, pid

        slowest_s = _kill_repeatedly(kills, seed, pipeline.client, pipeline.settings, kill)
        return _verdict(pipeline, slowest_s)


def _in_running(kills: int, settings: Settings, seed: int) -> int:
    """Chaos in the pipeline that is up: the processes of its heartbeats die, its supervisor starts them again."""
    client: Any = redis.Redis.from_url(find_url(settings.redis_url, settings.marketswarm_data))
    keys = keys_of(settings)
    print(f"chaos: seed {seed}, {kills} kills in the pipeline that is up")

    def kill(draw: random.Random) -> tuple[str, int]:
        found = _stage_processes(client, keys)
        role = draw.choice(sorted({role for role, _ in found}))
        pid = draw.choice([pid for of, pid in found if of == role])
        os.kill(pid, signal.SIGKILL)
        _wait(lambda: (role, pid) not in _stage_processes(client, keys), f"the end of {role} {pid}", RESUME_WITHIN_S)
        return role, pid

    _kill_repeatedly(kills, seed, client, settings, kill)
    audits = [run_audit(symbol, settings) for symbol in settings.massive_symbols]
    return max(audits)


def _stage_processes(client: Any, keys: Keys) -> list[tuple[str, int]]:
    """(stage, process id) of the stage processes alive on this machine."""
    bodies = [json.loads(body) for body in client.hgetall(keys.heartbeat()).values()]
    return sorted(
        (body["role"], body["pid"])
        for body in bodies
        if body["host"] == socket.gethostname() and body["role"] in set(StageName) and _is_alive(body["pid"])
    )


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _kill_repeatedly(
    kills: int, seed: int, client: Any, settings: Settings, kill: Callable[[random.Random], tuple[str, int]]
) -> float:
    """Kill and wait for the flow, `kills` times; the slowest resumption in seconds."""
    draw = random.Random(seed)
    _wait(lambda: _is_flowing(client, settings, {}), "the first events", START_WITHIN_S)
    slowest_s = 0.0
    for number in range(1, kills + 1):
        time.sleep(draw.uniform(*PAUSE_S))
        role, pid = kill(draw)
        before = _sequences(client, settings)

        def is_flowing(since: dict[str, int] = before) -> bool:
            return _is_flowing(client, settings, since)

        resumed_s = _wait(is_flowing, "the flow to resume", RESUME_WITHIN_S)
        slowest_s = max(slowest_s, resumed_s)
        print(f"kill {number:3}  {role:10} pid {pid:<8} flowing again after {resumed_s:5.2f} s", flush=True)
    return slowest_s


def _verdict(pipeline: Pipeline, slowest_s: float) -> int:
    # audited under load first, then compared with the fold once nothing moves
    failed = sum(run_audit(symbol, pipeline.settings) for symbol in SYMBOLS)
    pipeline.mock.end(signal.SIGTERM)
    quiet_s = _wait(lambda: _is_quiet(pipeline), "everything to be computed and published", QUIET_WITHIN_S)
    failed += sum(run_audit(symbol, pipeline.settings) for symbol in SYMBOLS)
    keys = keys_of(pipeline.settings)
    frames = pipeline.client.xlen(keys.ws_stream(SYMBOLS[0]))
    found = differences(pipeline.client, pipeline.settings)
    print(f"quiet after {quiet_s:.2f} s; slowest resume {slowest_s:.2f} s; {frames:,} frames folded in journal order")
    for problem in found[:20]:
        print(f"  {problem}")
    print("the state equals the fold" if not found else f"{len(found)} differences from the fold")
    return 1 if failed or found else 0


# --- the pipeline


@contextmanager
def pipeline_up(folder: Path, rate: int, contracts: int, seed: int) -> Iterator[Pipeline]:
    """Server, mock and stages as child processes; all are gone when the body ends."""
    port, mock_port = embedded.free_port(), embedded.free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("MASSIVE_", "MARKETSWARM_"))},
        "REDIS_URL": f"redis://127.0.0.1:{port}",
        "MASSIVE_API_KEY": "chaos",
        "MASSIVE_REST_URL": f"http://127.0.0.1:{mock_port}",
        "MASSIVE_WS_URL": f"ws://127.0.0.1:{mock_port}",
        "MASSIVE_SYMBOLS": ",".join(SYMBOLS),
        "MASSIVE_CHAIN_INTERVAL_SEC": "3",
        "MARKETSWARM_CLAIM_IDLE_MS": "1000",
        "MARKETSWARM_JOURNAL": "1",
        "MARKETSWARM_DATA": str(folder),
    }
    marketswarm = [sys.executable, "-m", "ops.cli"]
    mock = [*marketswarm, "mock", "--port", str(mock_port), "--seed", str(seed)]
    mock += ["--rate", str(rate), "--contracts", str(contracts)]
    pipeline = Pipeline(
        load_settings(environment),
        redis.Redis.from_url(environment["REDIS_URL"]),
        Process("server", embedded.command(folder, port), environment, folder / "server.log"),
        Process("mock", mock, environment, folder / "mock.log"),
        [
            Process(stage, [*marketswarm, "stage", stage], environment, folder / f"{stage}-{number}.log")
            for stage in StageName
            for number in range(PROCESSES_PER_STAGE)
        ],
    )
    try:
        pipeline.server.start()
        _wait(lambda: _answers(pipeline.client), "the server", START_WITHIN_S)
        for process in (pipeline.mock, *pipeline.stages):
            process.start()
        yield pipeline
    finally:
        for process in (*pipeline.stages, pipeline.mock, pipeline.server):
            if process.running is not None:
                process.running.kill()
                process.running.wait()


def _answers(client: Any) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def _sequences(client: Any, settings: Settings) -> dict[str, int]:
    """The diffs published of each symbol: the sum of its planes' counts."""
    keys = keys_of(settings)
    found = {}
    for symbol in settings.massive_symbols:
        epoch = (client.hget(keys.active(symbol), symbol) or b"").decode()
        levels = client.hgetall(keys.versions(epoch)) if epoch else {}
        found[symbol] = sum(int(count) for name, count in levels.items() if name.endswith(b"|diffs"))
    return found


def _is_flowing(client: Any, settings: Settings, before: dict[str, int]) -> bool:
    """Whether diffs of every symbol were published since."""
    return all(count > before.get(symbol, 0) + 3 for symbol, count in _sequences(client, settings).items())


def _is_quiet(pipeline: Pipeline) -> bool:
    """Whether every frame is in, and every plane published at the version of its quotes."""
    keys, client = keys_of(pipeline.settings), pipeline.client
    for stream, group in ((keys.ws_stream(SYMBOLS[0]), "staging"), (keys.chain_stream(SYMBOLS[0]), "staging")):
        last = client.xinfo_stream(stream)["last-generated-id"]
        (found,) = [one for one in client.xinfo_groups(stream) if one["name"] == group.encode()]
        if found["pending"] or found["last-delivered-id"] != last:
            return False
    for symbol in SYMBOLS:
        epoch = client.hget(keys.active(symbol), symbol).decode()
        levels = client.hgetall(keys.versions(epoch))
        planes = {name.split(b"|")[0] for name in levels if name.endswith(b"|quotes")}
        if any(levels[plane + b"|quotes"] != levels.get(plane + b"|published") for plane in planes):
            return False
    return True


def _wait(holds: Callable[[], bool], what: str, seconds: float) -> float:
    """Wait until it holds; how long that took. TimeoutError says what was waited for."""
    started = time.monotonic()
    while not holds():
        if time.monotonic() - started > seconds:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(0.02)
    return time.monotonic() - started
