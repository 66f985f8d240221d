"""A client of the mock provider for tests: requests and connections as a pipeline makes them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from ops.mock.provider import MockOptions
from ops.mock.server import RunningMock, serving
from tests.waiting import PATIENCE_S

KEY = "test-key"


@dataclass
class Client:
    """An HTTP session with a good key against one running mock."""

    mock: RunningMock
    session: aiohttp.ClientSession

    async def get(self, path: str, **parameters: Any) -> Any:
        async with self.session.get(self.mock.rest_url + path, params=parameters) as response:
            assert response.status == 200, await response.text()
            return orjson.loads(await response.read())

    async def status(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
        async with self.session.get(self.mock.rest_url + path, headers=headers) as response:
            return response.status, await response.text()

    async def state(self) -> dict[str, Any]:
        """What the mock counts."""
        state: dict[str, Any] = await self.get("/mock/state")
        return state

    async def pages(self, path: str, **parameters: Any) -> list[list[dict[str, Any]]]:
        page = await self.get(path, **parameters)
        pages = [page["results"]]
        while "next_url" in page:
            assert page["next_url"].startswith(self.mock.rest_url)
            page = await self.get(page["next_url"].removeprefix(self.mock.rest_url))
            pages.append(page["results"])
        return pages

    @asynccontextmanager
    async def feed(
        self, cluster: str = "options", key: str = KEY, name: str = "test"
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """A connection that is greeted and authenticated; `name` is its User-Agent."""
        url = f"{self.mock.rest_url}/{cluster}"
        async with self.session.ws_connect(url, headers={"User-Agent": name}) as socket:
            assert await statuses(socket) == [("connected", "Connected Successfully")]
            await socket.send_json({"action": "auth", "params": key})
            assert await statuses(socket) == [("auth_success", "authenticated")]
            yield socket


@asynccontextmanager
async def connected(options: MockOptions) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {KEY}"}
    async with serving(options) as mock, aiohttp.ClientSession(headers=headers) as session:
        yield Client(mock, session)


async def receive(socket: aiohttp.ClientWebSocketResponse) -> list[dict[str, Any]]:
    frame = await socket.receive(timeout=PATIENCE_S)
    assert frame.type is aiohttp.WSMsgType.TEXT, frame
    events = orjson.loads(frame.data)
    assert isinstance(events, list)
    return events


async def statuses(socket: aiohttp.ClientWebSocketResponse) -> list[tuple[str, str]]:
    """The next frame of status events; frames of market events before it are passed over."""
    while True:
        events = await receive(socket)
        if events[0]["ev"] == "status":
            return [(event["status"], event["message"]) for event in events]


async def events_of(socket: aiohttp.ClientWebSocketResponse, kind: str) -> list[dict[str, Any]]:
    """The next frame of market events of one kind."""
    while True:
        events = await receive(socket)
        if events[0]["ev"] == kind:
            return events


async def closing(socket: aiohttp.ClientWebSocketResponse) -> aiohttp.WSMessage:
    """The frame or loss that ends a connection, whatever comes before it."""
    while True:
        frame = await socket.receive(timeout=PATIENCE_S)
        if frame.type is not aiohttp.WSMsgType.TEXT:
            return frame


async def until(predicate: Callable[[], bool], description: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not predicate():
        assert time.monotonic() < deadline, f"never: {description}"
        await asyncio.sleep(0.005)


def subscribe(*pairs: str) -> str:
    return orjson.dumps({"action": "subscribe", "params": ",".join(pairs)}).decode()
