"""The gateway: models, validated input, and event streams that miss nothing, repeat nothing, and survive Redis."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from consumers import embedded
from contracts.errors import FatalError
from contracts.planes import Ints
from contracts.settings import Settings
from ops.gateway.event import Event, View
from ops.gateway.metrics import render_metrics
from ops.gateway.server import serving
from ops.gateway.stream import FIRST, format_id, merged, parse_id
from tests.ops.pipeline import STRIKES, SYMBOL
from tests.ops.scene import PLANE, Received, Scene, cells_of, folded, published, scene_on
from tests.waiting import wait_until, wait_until_async

SettingsFor = Callable[..., Settings]


# --- events


async def test_a_reset_and_then_every_diff(scene: Scene) -> None:
    async with scene.listening() as listener:
        reset = await listener.next()
        assert reset.type == "reset" and reset.data["epoch"] == scene.pipeline.epoch()
        for number in range(40):
            scene.pipeline.quote(STRIKES[number], 8.0 + number / 100, 8.5 + number / 100)
            if number % 10 == 0:
                await asyncio.sleep(0.02)
        await scene.pipeline.settle()
        await scene.pipeline.tick()
        events = await listener.until("gex")
    assert [event.data["seq"] for event in events] == [reset.data["seq"] + n for n in range(1, len(events) + 1)]
    assert {event.data["generation"] for event in events} == {reset.data["generation"]}
    assert {event.type for event in events} == {"diff", "tick", "gex"}
    assert (folded(cells_of(reset), events) == published(scene.pipeline)).all()


async def test_clients_that_join_amid_a_storm_all_end_up_equal(scene: Scene) -> None:
    resets: list[Received] = []

    async def join_and_follow(delay_s: float) -> Ints:
        await asyncio.sleep(delay_s)
        async with scene.listening() as listener:
            reset = await listener.next()
            resets.append(reset)
            return folded(cells_of(reset), await listener.until("gex"))

    joined = [asyncio.create_task(join_and_follow(n * 0.02)) for n in range(20)]
    for number in range(200):
        scene.pipeline.quote(STRIKES[number % 41], 7.0 + number / 100, 7.5 + number / 100)
        await asyncio.sleep(0.003)
    await scene.pipeline.settle()
    await wait_until_async(lambda: len(resets) == len(joined), "all to have joined")
    await scene.pipeline.tick()
    results = await asyncio.gather(*joined)
    for cells in results:
        assert (cells == published(scene.pipeline)).all()


async def test_resumes_exactly_after_the_last_event(scene: Scene) -> None:
    async with scene.listening() as listener:
        reset = await listener.next()
        scene.pipeline.quote(STRIKES[3], 8.0, 8.5)
        first = await listener.next()
    scene.pipeline.quote(STRIKES[4], 8.0, 8.5)
    await wait_until_async(lambda: scene.pipeline.state("seq") > first.data["seq"], "a diff while away")
    async with scene.listening(first.id) as listener:
        missed = await listener.next()
        scene.pipeline.quote(STRIKES[5], 8.0, 8.5)
        live = await listener.next()
    assert [event.type for event in (missed, live)] == ["diff", "diff"]
    assert [event.data["seq"] for event in (missed, live)] == [first.data["seq"] + 1, first.data["seq"] + 2]
    assert (folded(cells_of(reset), [first, missed, live]) == published(scene.pipeline)).all()


async def test_resumes_from_a_reset_with_nothing_missed(scene: Scene) -> None:
    async with scene.listening() as listener:
        reset = await listener.next()
    async with scene.listening(reset.id) as listener:
        scene.pipeline.quote(STRIKES[3], 8.0, 8.5)
        event = await listener.next()
    assert event.type == "diff" and event.data["seq"] == reset.data["seq"] + 1


async def test_an_id_that_is_not_in_the_window_gets_a_reset(scene: Scene) -> None:
    for given in ("", "nonsense", "1-1", "99999999999999999999-0", "-", "+", "1-1\t", "\u0663-1"):
        async with scene.listening(given) as listener:
            assert (await listener.next()).type == "reset", given


async def test_an_id_of_another_epoch_gets_a_reset(scene: Scene) -> None:
    async with scene.listening() as listener:
        before = await listener.next()
        scene.pipeline.chain(STRIKES[:-1])
        promoted = await listener.until("reset")
        assert promoted[-1].data["reason"] == "promoted"
        assert promoted[-1].data["epoch"] != before.data["epoch"]
    async with scene.listening(before.id) as listener:
        event = await listener.next()
    assert event.type == "reset" and event.data["epoch"] == scene.pipeline.epoch()


async def test_a_gap_in_the_stream_becomes_a_reset(scene: Scene) -> None:
    async with scene.listening() as listener:
        reset = await listener.next()
        scene.pipeline.client.hincrby(scene.pipeline.keys.model_state(SYMBOL), "seq", 5)  # five entries were lost
        scene.pipeline.quote(STRIKES[3], 8.0, 8.5)
        event = await listener.next()
    assert event.type == "reset" and event.data["seq"] == reset.data["seq"] + 6


async def test_foreign_entries_of_the_stream_are_passed_over(scene: Scene) -> None:
    stream = scene.pipeline.keys.model_stream(SYMBOL)
    async with scene.listening() as listener:
        reset = await listener.next()
        scene.pipeline.client.xadd(stream, {"hello": "world"})
        scene.pipeline.client.xadd(stream, {"type": "diff", "seq": "x", "generation": "1", "data": "{}"})
        scene.pipeline.quote(STRIKES[3], 8.0, 8.5)
        event = await listener.next()
    assert event.type == "diff" and event.data["seq"] == reset.data["seq"] + 1


async def test_before_anything_is_published_the_stream_waits(redis_url: str, settings_for: SettingsFor) -> None:
    async with scene_on(redis_url, settings_for(MARKETSWARM_PORT="0")) as scene, scene.listening() as listener:
        await asyncio.sleep(0.3)
        await scene.pipeline.live()
        assert (await listener.next()).type == "reset"


def test_ids_and_rendering() -> None:
    assert parse_id("12-3") == (12, 3) and format_id((12, 3)) == "12-3"
    assert parse_id("12") is parse_id("18446744073709551616-0") is parse_id("1-1\n") is None
    event = Event((5, 1), "gex", merged(b"7", b"99", b'{"model":"gex","seq":6}'))
    chunk = event.render(View())
    assert chunk is not None
    head, data = chunk.split(b"data: ")
    assert head == b"id: 5-1\nevent: gex\n" and json.loads(data) == {"model": "gex", "seq": 7, "generation": "99"}
    assert data.count(b'"seq"') == 1
    assert (Event(FIRST, "tick", b"{}").render(View()) or b"").startswith(b"event: tick\n")


# --- pages


async def test_models(scene: Scene) -> None:
    status, whole = await scene.get(f"/api/models/{SYMBOL}/heatmap")
    assert status == 200 and whole["model"] == "heatmap" and whole["epoch"] == scene.pipeline.epoch()
    status, single = await scene.get(f"/api/models/{SYMBOL}/heatmap?strategy=single")
    assert status == 200 and set(single["planes"][PLANE]) >= {"single"}
    assert not set(single["planes"][PLANE]) & {"butterfly", "vertical"}
    status, gex = await scene.get(f"/api/models/{SYMBOL}/gex")
    assert status == 200 and gex["model"] == "gex"


async def test_status_and_probes(scene: Scene) -> None:
    status, body = await scene.get("/api/status")
    assert status == 200 and body["symbols"][SYMBOL]["epoch"] == scene.pipeline.epoch()
    assert (await scene.get("/healthz"))[0] == 200
    await wait_until_async(lambda: _is_ready(scene), "the gateway to be ready")
    assert (await scene.get("/readyz")) == (200, {"ready": True, "waiting_for": []})
    async with scene.listening() as listener:
        await listener.next()
        async with scene.http.get(f"{scene.gateway.url}/metrics") as response:
            page = await response.text()
    assert 'marketswarm_gateway_clients{symbol="SPX"} 1.0' in page and "marketswarm_redis_up 1.0" in page
    assert 'marketswarm_analytics{name="promotions",partition="SPX",stat="epoch"} 1.0' in page
    assert 'marketswarm_promotions_total{partition="SPX",reason="bootstrap"} 1.0' in page
    assert 'marketswarm_fences_total{partition="SPX"} 0.0' in page
    assert 'marketswarm_health{symbol="SPX"} 0.0' in page
    async with scene.http.get(scene.gateway.url) as response:
        assert "/events/{U}" in await response.text()
    heartbeats = scene.pipeline.client.hvals(scene.pipeline.keys.heartbeat())
    assert [json.loads(body)["port"] for body in heartbeats] == [scene.gateway.port]


def test_epoch_analytics_and_health_are_metrics_of_their_own() -> None:
    epoch = {
        "promotions_geometry": 2.0, "promotions_dormancy": 1.0, "promotion_rate_per_min:SPX": 3.0, "fences": 4.0,
        "stale_epoch_refusals": 5.0, "dormancy_triggers": 1.0, "dirty_ms_p50": 1.5, "dirty_ms_p99": 9.0,
    }  # fmt: skip
    health = {
        "SPX": {"status": "degraded", "signals": {"snapshot_age_s": 31.0}},
        "NDX": {"status": "ok", "signals": {}},
    }
    page = render_metrics([], {("SPX", "epoch"): epoch, ("SPX", "chain"): {"fences": 9.0}}, health).decode()
    for line in (
        'marketswarm_promotions_total{partition="SPX",reason="geometry"} 2.0',
        'marketswarm_promotions_total{partition="SPX",reason="dormancy"} 1.0',
        'marketswarm_promotion_rate_per_min{partition="SPX",symbol="SPX"} 3.0',
        'marketswarm_fences_total{partition="SPX"} 4.0',
        'marketswarm_stale_epoch_refusals_total{partition="SPX"} 5.0',
        'marketswarm_dormancy_triggers_total{partition="SPX"} 1.0',
        'marketswarm_dirty_ms{partition="SPX",quantile="p50"} 1.5',
        'marketswarm_dirty_ms{partition="SPX",quantile="p99"} 9.0',
        'marketswarm_health{symbol="SPX"} 1.0',
        'marketswarm_health{symbol="NDX"} 0.0',
        'marketswarm_health_signal{signal="snapshot_age_s",symbol="SPX"} 31.0',
    ):
        assert line in page.splitlines()


ODD_REQUESTS = {
    "/api/models/QQQ/gex": 404,
    "/api/models/spx/heatmap": 404,
    "/api/models/SPX/heatmap?strategy=condor": 400,
    "/api/models/SPX/heatmap?strategy=%00%ff": 400,
    "/api/models/SPX/heatmap?strategy=" + "x" * 3000: 400,
    "/api/models/%F0%9F%90%8D/heatmap": 404,
    "/api/models/SPX/vix": 404,
    "/api/models/..%2F..%2Fetc/gex": 404,
    "/events/QQQ": 404,
    "/events/": 404,
    "/nothing": 404,
}


async def test_odd_requests_are_answered_in_json(scene: Scene) -> None:
    for path, expected in ODD_REQUESTS.items():
        status, body = await scene.get(path)
        assert status == expected and body["error"], path


async def test_other_methods_are_refused(scene: Scene) -> None:
    async with scene.http.post(f"{scene.gateway.url}/api/status") as response:
        assert response.status == 405 and (await response.json())["error"]
    async with scene.http.head(f"{scene.gateway.url}/events/{SYMBOL}") as response:
        assert response.status == 405


async def test_a_model_that_is_not_there_yet(redis_url: str, settings_for: SettingsFor) -> None:
    async with scene_on(redis_url, settings_for(MARKETSWARM_PORT="0")) as scene:
        status, body = await scene.get(f"/api/models/{SYMBOL}/gex")
    assert status == 404 and "yet" in body["error"]


async def test_a_port_that_is_taken_is_one_clear_error(scene: Scene, redis_url: str, settings_for: SettingsFor) -> None:
    settings = settings_for(MARKETSWARM_PORT=str(scene.gateway.port))
    with pytest.raises(FatalError, match=f"MARKETSWARM_PORT={scene.gateway.port}: the port is in use"):
        async with serving(settings, redis_url):
            pass


# --- Redis away


@contextmanager
def server_of_its_own(data: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A server that can be killed and started again on its data."""
    with subprocess.Popen(embedded.command(data, port), stdout=subprocess.DEVNULL) as server:
        client: Any = redis.Redis.from_url(f"redis://127.0.0.1:{port}")
        try:
            wait_until(lambda: _answers(client), "the server to answer")
            yield server
        finally:
            client.close()
            server.terminate()


