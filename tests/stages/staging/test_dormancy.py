"""Dormancy: a silent feed forces an epoch over the same contracts; slowly, and never because of a clock."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.keys import Stat
from contracts.messages import EpochPromoted, PlaneDirty
from contracts.ports import Backlog
from contracts.topology import StageName
from stages.staging.dormancy import (
    FIRST_DELAY_S,
    LONGEST_DELAY_S,
    Dormancy,
    DormancySettings,
    Silence,
    decode_dormancy,
    is_dormant,
    measure_silence,
)
from tests.pipeline import (
    EXPIRATION,
    LATER,
    NOW,
    Pipeline,
    ProcessDiedError,
    chain_rows,
    cid_of,
    frame,
    quote,
)
from tests.stages.staging.small_board import CID, FEW, NOW_MS


class Quiet:
    """A board whose feed fell silent at NOW; chains arrive when told, each right after a tick."""

    def __init__(self, settings: Any = None) -> None:
        self.pipeline = Pipeline(settings=settings)
        self.number = 0
        self.chain(-10.0)
        self.hear(0.0)
        self.pipeline.run()

    def hear(self, at: float) -> None:
        """An option event, received then."""
        self.pipeline.feed(frame(quote(CID, 9.0, 9.5, NOW_MS + round(at * 1000)), ts=NOW + at))
        self.pipeline.run(StageName.STAGING)

    def chain(self, at: float, **values: Any) -> str:
        """A chain whose fetch ended then; the same values unless told otherwise. The reason of the active epoch."""
        self.number += 1
        self.pipeline.tick(NOW + at)
        self.pipeline.fetch(self.number, {EXPIRATION: chain_rows(FEW, **values)}, ts=NOW + at)
        return self.pipeline.meta()["reason"]

    def moved(self, at: float) -> str:
        """A chain that tells a value nobody knew."""
        return self.chain(at, gamma=0.001 + self.number / 1000)

    def epochs(self) -> int:
        return len(self.pipeline.store.lists[self.pipeline.keys.timeline("SPX")])

    def count(self) -> int:
        return int(self.pipeline.meta()["dormant_count"])

    def counts(self, stat: Stat) -> dict[str, int]:
        return self.pipeline.counts(self.pipeline.keys.analytics(stat, "SPX"))


# --- when


def test_a_chain_in_a_long_silence_forces_an_epoch_over_the_same_contracts() -> None:
    quiet = Quiet()
    before = quiet.pipeline.active()
    geometry = quiet.pipeline.geometry()
    assert quiet.chain(5.5) == "dormancy"
    after = quiet.pipeline.active()
    assert (after != before, quiet.pipeline.meta(after)["prev"]) == (True, before)
    assert quiet.pipeline.geometry().encode() == geometry.encode()
    assert (quiet.pipeline.meta()["forced_dirty"], quiet.count()) == ("1", 1)
    assert quiet.pipeline.meta(before)["forced_dirty"] == "0"


def test_a_silence_up_to_the_threshold_is_none() -> None:
    quiet = Quiet()
    assert quiet.chain(5.0) == "bootstrap"
    assert (quiet.epochs(), quiet.count()) == (1, 0)


@pytest.mark.parametrize(("threshold", "at", "reason"), [("20", 19.0, "bootstrap"), ("20", 21.0, "dormancy")])
def test_the_threshold_is_a_setting(threshold: str, at: float, reason: str, settings_for: Callable[..., Any]) -> None:
    assert Quiet(settings_for(MASSIVE_EPOCH_DORMANT_THRESHOLD=threshold)).chain(at) == reason


def test_so_many_chains_as_configured_are_let_pass(settings_for: Callable[..., Any]) -> None:
    quiet = Quiet(settings_for(MASSIVE_EPOCH_DORMANT_COUNT="2"))
    reasons = [quiet.chain(at) for at in (6.0, 16.0, 26.0)]
    assert reasons == ["bootstrap", "bootstrap", "dormancy"]
    assert quiet.count() == 3


def test_without_a_tick_nobody_has_looked_so_nothing_is_dormant() -> None:
    pipeline = Pipeline()
    pipeline.fetch(1, {EXPIRATION: chain_rows(FEW)}, ts=NOW)
    pipeline.fetch(2, {EXPIRATION: chain_rows(FEW)}, ts=NOW + 3600)
    assert (pipeline.meta()["reason"], pipeline.meta()["dormant_count"]) == ("bootstrap", "0")


def test_without_any_option_event_the_silence_counts_from_the_start_of_the_epoch() -> None:
    pipeline = Pipeline()
    pipeline.fetch(1, {EXPIRATION: chain_rows(FEW)}, ts=NOW)
    for number, at in ((2, 5.0), (3, 5.5)):
        pipeline.tick(NOW + at)
        pipeline.fetch(number, {EXPIRATION: chain_rows(FEW)}, ts=NOW + at)
        assert pipeline.meta()["reason"] == ("dormancy" if number == 3 else "bootstrap")


@pytest.mark.parametrize(
    "event",
    [
        {"ev": "V", "T": "I:SPX", "val": 6900.0, "t": NOW_MS},
        {"ev": "status", "status": "success", "message": "subscribed"},
        quote("O:NDXP260116C25000000", 1.0, 2.0, NOW_MS),
    ],
    ids=["index", "status", "another underlying"],
)
def test_what_is_no_option_event_of_the_symbol_does_not_break_the_silence(event: dict[str, object]) -> None:
    quiet = Quiet()
    quiet.pipeline.feed(frame(event, ts=NOW + 5.0))
    quiet.pipeline.run(StageName.STAGING)
    assert quiet.chain(6.0) == "dormancy"


@pytest.mark.parametrize(
    "event",
    [quote(CID, 9.0, 9.5, 5), quote(cid_of(9999), 1.0, 2.0, NOW_MS), {"ev": "T", "sym": CID, "p": 9.0, "t": NOW_MS}],
    ids=["an old quote", "a contract outside the window", "a trade"],
)
def test_any_option_event_of_the_symbol_breaks_the_silence(event: dict[str, object]) -> None:
    quiet = Quiet()
    quiet.pipeline.feed(frame(event, ts=NOW + 5.0))
    quiet.pipeline.run(StageName.STAGING)
    assert quiet.chain(6.0) == "bootstrap"


def test_while_frames_wait_the_silence_reaches_only_as_far_as_they_are_processed() -> None:
    """Staging is behind: what it has not read yet is no silence."""
    quiet = Quiet()
    waiting = quiet.pipeline.keys.ws_stream("SPX")
    quiet.pipeline.store.backlogs[waiting] = Backlog("1-0", NOW + 0.5)
    assert quiet.chain(60.0) == "bootstrap"
    quiet.pipeline.store.backlogs[waiting] = Backlog()
    assert quiet.chain(61.0) == "dormancy"


def test_the_last_event_is_remembered_over_a_promotion() -> None:
    """A new board has heard nothing yet; the feed has."""
    quiet = Quiet()
    quiet.pipeline.tick(NOW + 4.0)
    quiet.pipeline.fetch(50, {EXPIRATION: chain_rows(FEW[1:])}, ts=NOW + 4.0)
    assert quiet.pipeline.meta()["last_ws_ts"] == ""
    quiet.pipeline.tick(NOW + 6.0)
    quiet.pipeline.fetch(51, {EXPIRATION: chain_rows(FEW[1:])}, ts=NOW + 6.0)
    assert quiet.pipeline.meta()["reason"] == "dormancy"


# --- how often


def test_while_the_silence_lasts_an_unchanged_chain_forces_nothing_more() -> None:
    quiet = Quiet()
    assert [quiet.chain(at) for at in (6.0, 100.0, 1000.0)] == ["dormancy"] * 3
    assert quiet.epochs() == 2
    assert quiet.count() == 3


def test_further_epochs_come_after_a_delay_that_doubles_from_ten_to_sixty_seconds() -> None:
    quiet = Quiet()
    forced: list[float] = []
    for second in range(6, 400):
        before = quiet.pipeline.active()
        quiet.moved(float(second))
        if quiet.pipeline.active() != before:
            forced.append(float(second))
    assert forced == [6.0, 16.0, 36.0, 76.0, 136.0, 196.0, 256.0, 316.0, 376.0]


def test_in_between_values_stay_fresh() -> None:
    quiet = Quiet()
    quiet.chain(6.0)
    epoch = quiet.pipeline.active()
    quiet.chain(7.0, bid=9.1, quote_ts=NOW + 7)
    assert (quiet.pipeline.active(), quiet.pipeline.contract(CID)["bid"]) == (epoch, "9.10")


def test_the_first_option_event_resets_count_and_delay() -> None:
    quiet = Quiet()
    for at in (6.0, 16.0, 36.0):
        quiet.moved(at)
    assert (quiet.count(), quiet.epochs()) == (3, 4)
    quiet.hear(40.0)
    assert quiet.count() == 0
    assert quiet.chain(42.0) == "dormancy", "the feed is back: the board stays as it is"
    assert (quiet.epochs(), quiet.count()) == (4, 0)
    quiet.moved(46.0)
    assert (quiet.epochs(), quiet.count()) == (5, 1)
    assert decode_dormancy(quiet.pipeline.meta()).delay_s == FIRST_DELAY_S


def test_an_event_between_two_chains_ends_the_silence_even_if_another_begins_at_once() -> None:
    quiet = Quiet()
    quiet.moved(6.0)
    quiet.hear(7.0)
    quiet.moved(14.0)
    assert (quiet.count(), quiet.epochs()) == (1, 3), "a new silence: its first chain forces without waiting"


def test_another_geometry_in_a_silence_is_a_promotion_of_geometry_and_resets_nothing() -> None:
    quiet = Quiet()
    quiet.moved(6.0)
    quiet.pipeline.tick(NOW + 8.0)
    quiet.pipeline.fetch(50, {EXPIRATION: chain_rows(FEW[1:])}, ts=NOW + 8.0)
    meta = quiet.pipeline.meta()
    assert (meta["reason"], meta["dormant_count"], meta["forced_dirty"]) == ("geometry", "2", "0")
    quiet.pipeline.tick(NOW + 10.0)
    quiet.pipeline.fetch(51, {EXPIRATION: chain_rows(FEW[1:], gamma=0.009)}, ts=NOW + 10.0)
    assert (quiet.pipeline.meta()["reason"], quiet.count()) == ("geometry", 3)


# --- what


def test_a_forced_epoch_keeps_every_value_and_is_recomputed_whole() -> None:
    quiet = Quiet()
    before = {row.cid: quiet.pipeline.contract(row.cid) for row in quiet.pipeline.geometry().planes[0].rows}
    quiet.chain(6.0)
    epoch = quiet.pipeline.active()
    after = {cid: quiet.pipeline.contract(cid) for cid in before}
    assert [one | {"chain_ts": ""} for one in after.values()] == [one | {"chain_ts": ""} for one in before.values()]
    assert quiet.pipeline.store.sets[quiet.pipeline.keys.dirty("SPX")] == {epoch}
    versions = quiet.pipeline.fields(quiet.pipeline.keys.versions(epoch))
    assert (versions["lagging"], versions[f"SPXW:{EXPIRATION}|tiles"]) == ("1", "0")
    quiet.pipeline.run()
    assert quiet.pipeline.store.sets[quiet.pipeline.keys.clean("SPX")] >= {epoch}


def test_a_failed_expiration_is_forced_along_with_its_values() -> None:
    pipeline = Pipeline()
    pipeline.fetch(1, {EXPIRATION: chain_rows(FEW), LATER: chain_rows(FEW, LATER, bid=7.0)}, ts=NOW)
    pipeline.tick(NOW + 10)
    pipeline.fetch(2, {EXPIRATION: chain_rows(FEW)}, failed=[LATER], ts=NOW + 10)
    meta = pipeline.meta()
    assert (meta["reason"], meta["failed_expirations"], meta["expirations"]) == (
        "dormancy", LATER, f"{EXPIRATION},{LATER}",
    )  # fmt: skip
    assert pipeline.contract(cid_of(6900, expiration=LATER))["bid"] == "7.00"


def test_counters_say_what_happened() -> None:
    quiet = Quiet()
    quiet.moved(6.0)
    quiet.chain(8.0)
    epochs, chains = quiet.counts(Stat.EPOCH), quiet.counts(Stat.CHAIN)
    names = ("promotions", "promotions_bootstrap", "promotions_dormancy", "dormancy_triggers", "dormant_chains")
    assert [epochs[name] for name in names] == [2, 1, 1, 1, 1]
    assert (chains["forced_dormancy"], chains.get("geometry_changes", 0)) == (1, 0)


# --- exactly once


def test_the_same_chain_delivered_again_counts_once() -> None:
    quiet = Quiet()
    quiet.chain(6.0)
    before = (quiet.pipeline.active(), quiet.count())
    quiet.pipeline.announce(quiet.number, {EXPIRATION: chain_rows(FEW)}, ts=NOW + 6.0)
    quiet.pipeline.run(StageName.STAGING)
    assert (quiet.pipeline.active(), quiet.count()) == before


def waiting_to_be_forced() -> Quiet:
    """A silent board, and a chain not yet read that will force an epoch."""
    quiet = Quiet()
    quiet.pipeline.tick(NOW + 6.0)
    quiet.pipeline.announce(2, {EXPIRATION: chain_rows(FEW, gamma=0.005)}, ts=NOW + 6.0)
    return quiet


def forced_length() -> int:
    quiet = waiting_to_be_forced()
    before = len(quiet.pipeline.commits)
    quiet.pipeline.run(StageName.STAGING)
    return len(quiet.pipeline.commits) - before


@pytest.mark.parametrize("survived", range(forced_length()))
def test_a_forced_promotion_killed_after_any_commit_is_finished_once(survived: int) -> None:
    quiet = waiting_to_be_forced()
    quiet.pipeline.commits_before_crash = survived
    with pytest.raises(ProcessDiedError):
        quiet.pipeline.run(StageName.STAGING)
    quiet.pipeline.commits_before_crash = None
    quiet.pipeline.restart()
    quiet.pipeline.run(StageName.STAGING)
    meta = quiet.pipeline.meta()
    assert (meta["reason"], meta["dormant_count"], meta["fetch"], quiet.epochs()) == ("dormancy", "1", "2", 2)
    announced = quiet.pipeline.emitted(quiet.pipeline.keys.epoch_stream("SPX"), EpochPromoted)
    assert [one["epoch"] for one in announced].count(quiet.pipeline.active()) == 1
    assert quiet.counts(Stat.EPOCH)["dormancy_triggers"] == 1
    assert quiet.pipeline.contract(CID)["bid"] == "9.00"
    assert quiet.pipeline.contract(CID)["gamma"] == "0.005"


def test_a_feed_that_is_back_before_a_killed_promotion_was_taken_up_again_keeps_its_board() -> None:
    quiet = waiting_to_be_forced()
    quiet.pipeline.commits_before_crash = 2
    with pytest.raises(ProcessDiedError):
        quiet.pipeline.run(StageName.STAGING)
    quiet.pipeline.commits_before_crash = None
    quiet.pipeline.restart()
    feeder = quiet.pipeline.fork()
    feeder.skip(feeder.keys.chain_stream("SPX"))
    feeder.feed(frame(quote(CID, 5.0, 5.5, NOW_MS + 6500), ts=NOW + 6.5))
    feeder.run(StageName.STAGING)
    quiet.pipeline.skip(quiet.pipeline.keys.ws_stream("SPX"))
    quiet.pipeline.run(StageName.STAGING)
    assert (quiet.epochs(), quiet.pipeline.meta()["fetch"]) == (1, "2")
    assert (quiet.pipeline.contract(CID)["bid"], quiet.pipeline.contract(CID)["gamma"]) == ("5.00", "0.005")


def test_two_consumers_at_once_force_one_epoch() -> None:
    """A slow consumer's chain was claimed: both work on it, commit by commit in turn."""
    quiet = waiting_to_be_forced()
    slow = quiet.pipeline
    claimer = slow.fork()
    begun = len(slow.commits)
    done: list[bool] = []

    def in_between(_: object) -> None:
        if len(slow.commits) == begun + 2 and not done:
            done.append(True)
            claimer.run(StageName.STAGING)

    slow.before_commit = in_between
    slow.run(StageName.STAGING)
    assert (quiet.epochs(), quiet.count(), quiet.counts(Stat.EPOCH)["dormancy_triggers"]) == (2, 1, 1)


