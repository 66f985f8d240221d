"""Provider rows become our chain rows. Pure; tolerant of what the wire leaves out, strict about identity.

A row comes as the plain objects of its JSON. Anything but its identity may be missing (`{}`, no key, no greeks);
whole doubles come as ints, stamps as int64 nanoseconds. What cannot be used is left out and counted, never guessed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from contracts.errors import DataError
from contracts.snapshot import ChainRow
from contracts.symbology import (
    CALL,
    INDEX_SERIES,
    PUT,
    OptionTicker,
    ineligibility,
    parse_ticker,
    series_of,
    settlement_ts,
)

Row: TypeAlias = dict[str, Any]

MAX_DOLLARS = 1_000_000.0
MAX_SIZE = 2**31 - 1
STANDARD_MULTIPLIER = 100

BAD_QUOTE = "bad_quotes"  # bid or ask negative, below a cent, absurd: both sides are dropped
BAD_TRADE = "bad_trades"  # the same of the last price
DUPLICATE = "duplicate_rows"
REFUSED = "refused_rows"
ONE_SIDED = "one_sided_strikes"  # of a root: the call or the put is not there
ADJUSTED = "adjusted_rows"
WITHOUT_GREEKS = "rows_without_greeks"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of what is checked before anything is published; `counter` in `massive:chain:analytics`.

    `verdict`: repaired (the rest of the row or surface goes on), flagged (published as it is, counted), refused (the
    row is left out) or failed (the expiration is: its plane keeps what it had).
    """

    found: str
    verdict: str
    action: str
    counter: str


CHECKS: tuple[Check, ...] = (
    Check("two rows of one contract, on one page or on several", "repaired", "the newer quote stays", DUPLICATE),
    Check("bid or ask negative, no whole cents, absurd", "repaired", "the row's quote is unknown", BAD_QUOTE),
    Check("last price negative, no whole cents, absurd", "repaired", "the row's trade is unknown", BAD_TRADE),
    Check("`day`, `greeks`, `last_quote`, `last_trade` absent or `{}`", "repaired", "those values are unknown", "-"),
    Check("greeks absent or not numbers", "flagged", "published without; models say so", WITHOUT_GREEKS),
    Check("a strike with a call and no put of its root, or none the other way", "flagged", "published", ONE_SIDED),
    Check(
        "shares per contract other than 100, root of an adjusted series", "flagged", "listed, not eligible", ADJUSTED
    ),
    Check("no ticker, or none we can parse", "refused", "left out", "refused_ticker"),
    Check(
        "ticker and details tell two expirations, or not the one asked for", "refused", "left out", "refused_expiration"
    ),
    Check("ticker and details tell two sides, or the type is `other`", "refused", "left out", "refused_type"),
    Check("ticker and details tell two strikes", "refused", "left out", "refused_strike"),
    Check("shares per contract no positive whole number", "refused", "left out", "refused_multiplier"),
    Check("an expiration without any call, any put, or any row", "failed", "not published", "failed_incomplete"),
    Check(
        "pages in a circle, without end, or leading to another origin", "failed", "not published", "failed_malformed"
    ),
    Check("a page refused (403) after others were given", "failed", "not published", "failed_refused"),
    Check(
        "a page that did not come (timeout, TLS, 404, 429, 5xx, no JSON)",
        "failed",
        "not published",
        "failed_unavailable",
    ),
)

_EXERCISES = frozenset({"american", "european", "bermudan"})
_NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class ReadRow:
    """A usable row, and what of it had to be dropped (`BAD_QUOTE`, `BAD_TRADE`)."""

    row: ChainRow
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """A row without a trustworthy identity: `ticker` (none, or none we can parse), or the detail that disagrees."""

    reason: str


@dataclass(frozen=True, slots=True)
class Surface:
    """One expiration as fetched: rows by root, strike and type; what was left out; why it is no full surface."""

    expiration: str
    rows: tuple[ChainRow, ...]
    counts: Mapping[str, int] = field(default_factory=dict)
    missing: str = ""  # empty: calls and puts are there


def read_surface(expiration: str, raw_rows: Iterable[object], market_ts: float) -> Surface:
    """Read and check the rows of one expiration. Of two rows of one contract the newer quote stays."""
    counts: Counter[str] = Counter()
    newest: dict[str, ChainRow] = {}
    for raw in raw_rows:
        read = read_row(raw, expiration, market_ts)
        if isinstance(read, Refused):
            counts[REFUSED] += 1
            counts[f"refused_{read.reason}"] += 1
            continue
        counts.update(read.dropped)
        before = newest.get(read.row.id)
        counts[DUPLICATE] += before is not None
        if before is None or (read.row.quote_ts or 0.0) >= (before.quote_ts or 0.0):
            newest[read.row.id] = read.row
    rows = tuple(sorted(newest.values(), key=lambda row: (row.root, row.strike, row.type)))
    counts.update(_flags(rows))
    return Surface(expiration, rows, {name: count for name, count in counts.items() if count}, _missing(rows))


