"""Ways to listen: WebSocket, an id in the address, narrowed and compressed streams, heartbeats, frozen clients."""

from __future__ import annotations

import asyncio
import json
import socket
import zlib
from collections.abc import Callable

import aiohttp
import pytest

from contracts.settings import Settings
from ops.gateway import follower as follower_module
from ops.gateway import listening as listening_module
from tests.ops.pipeline import STRIKES, SYMBOL
from tests.ops.scene import Scene, cells_of, folded, published, scene_on
from tests.waiting import PATIENCE_S, wait_until_async

SettingsFor = Callable[..., Settings]


async def test_a_client_is_greeted_with_board_models_and_news(scene: Scene) -> None:
    async with asyncio.timeout(PATIENCE_S), scene.listening() as listener:
        greeting = {(await listener.next_of_any()).type}
        while not {"reset", "gex", "epoch", "health"} <= greeting:
            greeting.add((await listener.next_of_any()).type)


async def test_a_websocket_tells_the_same(scene: Scene) -> None:
    async with (
        asyncio.timeout(PATIENCE_S),
        scene.listening() as listener,
        scene.http.ws_connect(f"{scene.gateway.url}/ws/{SYMBOL}", max_msg_size=0) as socket_,
    ):
        reset = await listener.next()
        message = await socket_.receive_json()
        assert message["type"] == "reset" and message["data"]["planes"] == reset.data["planes"]
        scene.pipeline.quote(STRIKES[3], 8.0, 8.5)
        diff = await listener.next()
        while (message := await socket_.receive_json())["type"] != "diff":
            pass
        assert message == {"id": diff.id, "type": "diff", "data": diff.data}


async def test_a_websocket_resumes_like_any_client(scene: Scene) -> None:
    async with scene.listening() as listener:
        reset = await listener.next()
    scene.pipeline.quote(STRIKES[3], 8.0, 8.5)
    await wait_until_async(lambda: scene.pipeline.state("seq") > reset.data["seq"], "a diff while away")
    url = f"{scene.gateway.url}/ws/{SYMBOL}?since={reset.id}"
    async with asyncio.timeout(PATIENCE_S), scene.http.ws_connect(url, max_msg_size=0) as socket_:
        message = await socket_.receive_json()
    assert message["type"] == "diff" and message["data"]["seq"] == reset.data["seq"] + 1


async def test_the_header_wins_over_the_address(scene: Scene) -> None:
    async with scene.listening() as listener:
        reset = await listener.next()
    scene.pipeline.quote(STRIKES[3], 8.0, 8.5)
    await wait_until_async(lambda: scene.pipeline.state("seq") > reset.data["seq"], "a diff while away")
    async with scene.listening(query={"since": reset.id}) as listener:
        assert (await listener.next()).type == "diff"
    async with scene.listening(reset.id, {"since": "1-1"}) as listener:
        assert (await listener.next()).type == "diff"
    async with scene.listening("1-1", {"since": reset.id}) as listener:
        assert (await listener.next()).type == "reset"


async def test_a_trimmed_id_gets_a_reset(scene: Scene) -> None:
    async with scene.listening() as listener:
        reset = await listener.next()
        scene.pipeline.quote(STRIKES[3], 8.0, 8.5)
        await listener.next()
    scene.pipeline.client.xtrim(scene.pipeline.keys.model_stream(SYMBOL), maxlen=1, approximate=False)
    async with scene.listening(reset.id) as listener:
        assert (await listener.next()).type == "reset"


async def test_an_id_ahead_of_the_stream_gets_a_reset(scene: Scene) -> None:
    async with scene.listening() as listener:
        reset = await listener.next()
    ms = int(reset.id.partition("-")[0])
    async with scene.listening(f"{ms + 3_600_000}-0") as listener:
        assert (await listener.next()).type == "reset"


async def test_an_id_of_another_generation_gets_a_reset(scene: Scene) -> None:
    async with scene.listening() as listener:
        before = await listener.next()
    scene.pipeline.client.hset(scene.pipeline.keys.model_state(SYMBOL), "generation", "1")  # as after a failover
    async with scene.listening(before.id) as listener:
        assert (await listener.next()).type == "reset"


async def test_one_strategy_alone_is_followed_with_cells_of_its_own(scene: Scene) -> None:
    async with scene.listening() as whole, scene.listening(query={"strategy": "single"}) as narrow:
        full, reset = await whole.next(), await narrow.next()
        labels = full.data["planes"][0]["cells"]
        kept = [cell for cell, label in enumerate(labels) if label[0] == "single"]
        assert reset.data["planes"][0]["cells"] == [labels[cell] for cell in kept]
        scene.pipeline.quote(STRIKES[7], 8.0, 8.5)
        diff = await narrow.next()
        assert (folded(cells_of(reset), [diff]) == published(scene.pipeline)[:, kept]).all()


