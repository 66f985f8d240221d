"""Many clients of one gateway: how late its events reach them, and what they cost it.

    python -m ops.bench.listeners http://127.0.0.1:8080 SPX --clients 500 --slow 10 --seconds 60

An event's id holds the server's time of its entry, so on one machine the delay of every event at every client is
known. Slow clients take one piece a second of a few kilobytes; their delays are not counted. This process looks for ids
and nothing else, and tells how late it was itself: what it measures is at most that much too long.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
from array import array
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from time import time
from typing import Any
from urllib.parse import urlsplit

_ID = b"\nid: "
_LONGEST_ID = 64  # bytes: an id may come in two parts
_PAGE_BYTES = 4096
_SETTLE_S = 5.0
_AT_ONCE, _PER_S = 150, 40  # how clients come: within what the gateway allows one caller
_PROBE_S = 0.01
_WINDOW, _SLOW_WINDOW = 2**20, 2**12  # bytes that a connection holds unread


class Listener(asyncio.Protocol):
    """One client that keeps up; notes the delay of every event that comes while it is `counted`."""

    def __init__(self, request: bytes, delays_ms: array[float]) -> None:
        self.counted = False
        self.got_bytes = 0
        self.is_closed = False
        self._request = request
        self._delays_ms = delays_ms
        self._tail = b""
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        self.transport = transport
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Look for ids."""
        now_ms = time() * 1000
        self.got_bytes += len(data)
        if self.counted:
            self._delays_ms.extend(now_ms - ms for ms in entry_times_ms(self._tail, data))
        self._tail = data[-_LONGEST_ID:]

    def connection_lost(self, error: Exception | None) -> None:
        """The gateway ended it, or we did."""
        self.is_closed = True


def entry_times_ms(tail: bytes, data: bytes) -> Iterator[int]:
    """When each event was published whose id ends in `data`: the first part of its id."""
    text = tail + data
    at = text.find(_ID)
    while at >= 0:
        end = text.find(b"-", at)
        if end >= len(tail):
            yield int(text[at + len(_ID) : end])
        at = text.find(_ID, at + 1)


class Dawdler(Listener):
    """One client that takes a few kilobytes a second."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        super().connection_made(transport)
        self._pause()

    def data_received(self, data: bytes) -> None:
        """Take one piece, and then nothing for a second."""
        self._pause()

    def _pause(self) -> None:
        self.transport.pause_reading()
        asyncio.get_running_loop().call_later(1.0, self._resume)

    def _resume(self) -> None:
        if not self.is_closed:
            self.transport.resume_reading()


async def measure(url: str, symbol: str, clients: int, slow: int, seconds: float, pid: int | None) -> dict[str, object]:
    """The figures of one run."""
    delays_ms: array[float] = array("d")
    late_ms: array[float] = array("d")
    before = resident_bytes(pid)
    listeners = await _connected(url, symbol, clients, slow, delays_ms)
    await asyncio.sleep(_SETTLE_S)
    keeping_up = listeners[slow:]
    for one in keeping_up:
        one.counted = True
    got, spent = sum(one.got_bytes for one in keeping_up), (cpu_s(pid), cpu_s(os.getpid()))
    await _probe(late_ms, seconds)
    got_s = (sum(one.got_bytes for one in keeping_up) - got) / seconds
    after, used = resident_bytes(pid), (cpu_s(pid), cpu_s(os.getpid()))
    closed = sum(one.is_closed for one in listeners)
    for one in listeners:
        one.transport.abort()
    return {
        "clients": clients,
        "slow": slow,
        "closed": closed,
        "events": len(delays_ms),
        "events_per_client_s": round(len(delays_ms) / max(1, clients - slow) / seconds, 1),
        "bytes_per_client_s": round(got_s / max(1, clients - slow)),
        "delay_ms": _quantiles(delays_ms),
        "own_delay_ms": _quantiles(late_ms),
        "cpu_share": {
            name: round((end - begin) / seconds, 2)
            for name, begin, end in zip(("gateway", "own"), spent, used, strict=True)
        },
        "gateway_mb": None if pid is None else {"before": before >> 20, "during": after >> 20},
    }


async def _connected(url: str, symbol: str, clients: int, slow: int, delays_ms: array[float]) -> list[Listener]:
    """All clients, the slow ones first."""
    parts = urlsplit(url)
    request = f"GET /events/{symbol} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()
    loop = asyncio.get_running_loop()
    listeners: list[Listener] = []
    for number in range(clients):
        kind, window = (Dawdler, _SLOW_WINDOW) if number < slow else (Listener, _WINDOW)
        sock = _socket(parts.hostname, parts.port, window)
        _, listener = await loop.create_connection(partial(kind, request, delays_ms), sock=sock)
        listeners.append(listener)
        if number >= _AT_ONCE:
            await asyncio.sleep(1 / _PER_S)
    return listeners


def _socket(host: str | None, port: int | None, window: int) -> socket.socket:
    """A connection that holds so much (bytes) of what was not read yet."""
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    found.connect((host, port))
    found.setblocking(False)
    return found


async def _probe(late_ms: array[float], seconds: float) -> None:
    """How late this process is when it has something to do."""
    until = time() + seconds
    while time() < until:
        due = time() + _PROBE_S
        await asyncio.sleep(_PROBE_S)
        late_ms.append((time() - due) * 1000)


_SHARES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}


def _quantiles(values: Sequence[float]) -> dict[str, float] | None:
    ordered = sorted(values)
    if not ordered:
        return None
    return {name: round(ordered[int(share * (len(ordered) - 1))], 1) for name, share in _SHARES.items()}


def resident_bytes(pid: int | None) -> int:
    """Memory of a process, in bytes."""
    if pid is None:
        return 0
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES


def cpu_s(pid: int | None) -> float:
    """Processor time that a process has used, in seconds."""
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure and print one line of JSON."""
    parser = argparse.ArgumentParser(description="Many clients of one gateway.")
    parser.add_argument("url")
    parser.add_argument("symbol")
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--slow", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--pid", type=int, help="of the gateway: its memory and processor time are measured too")
    given = parser.parse_args()
    found = asyncio.run(measure(given.url, given.symbol, given.clients, given.slow, given.seconds, given.pid))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
