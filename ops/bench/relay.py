"""One hop of the bare relay that latency is compared with: XREADGROUP, XADD, XACK, and nothing else."""

from __future__ import annotations

import sys
from typing import Any

import redis

READ = 100
BLOCK_MS = 1000


def relay(url: str, source: str, target: str) -> None:
    """Pass entries from one stream to the next until killed."""
    client: Any = redis.Redis.from_url(url)
    client.xgroup_create(source, "relay", "0", mkstream=True)
    while True:
        reply = client.xreadgroup("relay", "one", {source: ">"}, count=READ, block=BLOCK_MS)
        if not reply:
            continue
        entries = reply[0][1]
        pipeline = client.pipeline(transaction=False)
        for _, fields in entries:
            pipeline.xadd(target, fields)
        pipeline.xack(source, "relay", *(entry_id for entry_id, _ in entries))
        pipeline.execute()


if __name__ == "__main__":
    relay(*sys.argv[1:4])
