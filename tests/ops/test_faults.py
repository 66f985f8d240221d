"""The table of faults: what was seen of a pipeline becomes a row, and a row of another kind says why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from ops.bench.fault_cases import (
    CASES,
    HEADERS,
    Case,
    Event,
    Look,
    Row,
    Seen,
    judge,
    scenario,
    schedules,
    table,
)
from ops.bench.faults import warnings_of
from ops.mock.scenario import Fault, parse_scenario

BEGUN_TS = 1000.0
CASE = Case("stall", lasts_s=10, signs=("log feed_lost", "health late"), epochs=("dormancy",), within_s=20)
NOT_IN_THE_TABLE = {Fault.UNAUTHORISED, Fault.OUTAGE, Fault.NEW_STRIKE, Fault.SPOT_GAP}
LOST, CLEAN = Event(BEGUN_TS + 2, "log feed_lost"), Event(BEGUN_TS + 9, "audit SPX")


def look(after_s: float, *words: str, chain_s: float = 0.0, **counts: int) -> Look:
    """The pipeline so long after the fault began; well unless health has a word."""
    return Look(BEGUN_TS + after_s, frozenset(words), not words, BEGUN_TS + chain_s, counts)


LATE = (look(-1), look(0), look(4, "late"), look(12, "late"), look(13))


def seen(*looks: Look, events: Sequence[Event] = (LOST, CLEAN)) -> Seen:
    """A pipeline that lost its feed after 2 s, was late from 4 to 12 s, and was audited; or other looks and events."""
    return Seen(BEGUN_TS, looks or LATE, events)


def cell(row: Row, header: str) -> str:
    return row.cells[HEADERS.index(header)]


def test_a_fault_is_detected_with_its_first_sign_and_over_after_the_last_trouble() -> None:
    row = judge(CASE, seen())
    assert cell(row, "detected after") == "2.0 s (log feed_lost)"
    assert cell(row, "recovered after") == "2.0 s"  # of its end at 10 s
    assert cell(row, "as it must be") == "yes" and row.problems == ()


def test_a_fault_of_chains_is_over_with_the_first_chain_begun_after_its_end() -> None:
    case = Case("429", lasts_s=10, of_chains=True)
    quiet = [look(-1), look(11, chain_s=9), look(14, chain_s=13)]
    assert cell(judge(case, seen(*quiet)), "recovered after") == "4.0 s"
    assert cell(judge(case, seen(*quiet[:2])), "recovered after") == "never"


def test_only_what_is_counted_after_it_began_counts() -> None:
    case = Case("429", signs=("count fault_throttled",))
    before, during, after = look(-1, fault_throttled=3), look(5, fault_throttled=3), look(6, fault_throttled=5)
    row = judge(case, seen(before, during, after))
    assert cell(row, "provider errors and repairs") == "2 fault_throttled"
    assert cell(row, "detected after") == "6.0 s (count fault_throttled)"
    assert judge(case, seen(before, during)).problems == ("no count fault_throttled",)


@pytest.mark.parametrize(
    ("what", "problem"),
    [
        (seen(look(0), look(4, "late"), look(13)), "not well before it"),
        (seen(look(-1), look(5, "late"), look(31, "late"), look(32)), "not over within 20 s"),
        (seen(look(-1), look(5, "late"), look(12, "late")), "not over within 20 s"),
        (seen(look(-1), look(5, "late", "parked"), look(13)), "unexpected: health parked"),
        (seen(look(-1), look(5, "late"), look(13, promotions_geometry=1)), "epochs for geometry"),
        (seen(look(-1), look(5, "late"), look(13, restarts=1)), "1 processes ended and were started again"),
        (seen(events=[CLEAN]), "no log feed_lost"),
        (seen(events=[LOST]), "never audited"),
        (seen(events=[LOST, CLEAN, Event(BEGUN_TS + 3, "gap options:0", "closed with 1000")]), "0 gaps are expected"),
        (seen(events=[LOST, CLEAN, Event(BEGUN_TS + 3, "alert stale")]), "unexpected: alert stale"),
        (seen(events=[LOST, Event(BEGUN_TS + 3, "audit SPX", "a layer is missing")]), "a layer is missing"),
    ],
)
def test_a_row_of_another_kind_says_why(what: Seen, problem: str) -> None:
    assert judge(CASE, what).problems == (problem,)


def test_what_was_recorded_is_told() -> None:
    gap = Event(BEGUN_TS + 5, "gap options:0", "options:0 (closed with 1000)")
    row = judge(Case("abort", gaps=1), seen(look(-1), look(3, promotions_dormancy=2), events=[gap, CLEAN]))
    assert cell(row, "gaps recorded") == "1 options:0 (closed with 1000)"
    assert cell(row, "epochs") == "2 dormancy"
    assert cell(row, "audits") == "1 of 1 clean"


def test_there_is_a_case_for_every_fault_and_the_mock_takes_its_scenario(tmp_path: Path) -> None:
    assert set(Fault) - NOT_IN_THE_TABLE <= CASES.keys()
    file = tmp_path / "scenario.json"
    planned = schedules(list(CASES.values()), first_s=60)
    for schedule in planned:
        file.write_text(json.dumps(scenario(schedule)))
        steps = {(str(step.what), step.at_s, step.for_s) for step in parse_scenario(str(file)).steps}
        assert {(case.name, at_s, case.lasts_s) for at_s, case in schedule if case.market is None} <= steps
    assert sorted(case.name for schedule in planned for _, case in schedule) == sorted(CASES)


def test_a_fault_begins_when_the_one_before_had_time_to_be_over() -> None:
    (schedule,) = schedules([CASES["stall"], CASES["abort"]], first_s=60)
    assert [at_s for at_s, _ in schedule] == [60, 60 + CASES["stall"].slot_s]


def test_a_market_is_begun_so_early_that_the_fault_comes_in_time() -> None:
    (schedule,) = schedules([CASES["expire-at-close"]], first_s=90)
    assert scenario(schedule)["start"] == {"day": "ordinary-day", "clock": "15:58:30"}


def test_warnings_of_a_log_are_its_loud_lines() -> None:
    told = '{"event": "feed_lost", "level": "warning", "timestamp": "1970-01-01T00:16:42Z"}'
    quiet = told.replace("warning", "info")
    assert list(warnings_of(f"{quiet}\nplain words\n{told}\n")) == [LOST]


def test_the_table_is_markdown() -> None:
    lines = table([judge(CASE, seen())]).splitlines()
    assert len(lines) == 3 and len({line.count("|") for line in lines}) == 1
