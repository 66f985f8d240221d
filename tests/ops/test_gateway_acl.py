"""The gateway's own user of Redis: everything works with it, and nothing can be changed by it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from contracts.errors import FatalError
from contracts.keys import Keys
from contracts.settings import Settings
from ops.gateway.acl import USER, acl_line, acl_rules, url_of
from ops.gateway.server import serving
from tests.ops.pipeline import STRIKES, SYMBOL
from tests.ops.scene import Received, Scene, scene_on
from tests.waiting import PATIENCE_S, wait_until_async

SettingsFor = Callable[..., Settings]

PASSWORD = "a password: with @ odd/characters"
RULES = """
[[rule]]
name = "cheap"
when = "tile_below"
strategy = "single"
side = "call"
strike = 6900
debit = 9
"""


@pytest.fixture
def gateway_url(redis_url: str, client: Any) -> Iterator[str]:
    """The server of the tests with the gateway's user on it, and an address with its login."""
    client.execute_command("ACL", "SETUSER", USER, *acl_rules(Keys(), PASSWORD))
    client.acl_log_reset()
    yield url_of(redis_url, PASSWORD)
    client.execute_command("ACL", "DELUSER", USER)


@pytest.fixture
def limited(gateway_url: str) -> Iterator[Any]:
    """A connection of that user."""
    found: Any = redis.Redis.from_url(gateway_url)
    yield found
    found.close()


async def test_all_of_the_gateway_works(
    redis_url: str, gateway_url: str, settings_for: SettingsFor, tmp_path: Path, client: Any
) -> None:
    rules = tmp_path / "alerts.toml"
    rules.write_text(RULES)
    settings = settings_for(MARKETSWARM_PORT="0", MARKETSWARM_ALERTS=str(rules))
    async with scene_on(redis_url, settings, gateway_url) as scene:
        await scene.pipeline.live()
        await wait_until_async(lambda: _is_ready(scene), "the gateway to be ready")
        await _works(scene)
        async with scene.listening() as listener:
            reset = await listener.next()
            scene.pipeline.quote(STRIKES[20], 8.0, 8.5)
            told: dict[str, Received] = {}
            async with asyncio.timeout(PATIENCE_S):
                while not {"diff", "alert"} <= told.keys():
                    event = await listener.next_of_any()
                    told[event.type] = event
            assert told["diff"].data["seq"] == reset.data["seq"] + 1
            assert told["alert"].data["rule"] == "cheap"
        assert client.hlen(scene.pipeline.keys.heartbeat()) == 1
    assert client.hlen(Keys().heartbeat()) == 0
    assert client.acl_log() == []


async def _is_ready(scene: Scene) -> bool:
    return (await scene.get("/readyz"))[0] == 200


async def _works(scene: Scene) -> None:
    for path in (
        "/api/status",
        f"/api/models/{SYMBOL}",
        f"/api/epochs/{SYMBOL}",
        f"/api/timeline/{SYMBOL}",
        f"/api/alerts/{SYMBOL}",
        f"/api/health/{SYMBOL}",
        "/readyz",
    ):
        status, body = await scene.get(path)
        assert status == 200, (path, body)
    tile = f"/api/tiles/{SYMBOL}?plane=SPXW:2031-01-15&strategy=single&side=call&strike=6900"
    assert (await scene.get(tile))[0] == 200
    async with scene.http.get(f"{scene.gateway.url}/metrics") as response:
        assert "marketswarm_redis_up 1.0" in await response.text()


@pytest.mark.parametrize(
    "command",
    [
        ("SET", "massive:gex:model:SPX", "{}"),
        ("HSET", "massive:model:state:SPX", "epoch", "x"),
        ("HSET", "epoch:active", "SPX", "x"),
        ("XADD", "massive:model:stream:SPX", "*", "type", "diff"),
        ("XADD", "massive:ws:stream", "*", "payload", "[]"),
        ("SET", "massive:lease:tick", "me"),
        ("DEL", "massive:model:stream:SPX"),
        ("XTRIM", "massive:alert:stream:SPX", "MAXLEN", "0"),
        ("EVAL", "return redis.call('SET', KEYS[1], '1')", "1", "massive:spot:SPX"),
        ("EVAL_RO", "return redis.call('SET', KEYS[1], '1')", "1", "massive:spot:SPX"),
        ("GET", "somebody:elses:key"),
        ("KEYS", "*"),
        ("FLUSHALL",),
        ("CONFIG", "GET", "*"),
        ("ACL", "LIST"),
        ("SHUTDOWN",),
    ],
)
def test_everything_else_is_refused(limited: Any, command: tuple[str, ...]) -> None:
    with pytest.raises(redis.ResponseError, match=r"(?i)permission|not allowed|write commands|can't access"):
        limited.execute_command(*command)


def test_what_it_may_write(limited: Any) -> None:
    limited.hset("massive:heartbeat", "gateway-x", "{}")
    limited.xadd("massive:alert:stream:SPX", {"data": "{}"})
    limited.hset("massive:alert:state:SPX", "rule", "{}")
    limited.hdel("massive:heartbeat", "gateway-x")


async def test_a_user_who_may_not_read_stops_the_gateway_with_what_to_fix(
    redis_url: str, gateway_url: str, settings_for: SettingsFor, client: Any
) -> None:
    client.execute_command("ACL", "SETUSER", USER, "resetkeys")
    with pytest.raises(BaseExceptionGroup) as failed:
        async with serving(settings_for(MARKETSWARM_PORT="0"), gateway_url):
            await asyncio.sleep(10)
    fatal = failed.value.subgroup(FatalError)
    assert fatal is not None and "marketswarm acl" in str(fatal.exceptions[0])


def test_the_line_for_a_redis_of_your_own(client: Any) -> None:
    line = acl_line(Keys("replay"), PASSWORD)
    assert PASSWORD not in line and "%R~replay:epoch:*" in line and "~massive:replay:heartbeat" in line
    assert client.execute_command(*line.split(" ")) in (b"OK", True)
    client.execute_command("ACL", "DELUSER", USER)


def test_a_login_takes_the_place_of_another() -> None:
    assert url_of("redis://me:secret@host:1/2", "p@ss") == f"redis://{USER}:p%40ss@host:1/2"
    assert url_of("rediss://host/0", "x") == f"rediss://{USER}:x@host/0"


async def test_the_embedded_server_knows_the_user(
    settings_for: SettingsFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ops.programs import MockChoice, make_plan

    environment = {"MARKETSWARM_DATA": str(tmp_path)}
    plan = make_plan(MockChoice(), settings_for(**environment), environment)
    (server,) = [program for program in plan.programs if program.name == "server"]
    process = await asyncio.create_subprocess_exec(*server.command, stdout=asyncio.subprocess.DEVNULL)
    found: Any = redis.Redis.from_url(plan.environment["MARKETSWARM_GATEWAY_REDIS_URL"])
    try:
        await wait_until_async(lambda: _answers(found), "the server")
        with pytest.raises(redis.ResponseError, match="permission"):
            found.set("massive:spot:SPX", "{}")
    finally:
        found.close()
        process.terminate()
        await process.wait()


def _answers(client: Any) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
