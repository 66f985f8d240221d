"""What a session leaves behind: spot time and option volume by strike, from tick to tick."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.sessions import session_of
from stages.models.session import SessionProfile, decode_session, is_opening, volume_by_strike

NOON = 1_768_500_000.0  # 2026-01-15 13:00 in New York
found = session_of(NOON)
assert found is not None
OPEN, CLOSE = found.open_ts, found.close_ts
A_DAY = 86_400.0

STRIKES = np.array([95_000, 97_500, 100_000, 105_000])


def after(*ticks: tuple[float, float | None], profile: SessionProfile | None = None) -> SessionProfile:
    """The profile after some (ts, spot)."""
    profile = profile or SessionProfile()
    for ts, spot in ticks:
        profile = profile.at_tick(ts, spot, STRIKES, {})
    return profile


def test_time_goes_to_the_strike_spot_is_within_half_a_step_of() -> None:
    profile = after((OPEN, 100.0), (OPEN + 1, 98.7), (OPEN + 2, 98.7), (OPEN + 4, 103.0))
    assert profile.time_s == {100_000: 0.0, 97_500: 2.0, 105_000: 2.0}


def test_halfway_between_two_strikes_the_lower_one_has_it() -> None:
    profile = after((NOON, 98.75))
    assert list(profile.time_s) == [97_500]


@pytest.mark.parametrize(("spot", "strikes"), [(92.0, []), (94.0, [95_000]), (107.4, [105_000]), (108.0, [])])
def test_beyond_the_outermost_strikes_the_step_goes_on(spot: float, strikes: list[int]) -> None:
    assert list(after((NOON, spot)).time_s) == strikes


def test_ticks_far_apart_count_for_a_minute() -> None:
    profile = after((NOON, 100.0), (NOON + 3600, 100.0))
    assert profile.time_s == {100_000: 60.0}


def test_without_spot_or_strikes_no_strike_is_visited() -> None:
    assert after((NOON, None)).time_s == {}
    assert SessionProfile().at_tick(NOON, 100.0, np.zeros(0, np.int64), {}).time_s == {}
    assert SessionProfile().at_tick(NOON, 100.0, np.array([100_000]), {}).time_s == {}


def test_outside_the_session_nothing_is_gathered() -> None:
    for ts in (OPEN - 1, CLOSE, CLOSE + 3600):
        profile = SessionProfile().at_tick(ts, 100.0, STRIKES, {100_000: 5.0})
        assert (profile.time_s, profile.volume, profile.ts) == ({}, {}, ts)


def test_before_the_first_tick_nobody_saw_where_spot_was() -> None:
    assert after((NOON, 100.0)).time_s == {100_000: 0.0}


def test_time_before_the_open_does_not_count() -> None:
    assert after((OPEN - 30, 100.0), (OPEN + 10, 100.0)).time_s == {100_000: 10.0}


def test_a_new_day_starts_from_nothing() -> None:
    today = after((NOON, 100.0)).with_gravity(7, 100.0)
    tomorrow = after((NOON + A_DAY, 105.0), profile=today)
    assert (tomorrow.date, tomorrow.best, tomorrow.minute) == ("2026-01-16", None, -1)
    assert list(tomorrow.time_s) == [105_000]


def test_volume_is_the_newest_and_strikes_that_left_keep_theirs() -> None:
    profile = SessionProfile().at_tick(NOON, 100.0, STRIKES, {95_000: 5.0, 100_000: 7.0})
    assert profile.at_tick(NOON + 1, 100.0, STRIKES, {100_000: 9.0}).volume == {95_000: 5.0, 100_000: 9.0}


def test_volume_of_calls_and_puts_is_added_and_unknown_is_left_out() -> None:
    strikes = np.array([95_000, 95_000, 100_000, 105_000])
    assert volume_by_strike(strikes, np.array([3.0, 4.0, np.nan, 0.0])) == {95_000: 7.0, 105_000: 0.0}


def test_a_minute_without_a_best_strike_keeps_the_last() -> None:
    profile = SessionProfile().with_gravity(5, 6900.0).with_gravity(6, None)
    assert (profile.minute, profile.best) == (6, 6900.0)


@pytest.mark.parametrize(
    ("ts", "opening"),
    [(OPEN - 1, True), (OPEN, True), (OPEN + 1799, True), (OPEN + 1800, False), (CLOSE, False)],
)
def test_the_opening_is_the_first_half_hour_and_what_comes_before(ts: float, opening: bool) -> None:
    assert is_opening(ts) is opening


def test_a_day_without_a_session_is_all_opening() -> None:
    assert is_opening(NOON + 2 * A_DAY)  # a Saturday


ticks = st.lists(
    st.tuples(st.floats(OPEN, CLOSE), st.one_of(st.none(), st.floats(90, 110)), st.floats(0, 1e6)), max_size=20
)


@given(ticks)
def test_what_is_stored_is_what_was_remembered(moments: list[tuple[float, float | None, float]]) -> None:
    profile = SessionProfile()
    for ts, spot, volume in sorted(moments, key=lambda one: one[0]):
        profile = profile.at_tick(ts, spot, STRIKES, {97_500: volume}).with_gravity(int(ts // 60), spot)
    stored = {name.encode(): value.encode() for name, value in profile.fields().items()}
    assert decode_session(stored) == profile


@given(ticks)
def test_the_same_tick_once_more_changes_nothing(moments: list[tuple[float, float | None, float]]) -> None:
    profile = SessionProfile()
    for ts, spot, volume in sorted(moments, key=lambda one: one[0]):
        profile = profile.at_tick(ts, spot, STRIKES, {97_500: volume})
        assert profile.at_tick(ts, spot, STRIKES, {97_500: volume}) == profile


def test_an_absent_hash_is_an_empty_profile() -> None:
    assert decode_session({}) == SessionProfile()
