"""The file of rules, read again when it changes. A broken file keeps the last good rules and says what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import structlog

from contracts.errors import DataError
from ops.alerts.rules import AnyRule, parse_rules

log = structlog.get_logger("alerts")

MOST_BYTES = 256 * 1024


class RuleFile:
    """The rules in force. Without a path there are none."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.rules: tuple[AnyRule, ...] = ()
        self.problem: str | None = None
        self.is_loaded = False  # whether a good file was ever read
        self._text: str | None = None  # as read last, good or not

    def refresh(self) -> None:
        """Read the file if there is one; rules change only when all of it is good."""
        if self.path is None:
            return
        try:
            text = read_text(self.path)
        except DataError as error:
            self._refuse(str(error))
            self._text = None
            return
        if text == self._text:
            return
        self._text = text
        try:
            self.rules = parse_rules(text)
        except DataError as error:
            self._refuse(str(error))
            return
        self.problem, self.is_loaded = None, True
        log.info("alert_rules", rules=len(self.rules), file=str(self.path))

    def summary(self) -> dict[str, Any]:
        """The rules for anybody to see: what they call is a secret."""
        rules = [
            {name: value for name, value in msgspec.to_builtins(rule).items() if name != "webhook"}
            for rule in self.rules
        ]
        return {"rules": rules, "problem": self.problem}

    def _refuse(self, problem: str) -> None:
        if problem != self.problem:
            log.warning("alert_rules_refused", file=str(self.path), reason=problem, kept=len(self.rules))
        self.problem = problem


def read_text(path: Path) -> str:
    """The text of a file of rules; `DataError` when it cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}") from None
    if len(data) > MOST_BYTES:
        raise DataError(f"larger than {MOST_BYTES} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise DataError("not UTF-8") from None


def check_file(path: Path) -> tuple[AnyRule, ...]:
    """The rules of a file for `marketswarm alerts check`; `DataError` says what is wrong."""
    try:
        return parse_rules(read_text(path))
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
