"""A relay between browser and gateway whose connections can be cut, in mid event."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

CHUNK = 4096  # smaller than most events: a cut leaves half of one


class Relay:
    """Passes bytes on until its connections are cut; new ones are welcome at once."""

    def __init__(self, host: str, port: int) -> None:
        self.cuts = 0
        self._to = (host, port)
        self._writers: set[asyncio.StreamWriter] = set()

    def cut(self) -> int:
        """Abort every connection without a word; returns how many there were."""
        self.cuts += 1
        for writer in self._writers:
            writer.transport.abort()
        return len(self._writers) // 2

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of the browser."""
        try:
            there, back = await asyncio.open_connection(*self._to)
        except OSError:  # as the browser would have found it
            writer.transport.abort()
            return
        ends = {writer, back}
        self._writers |= ends
        try:
            await asyncio.gather(_pass_on(reader, back), _pass_on(there, writer))
        finally:
            self._writers -= ends
            for end in ends:
                end.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while chunk := await reader.read(CHUNK):
            writer.write(chunk)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def relayed(host: str, port: int) -> AsyncIterator[tuple[Relay, int]]:
    """A relay to an address, and the local port to reach it at."""
    relay = Relay(host, port)
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    try:
        yield relay, int(server.sockets[0].getsockname()[1])
    finally:
        relay.cut()
        server.close()
