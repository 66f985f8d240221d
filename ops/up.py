"""`marketswarm up`: server, mock provider, stages and gateway under one supervisor, until Ctrl-C.

The supervisor runs the processes and starts again what dies; this module decides what runs, says how far it is,
shows what it does, and ends everything when a process says that a person must act.
"""

from __future__ import annotations

import fcntl
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from redis.exceptions import RedisError
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from consumers import embedded
from consumers.clients import hide_password
from contracts.errors import FatalError, MarketSwarmError, TransientError
from contracts.topology import StageName
from ops.child_logs import ChildLogs
from ops.database import open_database
from ops.joining import forget_environment, remember_environment
from ops.programs import PIPELINE, MockChoice, Plan, make_plan, reserved_mock_port
from ops.provider_key import load_settings_with_key
from ops.status import read_status, read_updates
from ops.supervision import Supervisor, SupervisorFiles, running_supervisor, write_config
from ops.terminal import status_line, status_view

POLL_S = 0.25
PATIENCE_S = 3.0
REDRAW_S = 1.0
LOG_EVERY_S = 10.0
MESSAGES_SHOWN = 5


def run_up(choice: MockChoice, environment: Mapping[str, str]) -> int:
    """Run the pipeline until it is told to stop; returns the exit code."""
    settings = load_settings_with_key(environment)
    data = settings.marketswarm_data
    with _sole_owner(data), reserved_mock_port() as port:
        stop_leftover_server(data)
        plan = make_plan(choice, settings, environment, port)
        files = SupervisorFiles(data)
        write_config(files, plan.programs)
        remember_environment(data, plan.environment, plan.redis_url)
        try:
            return _Run(plan, files).run()
        finally:
            forget_environment(data)


def run_down(data: Path) -> None:
    """Stop the pipeline of a data folder and whatever an earlier one left behind."""
    supervisor = running_supervisor(data)
    if supervisor is not None:
        supervisor.stop()
    left = stop_leftover_server(data)
    forget_environment(data)
    print("stopped" if supervisor or left else f"nothing is up in {data}")


