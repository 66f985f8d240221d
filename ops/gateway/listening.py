"""How clients listen: server-sent events for browsers, a WebSocket with the same messages for programs."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress

import structlog
from aiohttp import WSMsgType, web

from contracts.errors import DataError, TransientError
from ops.gateway.event import GZIP_HEADER, View, deflated, parse_view
from ops.gateway.follower import HEARTBEAT_S, Follower
from ops.gateway.stream import StreamId, parse_id

log = structlog.get_logger("gateway")

WRITE_S = 30.0  # a client that takes nothing for so long is let go
PIECE_BYTES = 2**16  # as much as waits in a connection's buffer
RETRY = b"retry: 1000\n\n"
HEARTBEAT = b": heartbeat\n\n"
HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}

_ZIPPED = {part: deflated(part) for part in (RETRY, HEARTBEAT)}
_GONE = (ConnectionError, TimeoutError, TransientError)  # it comes again, and resumes


async def serve_events(request: web.Request, follower: Follower) -> web.StreamResponse:
    """`GET /events/{U}`: events until the client leaves."""
    zipped = accepts_gzip(request.headers.get("Accept-Encoding", ""))
    view = _view(request, View(framing="sse", gzip=zipped))
    response = web.StreamResponse(headers=HEADERS | ({"Content-Encoding": "gzip"} if zipped else {}))
    await response.prepare(request)
    heartbeat = _ZIPPED[HEARTBEAT] if zipped else HEARTBEAT
    await response.write(GZIP_HEADER + _ZIPPED[RETRY] if zipped else RETRY)
    try:
        async with aclosing(follower.stream(_resume(request))) as batches:
            async for events in batches:
                chunks = [chunk for event in events if (chunk := await follower.render(event, view)) is not None]
                if chunks or not events:
                    await _write(response, b"".join(chunks) or heartbeat)
    except _GONE as error:
        _let_go(request, follower, error)
    return response


async def _write(response: web.StreamResponse, chunk: bytes) -> None:
    """Write piece by piece: what a client does not take stays in our hands, and one that takes slowly is not cut."""
    rest = memoryview(chunk)
    while rest:
        async with asyncio.timeout(WRITE_S):
            await response.write(rest[:PIECE_BYTES])
        rest = rest[PIECE_BYTES:]


async def serve_websocket(request: web.Request, follower: Follower) -> web.StreamResponse:
    """`GET /ws/{U}`: the same messages, one text frame each: `{id, type, data}`. What the client says is ignored."""
    view = _view(request, View(framing="websocket"))
    socket = web.WebSocketResponse(heartbeat=HEARTBEAT_S, compress=False, max_msg_size=4096)
    await socket.prepare(request)
    sending = asyncio.create_task(_send(request, socket, follower, view))
    try:
        async for message in socket:
            if message.type is WSMsgType.ERROR:
                break
    finally:
        sending.cancel()
        with suppress(asyncio.CancelledError):
            await sending
        await socket.close()
    return socket


async def _send(request: web.Request, socket: web.WebSocketResponse, follower: Follower, view: View) -> None:
    try:
        async with aclosing(follower.stream(_resume(request))) as batches:
            async for events in batches:
                for event in events:
                    frame = await follower.render(event, view)
                    if frame is not None:
                        async with asyncio.timeout(WRITE_S):
                            await socket.send_frame(frame, WSMsgType.TEXT)
    except _GONE as error:
        _let_go(request, follower, error)


def _let_go(request: web.Request, follower: Follower, error: Exception) -> None:
    """End a connection at once: what still waits for it in the socket is dropped, too."""
    log.info("client_gone", symbol=follower.symbol, reason=str(error) or type(error).__name__)
    if request.transport is not None:
        request.transport.abort()


def accepts_gzip(header: str) -> bool:
    """Whether an `Accept-Encoding` asks for gzip."""
    for part in header.lower().split(","):
        name, _, weight = part.partition(";")
        if name.strip() in ("gzip", "*"):
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def _view(request: web.Request, base: View) -> View:
    try:
        return parse_view(request.query, base.framing, base.gzip)
    except DataError as error:
        raise web.HTTPBadRequest(text=str(error)) from None


def _resume(request: web.Request) -> StreamId | None:
    """`Last-Event-ID` wins: a browser that reconnects sends it, while the address still says where it began."""
    told = request.headers.get("Last-Event-ID", "") or request.query.get("since", "")
    return parse_id(told)
