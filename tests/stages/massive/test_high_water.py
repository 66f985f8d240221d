"""When a stream holds too much: by entries, by bytes, and by what its readers can do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from contracts.ports import Waiting
from stages.massive.high_water import FEW_ENTRIES, HighWater, Level

MARK = HighWater(entries=50_000, bytes=1_000_000, seconds=5.0)
LOOK_S = 0.25


class Readers:
    """A stream whose readers take at most `pace` entries a second, looked at four times a second."""

    def __init__(self, pace: float) -> None:
        self.pace = pace
        self.level = Level(MARK)
        self.at_s = 0.0
        self.added = self.entries = 0.0

    def get(self, rate: float, seconds: float) -> Readers:
        """So many entries a second arrive for a while, unless the level is high: then as many as are taken."""
        for _ in range(round(seconds / LOOK_S)):
            arrived = (self.pace if self.level.is_high else rate) * LOOK_S
            self.added += arrived
            self.entries = max(0.0, self.entries + arrived - self.pace * LOOK_S)
            self.at_s += LOOK_S
            self.level.note(self.at_s, Waiting(round(self.entries), 0, round(self.added)))
        return self


@pytest.mark.parametrize("name", ["entries", "bytes"])
def test_at_the_mark_the_level_is_full_and_stays_high_until_half_is_left(name: str) -> None:
    level, mark = Level(MARK), getattr(MARK, name)
    found = []
    for look, height in enumerate((mark - 1, mark, mark // 2, mark // 2 - 1)):
        level.note(look * LOOK_S, replace(Waiting(added=look * 10**6), **{name: height}))
        found.append((level.is_full, level.is_high))
    assert found == [(False, False), (True, True), (False, True), (False, False)]


@pytest.mark.parametrize("pace", [500.0, 5_000.0])
def test_ten_times_what_readers_can_do_never_waits_for_more_than_seconds(pace: float) -> None:
    readers = Readers(pace)
    assert not readers.get(pace / 2, 30.0).level.is_high
    assert readers.get(10 * pace, 60.0).level.is_high
    assert readers.entries / pace < MARK.seconds + 10 * LOOK_S  # what comes between two looks


def test_readers_who_keep_up_with_a_burst_are_left_alone() -> None:
    readers = Readers(20_000.0).get(10.0, 30.0)
    readers.entries = 6_000.0  # what they have at hand
    readers.pace = 15_000.0
    assert not readers.get(15_000.0, 1.0).level.is_high


def test_readers_who_are_restarted_are_given_the_time_for_it() -> None:
    readers = Readers(10_000.0).get(2_000.0, 30.0)
    readers.pace = 0.0
    assert not readers.get(2_000.0, 2.0).level.is_high
    readers.pace = 10_000.0
    assert not readers.get(2_000.0, 5.0).level.is_high


def test_readers_who_do_not_come_back_are_waited_for_with_the_newest_only() -> None:
    readers = Readers(10_000.0).get(2_000.0, 30.0)
    readers.pace = 0.0
    assert readers.get(2_000.0, 10.0).level.is_high
    assert readers.entries < MARK.entries / 2


def test_a_few_entries_may_wait_for_readers_nobody_has_seen() -> None:
    level = Level(MARK)
    for look in range(8):
        level.note(look * LOOK_S, Waiting(FEW_ENTRIES - 1, 0, FEW_ENTRIES - 1))
    assert not level.is_high
    level.note(2.0, Waiting(FEW_ENTRIES, 0, FEW_ENTRIES))
    assert level.is_high


def test_a_stream_that_begins_anew_says_nothing_of_its_readers() -> None:
    readers = Readers(10_000.0).get(2_000.0, 30.0)
    readers.added = 0.0
    assert not readers.get(2_000.0, 1.0).level.is_high
    assert readers.get(100_000.0, 3.0).level.is_high
