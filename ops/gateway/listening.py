"""How clients listen: server-sent events for browsers, a WebSocket with the same messages for programs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing, suppress

import orjson
import structlog
from aiohttp import WSMsgType, web

from contracts.errors import DataError
from ops.gateway.event import GZIP_HEADER, Event, Layout, View, deflated, parse_view
from ops.gateway.follower import HEARTBEAT_S, Follower
from ops.gateway.stream import StreamId, parse_id

log = structlog.get_logger("gateway")

WRITE_S = 30.0  # a client that takes nothing for so long is let go
RETRY = b"retry: 1000\n\n"
HEARTBEAT = b": heartbeat\n\n"
HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}


async def serve_events(request: web.Request, follower: Follower) -> web.StreamResponse:
    """`GET /events/{U}`: events until the client leaves."""
    zipped = "gzip" in request.headers.get("Accept-Encoding", "")
    view = _view(request, View(framing="sse", gzip=zipped))
    response = web.StreamResponse(headers=HEADERS | ({"Content-Encoding": "gzip"} if zipped else {}))
    await response.prepare(request)
    pack = deflated if zipped else bytes
    await response.write((GZIP_HEADER if zipped else b"") + pack(RETRY))
    async with aclosing(follower.stream(_resume(request))) as batches:
        try:
            async for events in batches:
                chunks = await rendered(events, view, follower)
                async with asyncio.timeout(WRITE_S):
                    await response.write(b"".join(chunks) if events else pack(HEARTBEAT))
        except (ConnectionError, TimeoutError):
            log.info("client_gone", symbol=follower.symbol)
    return response


async def serve_websocket(request: web.Request, follower: Follower) -> web.StreamResponse:
    """`GET /ws/{U}`: the same messages, one text frame each: `{id, type, data}`. What the client says is ignored."""
    view = _view(request, View(framing="websocket"))
    socket = web.WebSocketResponse(heartbeat=HEARTBEAT_S, compress=False, max_msg_size=4096)
    await socket.prepare(request)
    sending = asyncio.create_task(_send(socket, follower, view, _resume(request)))
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


async def _send(socket: web.WebSocketResponse, follower: Follower, view: View, resume: StreamId | None) -> None:
    async with aclosing(follower.stream(resume)) as batches:
        try:
            async for events in batches:
                for frame in await rendered(events, view, follower):
                    async with asyncio.timeout(WRITE_S):
                        await socket.send_str(frame.decode())
        except (ConnectionError, TimeoutError):
            log.info("client_gone", symbol=follower.symbol)
            await socket.close()


async def rendered(events: Sequence[Event], view: View, follower: Follower) -> list[bytes]:
    """The events as a view has them; what it leaves out is not there."""
    chunks = []
    for event in events:
        layout: Layout | None = None
        if view.strategies is not None and event.kind == "diff" and view not in event.rendered:
            layout = await follower.layout(orjson.loads(event.body)["epoch"])
        chunk = event.render(view, layout)
        if chunk is not None:
            chunks.append(chunk)
    return chunks


def _view(request: web.Request, base: View) -> View:
    try:
        return parse_view(request.query, base.framing, base.gzip)
    except DataError as error:
        raise web.HTTPBadRequest(text=str(error)) from None


def _resume(request: web.Request) -> StreamId | None:
    """`Last-Event-ID` wins: a browser that reconnects sends it, while the address still says where it began."""
    told = request.headers.get("Last-Event-ID", "") or request.query.get("since", "")
    return parse_id(told)
