"""The process supervisor of `marketswarm up`: supervisord, run as a child, talked to over a UNIX socket.

Everything lives in the data folder: configuration, process id, socket and rotated logs. Secrets travel in the
environment only, never in the configuration.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from configparser import RawConfigParser
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from xmlrpc.client import Error as CallError
from xmlrpc.client import ServerProxy

from supervisor.xmlrpc import SupervisorTransport

from contracts.errors import FatalError

EXIT_FATAL = 2  # a child that ends so is not started again (`ops/cli.py`)

_SOCKET_PATH_BYTES = 90  # the system's limit is 107, and supervisord appends its process id for a moment
_START_S = 15.0
_STOP_S = 90.0


@dataclass(frozen=True, slots=True)
class Program:
    """One supervised process.

    Lower `priority` starts first and stops last; programs of one `group` start when told to, and stop together.
    With `settle_s` a process that ends sooner counts as failed, and after three failures it is given up.
    """

    name: str
    command: Sequence[str]
    priority: int
    group: str = ""
    settle_s: int = 0
    stop_s: int = 10


@dataclass(frozen=True, slots=True)
class ProcessState:
    """What the supervisor says of a process; `exit_code` is that of its last run."""

    name: str
    state: str
    pid: int
    exit_code: int

    @property
    def has_failed(self) -> bool:
        """It will not be started again: a person must fix something, or it never got up."""
        return self.state == "FATAL" or (self.state == "EXITED" and self.exit_code == EXIT_FATAL)


@dataclass(frozen=True, slots=True)
class SupervisorFiles:
    """Where the supervisor of a data folder keeps its things."""

    data: Path

    @property
    def config(self) -> Path:
        """Its configuration."""
        return self.data / "supervisord.conf"

    @property
    def pid(self) -> Path:
        """Its process id."""
        return self.data / "supervisord.pid"

    @property
    def logs(self) -> Path:
        """The folder of all logs."""
        return self.data / "logs"

    @property
    def socket(self) -> Path:
        """Its socket: in the data folder, or in the temporary folder when that path is too long for a socket."""
        path = self.data.resolve() / "supervisord.sock"
        if len(os.fsencode(path)) <= _SOCKET_PATH_BYTES:
            return path
        digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"marketswarm-{os.getuid()}-{digest}.sock"

    def log(self, program: str, stream: str) -> Path:
        """The log of a program's `stdout` or `stderr`."""
        return self.logs / f"{program}.{stream}.log"


def write_config(files: SupervisorFiles, programs: Sequence[Program]) -> None:
    """Write the configuration for these programs."""
    config = RawConfigParser(interpolation=None)
    config["supervisord"] = {
        "nodaemon": "true",
        "silent": "true",
        "logfile": _quoted(files.logs.resolve() / "supervisord.log"),
        "logfile_maxbytes": "2MB",
        "logfile_backups": "1",
        "pidfile": _quoted(files.pid.resolve()),
        "childlogdir": _quoted(files.logs.resolve()),
    }
    config["unix_http_server"] = {"file": _quoted(files.socket), "chmod": "0700"}
    factory = "supervisor.rpcinterface:make_main_rpcinterface"
    config["rpcinterface:supervisor"] = {"supervisor.rpcinterface_factory": factory}
    for program in programs:
        config[f"program:{program.name}"] = _program(files, program)
    for group in {program.group: None for program in programs if program.group}:
        members = [program for program in programs if program.group == group]
        config[f"group:{group}"] = {
            "programs": ",".join(program.name for program in members),
            "priority": str(members[0].priority),
        }
    files.logs.mkdir(parents=True, exist_ok=True)
    with files.config.open("w", encoding="utf-8") as target:
        config.write(target)


