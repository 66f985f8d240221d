"""Many clients of one gateway: how late its events reach them, and what they cost it.

    python -m ops.bench.listeners http://127.0.0.1:8080 SPX --clients 500 --slow 10 --seconds 60

An event's id holds the server's time of its entry, so on one machine the delay of every event at every client is
known. Slow clients read a little, then nothing for a second; their delays are not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from time import time
from urllib.parse import urlsplit

_ID = b"\nid: "
_PAGE_BYTES = 4096
_SETTLE_S = 5.0
_AT_ONCE, _PER_S = 150, 40  # how clients come: within what the gateway allows one caller


async def listen(url: str, symbol: str, delays_ms: array[float], from_ts: float, until_ts: float) -> int:
    """One client that keeps up; notes every event's delay between two moments, and returns how many bytes it got."""
    reader, writer = await _connect(url, symbol)
    got, rest = 0, b"\n"
    try:
        async with asyncio.timeout(max(0.0, until_ts - time())):
            await _first_event(reader)
            while data := await reader.read(65_536):
                now_ms = time() * 1000
                got += len(data)
                text = rest + data
                cut = text.rfind(b"\n")
                if now_ms > from_ts * 1000:
                    delays_ms.extend(now_ms - ms for ms in _entry_times_ms(text, cut))
                rest = text[cut:]
    except TimeoutError:
        pass
    finally:
        writer.close()
    return got


def _entry_times_ms(text: bytes, end: int) -> Iterator[int]:
    """When each event up to `end` was published: the first part of its id."""
    at = text.find(_ID, 0, end)
    while at >= 0:
        yield int(text[at + len(_ID) : text.index(b"-", at)])
        at = text.find(_ID, at + 1, end)


async def dawdle(url: str, symbol: str, until_ts: float) -> None:
    """One client that takes a few bytes a second."""
    _, writer = await _connect(url, symbol)
    transport = writer.transport
    transport.pause_reading()  # type: ignore[attr-defined]
    while time() < until_ts:
        transport.resume_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(0.01)
        transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(1.0)
    writer.close()


async def _connect(url: str, symbol: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=2**22)
    writer.write(f"GET /events/{symbol} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
    await writer.drain()
    return reader, writer


async def _first_event(reader: asyncio.StreamReader) -> None:
    """Pass over the reset and the models a client is greeted with: they are as old as they are."""
    await reader.readuntil(b"event: reset\n")
    await reader.readuntil(b"\n\n")


async def measure(url: str, symbol: str, clients: int, slow: int, seconds: float, pid: int | None) -> dict[str, object]:
    """The figures of one run."""
    # counted is what comes while all are there: the time to let them in is told apart
    from_ts = time() + max(0, clients - _AT_ONCE) / _PER_S + _SETTLE_S
    until_ts = from_ts + seconds
    begun_ts = time()
    delays_ms: array[float] = array("d")
    before = resident_bytes(pid)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(slow):
            tasks.create_task(dawdle(url, symbol, until_ts))
        listening = []
        for number in range(clients - slow):
            listening.append(tasks.create_task(listen(url, symbol, delays_ms, from_ts, until_ts)))
            if number + slow >= _AT_ONCE:
                await asyncio.sleep(1 / _PER_S)
        await asyncio.sleep(max(0.0, until_ts - time() - 1.0))
        after = resident_bytes(pid)
    ordered = sorted(delays_ms)
    return {
        "clients": clients,
        "slow": slow,
        "events": len(ordered),
        "events_per_client_s": round(len(ordered) / max(1, clients - slow) / seconds, 1),
        "bytes_per_client_s": round(
            sum(task.result() for task in listening) / max(1, clients - slow) / (until_ts - begun_ts)
        ),
        "delay_ms": {name: round(ordered[int(share * (len(ordered) - 1))], 1) for name, share in _SHARES.items()}
        if ordered
        else None,
        "gateway_mb": None if pid is None else {"before": before >> 20, "during": after >> 20},
    }


_SHARES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}


def resident_bytes(pid: int | None) -> int:
    """Memory of a process, in bytes."""
    if pid is None:
        return 0
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES


def main() -> None:
    """Measure and print one line of JSON."""
    parser = argparse.ArgumentParser(description="Many clients of one gateway.")
    parser.add_argument("url")
    parser.add_argument("symbol")
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--slow", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--pid", type=int, help="of the gateway: its memory is measured too")
    given = parser.parse_args()
    found = asyncio.run(measure(given.url, given.symbol, given.clients, given.slow, given.seconds, given.pid))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
