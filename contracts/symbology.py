"""OCC option symbology and series: what a ticker says, parsed from the right.

The full provider ticker (`O:SPXW260107C06850000`) is a contract's identity. The root is part of it: SPX
(AM-settled) and SPXW (PM-settled) share strikes and dates on third Fridays.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache

from contracts.errors import DataError
from contracts.sessions import NEW_YORK as NEW_YORK
from contracts.sessions import OPEN, close_on, new_york_ts
from contracts.sessions import new_york_date as new_york_date

CALL = "call"
PUT = "put"

_ROOT = re.compile(r"[A-Z0-9]{1,6}\Z")


@dataclass(frozen=True, slots=True)
class Series:
    """What a root implies: its underlying, when it settles and how it is exercised."""

    underlying: str
    settlement: str  # "am": 09:30 New York on the expiration, "pm": the close, 16:00 or early 13:00
    exercise: str  # "european", "american"


# Index roots; every other root is a stock or ETF of the same name.
INDEX_SERIES: dict[str, Series] = {
    "SPX": Series("SPX", "am", "european"),
    "SPXW": Series("SPX", "pm", "european"),
    "NDX": Series("NDX", "am", "european"),
    "NDXP": Series("NDX", "pm", "european"),
    "RUT": Series("RUT", "am", "european"),
    "RUTW": Series("RUT", "pm", "european"),
    "XSP": Series("XSP", "pm", "european"),
    "MRUT": Series("MRUT", "pm", "european"),
    "VIX": Series("VIX", "am", "european"),
    "VIXW": Series("VIX", "am", "european"),
}
INDEX_SYMBOLS = frozenset(series.underlying for series in INDEX_SERIES.values())


@dataclass(frozen=True, slots=True)
class OptionTicker:
    """The parts of a provider ticker. `strike_milli` is thousandths of a dollar, so half-dollar strikes are exact."""

    cid: str
    root: str
    expiration: str  # YYYY-MM-DD
    type: str  # "call", "put"
    strike_milli: int

    @property
    def strike(self) -> float:
        """Strike in dollars."""
        return self.strike_milli / 1000

    @property
    def plane(self) -> str:
        """The (root, expiration) this contract belongs to: `SPXW:2026-01-16`."""
        return plane_id(self.root, self.expiration)


def parse_ticker(cid: str) -> OptionTicker:
    """Read `O:SPXW260107C06850000` from the right: 8 digits strike x1000, C or P, YYMMDD, the rest is the root."""
    body = cid[2:] if cid.startswith("O:") else ""
    root, day, kind, strike = body[:-15], body[-15:-9], body[-9:-8], body[-8:]
    if not (_ROOT.match(root) and day.isascii() and day.isdigit() and kind in ("C", "P")):
        raise DataError(f"not an option ticker: {cid!r}")
    if not (len(strike) == 8 and strike.isascii() and strike.isdigit()):
        raise DataError(f"not an option ticker (strike): {cid!r}")
    try:
        expiration = date(2000 + int(day[:2]), int(day[2:4]), int(day[4:6])).isoformat()
    except ValueError as error:
        raise DataError(f"not an option ticker (date): {cid!r}") from error
    return OptionTicker(cid, root, expiration, CALL if kind == "C" else PUT, int(strike))


def format_ticker(root: str, expiration: str, kind: str, strike_milli: int) -> str:
    """The provider ticker of a contract; the inverse of `parse_ticker`."""
    day = expiration[2:4] + expiration[5:7] + expiration[8:10]
    return f"O:{root}{day}{'C' if kind == CALL else 'P'}{strike_milli:08d}"


def is_adjusted(root: str) -> bool:
    """An adjusted root ends in a digit (`SDS1`): its deliverable is not 100 shares of the underlying."""
    return root[-1:].isdigit()


def series_of(root: str) -> Series:
    """The series a root belongs to; stocks and ETFs settle PM and exercise American."""
    return INDEX_SERIES.get(root) or Series(root.rstrip("0123456789") or root, "pm", "american")


def plane_id(root: str, expiration: str) -> str:
    """The id of the plane (root, expiration)."""
    return f"{root}:{expiration}"


def provider_underlying(symbol: str) -> str:
    """How the provider's snapshot endpoint names an underlying: indices carry `I:`."""
    return f"I:{symbol}" if symbol in INDEX_SYMBOLS else symbol


@lru_cache(maxsize=4096)
def settlement_ts(root: str, expiration: str) -> float:
    """The instant (epoch seconds) at which contracts of this plane settle; nothing is priced after it."""
    day = date.fromisoformat(expiration)
    return new_york_ts(day, OPEN if series_of(root).settlement == "am" else close_on(day))


def ineligibility(root: str, expiration: str, multiplier: int, market_ts: float) -> str:
    """Why a contract takes no part in models at this market time ("adjusted", "expired"); empty if it does."""
    if is_adjusted(root) or multiplier != 100:
        return "adjusted"
    return "expired" if market_ts >= settlement_ts(root, expiration) else ""


def days_to_expiration(expiration: str, ts: float) -> int:
    """Calendar days from the New York date of `ts` to the expiration; 0 on the day itself."""
    return (date.fromisoformat(expiration) - new_york_date(ts)) // timedelta(days=1)