@contextmanager
def _sole_owner(data: Path) -> Iterator[None]:
    """One `up` per data folder; FatalError says how to stop the other one."""
    data.mkdir(parents=True, exist_ok=True)
    with (data / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FatalError(f"the pipeline of {data} is up already; `marketswarm down` stops it") from None
        if running_supervisor(data) is not None:
            raise FatalError(f"the pipeline of {data} was left running; `marketswarm down` stops it")
        yield


def stop_leftover_server(data: Path) -> bool:
    """Stop the embedded server of this data folder if its supervisor died without stopping it."""
    url = embedded.remembered_url(data)
    if url is None:
        return False
    try:
        with open_database(url) as database:
            if embedded.folder_of(data).resolve() not in Path(database.config_get("dir").get("dir", "")).parents:
                return False  # somebody else's, on a port that was ours once
            database.shutdown()
    except (MarketSwarmError, RedisError):
        return False
    while _answers(url):
        sleep(0.05)
    return True


# --- the run


class _Stopped(Exception):  # noqa: N818 (no error: somebody asked)
    """A signal asked us to stop."""


class _Failed(Exception):  # noqa: N818 (told by its lines)
    """A process will not be started again; the arguments are the lines that say why."""


class _Run:
    """One run of the pipeline, from the first process to the last."""

    def __init__(self, plan: Plan, files: SupervisorFiles) -> None:
        self._plan = plan
        self._files = files
        self._logs = ChildLogs(files, [program.name for program in plan.programs])
        self._asked_to_stop = threading.Event()
        self._console = Console()
        self._updates = _Rate()

    def run(self) -> int:
        """Start, show, drain."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup means it
                signal.signal(number, lambda *_: self._asked_to_stop.set())
        code = 0
        supervisor = Supervisor.start(self._files, self._plan.environment)
        try:
            self._start(supervisor)
            self._show(supervisor)
        except _Stopped:
            pass
        except _Failed as failure:
            code = 1
            for line in failure.args:
                print(f"marketswarm: {line}", file=sys.stderr)
        finally:
            self._say("stopping", "every process finishes what it works on")
            supervisor.stop()
            stop_leftover_server(self._files.data)
        self._say("stopped", "data and models stay for the next start" if not code else "see above")
        return code

    # --- starting

    def _start(self, supervisor: Supervisor) -> None:
        plan = self._plan
        self._until(supervisor, self._server_answers)
        if plan.has_own_server:
            embedded.remember_url(self._files.data, plan.redis_url)
        self._say("server", _shown_url(plan))
        if plan.mock_url is not None:
            port = int(plan.mock_url.rpartition(":")[2])
            self._until(supervisor, lambda: _connects(port))
            self._say("provider", f"mock on {plan.mock_url}: no MASSIVE_API_KEY is set")
        else:
            self._say("provider", plan.settings.massive_rest_url)
        supervisor.start_group(PIPELINE)
        gateway = f"http://{plan.settings.marketswarm_host}:{plan.settings.marketswarm_port}"
        self._say("stages", f"{', '.join(StageName)}; gateway on {gateway}")
        before = self._symbols()
        for symbol in plan.settings.massive_symbols:
            row = self._when(supervisor, symbol, lambda row: row["epoch"] is not None)
            self._say("epoch", f"{row['epoch']} ({row['reason']}), {row['contracts']:,} contracts")
        for symbol in plan.settings.massive_symbols:
            seen = before[symbol]["seq"] or 0
            self._when(supervisor, symbol, partial(_is_past, seen))
            self._say("models", f"{symbol} live")

    def _symbols(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = read_status(self._plan.redis_url, self._plan.settings)["symbols"]
        return found

    def _when(self, supervisor: Supervisor, symbol: str, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The status of a symbol as soon as it is so."""
        row: dict[str, Any] = {}

        def holds() -> bool:
            row.update(self._symbols()[symbol])
            return is_so(row)

        self._until(supervisor, holds)
        return row

    def _server_answers(self) -> bool:
        with open_database(self._plan.redis_url) as database:
            return bool(database.ping())

    def _until(self, supervisor: Supervisor, is_done: Callable[[], bool]) -> None:
        """Wait for something, for ever; if Redis is away for more than a moment, say so once."""
        begun, told = monotonic(), False
        while True:
            try:
                if is_done():
                    return
            except TransientError as error:
                if not told and monotonic() - begun > PATIENCE_S:
                    told = True
                    self._say("waiting", str(error))
            self._watch(supervisor)

    # --- showing

    def _show(self, supervisor: Supervisor) -> None:
        if self._console.is_terminal:
            with Live(console=self._console, auto_refresh=False, transient=True) as live:
                self._repeat(supervisor, REDRAW_S, lambda status: self._draw(live, status))
        else:
            self._repeat(supervisor, LOG_EVERY_S, self._log)

    def _repeat(self, supervisor: Supervisor, every_s: float, act: Callable[[dict[str, Any] | str], None]) -> None:
        due = monotonic() + REDRAW_S  # the first tick has told the health by then
        while True:
            if monotonic() >= due:
                due += every_s
                try:
                    status = read_status(self._plan.redis_url, self._plan.settings)
                    self._updates.add(read_updates(self._plan.redis_url, self._plan.settings))
                    act(status)
                except TransientError as error:
                    act(str(error))
            self._watch(supervisor)

    def _draw(self, live: Live, status: dict[str, Any] | str) -> None:
        shown = Text(status) if isinstance(status, str) else status_view(status, self._updates.per_s)
        messages = [Text(line, style="yellow") for line in self._logs.newest(MESSAGES_SHOWN)]
        live.update(Group(shown, *messages, Text("Ctrl-C drains and stops", style="dim")), refresh=True)

    def _log(self, status: dict[str, Any] | str) -> None:
        self._say("status", status if isinstance(status, str) else status_line(status, self._updates.per_s))

    def _say(self, what: str, text: str) -> None:
        print(f"{what:<9} {text}", flush=True)

    # --- watching

    def _watch(self, supervisor: Supervisor) -> None:
        """Pass a moment; tell what processes complain about; raise when it is over."""
        if self._asked_to_stop.wait(POLL_S):
            raise _Stopped
        if not supervisor.is_alive():
            if supervisor.was_told_to_stop:
                raise _Stopped
            raise _Failed("the process supervisor was killed: every process stops")
        processes = supervisor.processes()
        for process in processes:
            if process.has_failed:
                raise _Failed(*self._logs.last_words(process.name))
        for line in [*self._logs.note_restarts(processes), *self._logs.read_new()]:
            if not self._console.is_terminal:
                self._say("warning", line)


def _is_past(seq: int, row: Mapping[str, Any]) -> bool:
    return (row["seq"] or 0) > seq


class _Rate:
    """Change per second of a counter."""

    def __init__(self) -> None:
        self.per_s: float | None = None
        self._before: tuple[float, int] | None = None

    def add(self, count: int) -> None:
        """The counter stands at `count` now."""
        now = monotonic()
        if self._before is not None:
            self.per_s = max(0, count - self._before[1]) / (now - self._before[0])
        self._before = (now, count)


def _shown_url(plan: Plan) -> str:
    kind = f"embedded Valkey, data in {plan.settings.marketswarm_data}" if plan.has_own_server else "REDIS_URL"
    return f"{hide_password(plan.redis_url)} ({kind})"


def _connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _answers(url: str) -> bool:
    try:
        with open_database(url) as database:
            return bool(database.ping())
    except (MarketSwarmError, RedisError):
        return False
