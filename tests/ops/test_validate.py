"""`marketswarm validate`: whatever a running pipeline publishes fits the shipped schemas; what does not is named."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from time import time

import orjson
import pytest

from contracts.errors import DataError, FatalError
from contracts.keys import Keys
from contracts.models import MESSAGES
from contracts.settings import Settings
from ops.chain_board import make_board
from ops.chain_file import read_chain_file
from ops.sample_chain import FILE
from ops.validate import Validated, problem_of, report, validate_file, validate_symbol
from stages.calculate.exposure import GammaMode
from tests.ops.pipeline import SPOT, STRIKES, SYMBOL, SmallPipeline, small_pipeline
from tests.waiting import wait_until_async

SettingsFor = Callable[..., Settings]


@pytest.fixture
async def pipeline(redis_url: str, settings_for: SettingsFor) -> AsyncIterator[SmallPipeline]:
    """A pipeline that published a reset, diffs, and the models of two ticks."""
    async with small_pipeline(redis_url, settings_for()) as pipeline:
        await pipeline.live()
        for number in range(5):
            pipeline.quote(STRIKES[number], 0.0 if number == 2 else 8.0, 8.5)
        spot = [{"ev": "V", "T": f"I:{SYMBOL}", "val": SPOT, "t": round(time() * 1000)}]
        pipeline.client.xadd(pipeline.keys.ws_stream(SYMBOL), {"ts": repr(time()), "payload": orjson.dumps(spot)})
        await wait_until_async(lambda: pipeline.client.get(pipeline.keys.spot(SYMBOL)), "the spot")
        await pipeline.settle()
        await pipeline.publish_tick()
        yield pipeline


def validated(pipeline: SmallPipeline, redis_url: str) -> Validated:
    return validate_symbol(redis_url, pipeline.keys, SYMBOL)


async def test_everything_a_running_pipeline_publishes_fits(pipeline: SmallPipeline, redis_url: str) -> None:
    found = validated(pipeline, redis_url)
    assert not found.problems
    assert found.counts.keys() == MESSAGES.keys()
    assert orjson.loads(pipeline.client.get(pipeline.keys.gex_model(SYMBOL)))["net"] is not None
    assert found.counts["heatmap"] == 4 and found.counts["gex_side"] == 2  # whole and by strategy; calls and puts


async def test_what_does_not_fit_is_named_with_its_place(pipeline: SmallPipeline, redis_url: str) -> None:
    key = pipeline.keys.gex_model(SYMBOL)
    model = orjson.loads(pipeline.client.get(key))
    pipeline.client.set(key, orjson.dumps(model | {"symbol": 5}), keepttl=True)
    pipeline.client.xadd(pipeline.keys.model_stream(SYMBOL), {"type": "horoscope", "data": "{}"})
    problems = validated(pipeline, redis_url).problems
    assert len(problems) == 2 and problems[0].startswith(f"{key}: $.symbol: 5") and "horoscope" in problems[1]


def test_nothing_published_is_a_problem(redis_url: str, settings_for: SettingsFor) -> None:
    found = validate_symbol(redis_url, Keys(), SYMBOL)
    assert found.problems == ["nothing of SPX is published"] and report(SYMBOL, found) == 1


def test_a_server_that_is_away_is_one_clear_error() -> None:
    with pytest.raises(FatalError, match="not available"):
        validate_symbol("redis://127.0.0.1:1", Keys(), SYMBOL)


# --- models without a pipeline


@pytest.mark.parametrize("gamma", ["auto", "own", "provider"])
def test_every_model_of_the_shipped_chain_fits(settings_for: SettingsFor, gamma: GammaMode) -> None:
    board = make_board(read_chain_file(FILE), settings_for(), gamma)
    models = board.models()
    for name, model in models.by_name.items():
        assert problem_of(name, orjson.loads(orjson.dumps(model))) is None, name
    for model in models.sides.values():
        assert problem_of("gex_side", orjson.loads(orjson.dumps(model))) is None


# --- files


async def test_a_file_of_one_message_or_of_one_a_line(pipeline: SmallPipeline, tmp_path: Path) -> None:
    gex, mode = (pipeline.client.get(pipeline.keys.model(name, SYMBOL)) for name in ("gex", "mode"))
    one, many = tmp_path / "gex.json", tmp_path / "entries.jsonl"
    one.write_bytes(gex)
    entries = [fields[b"data"] for _, fields in pipeline.client.xrange(pipeline.keys.model_stream(SYMBOL))]
    many.write_bytes(b"\n".join([gex, mode, *entries]))
    assert validate_file(one).counts == {"gex": 1} and not validate_file(one).problems
    assert sum(validate_file(many).counts.values()) == 2 + len(entries) and not validate_file(many).problems


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "not JSON"),
        (b'{"hello": 1}', "no published message; there are heatmap, gex"),
        (b'{"model": "gex"}\n{', "line 2: not JSON"),
    ],
)
def test_a_file_that_is_no_message_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(DataError, match=says):
        validate_file(file)


def test_a_message_of_another_model_version_does_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mode.json"
    file.write_bytes(b'{"model": "mode", "model_version": 1}')
    assert report(str(file), validate_file(file)) == 1
    assert "1 mode; 1 problems" in capsys.readouterr().out
