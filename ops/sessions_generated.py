"""The table of `contracts/session_days.py`, from the calendar XNYS of exchange_calendars (a dev dependency).

`python -m ops.sessions_generated` rewrites it: after an upgrade of that library, once a year. Why a table: ADR 0010.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path

CALENDAR = "XNYS"
FIRST, LAST = "2015-01-01", "2040-12-31"
TABLE = Path(__file__).parents[1] / "contracts" / "session_days.py"

_TEXT = '''"""Days on which the New York stock exchange does not trade, or only until 13:00. Generated: do not edit.

From the calendar {calendar} of exchange_calendars, by `python -m ops.sessions_generated`. Weekends are not listed;
before `FIRST` and after `LAST` every weekday counts as a full session.
"""

FIRST, LAST = "{first}", "{last}"

_HOLIDAYS = """
{holidays}
"""

_EARLY_CLOSES = """
{early_closes}
"""

HOLIDAYS = frozenset(_HOLIDAYS.split())
EARLY_CLOSES = frozenset(_EARLY_CLOSES.split())
'''


def session_days() -> tuple[list[str], list[str]]:
    """Holidays and early closes within the horizon, ascending, YYYY-MM-DD, as the calendar library has them."""
    import exchange_calendars
    import pandas

    calendar = exchange_calendars.get_calendar(CALENDAR, start=FIRST, end=LAST)
    trading = {day.date().isoformat() for day in calendar.sessions}
    weekdays = (day.date().isoformat() for day in pandas.bdate_range(FIRST, LAST))
    holidays = [day for day in weekdays if day not in trading]
    early = [day.date().isoformat() for day in calendar.early_closes if FIRST <= day.date().isoformat() <= LAST]
    return holidays, sorted(early)


def table() -> str:
    """The text of the generated module."""
    holidays, early_closes = session_days()
    return _TEXT.format(
        calendar=CALENDAR, first=FIRST, last=LAST, holidays=_lines(holidays), early_closes=_lines(early_closes)
    )


def _lines(days: Iterable[str]) -> str:
    return textwrap.fill(" ".join(days), 119, break_on_hyphens=False)


def main() -> None:
    """Rewrite the table."""
    TABLE.write_text(table(), encoding="utf-8")
    print(f"{TABLE.name}: {FIRST} to {LAST}")


if __name__ == "__main__":
    main()
