"""The server of the tests, and what most tests ask for.

Which server: `REDIS_URL` if set (it must be empty, for every test flushes it); else a container when TEST_CONTAINERS=1
(image: TEST_REDIS_IMAGE, default redis:7); else the embedded Valkey. A server that does not start fails the session:
tests that need one are never skipped.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from consumers import embedded
from contracts.keys import Keys
from contracts.settings import Settings, load_settings
from tests.leaks import leaks_of
from tests.waiting import wait_until

START_TIMEOUT_S = 60.0


def _answers(url: str) -> bool:
    client: Any = redis.Redis.from_url(url)
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()


@contextmanager
def _embedded_server() -> Iterator[str]:
    port = embedded.free_port()
    with tempfile.TemporaryDirectory(prefix="test-server-") as folder:
        # nothing of a test needs to outlive it, so the log is off
        command = [*embedded.command(Path(folder), port), "--appendonly", "no"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
            try:
                yield f"redis://127.0.0.1:{port}/0"
            finally:
                server.terminate()


@contextmanager
def _container_server(image: str) -> Iterator[str]:
    from testcontainers.core.container import DockerContainer

    with DockerContainer(image).with_exposed_ports(6379) as container:
        yield f"redis://{container.get_container_host_ip()}:{container.get_exposed_port(6379)}/0"


@contextmanager
def _given_server(url: str) -> Iterator[str]:
    yield url


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """A server for the whole session."""
    given = os.environ.get("REDIS_URL", "")
    image = os.environ.get("TEST_REDIS_IMAGE", "redis:7")
    if given:
        kind, server = f"REDIS_URL={given}", _given_server(given)
    elif os.environ.get("TEST_CONTAINERS") == "1":
        kind, server = f"a container of {image} (TEST_CONTAINERS=1)", _container_server(image)
    else:
        kind, server = "the embedded Valkey", _embedded_server()
    try:
        url = server.__enter__()
        wait_until(lambda: _answers(url), f"{kind} answers", START_TIMEOUT_S)
    except (Exception, AssertionError) as error:
        server.__exit__(type(error), error, error.__traceback__)
        pytest.exit(f"no server for the tests: {kind} did not start: {error}", returncode=3)
    try:
        if given:
            _refuse_unless_empty(given)
        yield url
    finally:
        server.__exit__(None, None, None)


def _refuse_unless_empty(url: str) -> None:
    client: Any = redis.Redis.from_url(url)
    count = client.dbsize()
    client.close()
    if count:
        pytest.exit(f"REDIS_URL={url} holds {count} keys, and tests flush their server: give an empty one", 3)


@pytest.fixture
def redis_url(server_url: str) -> Iterator[str]:
    """The server, empty. Afterwards every key must have a time to live or be permanent by the key table."""
    client: Any = redis.Redis.from_url(server_url)
    client.flushdb()
    try:
        yield server_url
        leaked = leaks_of(client)
        assert not leaked, "keys leaked:\n" + "\n".join(leaked)
    finally:
        client.flushdb()
        client.close()


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    """A plain synchronous client, replies as bytes."""
    found: Any = redis.Redis.from_url(redis_url)
    yield found
    found.close()


@pytest.fixture
def keys() -> Keys:
    """The default spelling of keys."""
    return Keys()


@pytest.fixture
def settings_for() -> Callable[..., Settings]:
    """Settings from environment names; SPX alone unless told otherwise."""

    def build(**environment: str) -> Settings:
        return load_settings({"MASSIVE_SYMBOLS": "SPX", **environment})

    return build