def _program(files: SupervisorFiles, program: Program) -> dict[str, str]:
    logs = {
        f"{stream}_{name}": value
        for stream in ("stdout", "stderr")
        for name, value in (
            ("logfile", _quoted(files.log(program.name, stream).resolve())),
            ("logfile_maxbytes", "5MB"),
            ("logfile_backups", "2"),
        )
    }
    return {
        "command": _quoted(shlex.join(program.command)),
        "priority": str(program.priority),
        "autostart": "false" if program.group else "true",
        # every end is unexpected but the one that says "a person must act"
        "autorestart": "unexpected",
        "exitcodes": str(EXIT_FATAL),
        "startsecs": str(program.settle_s),
        "startretries": "3",
        "stopsignal": "TERM",
        "stopwaitsecs": str(program.stop_s),
        **logs,
    }


def _quoted(value: str | Path) -> str:
    return str(value).replace("%", "%%")


class Supervisor:
    """A running supervisord; every call raises FatalError when it does not answer."""

    def __init__(self, files: SupervisorFiles, child: subprocess.Popen[bytes] | None = None) -> None:
        self._files = files
        self._child = child
        transport = SupervisorTransport(None, None, f"unix://{files.socket}")
        self._calls: Any = ServerProxy("http://127.0.0.1", transport=transport)

    @classmethod
    def start(cls, files: SupervisorFiles, environment: Mapping[str, str]) -> Supervisor:
        """Start supervisord in a session of its own, so that Ctrl-C reaches it through us only."""
        complaints = files.logs / "supervisord.err"
        with complaints.open("wb") as errors:
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", "supervisor.supervisord", "-n", "-c", str(files.config.resolve())],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
        supervisor = cls(files, child)
        deadline = monotonic() + _START_S
        while supervisor.pid() is None:
            if child.poll() is not None or monotonic() > deadline:
                supervisor.stop()
                raise FatalError(f"the process supervisor did not start: {_last_line(complaints)}")
            sleep(0.05)
        return supervisor

    def pid(self) -> int | None:
        """Its process id if it answers."""
        try:
            pid: int = self._call("getPID")
        except FatalError:
            return None
        return pid

    def is_alive(self) -> bool:
        """Whether it still runs; for one we did not start, whether it answers."""
        return self.pid() is not None if self._child is None else self._child.poll() is None

    @property
    def was_told_to_stop(self) -> bool:
        """Whether it ended in good order, as `marketswarm down` makes it."""
        return self._child is not None and self._child.poll() == 0

    def processes(self) -> list[ProcessState]:
        """The state of every process; none while it is just ending."""
        try:
            rows = self._call("getAllProcessInfo")
        except FatalError:
            return []
        return [ProcessState(row["name"], row["statename"], row["pid"], row["exitstatus"]) for row in rows]

    def start_group(self, group: str) -> None:
        """Start the programs of a group."""
        self._call("startProcessGroup", group, False)

    def stop(self) -> None:
        """Stop every process, then supervisord; returns when all are gone."""
        pid = self._child.pid if self._child else self.pid()
        if pid is None or not self.is_alive():
            return
        os.kill(pid, signal.SIGTERM)
        deadline = monotonic() + _STOP_S
        while self._is_there(pid):
            if monotonic() > deadline:
                raise FatalError(f"process {pid} (supervisord) does not stop; its log is in {self._files.logs}")
            sleep(0.1)

    def _is_there(self, pid: int) -> bool:
        if self._child is not None:
            return self._child.poll() is None
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True

    def _call(self, name: str, *arguments: object) -> Any:
        try:
            return getattr(self._calls.supervisor, name)(*arguments)
        except (OSError, HTTPException, CallError) as error:
            self._calls("close")()  # the next call connects anew
            raise FatalError(f"the process supervisor does not answer: {error}") from None


def running_supervisor(data: Path) -> Supervisor | None:
    """The supervisor of a data folder if one is alive."""
    supervisor = Supervisor(SupervisorFiles(data))
    return supervisor if supervisor.pid() is not None else None


def _last_line(file: Path) -> str:
    lines = file.read_text(errors="replace").split("\n") if file.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "no reason given")
