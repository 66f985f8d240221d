"""Which days trade, when a session runs, and which expirations are listed on a day.

The synthetic market's own calendar; the pipeline never reads it, it asks the provider.
"""

from __future__ import annotations

from datetime import date, datetime, time, timedelta

from contracts.symbology import NEW_YORK, new_york_date

FIRST_START = time(10, 0)
NEXT_START = time(9, 35)
OPEN = time(9, 30)
CLOSE = time(16, 0)

HOLIDAYS: dict[date, str] = {
    date(2026, 1, 1): "New Years Day",
    date(2026, 1, 19): "Martin Luther King, Jr. Day",
    date(2026, 2, 16): "Washington's Birthday",
    date(2026, 4, 3): "Good Friday",
    date(2026, 5, 25): "Memorial Day",
    date(2026, 6, 19): "Juneteenth",
    date(2026, 7, 3): "Independence Day",
    date(2026, 9, 7): "Labor Day",
    date(2026, 11, 26): "Thanksgiving",
    date(2026, 12, 25): "Christmas",
    date(2027, 1, 1): "New Years Day",
    date(2027, 1, 18): "Martin Luther King, Jr. Day",
    date(2027, 2, 15): "Washington's Birthday",
    date(2027, 3, 26): "Good Friday",
    date(2027, 5, 31): "Memorial Day",
    date(2027, 6, 18): "Juneteenth",
    date(2027, 7, 5): "Independence Day",
    date(2027, 9, 6): "Labor Day",
    date(2027, 11, 25): "Thanksgiving",
    date(2027, 12, 24): "Christmas",
}

_DAY = timedelta(days=1)
_FRIDAY = 4


def is_trading_day(day: date) -> bool:
    """Monday to Friday and no holiday."""
    return day.weekday() <= _FRIDAY and day not in HOLIDAYS


def next_trading_day(day: date) -> date:
    """The first trading day after `day`."""
    day += _DAY
    while not is_trading_day(day):
        day += _DAY
    return day


def at(day: date, clock: time) -> float:
    """Epoch seconds of a New York wall-clock time."""
    return datetime.combine(day, clock, NEW_YORK).timestamp()


def in_session(ts: float) -> bool:
    """Whether the regular session runs at this instant."""
    day = new_york_date(ts)
    return is_trading_day(day) and at(day, OPEN) <= ts < at(day, CLOSE)


def third_friday(year: int, month: int) -> date:
    """The monthly expiration: the third Friday, or the trading day before when that is a holiday."""
    first = date(year, month, 1)
    return _trading_day_until(first + _DAY * ((_FRIDAY - first.weekday()) % 7 + 14))


def is_third_friday(day: date) -> bool:
    """Whether the monthly expiration falls on this day."""
    return day == third_friday(day.year, day.month)


def monthly_expirations(day: date, count: int) -> list[date]:
    """The next `count` monthly expirations from `day` on."""
    found: list[date] = []
    year, month = day.year, day.month
    while len(found) < count:
        expiration = third_friday(year, month)
        if expiration >= day:
            found.append(expiration)
        year, month = (year, month + 1) if month < 12 else (year + 1, 1)
    return found


def weekly_expirations(day: date, count: int) -> list[date]:
    """The next `count` weekly (Friday) expirations from `day` on."""
    found: list[date] = []
    friday = day + _DAY * ((_FRIDAY - day.weekday()) % 7)
    while len(found) < count:
        expiration = _trading_day_until(friday)
        if expiration >= day:
            found.append(expiration)
        friday += 7 * _DAY
    return found


def daily_expirations(day: date, count: int) -> list[date]:
    """`day` itself when it trades, and the trading days after it: `count` in all."""
    found = [day if is_trading_day(day) else next_trading_day(day)]
    while len(found) < count:
        found.append(next_trading_day(found[-1]))
    return found


def first_morning(seed: int) -> date:
    """Where a seeded market begins: Monday to Thursday of a monthly-expiration week of 2026.

    So the nearest expirations always include a third Friday, where two roots share dates and strikes.
    """
    expiration = third_friday(2026, 1 + seed % 5)
    day = expiration - _DAY * (1 + seed // 5 % 4)
    return day if is_trading_day(day) else next_trading_day(day)


def _trading_day_until(day: date) -> date:
    while not is_trading_day(day):
        day -= _DAY
    return day
