"""The server of the tests, and what most tests ask for.

Which server: `REDIS_URL` if set (it must be empty, for every test flushes it); else a container when TEST_CONTAINERS=1
(image: TEST_REDIS_IMAGE, default redis:7); else TEST_SERVER: `redis8` (of a wheel) or `valkey` (the embedded one, the
default). A server that does not start fails the session: tests that need one are never skipped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import hypothesis
import pytest
import redis

from contracts.keys import Keys
from contracts.settings import Settings, load_settings
from tests.leaks import leaks_of
from tests.servers import container_server, embedded_server, given_server, redis8_program

# how long an example takes says more about what else the machine does than about the code
hypothesis.settings.register_profile("default", deadline=None, suppress_health_check=(hypothesis.HealthCheck.too_slow,))
# `--hypothesis-profile=quick`: a failing example is reported as it was found; `thorough`: a hundred times the examples
hypothesis.settings.register_profile("quick", phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate))
hypothesis.settings.register_profile("thorough", max_examples=10_000)
hypothesis.settings.register_profile(
    "few", max_examples=5, phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate)
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that run on the server of the session are marked `server`: `make integration` repeats those elsewhere."""
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if "redis_url" in getattr(item, "fixturenames", ()) or parameters.get("store") == "server":
            item.add_marker("server")


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """A server for the whole session."""
    given = os.environ.get("REDIS_URL", "")
    image = os.environ.get("TEST_REDIS_IMAGE", "redis:7")
    bundled = os.environ.get("TEST_SERVER") or "valkey"
    if given:
        what, server = f"REDIS_URL={given}", given_server(given)
    elif os.environ.get("TEST_CONTAINERS") == "1":
        what, server = f"a container of {image} (TEST_CONTAINERS=1)", container_server(image)
    elif bundled in ("valkey", "redis8"):
        # nothing of a test needs to outlive it, so the log is off
        program = redis8_program() if bundled == "redis8" else None
        what, server = f"the bundled {bundled}", embedded_server("--appendonly", "no", program=program)
    else:
        pytest.exit(f"TEST_SERVER={bundled!r}: valkey or redis8", returncode=3)
    with ExitStack() as started:
        try:
            url = started.enter_context(server)
        except (Exception, AssertionError) as error:
            pytest.exit(f"no server for the tests: {what}: {error}", returncode=3)
        yield url


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
