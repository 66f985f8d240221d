"""The table of faults: what was seen of a pipeline becomes a row, and a row of another kind says why."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from ops.bench.fault_cases import CASES, HEADERS, Case, Look, Row, Seen, judge, table
from ops.bench.faults import warnings_of
from ops.mock.scenario import Fault, parse_scenario

BEGUN_TS = 1000.0
CASE = Case("stall", lasts_s=10, signs=("log feed_lost", "health late"), epochs=("dormancy",), within_s=20)
NOT_IN_THE_TABLE = {Fault.UNAUTHORISED, Fault.OUTAGE, Fault.NEW_STRIKE, Fault.SPOT_GAP}


def look(after_s: float, *words: str, chain_s: float = 0.0, **counts: int) -> Look:
    """The pipeline so long after the fault began; well unless health has a word."""
    return Look(BEGUN_TS + after_s, frozenset(words), not words, BEGUN_TS + chain_s, counts)


def seen(*looks: Look) -> Seen:
    """A pipeline that lost its feed after 2 s, was late from 4 to 12 s, and was audited."""
    looks = looks or (look(-1), look(0), look(4, "late"), look(12, "late"), look(13))
    return Seen(BEGUN_TS, list(looks), [(BEGUN_TS + 2, "log feed_lost")], audits=2)


def cell(row: Row, header: str) -> str:
    return row.cells[HEADERS.index(header)]


def test_a_fault_is_detected_with_its_first_sign_and_over_after_the_last_trouble() -> None:
    row = judge(CASE, seen(), restarts=0)
    assert cell(row, "detected after") == "2.0 s (log feed_lost)"
    assert cell(row, "recovered after") == "2.0 s"  # of its end at 10 s
    assert cell(row, "as it must be") == "yes" and row.problems == ()


def test_a_fault_of_chains_is_over_with_the_first_chain_begun_after_its_end() -> None:
    case = Case("429", lasts_s=10, of_chains=True)
    quiet = [look(-1), look(11, chain_s=9), look(14, chain_s=13)]
    assert cell(judge(case, seen(*quiet), restarts=0), "recovered after") == "4.0 s"
    assert cell(judge(case, seen(*quiet[:2]), restarts=0), "recovered after") == "never"


def test_only_what_is_counted_after_it_began_counts() -> None:
    case = Case("429", signs=("count fault_throttled",))
    before, during, after = look(-1, fault_throttled=3), look(5, fault_throttled=3), look(6, fault_throttled=5)
    row = judge(case, seen(before, during, after), restarts=0)
    assert cell(row, "provider errors and repairs") == "2 fault_throttled"
    assert cell(row, "detected after") == "6.0 s (count fault_throttled)"
    assert judge(case, seen(before, during), restarts=0).problems == ("no count fault_throttled",)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"looks": [look(0), look(4, "late"), look(13)]}, "not live before it"),
        ({"looks": [look(-1), look(5, "late"), look(31, "late"), look(32)]}, "not over within 20 s"),
        ({"looks": [look(-1), look(5, "late"), look(12, "late")]}, "not over within 20 s"),
        ({"looks": [look(-1), look(5, "late", "parked"), look(13)]}, "unexpected: health parked"),
        ({"looks": [look(-1), look(5, "late"), look(13, promotions_geometry=1)]}, "epochs for geometry"),
        ({"events": []}, "no log feed_lost"),
        ({"reasons": Counter({"options:0 (closed with 1000)": 1})}, "0 gaps are expected"),
        ({"problems": ["audit SPX: a layer is missing"]}, "audit SPX: a layer is missing"),
        ({"audits": 0}, "never audited"),
    ],
)
def test_a_row_of_another_kind_says_why(change: dict[str, object], problem: str) -> None:
    changed = seen()
    for name, value in change.items():
        setattr(changed, name, value)
    assert judge(CASE, changed, restarts=0).problems == (problem,)


def test_a_process_that_ended_is_a_problem() -> None:
    assert judge(CASE, seen(), restarts=1).problems == ("1 processes ended and were started again",)


def test_there_is_a_case_for_every_fault_and_the_mock_takes_its_scenario(tmp_path: Path) -> None:
    assert set(Fault) - NOT_IN_THE_TABLE <= CASES.keys()
    for case in CASES.values():
        file = tmp_path / f"{case.name}.json"
        file.write_text(json.dumps(case.scenario(60)))
        steps = parse_scenario(str(file)).steps
        assert not steps or (steps[0].at_s, steps[0].for_s) == (60, case.lasts_s)


def test_warnings_of_a_log_are_its_loud_lines() -> None:
    told = '{"event": "feed_lost", "level": "warning", "timestamp": "1970-01-01T00:16:42Z"}'
    quiet = told.replace("warning", "info")
    assert warnings_of(f"{quiet}\nplain words\n{told}\n") == [(1002.0, "log feed_lost")]


def test_the_table_is_markdown() -> None:
    lines = table([judge(CASE, seen(), restarts=0)]).splitlines()
    assert len(lines) == 3 and len({line.count("|") for line in lines}) == 1
