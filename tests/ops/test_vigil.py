"""The vigil on a live pipeline: one owner over all gateways, no alert twice, none forgotten, rules that change."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from typer.testing import CliRunner

from consumers.broker import Broker
from contracts.settings import Settings
from ops.alerts import webhook as webhook_module
from ops.alerts.rule_file import RuleFile
from ops.alerts.vigil import KEEP, LEASE, Vigil
from ops.alerts.webhook import WAITING, Webhooks
from ops.cli import app
from ops.gateway.server import serving
from tests.ops.pipeline import STRIKES, SYMBOL
from tests.ops.scene import Scene, scene_on
from tests.waiting import wait_until_async

SettingsFor = Callable[..., Settings]

CHEAP = """
[[rule]]
name = "cheap"
when = "tile_below"
strategy = "single"
side = "call"
strike = {strike}
debit = {debit}
"""


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """The call at the money below 9 dollars; it starts at 10.25."""
    path = tmp_path / "alerts.toml"
    path.write_text(CHEAP.format(strike=STRIKES[20], debit=9))
    return path


@pytest.fixture
async def watched(redis_url: str, settings_for: SettingsFor, rules: Path) -> AsyncIterator[Scene]:
    """A live pipeline whose gateway keeps the vigil."""
    async with scene_on(redis_url, settings_for(MARKETSWARM_PORT="0", MARKETSWARM_ALERTS=str(rules))) as scene:
        await scene.pipeline.live()
        await wait_until_async(lambda: _standing(scene).get("cheap") == {"below": False}, "a first judgement")
        yield scene


def _write(rules: Path, text: str) -> None:
    """At once: half a file is other rules than those it will be."""
    draft = rules.with_suffix(".draft")
    draft.write_text(text)
    draft.replace(rules)


def _alerts(scene: Scene) -> list[dict[str, Any]]:
    entries = scene.pipeline.client.xrange(scene.pipeline.keys.alert_stream(SYMBOL))
    return [json.loads(fields[b"data"]) for _, fields in entries]


def _standing(scene: Scene) -> dict[str, Any]:
    stored = scene.pipeline.client.hgetall(scene.pipeline.keys.alert_state(SYMBOL))
    return {name.decode(): json.loads(body)["standing"] for name, body in stored.items()}


async def test_an_alert_is_stored_told_and_listed(watched: Scene) -> None:
    async with watched.listening() as listener:
        await listener.next()
        watched.pipeline.quote(STRIKES[20], 8.0, 8.5)
        told = (await listener.until_any("alert")).data
    assert (told["rule"], told["when"], told["symbol"]) == ("cheap", "tile_below", SYMBOL)
    assert told["epoch"] == watched.pipeline.epoch() and told["values"]["mid"] == 8.25
    assert (await watched.get(f"/api/alerts/{SYMBOL}"))[1]["alerts"] == [told]
    assert _standing(watched) == {"cheap": {"below": True}}


async def test_a_restart_alerts_to_nothing_twice(watched: Scene, rules: Path, settings_for: SettingsFor) -> None:
    watched.pipeline.quote(STRIKES[20], 8.0, 8.5)
    await wait_until_async(lambda: len(_alerts(watched)) == 1, "the alert")
    keeper = _Keeper(watched, rules)
    async with keeper.owning():
        for _ in range(3):
            await keeper.keep()  # a new process that remembers nothing by itself
    assert len(_alerts(watched)) == 1


async def test_two_gateways_alert_once(watched: Scene, redis_url: str, rules: Path, settings_for: SettingsFor) -> None:
    settings = settings_for(MARKETSWARM_PORT="0", MARKETSWARM_ALERTS=str(rules))
    async with serving(settings, redis_url):
        watched.pipeline.quote(STRIKES[20], 8.0, 8.5)
        await wait_until_async(lambda: len(_alerts(watched)) == 1, "the alert")
        await asyncio.sleep(2.2)
    assert len(_alerts(watched)) == 1


async def test_who_lost_the_lease_alerts_nobody(redis_url: str, settings_for: SettingsFor, rules: Path) -> None:
    async with scene_on(redis_url, settings_for(MARKETSWARM_PORT="0")) as scene:
        await scene.pipeline.live()
        keeper = _Keeper(scene, rules)
        async with keeper.owning():
            await keeper.keep()
            before = _standing(scene)
            scene.pipeline.quote(STRIKES[20], 8.0, 8.5)
            await _published(scene, 8.25)
            scene.pipeline.client.set(keeper.lease, "somebody else", px=5000)
            await keeper.keep()
            assert _alerts(scene) == [] and _standing(scene) == before
            scene.pipeline.client.delete(keeper.lease)
        async with keeper.owning():
            await keeper.keep()
        assert len(_alerts(scene)) == 1  # and it is not forgotten


async def test_rules_change_while_it_runs(watched: Scene, rules: Path) -> None:
    _write(rules, "nonsense")
    await wait_until_async(lambda: _problem(watched, "not TOML"), "the complaint")
    watched.pipeline.quote(STRIKES[20], 8.0, 8.5)
    await wait_until_async(lambda: len(_alerts(watched)) == 1, "an alert by the last good rules")
    _write(rules, CHEAP.format(strike=STRIKES[21], debit=9).replace("cheap", "other"))
    await wait_until_async(lambda: _standing(watched) == {"other": {"below": False}}, "the new rule alone")
    assert (await watched.get("/api/rules"))[1]["problem"] is None


async def _problem(scene: Scene, words: str) -> bool:
    return words in str((await scene.get("/api/rules"))[1]["problem"])


async def test_the_stream_of_alerts_is_bounded(watched: Scene) -> None:
    stream = watched.pipeline.keys.alert_stream(SYMBOL)
    with watched.pipeline.client.pipeline(transaction=False) as pipeline:
        for _ in range(KEEP + 300):
            pipeline.xadd(stream, {"data": "{}"})
        pipeline.execute()
    watched.pipeline.quote(STRIKES[20], 8.0, 8.5)
    await wait_until_async(lambda: _alerts(watched)[-1] != {}, "the alert")
    assert watched.pipeline.client.xlen(stream) <= KEEP + 200  # trimmed by whole nodes


# --- webhook


@asynccontextmanager
async def _receiver(statuses: list[int]) -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """A server that answers posts with these statuses in turn, then 200; its address and what it was told."""
    told: list[dict[str, Any]] = []

    async def take(request: web.Request) -> web.Response:
        told.append(await request.json())
        return web.Response(status=statuses.pop(0) if statuses else 200)

    application = web.Application()
    application.router.add_post("/hook", take)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/hook", told
    finally:
        await runner.cleanup()


async def test_an_alert_is_posted_to_its_address(redis_url: str, settings_for: SettingsFor, rules: Path) -> None:
    async with _receiver([]) as (url, told):
        _write(rules, CHEAP.format(strike=STRIKES[20], debit=100) + f'webhook = "{url}"\n')
        settings = settings_for(MARKETSWARM_PORT="0", MARKETSWARM_ALERTS=str(rules))
        async with scene_on(redis_url, settings) as scene:
            await scene.pipeline.live()
            await wait_until_async(lambda: len(told) == 1, "the post")
            assert told == _alerts(scene)


async def test_a_webhook_is_tried_again_and_then_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook_module, "PAUSES_S", (0.01, 0.01))
    async with _receiver([500, 302, 500, 500]) as (url, told):
        webhooks = Webhooks()
        posting = asyncio.create_task(webhooks.run())
        webhooks.post(url, {"n": 1})  # fails three times: given up
        webhooks.post(url, {"n": 2})  # fails once
        webhooks.post("http://127.0.0.1:1/closed", {"n": 3})
        webhooks.post(url, {"n": 4})
        await wait_until_async(lambda: len(told) == 6, "the posts")
        posting.cancel()
    assert [one["n"] for one in told] == [1, 1, 1, 2, 2, 4]


async def test_what_waits_to_be_posted_is_bounded() -> None:
    webhooks = Webhooks()
    for number in range(WAITING + 5):
        webhooks.post("http://127.0.0.1:1/", {"n": number})
    webhooks.post(None, {"n": -1})
    assert webhooks.waiting == WAITING


# --- the command


def test_the_command_checks_a_file(rules: Path) -> None:
    found = CliRunner().invoke(app, ["alerts", "check", str(rules)])
    assert found.exit_code == 0 and "1 rule" in found.output
    rules.write_text('[[rule]]\nname = "a"\nwhen = "stale"\n')
    found = CliRunner().invoke(app, ["alerts", "check", str(rules)])
    assert found.exit_code != 0 and "rule 'a'" in str(found.exception) and str(rules) in str(found.exception)


class _Keeper:
    """A vigil kept by hand."""

    def __init__(self, scene: Scene, rules: Path) -> None:
        keys = scene.pipeline.keys
        url = "redis://{host}:{port}/{db}".format(**scene.pipeline.client.connection_pool.connection_kwargs)
        self._broker = Broker(url, "gateway", "by-hand", keys.cursor("gateway", SYMBOL))
        self._vigil = Vigil(self._broker, keys, (SYMBOL,), RuleFile(rules), Webhooks())
        self.lease = keys.lease(LEASE, SYMBOL)
        self._client = scene.pipeline.client

    @asynccontextmanager
    async def owning(self) -> AsyncIterator[None]:
        """The lease is ours, whoever had it."""
        self._client.set(self.lease, "by-hand", px=30_000)
        try:
            yield
        finally:
            self._client.delete(self.lease)
            await self._broker.close()

    async def keep(self) -> None:
        await self._vigil.keep(self.lease, "by-hand")


async def _published(scene: Scene, mid: float) -> None:
    path = f"/api/tiles/{SYMBOL}?plane=SPXW:2031-01-15&strategy=single&side=call&strike={STRIKES[20]}"

    async def shows() -> bool:
        return bool((await scene.get(path))[1].get("mid") == mid)

    await wait_until_async(shows, "the tile")
