"""The mock's market clock: local time moved to market time, kept over restarts so that it never goes back."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import orjson

from contracts.errors import FatalError
from contracts.symbology import new_york_date
from ops.mock import trading_days
from ops.mock.scenario import Day, Start

_FILE_NAME = "mock-clock.json"


class MarketClock:
    """Market time from `start_ts` (epoch seconds) on, `rate` market seconds per local second.

    With `always_open` a session always runs: at the close the clock jumps to the next trading morning.
    """

    def __init__(
        self,
        start_ts: float,
        *,
        rate: float = 1.0,
        always_open: bool = False,
        local_time: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rate = rate
        self._always_open = always_open
        self._local_time = local_time
        self._anchor_ts = start_ts
        self._anchor_local = local_time()

    def now(self) -> float:
        """Market time, epoch seconds; never less than it said before."""
        ts = self._anchor_ts + (self._local_time() - self._anchor_local) * self.rate
        if not self._always_open or trading_days.in_session(ts):
            return ts
        self._anchor_ts = _next_start(ts)
        self._anchor_local = self._local_time()
        return self._anchor_ts

    def skip(self, seconds: float) -> None:
        """Go on from so much later (market seconds)."""
        self._anchor_ts += seconds


class ClockFile:
    """Where a data folder keeps the market time of each source (`synthetic`, or a chain file's name)."""

    def __init__(self, folder: Path, source: str) -> None:
        self._path = folder / _FILE_NAME
        self._source = source

    def load(self) -> float | None:
        """The market time from which this source must go on; None on a first start."""
        value = self._read().get(self._source)
        return float(value) if isinstance(value, int | float) else None

    def save(self, ts: float) -> None:
        """Keep a market time that no restart may fall below."""
        times = self._read() | {self._source: ts}
        partial = self._path.with_suffix(".partial")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(orjson.dumps(times, option=orjson.OPT_INDENT_2))
            partial.replace(self._path)
        except OSError as error:
            raise FatalError(f"the mock's clock cannot be kept in {self._path}: {error}") from error

    def _read(self) -> dict[str, object]:
        try:
            times = orjson.loads(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, orjson.JSONDecodeError) as error:
            raise FatalError(f"delete the mock's clock file {self._path}: {error}") from error
        return times if isinstance(times, dict) else {}


def moment_of(start: Start, from_ts: float) -> float:
    """The first moment of this kind (epoch seconds) from `from_ts` on."""
    day = new_york_date(from_ts)
    while not (_is(day, start.day) and trading_days.at(day, start.clock) >= from_ts):
        day += timedelta(days=1)
    return trading_days.at(day, start.clock)


def _is(day: date, kind: Day) -> bool:
    if kind is Day.THIRD_FRIDAY:
        return trading_days.is_third_friday(day)
    return trading_days.is_trading_day(day) and not trading_days.is_third_friday(day)


def _next_start(ts: float) -> float:
    """The next moment from `ts` on at which a session runs, five minutes after its opening."""
    today = new_york_date(ts)
    start = trading_days.at(today, trading_days.NEXT_START)
    if trading_days.is_trading_day(today) and ts < start:
        return start
    return trading_days.at(trading_days.next_trading_day(today), trading_days.NEXT_START)
