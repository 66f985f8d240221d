"""Trading sessions: instants of open and close, and the table of days against the calendar it was made from."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from contracts.session_days import EARLY_CLOSES, FIRST, HOLIDAYS, LAST
from contracts.sessions import Session, session_of, session_on
from ops.sessions_generated import TABLE, table


def utc(*parts: int) -> float:
    return datetime(*parts, tzinfo=UTC).timestamp()  # type: ignore[arg-type,misc]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of pandas, inside the library
def test_the_table_is_what_the_calendar_library_says() -> None:
    assert table() == TABLE.read_text(encoding="utf-8"), "run `python -m ops.sessions_generated`"


def test_the_table_reaches_beyond_every_listed_expiration() -> None:
    assert min(HOLIDAYS | EARLY_CLOSES) >= FIRST
    assert date.today().year + 6 <= date.fromisoformat(LAST).year, "extend ops/sessions_generated.py"


@pytest.mark.parametrize(
    ("day", "opens", "closes"),
    [
        (date(2026, 1, 16), utc(2026, 1, 16, 14, 30), utc(2026, 1, 16, 21)),
        (date(2026, 7, 17), utc(2026, 7, 17, 13, 30), utc(2026, 7, 17, 20)),
        (date(2026, 11, 27), utc(2026, 11, 27, 14, 30), utc(2026, 11, 27, 18)),
    ],
    ids=["winter", "summer", "early close"],
)
def test_a_session_is_two_instants(day: date, opens: float, closes: float) -> None:
    assert session_on(day) == Session(opens, closes)


@pytest.mark.parametrize("day", [date(2026, 1, 17), date(2026, 1, 18), date(2026, 4, 3), date(2025, 1, 9)])
def test_weekends_holidays_and_days_of_mourning_have_none(day: date) -> None:
    assert session_on(day) is None


def test_the_session_of_an_instant_is_that_of_its_new_york_day() -> None:
    friday = session_on(date(2026, 1, 16))
    assert session_of(utc(2026, 1, 16, 5)) == friday
    assert session_of(utc(2026, 1, 17, 4, 59)) == friday
    assert session_of(utc(2026, 1, 17, 5)) is None


def test_a_session_runs_from_its_open_until_before_its_close() -> None:
    session = Session(100.0, 200.0)
    assert [session.contains(ts) for ts in (99.0, 100.0, 199.0, 200.0)] == [False, True, True, False]
