"""One client's socket at the mock: what it subscribed to, what waits to be sent, and the ways it can end."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from aiohttp import WSMsgType, web

from ops.mock.market import Event, encode_frames

_OUTBOX_FRAMES = 4096
_STATUSES_PER_FRAME = 500
_GOODBYE_S = 1.0
_ROOM_EVERY_S = 0.5

_POLICY_VIOLATION = 1008
_EVICTED = (
    "Maximum number of websocket connections exceeded. You have reached the connection limit for your "
    "account. Please contact support at https://polygon.io/contact to increase your limit."
)
_TOO_SLOW = "You are reading too slowly; the connection is closed."


class Connection:
    """One client's socket: its key, its subscriptions and what waits to be sent to it.

    Frames go through a bounded outbox that `write` empties: a slow reader never holds up another. `name` is what the
    client calls itself (`User-Agent`).
    """

    def __init__(self, socket: web.WebSocketResponse, transport: asyncio.Transport, cluster: str, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.key: str | None = None
        self.pairs: set[str] = set()  # topic.ticker, as acknowledged
        self.quotes: set[str] = set()  # tickers held on Q
        self._socket = socket
        self._transport = transport
        self._outbox: asyncio.Queue[bytes] = asyncio.Queue(_OUTBOX_FRAMES)
        self._opened = time.monotonic()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._is_done = False  # nothing more is queued

    @property
    def age_s(self) -> float:
        """Seconds since it was opened."""
        return time.monotonic() - self._opened

    async def write(self) -> None:
        """Send what waits, for as long as the socket lives."""
        try:
            while True:
                frame = await self._outbox.get()
                await self._flowing.wait()
                await self._socket.send_frame(frame, WSMsgType.TEXT)
                self._outbox.task_done()
        except ConnectionError:
            pass
        finally:
            self._is_done = True

    def send(self, frame: bytes) -> None:
        """Queue a frame; a connection whose outbox is full is dropped as a slow consumer."""
        if self._is_done:
            return
        try:
            self._outbox.put_nowait(frame)
        except asyncio.QueueFull:
            self._is_done = True
            self._drop_slow()

    def send_status(self, *statuses: tuple[str, str]) -> None:
        """Queue status events (status, message), several to a frame."""
        for frame in encode_frames([_status(*status) for status in statuses], _STATUSES_PER_FRAME):
            self.send(frame)

    async def deliver(self, frame: bytes) -> None:
        """Queue a frame as soon as there is room, however slowly the client reads; a client that is gone gets none."""
        while not self._is_done:
            with suppress(TimeoutError):
                async with asyncio.timeout(_ROOM_EVERY_S):
                    await self._outbox.put(frame)
                    return

    async def flush(self) -> None:
        """Wait until everything queued is sent, but not for a client that does not read."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE_S):
                await self._outbox.join()

    def hold(self) -> None:
        """From now on frames wait in the outbox and get older."""
        self._flowing.clear()

    def stall(self) -> None:
        """Never send anything again, and say nothing about it: TCP and pings stay alive."""
        self.hold()
        self._is_done = True

    async def evict(self) -> None:
        """Tell the client that a newer connection took its place, and close."""
        self.send_status(("max_connections", _EVICTED))
        await self.flush()
        await self._socket.close(code=_POLICY_VIOLATION, message=b"max_connections")

    async def close(self) -> None:
        """Close in good order, without a reason."""
        await self._socket.close()

    async def end_slow(self) -> None:
        """Send what was held back, which is late by now, say that the client is too slow, and end."""
        self._flowing.set()
        await self.end("slow_consumer", _TOO_SLOW)

    async def end(self, status: str, message: str) -> None:
        """Tell a status and end the TCP connection without a close frame, as the provider does."""
        self.send_status((status, message))
        await self.flush()
        self._transport.close()

    def abort(self) -> None:
        """End the TCP connection at once."""
        self._transport.abort()

    def _drop_slow(self) -> None:
        # The client may still read what the socket holds; then the end comes without a close frame.
        self._transport.close()
        asyncio.get_running_loop().call_later(_GOODBYE_S, self._transport.abort)


def _status(status: str, message: str) -> Event:
    return {"ev": "status", "status": status, "message": message}
