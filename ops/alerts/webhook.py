"""Posts alerts to the address of their rule: bounded, with a few retries, beside everything else.

The stream is the record of alerts. A webhook is told about it at most once: one that fails for good, or whose process
ends, is logged and not repeated.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson
import structlog

log = structlog.get_logger("alerts")

TIMEOUT_S = 5.0
PAUSES_S = (1.0, 5.0)  # before each retry
WAITING = 100  # alerts that wait to be posted; the oldest gives way


class Webhooks:
    """What waits to be posted."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(WAITING)

    @property
    def waiting(self) -> int:
        """How many alerts wait to be posted."""
        return self._waiting.qsize()

    def post(self, url: str | None, alert: dict[str, Any]) -> None:
        """Have an alert posted soon; without an address nothing happens."""
        if url is None:
            return
        if self._waiting.full():
            dropped, _ = self._waiting.get_nowait()
            log.warning("webhook_dropped", host=_host(dropped))
        self._waiting.put_nowait((url, orjson.dumps(alert)))

    async def run(self) -> None:
        """Post what comes, until cancelled."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                url, body = await self._waiting.get()
                await _deliver(session, url, body)


async def _deliver(session: aiohttp.ClientSession, url: str, body: bytes) -> None:
    for pause_s in (*PAUSES_S, None):
        problem = await _post(session, url, body)
        if problem is None:
            return
        if pause_s is not None:
            await asyncio.sleep(pause_s)
    log.warning("webhook_failed", host=_host(url), reason=problem)


async def _post(session: aiohttp.ClientSession, url: str, body: bytes) -> str | None:
    """Post once; what went wrong, or None."""
    headers = {"Content-Type": "application/json"}
    try:
        async with session.post(url, data=body, headers=headers, allow_redirects=False) as response:
            return None if response.status < 300 else f"status {response.status}"
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        return str(error) or type(error).__name__


def _host(url: str) -> str:
    """What may be logged of an address: the rest of it is often a secret."""
    return urlsplit(url).netloc.rpartition("@")[2]
