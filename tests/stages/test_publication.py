"""A publication: all models of a tick are of one moment; what derived models remember is neither lost nor doubled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from contracts.analytics import decode_cut
from contracts.commit import Applied, EntryId, Refused
from contracts.keys import Layer
from contracts.messages import AnalyticsComputed, decode
from contracts.snapshot import ChainRow
from contracts.stage import Entry
from contracts.symbology import CALL, PUT, settlement_ts
from contracts.topology import StageName
from stages.models.build import MODEL_NAMES
from tests.pipeline import EXPIRATION, LATER, NOW, Pipeline, ProcessDiedError, chain_row, drive, frame
from tests.stages.surfaces import black_price

STRIKES = tuple(range(6700, 7105, 5))
START = NOW + 5.0  # five seconds after a full minute


def priced_rows(expiration: str = EXPIRATION, strikes: Sequence[int] = STRIKES) -> list[ChainRow]:
    """A chain that quotes five cents around 15 % volatility, with calls above 6900 and puts below it."""
    years = (settlement_ts("SPXW", expiration) - NOW) / 60 / 525_600
    rows = []
    for strike in strikes:
        for kind in (CALL, PUT):
            fair = round(black_price(kind == CALL, 6900.0, strike, years, 0.15), 2)
            interest = 900.0 if (kind == CALL) == (strike >= 6900) else 100.0
            told: dict[str, Any] = {
                "bid": max(round(fair - 0.05, 2), 0.0),
                "ask": round(fair + 0.05, 2),
                "oi": interest,
            }
            rows.append(chain_row(strike, kind, expiration, volume=50, gamma=None, delta=None, iv=None, **told))
    return rows


def opened() -> Pipeline:
    """A board of two planes whose reset is published, with spot at 6900."""
    pipeline = Pipeline()
    pipeline.feed(frame({"ev": "V", "T": "I:SPX", "val": 6900.0, "t": round(NOW * 1000)}))
    pipeline.fetch(1, {day: priced_rows(day) for day in (EXPIRATION, LATER)})
    pipeline.run()
    return pipeline


def ticked(pipeline: Pipeline, *seconds: float, spot: float | None = None) -> Pipeline:
    for second in seconds:
        if spot is not None:
            pipeline.feed(frame({"ev": "V", "T": "I:SPX", "val": spot, "t": round((START + second) * 1000)}))
        pipeline.run()
        pipeline.tick(START + second)
        pipeline.run()
    return pipeline


def models_of(pipeline: Pipeline) -> dict[str, Any]:
    strings = pipeline.store.strings
    return {name: json.loads(strings[pipeline.keys.model(name, "SPX")]) for name in MODEL_NAMES}


def events_of(pipeline: Pipeline, *kinds: str) -> list[tuple[str, Any]]:
    entries = pipeline.store.streams[pipeline.keys.model_stream("SPX")]
    return [(one["type"].decode(), json.loads(one["data"])) for one in entries if one["type"].decode() in kinds]


def memory_of(pipeline: Pipeline) -> tuple[Any, ...]:
    """Everything the derived models remember."""
    keys, store = pipeline.keys, pipeline.store
    history = [json.loads(one["data"]) for one in store.streams.get(keys.gravity_history("SPX"), [])]
    trail = json.loads(bytes(store.strings.get(keys.trail("SPX"), b"[]")))
    return trail, pipeline.fields(keys.session_profile("SPX")), history


# --- binding


def test_all_models_of_a_publication_are_of_one_epoch_tick_and_plane_versions() -> None:
    pipeline = ticked(opened(), 0)
    models = models_of(pipeline)
    assert {(one["epoch"], one["tick"], one["ts"], one["complete_to"], one["seq"]) for one in models.values()} == {
        (pipeline.active(), 1, START, models["gex"]["complete_to"], models["gex"]["seq"])
    }
    names = {
        plane.id: pipeline.keys.plane(pipeline.active(), plane.id, Layer.ANALYTICS)
        for plane in pipeline.geometry().planes
    }
    cuts = {plane: decode_cut(bytes(pipeline.store.strings[name])) for plane, name in names.items()}
    versions = {plane: cut.version for plane, cut in cuts.items()}
    for name in ("heatmap", "gex"):
        assert {plane: body["version"] for plane, body in models[name]["planes"].items()} == versions
    for name in ("liquidity", "mode", "gravity"):
        assert models[name]["inputs"]["planes"] == versions
    assert {cut.tick for cut in cuts.values()} == {1}
    assert {model["reason"] for name, model in models.items() if name != "heatmap"} == {None}


def test_the_stream_carries_the_same_models_as_the_keys() -> None:
    pipeline = ticked(opened(), 0, 1)
    published = dict(events_of(pipeline, "gex", "liquidity", "mode", "gravity"))
    assert published == {name: model for name, model in models_of(pipeline).items() if name != "heatmap"}


def test_a_move_of_spot_prices_everything_anew_without_a_new_chain() -> None:
    pipeline = ticked(opened(), 0)
    before = models_of(pipeline)
    after = models_of(ticked(pipeline, 1, spot=6925.0))
    assert after["gex"]["spot"] == 6925.0
    assert after["gex"]["planes"].keys() == before["gex"]["planes"].keys()
    for name in ("net", "net_at_spot"):
        assert after["gex"][name] != before["gex"][name]
    assert after["liquidity"]["bias"] != before["liquidity"]["bias"]


# --- what is published when


def test_each_tick_publishes_gamma_liquidity_and_mode_and_each_minute_a_gravity() -> None:
    pipeline = ticked(opened(), *range(0, 130, 10))
    kinds = [kind for kind, _ in events_of(pipeline, "tick", "gex", "liquidity", "mode", "gravity")]
    assert kinds[:5] == ["tick", "gex", "liquidity", "mode", "gravity"]
    assert kinds.count("mode") == kinds.count("liquidity") == kinds.count("gex") == 13
    # five seconds after the minute, then at the first tick after each close
    gravity = [model for _, model in events_of(pipeline, "gravity")]
    assert [model["ts"] - START for model in gravity] == [0, 60, 120]
    assert [model["minute_ts"] - NOW for model in gravity] == [0, 60, 120]


def test_the_minute_history_is_what_was_published_and_is_never_repainted() -> None:
    pipeline = ticked(opened(), 0, 30)
    (first,) = memory_of(pipeline)[2]
    ticked(pipeline, 60, 90, spot=6915.0)
    history = memory_of(pipeline)[2]
    assert history[0] == first
    published = [model for _, model in events_of(pipeline, "gravity")]
    assert [{name: model[name] for name in first} for model in published] == history
    assert [line["best"] for line in history] == [model["best"] for model in published]


def test_the_best_of_the_minute_before_is_an_input_of_the_next() -> None:
    pipeline = ticked(opened(), 0, 60)
    first, second = (model for _, model in events_of(pipeline, "gravity"))
    assert (first["inputs"]["previous_best"], second["inputs"]["previous_best"]) == (None, first["best"])


def test_the_trail_and_the_session_grow_with_market_time() -> None:
    trail, profile, _ = memory_of(ticked(opened(), 0, 10, 20, 30, 40))
    assert [point[0] - START for point in trail] == [0, 30]
    assert profile["time:6900000"] == "40.0"
    assert profile["volume:6900000"] == "100.0"  # of a call and a put


def test_a_new_day_forgets_the_strikes_of_the_day_before() -> None:
    pipeline = ticked(opened(), 0)
    ticked(pipeline, 86_400, spot=6925.0)
    profile = memory_of(pipeline)[1]
    assert profile["date"] == "2026-01-16"
    assert [name for name in profile if name.startswith("time:")] == ["time:6925000"]


def test_memory_outlives_the_epoch() -> None:
    pipeline = ticked(opened(), 0)
    first = pipeline.active()
    pipeline.fetch(2, {day: priced_rows(day, STRIKES[1:]) for day in (EXPIRATION, LATER)}, ts=NOW + 20)
    pipeline.run()
    ticked(pipeline, 31)
    assert pipeline.active() != first
    trail, profile, _ = memory_of(pipeline)
    assert [point[0] - START for point in trail] == [0, 31]
    assert profile["volume:6700000"] == "100.0"  # its strike has left the board


# --- neither lost nor doubled


def test_a_redelivered_tick_publishes_and_remembers_nothing_again() -> None:
    pipeline = ticked(opened(), 0, 31)
    before, events = memory_of(pipeline), pipeline.store.streams[pipeline.keys.model_stream("SPX")][:]
    stream = pipeline.store.streams[pipeline.keys.strategy_stream("SPX")]
    ticks = [one for one in stream if one["type"].decode() == AnalyticsComputed.TYPE]
    stream.extend(ticks)
    pipeline.run()
    assert memory_of(pipeline) == before
    assert pipeline.store.streams[pipeline.keys.model_stream("SPX")] == events


@pytest.mark.parametrize("commits", range(12))
def test_a_process_that_dies_at_any_commit_loses_and_doubles_no_point(commits: int) -> None:
    seconds = (0, 31, 62)
    expected = ticked(opened(), *seconds)
    pipeline = ticked(opened(), seconds[0])
    pipeline.commits_before_crash = commits
    for second in seconds[1:]:
        try:
            ticked(pipeline, second)
        except ProcessDiedError:
            pipeline.commits_before_crash = None
            pipeline.restart()
            ticked(pipeline, second)
    pipeline.commits_before_crash = None
    (trail, profile, history), (whole_trail, whole_profile, whole_history) = memory_of(pipeline), memory_of(expected)
    assert (trail, profile) == (whole_trail, whole_profile)
    # a tick that was interrupted is taken again under the next number
    assert [{**line, "tick": 0} for line in history] == [{**line, "tick": 0} for line in whole_history]


def test_of_two_consumers_that_read_the_same_memory_the_later_one_reads_again() -> None:
    pipeline = ticked(opened(), 0)
    (source,) = pipeline.sources[StageName.MODELS]
    states, entries = [], []
    for second in (1, 2):
        pipeline.tick(START + second)
        pipeline.run(StageName.STAGING, StageName.CALCULATE)
        stream = pipeline.store.streams[source.stream]
        fields = {name.encode(): value for name, value in stream[-1].items()}
        entry = Entry(EntryId(source.stream, f"{len(stream)}-0"), decode(fields, (AnalyticsComputed,)))
        states.append(drive(source.load(pipeline.store, [entry])))
        entries.append(entry)
    outcomes = [
        pipeline.store.commit(commit, 0)
        for state, entry in zip(states, entries, strict=True)
        for commit in source.step(state, [entry])
    ]
    assert isinstance(outcomes[0], Applied)
    assert isinstance(outcomes[1], Refused)
    pipeline.finish(StageName.MODELS, source, [entries[1]])
    assert memory_of(pipeline)[1]["time:6900000"] == "2.0"
    assert models_of(pipeline)["gex"]["tick"] == 3
