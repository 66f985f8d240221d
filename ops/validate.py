"""`marketswarm validate`: is what is published what the shipped schemas say? Of a symbol in Redis, or of a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import redis
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from consumers.clients import hide_password
from contracts.errors import DataError, FatalError
from contracts.keys import Keys
from contracts.models import MESSAGES
from contracts.plan import STRATEGIES
from contracts.schemas import name_of, read_schema

STREAM_ENTRIES = 500  # the newest so many of a symbol's stream
MAX_PROBLEMS = 20


@dataclass
class Validated:
    """How many messages of each schema were validated, and what is wrong."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def check(self, where: str, name: str, body: bytes) -> None:
        """Validate one message as `name`."""
        self.counts[name] += 1
        try:
            message = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            self.problems.append(f"{where}: not JSON: {error}")
            return
        problem = problem_of(name, message)
        if problem is not None:
            self.problems.append(f"{where}: {problem}")


def problem_of(name: str, message: object) -> str | None:
    """What is wrong with a message of this schema, as `path: what`; None if nothing is."""
    found = best_match(_validator(name).iter_errors(message))
    if found is None:
        return None
    text = found.message if len(found.message) <= 200 else found.message[:200] + " ..."
    return f"{found.json_path}: {text}"


@cache
def _validator(name: str) -> Any:
    return Draft202012Validator(read_schema(name))


def validate_file(file: Path) -> Validated:
    """Validate a file: one message, or one a line; which, each tells itself."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error}") from error
    found = Validated()
    for where, body in _messages(file, content):
        try:
            name = name_of(orjson.loads(body))
        except orjson.JSONDecodeError as error:
            raise DataError(f"{where}: not JSON: {error}") from error
        if name is None:
            raise DataError(f"{where}: no published message; there are {', '.join(MESSAGES)}")
        found.check(where, name, body)
    return found


def _messages(file: Path, content: bytes) -> Iterator[tuple[str, bytes]]:
    try:
        orjson.loads(content)
        yield str(file), content
    except orjson.JSONDecodeError:
        lines = [line for line in content.splitlines() if line.strip()]
        if len(lines) < 2:
            yield str(file), content
            return
        yield from ((f"{file} line {number}", line) for number, line in enumerate(lines, 1))


def validate_symbol(redis_url: str, keys: Keys, symbol: str) -> Validated:
    """Validate every model of a symbol and the newest entries of its stream, as they are in Redis now."""
    client: Any = redis.Redis.from_url(redis_url, socket_timeout=30)
    found = Validated()
    try:
        for key, name in _models(keys, symbol):
            body = client.get(key)
            if body is not None:
                found.check(key, name, body)
        stream = keys.model_stream(symbol)
        for entry, fields in client.xrevrange(stream, "+", "-", count=STREAM_ENTRIES):
            name = fields.get(b"type", b"").decode("utf-8", "replace")
            if name in MESSAGES:
                found.check(f"{stream} {entry.decode()}", name, fields.get(b"data", b""))
            else:
                found.problems.append(f"{stream} {entry.decode()}: no schema for the type {name!r}")
    except redis.ConnectionError as error:
        raise FatalError(f"Redis at {hide_password(redis_url)} is not available: {error}") from None
    finally:
        client.close()
    if not found.counts:
        found.problems.append(f"nothing of {symbol} is published")
    return found


def _models(keys: Keys, symbol: str) -> Iterator[tuple[str, str]]:
    """Key and schema of every model."""
    for name in ("heatmap", "gex", "liquidity", "mode", "gravity"):
        yield keys.model(name, symbol), name
    for strategy in STRATEGIES:
        yield keys.heatmap_model(symbol, strategy), "heatmap"
    for side in ("calls", "puts"):
        yield keys.gex_model(symbol, side), "gex_side"


def report(what: str, found: Validated) -> int:
    """Print the result; the exit code."""
    counted = ", ".join(f"{count} {name}" for name, count in sorted(found.counts.items())) or "nothing"
    print(f"validate {what}: {counted}; {len(found.problems)} problems")
    for problem in found.problems[:MAX_PROBLEMS]:
        print(f"  {problem}")
    if len(found.problems) > MAX_PROBLEMS:
        print(f"  and {len(found.problems) - MAX_PROBLEMS} more")
    return 1 if found.problems else 0
