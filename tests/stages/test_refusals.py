"""Commits are refused as soon as something they rely on no longer holds.

Each case lets a stage load and step, changes one thing before its first commit arrives, and expects a refusal. What is
never refused: that the source moved on (DESIGN 2.5). `make check-guards` removes each guard and expects this to fail.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest

from contracts.commit import Applied, Commit, Refused, Renew, version_field
from contracts.errors import TransientError
from contracts.keys import Layer
from contracts.messages import PlaneComputed, PlaneDirty, encode
from contracts.symbology import CALL, PUT
from contracts.topology import StageName
from tests.pipeline import EXPIRATION, NOW, Pipeline, ProcessDiedError, chain_rows, cid_of, frame, quote
from tests.stages.staging.small_board import CID

STRIKES = tuple(range(6400, 7405, 5))  # more rows than one commit may merge
PLANE = f"SPXW:{EXPIRATION}"
STAGING, CALCULATE, MODELS = StageName.STAGING, StageName.CALCULATE, StageName.MODELS

Act = Callable[[Pipeline], object]


def live_board() -> Pipeline:
    """A promoted board whose tiles and models are published."""
    pipeline = Pipeline()
    pipeline.fetch(1, {EXPIRATION: chain_rows(STRIKES)})
    pipeline.run()
    pipeline.tick(NOW)
    pipeline.run()
    return pipeline


# --- work that waits for the stage


def a_quote(pipeline: Pipeline) -> None:
    """One plane is dirty, and level up to the stage under test."""
    pipeline.feed(frame(quote(CID, 9.0, 9.5, round(NOW * 1000))))
    pipeline.run(STAGING)


def a_frame(*cids: str) -> Act:
    """A frame that waits, with a quote of each of these contracts."""
    quotes = [quote(cid, 9.0, 9.5, round(NOW * 1000)) for cid in cids]
    return lambda pipeline: pipeline.feed(frame(*quotes))


def a_frame_before_the_first_epoch(pipeline: Pipeline) -> None:
    pipeline.store.hashes[pipeline.keys.active("SPX")].clear()
    a_frame(CID)(pipeline)


def a_fetch(number: int, first_strike: int = 0, **values: Any) -> Act:
    """A fetch that waits; with `first_strike` its geometry is another."""
    rows = chain_rows(STRIKES[first_strike:], **values)
    return lambda pipeline: pipeline.announce(number, {EXPIRATION: rows}, ts=NOW + 10)


def a_carry(*cids: str) -> Act:
    """A promotion that stopped right after its switch; these contracts got quotes while it was built."""

    def act(pipeline: Pipeline) -> None:
        before = pipeline.active()
        a_fetch(2, first_strike=1)(pipeline)

        def stop_after_the_switch(commit: Commit) -> None:
            if pipeline.active() != before:
                raise ProcessDiedError
            if commit.decides and cids:
                feeder = pipeline.fork()
                feeder.skip(pipeline.keys.chain_stream("SPX"))
                a_frame(*cids)(feeder)
                feeder.run(STAGING)

        pipeline.before_commit = stop_after_the_switch
        with pytest.raises(ProcessDiedError):
            pipeline.run(STAGING)
        pipeline.restart()
        pipeline.skip(pipeline.keys.ws_stream("SPX"))

    return act


def a_computed_plane(pipeline: Pipeline) -> None:
    a_quote(pipeline)
    pipeline.run(CALCULATE)


def a_tick(pipeline: Pipeline) -> None:
    pipeline.tick(NOW + 1)


def computed_analytics(pipeline: Pipeline) -> None:
    a_tick(pipeline)
    pipeline.run(CALCULATE)


def a_promotion(pipeline: Pipeline) -> None:
    pipeline.fetch(2, {EXPIRATION: chain_rows(STRIKES[1:])}, ts=NOW + 10)


def analytics_published_already(pipeline: Pipeline) -> None:
    computed_analytics(pipeline)
    pipeline.run(MODELS)
    stream = pipeline.keys.strategy_stream("SPX")
    pipeline.append(stream, pipeline.store.streams[stream][-1])


def a_computed_promotion(pipeline: Pipeline) -> None:
    a_promotion(pipeline)
    pipeline.run(CALCULATE)


def flag_of(plane: str, epoch: str = "") -> Act:
    return lambda pipeline: pipeline.append(
        pipeline.keys.epoch_stream("SPX"), encode(PlaneDirty("SPX", epoch or pipeline.active(), plane))
    )


def computed_flag_of(plane: str, epoch: str = "") -> Act:
    return lambda pipeline: pipeline.append(
        pipeline.keys.strategy_stream("SPX"), encode(PlaneComputed("SPX", epoch or pipeline.active(), plane))
    )


# --- what happens before its commit arrives


def another_epoch_is_active(pipeline: Pipeline) -> None:
    pipeline.store.hashes[pipeline.keys.active("SPX")]["SPX"] = b"SPX:1999999999:ffff"


def the_versions_run_out(pipeline: Pipeline) -> None:
    del pipeline.store.hashes[pipeline.keys.versions(pipeline.active())]


def the_quotes_run_out(pipeline: Pipeline) -> None:
    del pipeline.store.strings[pipeline.keys.plane(pipeline.active(), PLANE, Layer.QUOTES)]


def version_moves(layer: str) -> Act:
    def act(pipeline: Pipeline) -> None:
        pipeline.store.hashes[pipeline.keys.versions(pipeline.active())][version_field(PLANE, layer)] = b"77"

    return act


def layer_is_replaced(layer: Layer) -> Act:
    def act(pipeline: Pipeline) -> None:
        pipeline.store.strings[pipeline.keys.plane(pipeline.active(), PLANE, layer)][:8] = struct.pack("<q", 77)

    return act


def a_newer_tick_is_computed(pipeline: Pipeline) -> None:
    pipeline.store.hashes[pipeline.keys.versions(pipeline.active())]["tick"] = b"77"


def active_epoch_has_fetch(number: int) -> Act:
    def act(pipeline: Pipeline) -> None:
        pipeline.store.hashes[pipeline.keys.meta(pipeline.active())]["fetch"] = str(number).encode()

    return act


def promotion_in_progress_says(name: str, value: bytes) -> Act:
    def act(pipeline: Pipeline) -> None:
        pipeline.store.hashes[pipeline.keys.building("SPX")][name] = value

    return act


def published_says(name: str, value: bytes) -> Act:
    def act(pipeline: Pipeline) -> None:
        pipeline.store.hashes[pipeline.keys.model_state("SPX")][name] = value

    return act


GONE = "SPX:1000000000:abcd"
EMPTY_PLANE = "SPXW:2099-01-01"

BOARD = tuple(cid_of(strike, kind) for strike in STRIKES for kind in (CALL, PUT))
UNLISTED = cid_of(1000)

A_FETCH_WITH_NOTHING_NEWER = a_fetch(2, volume=None, iv=None, delta=None, gamma=None, theta=None, vega=None, oi=None)

CASES: dict[str, tuple[StageName, Act, Act]] = {
    "a fetch without work, of a superseded epoch": (STAGING, a_fetch(1), another_epoch_is_active),
    "a refresh of a superseded epoch": (STAGING, a_fetch(2, bid=9.0, quote_ts=NOW), another_epoch_is_active),
    "a refresh of an epoch that lost its keys": (STAGING, a_fetch(2, bid=9.0, quote_ts=NOW), the_quotes_run_out),
    "a refresh older than another one": (
        STAGING,
        A_FETCH_WITH_NOTHING_NEWER,
        active_epoch_has_fetch(5),
    ),
    "a promotion from a superseded epoch": (STAGING, a_fetch(2, first_strike=1), another_epoch_is_active),
    "a promotion while another one began": (
        STAGING,
        a_fetch(2, first_strike=1),
        promotion_in_progress_says("id", b"SPX:1:0000"),
    ),
    "a carry of values into a superseded epoch": (STAGING, a_carry(CID), another_epoch_is_active),
    "a carry of values that another consumer finished": (
        STAGING,
        a_carry(CID),
        promotion_in_progress_says("phase", b"done"),
    ),
    "the end of a carry, of a superseded epoch": (STAGING, a_carry(), another_epoch_is_active),
    "the end of a carry that another consumer finished": (
        STAGING,
        a_carry(),
        promotion_in_progress_says("phase", b"done"),
    ),
    "rows of a superseded epoch": (STAGING, a_frame(*BOARD), another_epoch_is_active),
    "rows of an epoch that lost its keys": (STAGING, a_frame(CID), the_quotes_run_out),
    "a miss of a superseded epoch": (STAGING, a_frame(UNLISTED), another_epoch_is_active),
    "a miss before the first epoch": (STAGING, a_frame_before_the_first_epoch, another_epoch_is_active),
    "tiles of a superseded epoch": (CALCULATE, a_quote, another_epoch_is_active),
    "tiles of a promotion that is superseded": (CALCULATE, a_promotion, another_epoch_is_active),
    "a flag without work, of a superseded epoch": (CALCULATE, flag_of(EMPTY_PLANE), another_epoch_is_active),
    "a flag of another epoch": (CALCULATE, flag_of(PLANE, GONE), another_epoch_is_active),
    "tiles that moved": (CALCULATE, a_quote, version_moves("tiles")),
    "tiles whose quotes ran out": (CALCULATE, a_quote, the_quotes_run_out),
    "tiles of a layer that is another": (CALCULATE, a_quote, layer_is_replaced(Layer.TILES)),
    "analytics of a superseded epoch": (CALCULATE, a_tick, another_epoch_is_active),
    "analytics of an older tick": (CALCULATE, a_tick, a_newer_tick_is_computed),
    "analytics without versions": (CALCULATE, a_tick, the_versions_run_out),
    "a diff of a superseded epoch": (MODELS, a_computed_plane, another_epoch_is_active),
    "a diff that is not from what is published": (MODELS, a_computed_plane, version_moves("published")),
    "a diff of a published layer that is another": (MODELS, a_computed_plane, layer_is_replaced(Layer.PUBLISHED)),
    "a diff while another epoch is published": (MODELS, a_computed_plane, published_says("epoch", b"SPX:1:0000")),
    "a diff without versions": (MODELS, a_computed_plane, the_versions_run_out),
    "a flag of another published epoch": (MODELS, computed_flag_of(PLANE, GONE), another_epoch_is_active),
    "a reset of a superseded epoch": (MODELS, a_computed_promotion, another_epoch_is_active),
    "a reset that another consumer published": (MODELS, a_computed_promotion, published_says("epoch", b"SPX:1:0000")),
    "a reset without versions": (MODELS, a_computed_promotion, the_versions_run_out),
    "models of a superseded epoch": (MODELS, computed_analytics, another_epoch_is_active),
    "models of an older tick": (MODELS, computed_analytics, published_says("tick", b"77")),
    "models that are published already, of a superseded epoch": (
        MODELS,
        analytics_published_already,
        another_epoch_is_active,
    ),
    "models while another epoch is published": (MODELS, computed_analytics, published_says("epoch", b"SPX:1:0000")),
}


@pytest.mark.parametrize(("stage", "work", "meanwhile"), CASES.values(), ids=CASES.keys())
def test_a_commit_that_relies_on_what_no_longer_holds_is_refused(stage: StageName, work: Act, meanwhile: Act) -> None:
    pipeline = live_board()
    work(pipeline)
    pipeline.commits_before_crash = 1

    def before(_: Commit) -> None:
        if pipeline.commits_before_crash:
            meanwhile(pipeline)

    pipeline.before_commit = before
    with pytest.raises((ProcessDiedError, TransientError)):  # how it goes on from there is not the subject here
        pipeline.run(stage)
    assert isinstance(pipeline.commits[-1][2], Refused)


def test_a_commit_is_not_refused_because_its_source_moved_on() -> None:
    pipeline = live_board()
    a_quote(pipeline)
    began = len(pipeline.commits)
    happened: list[bool] = []

    def before(_: Commit) -> None:
        if not happened:
            happened.append(True)
            pipeline.feed(frame(quote(CID, 8.0, 8.5, round(NOW * 1000) + 1)))
            pipeline.run(STAGING)

    pipeline.before_commit = before
    pipeline.run(CALCULATE)
    computed = [outcome for name, _, outcome in pipeline.commits[began:] if name is CALCULATE]
    assert all(isinstance(outcome, Applied) for outcome in computed)


def test_a_renewal_of_an_epoch_that_lost_its_keys_is_refused() -> None:
    pipeline = live_board()
    a_promotion(pipeline)
    versions = pipeline.keys.versions(pipeline.active())

    def lost_after_the_tick(commit: Commit) -> None:
        if any(isinstance(write, Renew) for write in commit.writes):
            pipeline.store.hashes.pop(versions, None)

    pipeline.before_commit = lost_after_the_tick
    first, *renewals = pipeline.tick(NOW + 20)
    assert isinstance(first, Applied)
    assert renewals and all(isinstance(outcome, Refused) for outcome in renewals)
