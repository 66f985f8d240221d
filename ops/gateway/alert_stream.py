"""The alerts of one symbol as events for its clients."""

from __future__ import annotations

from typing import Any

import orjson

from consumers.clients import faults_named
from ops.gateway.event import Event

AT_ONCE = 100


class AlertStream:
    """What is appended to a symbol's stream of alerts from the first look on; nobody is alerted to what is over."""

    def __init__(self, redis_url: str, client: Any, key: str) -> None:
        self._redis_url = redis_url
        self._client = client
        self._key = key
        self._last: str | None = None

    async def read_new(self) -> list[Event]:
        """The alerts since the last look, oldest first."""
        with faults_named(self._redis_url):
            if self._last is None:
                newest = await self._client.xrevrange(self._key, "+", "-", count=1)
                self._last = newest[0][0].decode() if newest else "0-0"
                return []
            entries = await self._client.xrange(self._key, f"({self._last}", "+", count=AT_ONCE)
        events = []
        for entry, fields in entries:
            self._last = entry.decode()
            events.append(Event(None, "alert", orjson.dumps({"id": self._last, **orjson.loads(fields[b"data"])})))
        return events