async def test_planes_left_out_are_not_told(scene: Scene) -> None:
    async with scene.listening(query={"planes": "SPX:2031-02-21"}) as listener:
        assert (await listener.next()).data["planes"] == []
        scene.pipeline.quote(STRIKES[3], 8.0, 8.5)
        await scene.pipeline.tick()
        tick = await listener.next()
    assert tick.type == "tick" and tick.data["versions"] == {}


async def test_one_model_alone(scene: Scene) -> None:
    async with scene.listening(query={"models": "gex"}) as listener:
        await listener.next()
        scene.pipeline.quote(STRIKES[3], 8.0, 8.5)
        await scene.pipeline.tick()
        assert [event.type for event in await listener.until("gex")] == ["tick", "gex"]


async def test_a_compressed_stream_is_readable_event_by_event(scene: Scene) -> None:
    headers = {"Accept-Encoding": "gzip"}
    url = f"{scene.gateway.url}/events/{SYMBOL}"
    async with (
        aiohttp.ClientSession(auto_decompress=False) as http,
        http.get(url, headers=headers) as response,
        asyncio.timeout(PATIENCE_S),
    ):
        assert response.headers["Content-Encoding"] == "gzip"
        reader, text = zlib.decompressobj(wbits=31), b""
        while b"event: gex\n" not in text:
            text += reader.decompress(await response.content.readany())
        scene.pipeline.quote(STRIKES[3], 8.0, 8.5)
        while b"event: diff\n" not in text:
            text += reader.decompress(await response.content.readany())


async def test_headers_of_the_stream(scene: Scene) -> None:
    async with scene.http.get(f"{scene.gateway.url}/events/{SYMBOL}") as response:
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["X-Accel-Buffering"] == "no"
        assert await response.content.readline() == b"retry: 1000\n"


async def test_a_quiet_stream_shows_signs_of_life(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower_module, "HEARTBEAT_S", 0.2)
    async with asyncio.timeout(PATIENCE_S), scene.listening() as listener:
        while (await listener.block()) != {"": "heartbeat"}:
            pass


async def test_a_frozen_client_is_cut_and_costs_others_nothing(
    redis_url: str, settings_for: SettingsFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening_module, "WRITE_S", 1.0)
    async with scene_on(redis_url, settings_for(MARKETSWARM_PORT="0")) as scene:
        await scene.pipeline.live()
        with socket.create_connection((scene.gateway.host, scene.gateway.port)) as frozen:
            frozen.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            frozen.sendall(f"GET /events/{SYMBOL} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            async with scene.listening() as listener:
                await listener.next()
                await wait_until_async(lambda: _clients(scene, 2), "both to be connected")
                while await _clients(scene, 2):
                    seq = _publish_much(scene)
                    assert (await listener.next()).data["seq"] == seq
                assert await _clients(scene, 1)


async def test_a_client_that_takes_steadily_is_not_cut_however_long_it_takes(
    redis_url: str, settings_for: SettingsFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening_module, "WRITE_S", 1.0)
    async with scene_on(redis_url, settings_for(MARKETSWARM_PORT="0")) as scene:
        await scene.pipeline.live()
        with socket.socket() as steady:
            steady.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
            steady.connect((scene.gateway.host, scene.gateway.port))
            steady.setblocking(False)
            loop, got = asyncio.get_running_loop(), 0
            await loop.sock_sendall(steady, f"GET /events/{SYMBOL} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            await wait_until_async(lambda: _clients(scene, 1), "it to be connected")
            await asyncio.sleep(0.5)
            _publish_much(scene, megabytes=12)
            while got < 12 * 2**20:
                piece = await loop.sock_recv(steady, 2**16)
                assert piece, "it was cut"
                got += len(piece)
                await asyncio.sleep(0.02)


def _publish_much(scene: Scene, megabytes: int = 1) -> int:
    """Append an event of so many megabytes to the stream; its seq."""
    client, state = scene.pipeline.client, scene.pipeline.keys.model_state(SYMBOL)
    seq: int = client.hincrby(state, "seq", 1)
    data = json.dumps({"model": "gex", "filler": "x" * megabytes * 2**20})
    entry = {"type": "gex", "seq": seq, "generation": client.hget(state, "generation"), "data": data}
    client.xadd(scene.pipeline.keys.model_stream(SYMBOL), entry)
    return seq


async def _clients(scene: Scene, count: int) -> bool:
    async with scene.http.get(f"{scene.gateway.url}/metrics") as response:
        return f'marketswarm_gateway_clients{{symbol="{SYMBOL}"}} {count:.1f}' in await response.text()
