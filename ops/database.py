"""The synchronous client of the inspectors (`status`, `epochs`, `parked`): walrus over redis-py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis.backoff import NoBackoff
from redis.retry import Retry
from walrus import Database

from consumers.clients import CONNECT_TIMEOUT_S, SOCKET_TIMEOUT_S, faults_named, hide_password
from contracts.errors import FatalError


@contextmanager
def open_database(redis_url: str) -> Iterator[Any]:
    """A walrus Database while the body runs; faults of the server become TransientError or FatalError."""
    try:
        database = Database.from_url(
            redis_url,
            protocol=2,
            socket_timeout=SOCKET_TIMEOUT_S,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            client_name="marketswarm-inspect",
        )
    except ValueError as error:
        raise FatalError(f"REDIS_URL={hide_password(redis_url)!r}: {error}") from None
    try:
        with faults_named(redis_url):
            yield database
    finally:
        database.close()
