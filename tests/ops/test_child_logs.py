"""What `up` passes on of its processes' error output: complaints, once a minute each, and last words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ops.child_logs import ChildLogs
from ops.supervision import ProcessState, SupervisorFiles


class Scene:
    """A process that writes, and who follows it; time passes by hand."""

    def __init__(self, data: Path) -> None:
        self.files = SupervisorFiles(data)
        self.files.logs.mkdir()
        self.now = 1000.0
        self.write("an error of an earlier run")
        self.logs = ChildLogs(self.files, ["massive"], clock=lambda: self.now)

    def write(self, line: str, end: str = "\n") -> None:
        """The process writes a line."""
        with self.files.log("massive", "stderr").open("a") as target:
            target.write(line + end)

    def event(self, level: str, event: str, **facts: object) -> None:
        """The process logs an event."""
        self.write(json.dumps({"level": level, "event": event, **facts}))


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A process with a log of an earlier run."""
    return Scene(tmp_path)


def test_complaints_are_told_and_the_rest_is_not(scene: Scene) -> None:
    scene.event("info", "started")
    scene.event("warning", "waiting", reason="provider is away")
    scene.event("error", "broken")
    assert scene.logs.read_new() == ["massive: waiting: provider is away", "massive: broken"]
    assert scene.logs.read_new() == []
    assert scene.logs.newest(1) == ["massive: broken"]


def test_one_reason_is_told_once_a_minute_whatever_says_it(scene: Scene) -> None:
    for _ in range(3):
        scene.event("warning", "waiting", reason="provider is away")
        scene.event("warning", "clock_unknown", reason="provider is away")
        scene.event("warning", "feed_lost", reason="socket is away")
    assert scene.logs.read_new() == ["massive: waiting: provider is away", "massive: feed_lost: socket is away"]
    scene.now += 61
    scene.event("warning", "waiting", reason="provider is away")
    assert scene.logs.read_new() == ["massive: waiting: provider is away"]


def test_of_a_traceback_the_last_line_is_told(scene: Scene) -> None:
    scene.write('Traceback (most recent call last):\n  File "x.py", line 1, in f\n    f()\nValueError: no')
    assert scene.logs.read_new() == ["massive: ValueError: no"]


def test_half_a_line_waits_for_its_end(scene: Scene) -> None:
    scene.write("something is", end="")
    assert scene.logs.read_new() == []
    scene.write(" wrong")
    assert scene.logs.read_new() == ["massive: something is wrong"]


def test_a_rotated_log_is_read_from_its_start(scene: Scene) -> None:
    scene.files.log("massive", "stderr").write_text("new log\n")
    assert scene.logs.read_new() == ["massive: new log"]


def test_words_to_a_person_are_last_words_or_come_with_the_restart(scene: Scene) -> None:
    scene.logs.note_restarts([ProcessState("massive", "RUNNING", 11, 0)])
    scene.event("info", "started")
    scene.write("marketswarm: first\nmarketswarm: second")
    assert scene.logs.read_new() == []
    assert scene.logs.last_words("massive") == ["massive: first", "massive: second"]
    restarted = scene.logs.note_restarts([ProcessState("massive", "RUNNING", 12, 0)])
    assert restarted == ["massive: ended and was started again: first: second"]
    assert scene.logs.note_restarts([ProcessState("massive", "RUNNING", 12, 0)]) == []


def test_last_words_of_a_process_without_any_name_the_logs(scene: Scene) -> None:
    assert str(scene.files.logs) in scene.logs.last_words("gateway")[0]
