"""A running pipeline behind a running gateway, and a client of its events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import numpy as np

from contracts.planes import TILE_FIELDS, UNKNOWN, Ints, decode_tiles
from contracts.published import apply_diff
from contracts.settings import Settings
from ops.gateway.server import RunningGateway, serving
from tests.ops.pipeline import SYMBOL, SmallPipeline, small_pipeline
from tests.waiting import PATIENCE_S

PLANE = "SPXW:2031-01-15"
LIMIT = 64 * 2**20


@dataclass
class Received:
    """One server-sent event."""

    id: str
    type: str
    data: dict[str, Any]


class Listener:
    """A client of `/events/{U}`."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def next(self, timeout_s: float = PATIENCE_S) -> Received:
        """The next entry of the stream; comments and what the gateway tells by itself are passed over."""
        async with asyncio.timeout(timeout_s):
            while True:
                received = await self.next_of_any()
                if "generation" in received.data:
                    return received

    async def next_of_any(self) -> Received:
        """The next event, also the gateway's own; comments are passed over."""
        while True:
            fields = await self.block()
            if "data" in fields:
                return Received(fields.get("id", ""), fields["event"], json.loads(fields["data"]))

    async def until(self, kind: str) -> list[Received]:
        """Events of the stream up to and with the first of this type."""
        found = [await self.next()]
        while found[-1].type != kind:
            found.append(await self.next())
        return found

    async def until_any(self, kind: str, timeout_s: float = PATIENCE_S) -> Received:
        """The first event of a type, also one of the gateway's own."""
        async with asyncio.timeout(timeout_s):
            while (received := await self.next_of_any()).type != kind:
                pass
        return received

    async def block(self) -> dict[str, str]:
        """The fields of the next block; a comment is a field without a name."""
        fields: dict[str, str] = {}
        while line := await self._line():
            name, _, value = line.partition(": ")
            fields[name] = value
        return fields

    async def _line(self) -> str:
        line = await self._response.content.readline()
        assert line, "the stream has ended"  # and would go on ending for ever
        return line.decode().rstrip("\n")


@dataclass
class Scene:
    """A running pipeline behind a running gateway."""

    pipeline: SmallPipeline
    gateway: RunningGateway
    http: aiohttp.ClientSession

    @asynccontextmanager
    async def listening(
        self, last_event_id: str | None = None, query: Mapping[str, str] | None = None
    ) -> AsyncIterator[Listener]:
        """Connect to the events."""
        headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
        url = f"{self.gateway.url}/events/{SYMBOL}"
        async with self.http.get(url, headers=headers, params=query) as response:
            assert response.status == 200 and response.content_type == "text/event-stream"
            yield Listener(response)

    async def get(self, path: str) -> tuple[int, Any]:
        """Status and JSON of a page."""
        async with self.http.get(self.gateway.url + path) as response:
            assert response.content_type == "application/json", await response.text()
            return response.status, await response.json()


@asynccontextmanager
async def scene_on(redis_url: str, settings: Settings, gateway_url: str | None = None) -> AsyncIterator[Scene]:
    """Pipeline and gateway, without a chain yet."""
    async with (
        small_pipeline(redis_url, settings) as pipeline,
        serving(settings, gateway_url or redis_url) as gateway,
        aiohttp.ClientSession(read_bufsize=LIMIT, timeout=aiohttp.ClientTimeout(total=60)) as http,
    ):
        yield Scene(pipeline, gateway, http)


def cells_of(reset: Received) -> Ints:
    """The cells of the one plane of a reset."""
    (plane,) = reset.data["planes"]
    columns = [[UNKNOWN if value is None else value for value in plane[name]] for name in TILE_FIELDS]
    return np.array(columns, np.int32)


def folded(cells: Ints, events: list[Received]) -> Ints:
    """The cells after the diffs among these events; they must fit without a gap."""
    for event in events:
        if event.type == "diff":
            data = {name: value for name, value in event.data.items() if name not in ("seq", "generation")}
            cells = apply_diff(cells, json.dumps(data).encode())
    return cells


def published(pipeline: SmallPipeline) -> Ints:
    """What the models stage published last."""
    blob = pipeline.client.get(f"epoch:{pipeline.epoch()}:plane:{PLANE}:published")
    return decode_tiles(blob).cells
