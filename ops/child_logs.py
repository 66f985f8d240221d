"""What supervised processes complain about, taken from their logs as they write them."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from time import monotonic

from ops.supervision import ProcessState, SupervisorFiles

_LOUD = frozenset(("warning", "error", "critical"))
_OWN_PREFIX = "marketswarm: "
_TAIL_BYTES = 8192
_KEPT = 50
_AGAIN_S = 60.0  # the same complaint is told again only after this


class ChildLogs:
    """Follows the error output of processes, from its end when this was made."""

    def __init__(self, files: SupervisorFiles, programs: Sequence[str], clock: Callable[[], float] = monotonic) -> None:
        self._files = files
        self._clock = clock
        self._read_to = {name: self._size(name) for name in programs}
        self._told: dict[tuple[str, str], float] = {}  # process and reason -> when
        self._newest: deque[str] = deque(maxlen=_KEPT)
        self._pids: dict[str, int] = {}
        self._words: dict[str, list[str]] = {}  # what a process said to a person, before it ended

    def note_restarts(self, processes: Iterable[ProcessState]) -> list[str]:
        """Processes that ended and were started again since the last call, with what they said."""
        found = []
        for process in processes:
            before = self._pids.get(process.name)
            if process.pid and before != process.pid:
                self._pids[process.name] = process.pid
                words = self._words.pop(process.name, [])
                if before is not None:
                    found.append(": ".join([f"{process.name}: ended and was started again", *words]))
        self._newest.extend(found)
        return found

    def read_new(self) -> list[str]:
        """Complaints since the last call, each with the name of its process; one reason at most once a minute."""
        found = []
        for name in self._read_to:
            for line in self._new_lines(name):
                if line.startswith(_OWN_PREFIX):
                    self._words.setdefault(name, []).append(line.removeprefix(_OWN_PREFIX))
                    continue
                complaint = _complaint(line)
                if complaint and self._is_news(name, complaint.reason or complaint.event):
                    found.append(f"{name}: {complaint}")
        self._newest.extend(found)
        return found

    def _is_news(self, name: str, reason: str) -> bool:
        now = self._clock()
        self._told = {known: when for known, when in self._told.items() if now - when < _AGAIN_S}
        if (name, reason) in self._told:
            return False
        self._told[name, reason] = now
        return True

    def newest(self, count: int) -> list[str]:
        """The newest complaints read so far."""
        return list(self._newest)[-count:]

    def last_words(self, name: str) -> list[str]:
        """Why a process ended: the lines it said last, with its name before them."""
        for stream in ("stderr", "stdout"):
            lines = [line for line in self._tail(name, stream).splitlines() if line.strip()]
            own = list(_trailing_own(lines))
            if own or lines:
                return [f"{name}: {line}" for line in own or [str(_complaint(lines[-1]) or lines[-1].strip())]]
        return [f"{name} ended without a word; its logs are in {self._files.logs}"]

    def _size(self, name: str) -> int:
        file = self._files.log(name, "stderr")
        return file.stat().st_size if file.exists() else 0

    def _new_lines(self, name: str) -> list[str]:
        size = self._size(name)
        start = self._read_to[name] if self._read_to[name] <= size else 0  # rotated meanwhile
        if size == start:
            return []
        with self._files.log(name, "stderr").open("rb") as file:
            file.seek(start)
            text = file.read()
        whole = text.rfind(b"\n") + 1
        self._read_to[name] = start + whole
        return text[:whole].decode(errors="replace").splitlines()

    def _tail(self, name: str, stream: str) -> str:
        file = self._files.log(name, stream)
        if not file.exists():
            return ""
        with file.open("rb") as source:
            source.seek(max(0, file.stat().st_size - _TAIL_BYTES))
            return source.read().decode(errors="replace")


def _trailing_own(lines: Sequence[str]) -> Iterable[str]:
    """The lines at the end that a command of ours printed because a person must act."""

    def backwards() -> Iterator[str]:
        for line in reversed(lines):
            if not line.startswith(_OWN_PREFIX):
                return
            yield line.removeprefix(_OWN_PREFIX)

    return reversed(list(backwards()))


@dataclass(frozen=True, slots=True)
class _Complaint:
    event: str
    reason: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.event, self.reason) if part)


def _complaint(line: str) -> _Complaint | None:
    """What a log line complains about, if it does."""
    try:
        event = json.loads(line)
    except ValueError:
        # not one of our events: an error said in plain words, or the last line of a traceback
        plain = line.rstrip()
        is_trace = not plain or plain[0].isspace() or plain.startswith("Traceback")
        return None if is_trace else _Complaint("", plain)
    if not isinstance(event, dict) or event.get("level") not in _LOUD:
        return None
    reasons = [str(event[name]) for name in ("reason", "error", "exception") if event.get(name)]
    return _Complaint(str(event.get("event", "")), ": ".join(reasons))
