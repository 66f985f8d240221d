"""The alerts of one symbol as events for its clients."""

from __future__ import annotations

import orjson

from consumers.clients import Commands
from ops.gateway.event import Event
from ops.gateway.stream import told_entry

AT_ONCE = 100


class AlertStream:
    """What is appended to a symbol's stream of alerts from the first look on; nobody is alerted to what is over."""

    def __init__(self, commands: Commands, key: str) -> None:
        self._commands = commands
        self._key = key
        self._last: str | None = None

    async def read_new(self) -> list[Event]:
        """The alerts since the last look, oldest first."""
        ask, client = self._commands.ask, self._commands.client
        if self._last is None:
            newest = await ask(client.xrevrange(self._key, "+", "-", count=1))
            self._last = newest[0][0].decode() if newest else "0-0"
            return []
        entries = await ask(client.xrange(self._key, f"({self._last}", "+", count=AT_ONCE))
        if entries:
            self._last = entries[-1][0].decode()
        found = (told_entry(entry, fields) for entry, fields in entries)
        return [Event(None, "alert", orjson.dumps(alert)) for alert in found if alert is not None]