def read_row(raw: object, expiration: str, market_ts: float) -> ReadRow | Refused:
    """One provider row of `expiration`; eligibility at `market_ts` (epoch seconds on the market clock)."""
    details = _object(raw, "details")
    try:
        ticker = parse_ticker(str(details.get("ticker")))
    except DataError:
        return Refused("ticker")
    multiplier = _multiplier(details)
    disagreement = _disagreement(ticker, details, expiration, multiplier)
    if disagreement:
        return Refused(disagreement)
    series = series_of(ticker.root)
    exercise = details.get("exercise_style")
    quote, trade, greeks = (_object(raw, name) for name in ("last_quote", "last_trade", "greeks"))
    bid, ask, last = quote.get("bid"), quote.get("ask"), trade.get("price")
    quote_is_bad = not (_is_price(bid) and _is_price(ask))
    if quote_is_bad:
        bid = ask = None
        quote = _NOTHING
    trade_is_bad = not _is_price(last)
    if trade_is_bad:
        last = None
        trade = _NOTHING
    row = ChainRow(
        id=ticker.cid,
        root=ticker.root,
        type=ticker.type,
        strike=ticker.strike,
        settlement=series.settlement,
        exercise=exercise if exercise in _EXERCISES else series.exercise,
        multiplier=multiplier,
        eligible=eligibility(ticker.root, ticker.expiration, multiplier, market_ts),
        bid=_number(bid),
        ask=_number(ask),
        bid_size=_count(quote.get("bid_size")),
        ask_size=_count(quote.get("ask_size")),
        quote_ts=seconds(quote.get("last_updated")),
        last=_number(last),
        last_size=_count(trade.get("size")),
        last_ts=seconds(trade.get("sip_timestamp")),
        volume=_count(_object(raw, "day").get("volume"), 2**53),
        iv=_number(_member(raw, "implied_volatility")),
        delta=_number(greeks.get("delta")),
        gamma=_number(greeks.get("gamma")),
        theta=_number(greeks.get("theta")),
        vega=_number(greeks.get("vega")),
        oi=_positive(_member(raw, "open_interest")),
        fmv=_positive(_member(raw, "fmv")),
    )
    return ReadRow(row, (BAD_QUOTE,) * quote_is_bad + (BAD_TRADE,) * trade_is_bad)


def eligibility(root: str, expiration: str, multiplier: int, market_ts: float) -> int | str:
    """1, or why a contract takes no part in models at this market time: "adjusted", "expired"."""
    return ineligibility(root, expiration, multiplier, market_ts) or 1


def last_settlement_ts(symbol: str, expiration: str) -> float:
    """The instant (epoch seconds) at which the last series of an underlying settles on an expiration."""
    roots = [root for root, series in INDEX_SERIES.items() if series.underlying == symbol] or [symbol]
    return max(settlement_ts(root, expiration) for root in roots)


def seconds(stamp: object) -> float | None:
    """A provider stamp as epoch seconds; nanoseconds, milliseconds or seconds by magnitude. None if it is none."""
    value = _number(stamp)
    if value is None or value <= 0:
        return None
    if value > 1e17:
        return round(value / 1e9, 6)  # a double of nanoseconds is no better than that
    return value / 1e3 if value > 1e11 else value


def _missing(rows: Iterable[ChainRow]) -> str:
    sides = {row.type for row in rows}
    return " and ".join(f"no {side}s" for side in (CALL, PUT) if side not in sides)


def _flags(rows: Iterable[ChainRow]) -> dict[str, int]:
    """What is published as it is, and counted."""
    rows = tuple(rows)
    sides = Counter((row.root, row.strike) for row in rows)
    return {
        ONE_SIDED: sum(count == 1 for count in sides.values()),
        ADJUSTED: sum(row.eligible == "adjusted" for row in rows),
        WITHOUT_GREEKS: sum(row.delta is None or row.gamma is None for row in rows),
    }


def _disagreement(ticker: OptionTicker, details: Mapping[str, Any], expiration: str, multiplier: int) -> str:
    """Which detail contradicts the ticker; empty if none. A detail that is left out contradicts nothing."""
    if ticker.expiration != expiration or details.get("expiration_date", expiration) != expiration:
        return "expiration"
    if details.get("contract_type", ticker.type) != ticker.type:
        return "type"
    strike = _number(details.get("strike_price", ticker.strike))
    if strike is None or abs(strike * 1000 - ticker.strike_milli) > 1e-3:
        return "strike"
    return "" if multiplier > 0 else "multiplier"


def _multiplier(details: Mapping[str, Any]) -> int:
    """Shares per contract; 0 if what is there is no whole number."""
    value = _number(details.get("shares_per_contract", STANDARD_MULTIPLIER))
    return int(value) if value is not None and value.is_integer() else 0


def _object(raw: object, name: str) -> Mapping[str, Any]:
    value = _member(raw, name)
    return value if isinstance(value, dict) else _NOTHING


def _member(raw: object, name: str) -> object:
    return raw.get(name) if isinstance(raw, dict) else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _positive(value: object) -> float | None:
    number = _number(value)
    return number if number is not None and number >= 0 else None


def _count(value: object, most: int = MAX_SIZE) -> int | None:
    number = _positive(value)
    return int(number) if number is not None and number <= most else None


def _is_price(value: object) -> bool:
    """Whether this is no price at all (unknown), or one in whole cents that the substrate can hold."""
    if value is None:
        return True
    price = _positive(value)
    return price is not None and price < MAX_DOLLARS and abs(price * 100 - round(price * 100)) <= 1e-6
