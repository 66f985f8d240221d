"""REST: everything published can be asked for, and what is asked wrongly is answered with what to ask instead."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from contracts.settings import Settings
from ops.gateway.endpoints import ENDPOINTS, openapi
from ops.gateway.resources import MOST
from ops.gateway.server import Gateway
from tests.ops.pipeline import EXPIRATION, STRIKES, SYMBOL
from tests.ops.scene import Scene
from tests.waiting import wait_until_async

SettingsFor = Callable[..., Settings]


async def test_models_that_are_published(scene: Scene) -> None:
    status, body = await scene.get(f"/api/models/{SYMBOL}")
    assert status == 200 and set(body["models"]) >= {"heatmap", "gex"}
    assert body["models"]["gex"]["epoch"] == scene.pipeline.epoch()


async def test_gex_of_one_side(scene: Scene) -> None:
    status, calls = await scene.get(f"/api/models/{SYMBOL}/gex?side=calls")
    assert status == 200 and calls["unit"] == "usd_per_1pct" and "profile" not in calls
    stored = scene.pipeline.client.get(scene.pipeline.keys.gex_model(SYMBOL, "calls"))
    assert calls == json.loads(stored)


async def test_the_active_epoch_with_its_predecessors(scene: Scene) -> None:
    first = scene.pipeline.epoch()
    scene.pipeline.chain(STRIKES[:-1])
    await wait_until_async(lambda: scene.pipeline.epoch() != first, "a promotion")
    status, body = await scene.get(f"/api/epochs/{SYMBOL}")
    assert status == 200 and body["epoch"] == scene.pipeline.epoch() and body["reason"] == "geometry"
    assert [one["id"] for one in body["timeline"]] == [scene.pipeline.epoch(), first]


async def test_the_timeline_as_far_as_asked(scene: Scene) -> None:
    first = scene.pipeline.epoch()
    scene.pipeline.chain(STRIKES[:-1])
    await wait_until_async(lambda: scene.pipeline.epoch() != first, "a promotion")
    status, whole = await scene.get(f"/api/timeline/{SYMBOL}")
    assert status == 200 and [one["reason"] for one in whole["timeline"]] == ["geometry", "bootstrap"]
    _, newest = await scene.get(f"/api/timeline/{SYMBOL}?count=1")
    assert newest["timeline"] == whole["timeline"][:1]


async def test_the_chain_comes_through_its_pointer(scene: Scene) -> None:
    keys, client = scene.pipeline.keys, scene.pipeline.client
    (snapshot,) = client.keys(f"massive:chain:snapshot:{SYMBOL}:*")
    path = f"/api/chain/{SYMBOL}/{EXPIRATION}"
    assert (await scene.get(path))[0] == 404  # a snapshot nobody points at is not searched for
    client.set(keys.chain_latest(SYMBOL, EXPIRATION), snapshot, px=60_000)
    status, chain = await scene.get(path)
    assert status == 200 and len(chain["contracts"]) == 2 * len(STRIKES) and chain["expiration"] == EXPIRATION
    client.delete(snapshot)
    status, body = await scene.get(path)
    assert status == 404 and "has just expired" in body["error"]


async def test_health_is_down_when_nothing_tells_it(scene: Scene) -> None:
    scene.pipeline.client.delete(scene.pipeline.keys.health(SYMBOL))
    assert (await scene.get(f"/api/health/{SYMBOL}"))[1]["status"] == "down"
    told = {"status": "ok", "reasons": []}
    scene.pipeline.client.set(scene.pipeline.keys.health(SYMBOL), json.dumps(told), px=15_000)
    assert await scene.get(f"/api/health/{SYMBOL}") == (200, told)


async def test_alerts_newest_first(scene: Scene) -> None:
    stream = scene.pipeline.keys.alert_stream(SYMBOL)
    for number in range(3):
        scene.pipeline.client.xadd(stream, {"data": json.dumps({"rule": f"r{number}"})})
    scene.pipeline.client.xadd(stream, {"hello": "world"})  # a foreign entry is passed over
    status, body = await scene.get(f"/api/alerts/{SYMBOL}?count=3")
    assert status == 200 and [one["rule"] for one in body["alerts"]] == ["r2", "r1"]
    assert all("-" in one["id"] for one in body["alerts"])
    assert await scene.get("/api/rules") == (200, {"rules": [], "problem": None})


async def test_alerts_reach_listeners_at_once_and_never_again(scene: Scene) -> None:
    stream = scene.pipeline.keys.alert_stream(SYMBOL)
    async with scene.listening() as earlier:
        await earlier.until_any("epoch")  # who tells of epochs looks for alerts, too, from the first time on
        scene.pipeline.client.xadd(stream, {"data": '{"rule":"old"}'})
        assert (await earlier.until_any("alert")).data["rule"] == "old"
    async with scene.listening() as listener:
        await listener.next()
        scene.pipeline.client.xadd(stream, {"data": "nonsense"})
        entry = scene.pipeline.client.xadd(stream, {"data": '{"rule":"new"}'}).decode()
        alert = await listener.until_any("alert")
        assert alert.data == {"id": entry, "rule": "new"} and alert.id == ""


async def test_schemas_that_are_shipped(scene: Scene) -> None:
    status, body = await scene.get("/api/schemas")
    assert status == 200 and isinstance(body["schemas"], list)
    status, body = await scene.get("/api/schemas/..%2Fkeys")
    assert status == 404 and "no schema" in body["error"]


async def test_the_list_of_endpoints_for_people_and_programs(scene: Scene) -> None:
    status, document = await scene.get("/api/openapi.json")
    assert status == 200 and document["openapi"] == "3.1.0"
    async with scene.http.get(f"{scene.gateway.url}/api") as response:
        page = await response.text()
    for one in ENDPOINTS:
        assert one.method.lower() in document["paths"][one.path] and one.path in page


def test_the_document_names_every_parameter_of_a_path() -> None:
    for path, operations in openapi("1")["paths"].items():
        for operation in operations.values():
            named = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
            assert named == {part[1:-1] for part in path.split("/") if part.startswith("{")}, path


async def test_every_endpoint_has_who_answers_and_nobody_answers_elsewhere(settings_for: SettingsFor) -> None:
    gateway = Gateway(settings_for(), "redis://127.0.0.1:1")  # nothing is asked of it
    assert set(gateway.handlers()) == {one.name for one in ENDPOINTS}
    await gateway.close()


def test_operations_have_names_of_their_own() -> None:
    names = [one.name for one in ENDPOINTS]
    assert len(set(names)) == len(names)
    assert all(one.path == "/login" or [e.path for e in ENDPOINTS].count(one.path) == 1 for one in ENDPOINTS)


@pytest.mark.parametrize(
    ("path", "status", "complaint"),
    [
        (f"/api/models/{SYMBOL}/vomma", 404, "no model 'vomma'; there are heatmap, gex"),
        (f"/api/models/{SYMBOL}/gex?side=both", 400, "no side 'both'; there are calls, puts"),
        (f"/api/models/{SYMBOL}/gex/history", 404, "no history of a model 'gex'"),
        (f"/api/chain/{SYMBOL}/tomorrow", 400, "'tomorrow' is no date such as"),
        (f"/api/chain/{SYMBOL}/2031-1-15", 400, "is no date such as"),
        (f"/api/chain/{SYMBOL}/20310115", 400, "is no date such as"),
        (f"/api/chain/{SYMBOL}/2031-01-22", 404, "no recent snapshot of SPX 2031-01-22"),
        (f"/api/timeline/{SYMBOL}?count=0", 400, f"a number from 1 to {MOST}"),
        (f"/api/timeline/{SYMBOL}?count=1001", 400, f"a number from 1 to {MOST}"),
        (f"/api/alerts/{SYMBOL}?count=%D9%A3", 400, f"a number from 1 to {MOST}"),
        ("/api/alerts/QQQ", 404, "no symbol 'QQQ' here; there are SPX"),
        ("/events/SPX?planes=x", 400, "a root and an expiration are expected"),
        ("/login", 405, "Method Not Allowed"),
    ],
)
async def test_what_is_asked_wrongly(scene: Scene, path: str, status: int, complaint: str) -> None:
    if path == "/login":
        async with scene.http.put(scene.gateway.url + path) as response:
            found, body = response.status, await response.json()
    else:
        found, body = await scene.get(path)
    assert found == status and complaint in body["error"]
