"""Trading sessions of New York: which days trade, from when to when. Clock times, so daylight saving is in them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time
from functools import lru_cache
from zoneinfo import ZoneInfo

from contracts.session_days import EARLY_CLOSES, HOLIDAYS

NEW_YORK = ZoneInfo("America/New_York")

OPEN = time(9, 30)
CLOSE = time(16, 0)
EARLY_CLOSE = time(13, 0)
_FRIDAY = 4


@dataclass(frozen=True, slots=True)
class Session:
    """The regular session of a day: open and close in epoch seconds."""

    open_ts: float
    close_ts: float

    def contains(self, ts: float) -> bool:
        """Whether the session runs at this instant: the open belongs to it, the close does not."""
        return self.open_ts <= ts < self.close_ts


@lru_cache(maxsize=512)
def session_on(day: date) -> Session | None:
    """The session of a New York day; None on weekends and holidays."""
    if day.weekday() > _FRIDAY or day.isoformat() in HOLIDAYS:
        return None
    return Session(new_york_ts(day, OPEN), new_york_ts(day, close_on(day)))


def session_of(ts: float) -> Session | None:
    """The session of the New York day that an instant (epoch seconds) belongs to, whether it runs then or not."""
    return session_on(new_york_date(ts))


def close_on(day: date) -> time:
    """When trading ends on a day that trades."""
    return EARLY_CLOSE if day.isoformat() in EARLY_CLOSES else CLOSE


def new_york_date(ts: float) -> date:
    """The New York calendar date of an instant (epoch seconds)."""
    return datetime.fromtimestamp(ts, NEW_YORK).date()


def new_york_ts(day: date, clock: time) -> float:
    """Epoch seconds of a New York wall-clock time."""
    return datetime.combine(day, clock, NEW_YORK).timestamp()