def test_a_refresh_in_a_silence_flags_only_what_changed() -> None:
    quiet = Quiet()
    quiet.chain(6.0)
    quiet.pipeline.run()
    flagged = len(quiet.pipeline.emitted(quiet.pipeline.keys.epoch_stream("SPX"), PlaneDirty))
    quiet.chain(7.0)
    assert len(quiet.pipeline.emitted(quiet.pipeline.keys.epoch_stream("SPX"), PlaneDirty)) == flagged


# --- the values themselves

SETTINGS = DormancySettings(5.0, 0)


def test_a_silence_is_measured_up_to_what_was_processed() -> None:
    assert measure_silence({"event_ts": "100.0"}, {"feed_ts": "130.5"}, {}) == Silence(100.0, 30.5)
    assert measure_silence({}, {"feed_ts": "130.5"}, {"started_ts": "130.0"}) == Silence(None, 0.5)
    assert measure_silence({}, {"feed_ts": "130.5"}, {}) == Silence(None, None)
    assert measure_silence({"event_ts": "100.0"}, {}, {"started_ts": "1.0"}) == Silence(100.0, None)


@given(
    st.integers(0, 10**6),
    st.none() | st.floats(0, 4e9),
    st.none() | st.floats(0, 4e9),
    st.sampled_from([0.0, 10.0, 20.0, 40.0, 60.0]),
)
def test_dormancy_reads_back_from_the_meta_as_it_was(
    count: int, event_ts: float | None, forced_ts: float | None, delay_s: float
) -> None:
    told = Dormancy(count, event_ts, forced_ts, delay_s)
    assert (
        decode_dormancy({name: value if isinstance(value, str) else repr(value) for name, value in told.fields.items()})
        == told
    )


@given(st.lists(st.tuples(st.floats(0.1, 90), st.booleans()), max_size=60))
def test_forced_epochs_of_one_silence_are_never_closer_than_their_delay(steps: list[tuple[float, bool]]) -> None:
    now, dormancy, dormant = 0.0, Dormancy(event_ts=0.0), 0
    forced: list[float] = []
    for pause, changed in steps:
        now += pause
        silence = Silence(0.0, now)
        dormant += is_dormant(silence, SETTINGS)
        dormancy = dormancy.after_chain(silence, SETTINGS)
        if dormancy.forces(silence, now, SETTINGS, changed=changed):
            dormancy = dormancy.after_forced(now)
            forced.append(now)
    assert dormancy.count == dormant
    for number, (earlier, later) in enumerate(pairwise(forced)):
        assert later - earlier >= min(FIRST_DELAY_S * 2**number, LONGEST_DELAY_S) - 1e-6