def _answers(client: Any) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


async def test_redis_away_is_503_and_the_stream_goes_on(tmp_path: Path, settings_for: SettingsFor) -> None:
    port = embedded.free_port()
    url, settings = f"redis://127.0.0.1:{port}", settings_for(MARKETSWARM_PORT="0")
    with server_of_its_own(tmp_path, port) as server:
        async with scene_on(url, settings) as scene:
            await scene.pipeline.live()
            async with scene.listening() as listener:
                reset = await listener.next()
                server.terminate()
                await asyncio.to_thread(server.wait)
                for path in ("/api/status", f"/api/models/{SYMBOL}/gex"):
                    status, body = await scene.get(path)
                    assert status == 503 and "not available" in body["error"]
                async with scene.http.get(f"{scene.gateway.url}/metrics") as response:
                    assert "marketswarm_redis_up 0.0" in await response.text()
                with server_of_its_own(tmp_path, port):
                    scene.pipeline.quote(STRIKES[3], 8.0, 8.5)
                    events = [await listener.next(30.0)]
                    await wait_until_async(lambda: _is_ready(scene), "the gateway to be ready again")
                    assert events[0].data["seq"] > reset.data["seq"]
                    assert events[0].type in ("diff", "reset")


async def _is_ready(scene: Scene) -> bool:
    return (await scene.get("/readyz"))[0] == 200
