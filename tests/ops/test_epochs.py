"""`marketswarm epochs`: the table people know, the difference of two epochs, and a forced one."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import time
from typing import Any

import pytest

from contracts.clock import MarketClock, encode_clock
from contracts.errors import FatalError, TransientError
from contracts.keys import Keys
from contracts.messages import EpochForce
from contracts.settings import Settings
from contracts.symbology import format_ticker
from ops.epoch_diff import read_diff
from ops.epoch_force import force_epoch
from ops.epochs import epochs_table, read_epochs
from tests.ops.pipeline import EXPIRATION, STRIKES, SYMBOL, small_pipeline
from tests.ops.test_cli import run
from tests.waiting import PATIENCE_S, wait_until_async

SettingsFor = Callable[..., Settings]

ROOT = Path(__file__).parents[2]
PLANE = f"SPXW:{EXPIRATION}"
CALL = format_ticker("SPXW", EXPIRATION, "call", STRIKES[5] * 1000)

BUSY = "SPX:1700000000:1f3a"
QUIET = "NDX:1700000030:9c0d"
TABLE = """\
SYMBOL  EPOCH_ID                    AGE(s)  DIRTY  DORMANT  FORCED  WS  HEATMAP  GEX
------------------------------------------------------------------------------------------------
SPX     SPX:1700000000:1f3a         45      no     0        no      yes 3        1
NDX     NDX:1700000030:9c0d         15      yes    2        yes     no  -        -
"""


def two_epochs(client: Any, keys: Keys) -> None:
    """One as on any day; one that is dirty, forced, dormant and without updates. It is 1700000045 for ever."""
    client.set(keys.clock("SPX"), encode_clock(MarketClock(0.0, 1_700_000_045.0, 1e-12)))
    for epoch, facts in (
        (BUSY, {"dormant_count": 0, "forced_dirty": 0, "had_ws_updates": 1, "reason": "geometry"}),
        (QUIET, {"dormant_count": 2, "forced_dirty": 1, "had_ws_updates": 0, "reason": "dormancy"}),
    ):
        symbol, second, _ = epoch.split(":")
        client.hset(keys.active(symbol), symbol, epoch)
        client.hset(keys.meta(epoch), mapping=facts | {"symbol": symbol, "created_ts": second})
        client.lpush(keys.timeline(symbol), epoch)
    client.sadd(keys.clean("SPX"), BUSY)
    client.sadd(keys.dirty("SPX"), QUIET)
    side = {"call": {"mid": [1.0, None]}, "put": {"mid": [2.0, 3.0]}}
    client.set(keys.heatmap_model("SPX", "single"), json.dumps({"epoch": BUSY, "planes": {PLANE: {"single": side}}}))
    gex = {"epoch": BUSY, "greek_src": {"provider": 2, "own": 1}, "dropped": {"no_iv": 1, "no_oi": 1}}
    client.set(keys.gex_model("SPX"), json.dumps(gex))
    for key in (keys.heatmap_model("SPX", "single"), keys.gex_model("SPX")):
        client.expire(key, 60)


def test_the_table_of_any_epoch_is_as_agreed(
    redis_url: str, client: Any, keys: Keys, settings_for: SettingsFor
) -> None:
    two_epochs(client, keys)
    rows = read_epochs(redis_url, settings_for(), ("SPX", "NDX"))
    assert epochs_table(rows) + "\n" == TABLE


def test_the_script_prints_the_same_table_from_any_folder(
    redis_url: str, client: Any, keys: Keys, tmp_path: Path
) -> None:
    two_epochs(client, keys)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MASSIVE_", "MARKETSWARM_"))
    }
    environment |= {"REDIS_URL": redis_url, "MARKETSWARM_DATA": str(tmp_path)}
    link = tmp_path / "inspect"
    link.symlink_to(ROOT / "ops" / "epoch-inspect.sh")
    for arguments, expected in (((), TABLE), (("ndx", "--all"), TABLE.replace(TABLE.splitlines()[2] + "\n", ""))):
        done = subprocess.run(
            [link, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stdout == expected
    done = subprocess.run([link, "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert "--all" in done.stdout and "--watch" in done.stdout


# --- the command


def test_epochs_takes_a_symbol_options_or_a_command(redis_url: str, client: Any, keys: Keys, tmp_path: Path) -> None:
    two_epochs(client, keys)
    header, rule, spx, ndx = TABLE.splitlines()
    for arguments, lines in (
        ((), [spx, ndx]),
        (("spx",), [spx]),
        (("show", "NDX"), [ndx]),
        (("--all",), [spx, ndx]),
        (("NDX", "--all"), [ndx]),
    ):
        done = run(tmp_path, "epochs", *arguments, REDIS_URL=redis_url)
        assert done.stdout.splitlines() == [header, rule, *lines], arguments
    (row,) = json.loads(run(tmp_path, "epochs", "NDX", "--json", REDIS_URL=redis_url).stdout)
    assert (row["epoch"], row["dirty"], row["dormant"], row["forced"], row["ws"]) == (QUIET, True, 2, True, False)


def test_watch_prints_again_and_again(redis_url: str, client: Any, keys: Keys, tmp_path: Path) -> None:
    two_epochs(client, keys)
    command = [sys.executable, "-P", "-m", "ops.cli", "epochs", "--watch"]
    environment = os.environ | {"REDIS_URL": redis_url}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        printed = [next(watching.stdout) for _ in range(2 * len(TABLE.splitlines()))]
        watching.terminate()
    assert "".join(printed) == 2 * TABLE


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("QQQ",), "no symbol 'QQQ' here"),
        (("force", "QQQ"), "no symbol 'QQQ' here"),
        (("force", "SPX"), "no staging process is running"),
        (("diff", BUSY, "SPX:1:0000"), f"epoch {BUSY} has run out"),
        (("diff", "SPX:1:0000", BUSY), "no epoch 'SPX:1:0000'"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    redis_url: str, client: Any, keys: Keys, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    two_epochs(client, keys)
    done = run(tmp_path, "epochs", *arguments, REDIS_URL=redis_url)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and says in line


# --- the difference


async def test_the_difference_names_what_came_what_went_and_what_changed(
    redis_url: str, settings_for: SettingsFor
) -> None:
    settings = settings_for()
    async with small_pipeline(redis_url, settings) as pipeline:
        await pipeline.live()
        first = pipeline.epoch()
        pipeline.chain((*STRIKES[1:], 7005, 7010))
        await wait_until_async(lambda: pipeline.epoch() != first, "a promotion")
        pipeline.quote(STRIKES[5], 9.0, 9.5)
        contract = pipeline.keys.contract(pipeline.epoch(), CALL)
        await wait_until_async(lambda: pipeline.client.hget(contract, "bid") == b"9.00", "the quote")
        found = await asyncio.to_thread(read_diff, redis_url, settings, first, pipeline.epoch())
    (plane,) = found.planes
    assert plane.plane == PLANE
    assert plane.added == tuple(
        format_ticker("SPXW", EXPIRATION, kind, strike * 1000) for strike in (7005, 7010) for kind in ("call", "put")
    )
    assert plane.dropped == tuple(
        format_ticker("SPXW", EXPIRATION, kind, STRIKES[0] * 1000) for kind in ("call", "put")
    )
    assert plane.kept == 2 * (len(STRIKES) - 1)
    assert plane.changed == {
        CALL: {
            "bid": ("10.00", "9.00"), "ask": ("10.50", "9.50"), "mid": ("10.250", "9.250"),
            "bid_size": ("5", "1"), "ask_size": ("6", "1"),
        }
    }  # fmt: skip
    assert found.as_text().splitlines()[:2] == [
        "PLANE            ADDED  DROPPED  KEPT  CHANGED",
        f"{PLANE}  4      2        80    1",
    ]
    assert f"+ {plane.added[0]}" in found.as_text() and f"- {plane.dropped[0]}" in found.as_text()
    assert json.loads(json.dumps(found.as_json()))["planes"][PLANE]["changed"][CALL]["bid"] == ["10.00", "9.00"]


async def test_an_epoch_and_itself_do_not_differ(redis_url: str, settings_for: SettingsFor) -> None:
    settings = settings_for()
    async with small_pipeline(redis_url, settings) as pipeline:
        await pipeline.live()
        found = await asyncio.to_thread(read_diff, redis_url, settings, pipeline.epoch(), pipeline.epoch())
    (plane,) = found.planes
    assert (plane.added, plane.dropped, plane.kept, plane.changed) == ((), (), 2 * len(STRIKES), {})


# --- force


def beat(client: Any, keys: Keys, ts: float) -> None:
    """A staging process tells of itself."""
    client.hset(keys.heartbeat(), "staging-1", json.dumps({"role": "staging", "ts": ts}))


async def test_a_forced_epoch_has_the_same_contracts_and_is_named(redis_url: str, settings_for: SettingsFor) -> None:
    settings = settings_for()
    async with small_pipeline(redis_url, settings) as pipeline:
        await pipeline.live()
        first = pipeline.epoch()
        beat(pipeline.client, pipeline.keys, time())
        forced = await asyncio.to_thread(force_epoch, redis_url, settings, SYMBOL, PATIENCE_S)
        assert forced == pipeline.epoch() != first
        meta = pipeline.client.hgetall(pipeline.keys.meta(forced))
        found = await asyncio.to_thread(read_diff, redis_url, settings, first, forced)
    assert (meta[b"reason"], meta[b"forced_dirty"]) == (b"operator", b"1")
    assert [(one.added, one.dropped, one.changed) for one in found.planes] == [((), (), {})]


def test_an_order_nobody_answers_in_time_stands(
    redis_url: str, client: Any, keys: Keys, settings_for: SettingsFor
) -> None:
    two_epochs(client, keys)
    beat(client, keys, time())
    with pytest.raises(TransientError, match=r"no new epoch of SPX within 0\.2 s; the order stands"):
        force_epoch(redis_url, settings_for(), SYMBOL, 0.2)
    ((_, entry),) = client.xrange(keys.chain_stream(SYMBOL))
    assert entry[b"type"].decode() == EpochForce.TYPE and json.loads(entry[b"data"])["symbol"] == SYMBOL


def test_nothing_is_ordered_where_nobody_would_do_it(
    redis_url: str, client: Any, keys: Keys, settings_for: SettingsFor
) -> None:
    beat(client, keys, time())
    with pytest.raises(FatalError, match="SPX has no epoch yet"):
        force_epoch(redis_url, settings_for(), SYMBOL, 0.2)
    two_epochs(client, keys)
    beat(client, keys, time() - 60)
    with pytest.raises(FatalError, match="no staging process is running"):
        force_epoch(redis_url, settings_for(), SYMBOL, 0.2)
    assert not client.exists(keys.chain_stream(SYMBOL))
