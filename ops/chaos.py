"""`make chaos`: kill -9 under load, over and over, with a seed, a verdict and an oracle.

One after the other, a random stage process dies by SIGKILL at a random moment and is started again; after each kill
the flow must resume. A pipeline that is up (on this machine) is used as it is: its supervisor restarts what was killed,
and at the end the audit must be clean. Without one, chaos brings its own: a fresh embedded server with the journal on,
the mock provider, two processes of each stage. Then the feed stops at the end, and the state must also equal the fold
of the recorded inputs in journal order.

A *soak* is the same for a time instead of a number of kills, always in a pipeline of its own: kills and operators'
orders at fixed intervals, then the same verdict.
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
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from consumers import embedded
from consumers.embedded import find_url
from contracts.errors import FatalError
from contracts.keys import PARKED_SUFFIX, Keys, Stat
from contracts.messages import EpochForce, encode
from contracts.settings import Settings, load_settings
from contracts.topology import StageName
from ops.audit import run_audit
from ops.oracle import differences
from ops.wiring import keys_of

PROCESSES: dict[StageName, int] = dict.fromkeys(StageName, 2)
RESUME_WITHIN_S = 15.0
QUIET_WITHIN_S = 120.0
START_WITHIN_S = 60.0
PAUSE_S = (0.05, 1.2)  # between kills
SYMBOLS = ("SPX", "NDX")


@dataclass(frozen=True)
class Load:
    """What a pipeline of its own has to bear: quote events per second over all symbols, contracts per symbol."""

    rate: int = 5000
    contracts: int = 1000
    processes: Mapping[StageName, int] = field(default_factory=lambda: PROCESSES)


@dataclass(frozen=True)
class Soak:
    """For how long, and how often (seconds) a process is killed and every symbol's epoch is forced; 0 is never."""

    seconds: float
    kill_every_s: float
    force_every_s: float


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


def run_chaos(kills: int, settings: Settings, load: Load, seed: int = 1) -> int:
    """Kill `kills` times in the pipeline that is up, or else in one of its own; returns the exit code."""
    return _in_running(kills, settings, seed) if _is_up(settings) else run_own(kills, seed, load)


def _is_up(settings: Settings) -> bool:
    try:
        url = find_url(settings.redis_url, settings.marketswarm_data)
        return bool(_stage_processes(redis.Redis.from_url(url), keys_of(settings)))
    except (FatalError, redis.ConnectionError):
        return False


def run_own(kills: int, seed: int = 1, load: Load | None = None) -> int:
    """Chaos in a pipeline of its own, compared with the fold at the end."""
    load = load or Load()
    print(f"chaos: seed {seed}, {kills} kills, {_told(load)}")
    with _own_pipeline(load, seed) as pipeline:
        kill = _killer(pipeline)
        slowest_s = _kill_repeatedly(kills, seed, pipeline.client, pipeline.settings, kill)
        return _verdict(pipeline, slowest_s)


def run_soak(soak: Soak, load: Load, seed: int = 1) -> int:
    """Kills and orders at their intervals for a time, in a pipeline of its own, compared with the fold at the end."""
    print(
        f"soak: seed {seed}, {soak.seconds:g} s, a kill every {soak.kill_every_s:g} s, "
        f"an order every {soak.force_every_s:g} s, {_told(load)}"
    )
    with _own_pipeline(load, seed) as pipeline:
        _wait(lambda: _is_flowing(pipeline.client, pipeline.settings, {}), "the first events", START_WITHIN_S)
        with _ordering(pipeline, soak.force_every_s):
            slowest_s = _kill_in_time(pipeline, soak, random.Random(seed))
        return _verdict(pipeline, slowest_s)


def _told(load: Load) -> str:
    counts = ", ".join(f"{count} {stage}" for stage, count in load.processes.items())
    return f"{load.rate:,} events/s, {load.contracts:,} contracts a symbol, processes: {counts}"


@contextmanager
def _own_pipeline(load: Load, seed: int) -> Iterator[Pipeline]:
    with (
        tempfile.TemporaryDirectory(prefix="marketswarm-chaos-") as folder,
        pipeline_up(Path(folder), load, seed) as pipeline,
    ):
        yield pipeline


def _killer(pipeline: Pipeline) -> Callable[[random.Random], tuple[str, int]]:
    def kill(draw: random.Random) -> tuple[str, int]:
        victim = draw.choice(pipeline.stages)
        pid = victim.end(signal.SIGKILL)
        victim.start()
        return victim.role, pid

    return kill


def _kill_in_time(pipeline: Pipeline, soak: Soak, draw: random.Random) -> float:
    """Kill at fixed times until the soak is over; the slowest resumption in seconds."""
    kill, started = _killer(pipeline), time.monotonic()
    slowest_s, number = 0.0, 0
    while soak.kill_every_s and (number + 1) * soak.kill_every_s < soak.seconds:
        number += 1
        time.sleep(max(0.0, started + number * soak.kill_every_s - time.monotonic()))
        slowest_s = max(slowest_s, _kill_once(number, draw, pipeline.client, pipeline.settings, kill))
    time.sleep(max(0.0, started + soak.seconds - time.monotonic()))
    return slowest_s


