"""The one place that builds Redis clients.

Two kinds, because streams need what other commands must not have: a `stream` client never retries by itself (a
silent retry writes an entry twice, or strands entries whose reply was lost) and waits longer than it blocks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ConnectionError,  # noqa: A004 (redis-py's own)
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,  # noqa: A004 (redis-py's own)
    TryAgainError,
)

from contracts.errors import FatalError, TransientError

T = TypeVar("T")

BLOCK_MS = 1000
SOCKET_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 2.0

_PASSING = ("NOGROUP", "UNBLOCKED", "UNKILLABLE", "BUSY", "MISCONF", "NOREPLICAS", "CLUSTERDOWN")
_AWAY = (
    ConnectionError,
    TimeoutError,
    BusyLoadingError,
    ReadOnlyError,
    MasterDownError,
    TryAgainError,
    OutOfMemoryError,
)


def connect(redis_url: str) -> Redis:
    """A client for commits and reads. It does not retry: the runner decides what may be done again."""
    try:
        return Redis.from_url(
            redis_url,
            protocol=2,
            socket_timeout=SOCKET_TIMEOUT_S,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_read_size=1 << 20,
            retry=Retry(NoBackoff(), 0),
            client_name="marketswarm",
        )
    except ValueError as error:
        raise FatalError(f"REDIS_URL={hide_password(redis_url)!r}: {error}") from None


def connect_reader(redis_url: str) -> Redis:
    """A client for one blocking reader: a connection of its own, since a cancelled blocking read poisons it."""
    client = connect(redis_url)
    client.connection_pool.max_connections = 1
    return client


def hide_password(redis_url: str) -> str:
    """The URL without its password, for messages and logs."""
    head, at, tail = redis_url.rpartition("@")
    return f"{head.split('://', 1)[0]}://***@{tail}" if at else redis_url


@contextmanager
def faults_named(redis_url: str) -> Iterator[None]:
    """Name errors of the server by who must act."""
    try:
        yield
    except (AuthenticationError, AuthorizationError) as error:
        raise FatalError(f"Redis at {hide_password(redis_url)} refuses the login: {error}; check REDIS_URL") from error
    except NoPermissionError as error:
        where = hide_password(redis_url)
        raise FatalError(
            f"Redis at {where}: {error}; `marketswarm acl` prints what the gateway's user needs"
        ) from error
    except _AWAY as error:
        raise TransientError(f"Redis at {hide_password(redis_url)} is not available: {error}") from error
    except ResponseError as error:
        if str(error).startswith(_PASSING):
            raise TransientError(f"Redis: {error}") from error
        raise


class Commands:
    """A client for commands: their faults are named, and no cancellation interrupts one."""

    def __init__(self, redis_url: str) -> None:
        self.url = redis_url
        # replies are checked where they are used; redis-py types every shape a reply might have under any option
        self.client: Any = connect(redis_url)

    async def ask(self, command: Awaitable[T]) -> T:
        """The reply to a command (or a pipeline of them) of `client`."""
        with faults_named(self.url):
            return await uninterrupted(command)

    async def close(self) -> None:
        """Close every connection."""
        await self.client.aclose()


async def uninterrupted(command: Awaitable[T]) -> T:
    """Wait for a command in a task of its own: a cancellation ends the waiting, never the command.

    Measured with redis-py 8.1 on Python 3.11: a cancelled command now and then ends with a result or a connection
    error, and the task that was told to end goes on for ever. A command left alone also keeps its connection sound.
    """
    task = asyncio.ensure_future(command)
    task.add_done_callback(_retrieved)
    return await asyncio.shield(task)


def _retrieved(task: asyncio.Future[T]) -> None:
    if not task.cancelled():
        task.exception()