@contextmanager
def _ordering(pipeline: Pipeline, every_s: float) -> Iterator[None]:
    """While the body runs, an operator forces every symbol's epoch again and again."""
    keys, over = keys_of(pipeline.settings), threading.Event()
    client: Any = redis.Redis.from_url(pipeline.settings.redis_url or "")

    def order() -> None:
        number = 0
        while not over.wait(every_s):
            number += 1
            for symbol in SYMBOLS:
                message = EpochForce(symbol, f"soak-{number}", time.time())
                client.xadd(keys.chain_stream(symbol), encode(message))

    operator = threading.Thread(target=order, daemon=True)
    if every_s:
        operator.start()
    try:
        yield
    finally:
        over.set()
        if every_s:
            operator.join()
        client.close()


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
        slowest_s = max(slowest_s, _kill_once(number, draw, client, settings, kill))
    return slowest_s


def _kill_once(
    number: int, draw: random.Random, client: Any, settings: Settings, kill: Callable[[random.Random], tuple[str, int]]
) -> float:
    """Kill a process; seconds until every symbol was published again."""
    role, pid = kill(draw)
    before = _sequences(client, settings)
    resumed_s = _wait(lambda: _is_flowing(client, settings, before), "the flow to resume", RESUME_WITHIN_S)
    print(f"kill {number:3}  {role:10} pid {pid:<8} flowing again after {resumed_s:5.2f} s", flush=True)
    return resumed_s


def _verdict(pipeline: Pipeline, slowest_s: float) -> int:
    # audited under load first, then compared with the fold once nothing moves
    failed = sum(run_audit(symbol, pipeline.settings, is_loaded=True) for symbol in SYMBOLS)
    pipeline.mock.end(signal.SIGTERM)
    quiet_s = _wait(lambda: _is_quiet(pipeline), "everything to be computed and published", QUIET_WITHIN_S)
    failed += sum(run_audit(symbol, pipeline.settings) for symbol in SYMBOLS)
    _print_facts(pipeline, quiet_s, slowest_s)
    started = time.monotonic()
    found = differences(pipeline.client, pipeline.settings)
    print(f"folded in {time.monotonic() - started:.1f} s")
    for problem in found[:20]:
        print(f"  {problem}")
    print("the state equals the fold" if not found else f"{len(found)} differences from the fold")
    return 1 if failed or found else 0


def _print_facts(pipeline: Pipeline, quiet_s: float, slowest_s: float) -> None:
    """What happened, by the pipeline's own counters."""
    keys, client = keys_of(pipeline.settings), pipeline.client
    hydrate = client.hgetall(keys.analytics(Stat.HYDRATE, SYMBOLS[0]))
    epochs = client.hgetall(keys.analytics(Stat.EPOCH, SYMBOLS[0]))
    reasons = {name.decode(): int(count) for name, count in epochs.items() if name.startswith(b"promotions_")}
    parked = sum(client.xlen(name) for name in client.scan_iter("*" + PARKED_SUFFIX, count=1000))
    frames = client.xlen(keys.ws_stream(SYMBOLS[0]))
    print(f"quiet after {quiet_s:.2f} s; slowest resume {slowest_s:.2f} s; {frames:,} frames in journal order")
    print(
        f"{int(hydrate[b'events']):,} events: {int(hydrate.get(b'applied', 0)):,} applied, "
        f"{int(hydrate.get(b'older', 0)):,} older; {parked} entries parked; "
        + ", ".join(f"{count} {name}" for name, count in sorted(reasons.items()))
    )


# --- the pipeline


@contextmanager
def pipeline_up(folder: Path, load: Load, seed: int) -> Iterator[Pipeline]:
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
    mock += ["--rate", str(load.rate), "--contracts", str(load.contracts)]
    pipeline = Pipeline(
        load_settings(environment),
        redis.Redis.from_url(environment["REDIS_URL"]),
        Process("server", embedded.command(folder, port), environment, folder / "server.log"),
        Process("mock", mock, environment, folder / "mock.log"),
        [
            Process(stage, [*marketswarm, "stage", stage], environment, folder / f"{stage}-{number}.log")
            for stage in StageName
            for number in range(load.processes[stage])
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
    """How many events were published of each symbol."""
    keys = keys_of(settings)
    return {symbol: int(client.hget(keys.model_state(symbol), "seq") or 0) for symbol in settings.massive_symbols}


def _is_flowing(client: Any, settings: Settings, before: dict[str, int]) -> bool:
    """Whether every symbol was published since: more than the two events of a tick."""
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
