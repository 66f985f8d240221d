"""Filters, order and keyset pages over a listing, as the provider's query parameters say.

A page goes on after the last ticker of the one before, whatever was listed or delisted in between. The cursor
carries that ticker and the whole query, so that `next_url` needs nothing else.
"""

from __future__ import annotations

import base64
import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from urllib.parse import parse_qsl, urlencode

import numpy as np

from contracts.errors import DataError
from contracts.symbology import CALL, PUT, OptionTicker, parse_ticker
from ops.mock.listing import Listing
from ops.mock.noise import BoolArray, FloatArray, IntArray

DEFAULT_LIMIT = 10
_SNAPSHOT_SORTS = ("ticker", "expiration_date", "strike_price")
_AFTER = "ap"
_BACK = "back"  # of a circle: where it began
_COMPARISONS = {"": np.equal, "gte": np.greater_equal, "gt": np.greater, "lte": np.less_equal, "lt": np.less}


@dataclass(frozen=True, slots=True)
class Query:
    """One page's request. `after` is the last ticker before it; `parameters` go into the next cursor."""

    parameters: Mapping[str, str]
    limit: int
    sort: str
    descending: bool
    after: str | None

    @classmethod
    def parse(cls, raw: Mapping[str, str], max_limit: int) -> Query:
        """Read query parameters or the cursor among them; DataError says which one is malformed."""
        parameters = _decode(raw["cursor"]) if "cursor" in raw else dict(raw)
        parameters.pop("apiKey", None)
        after = parameters.pop(_AFTER, None)
        sort = parameters.get("sort", "ticker")
        order = parameters.get("order", "asc")
        if sort not in (*_SNAPSHOT_SORTS, "underlying_ticker"):
            raise DataError(f"sort: {sort!r} is none of {', '.join(_SNAPSHOT_SORTS)}")
        if order not in ("asc", "desc"):
            raise DataError(f"order: {order!r} is neither asc nor desc")
        return cls(parameters, _limit(parameters, max_limit), sort, order == "desc", after)

    def cursor_in_circle(self, ticker: str) -> str | None:
        """After a second page that ends with `ticker` the third, after that the second again; None after the first."""
        if self.after is None:
            return None
        parameters = dict(self.parameters)
        back = parameters.pop(_BACK, None)
        if back is not None:
            return replace(self, parameters=parameters).cursor_after(back)
        return replace(self, parameters=parameters | {_BACK: self.after}).cursor_after(ticker)

    def cursor_after(self, ticker: str) -> str:
        """The cursor of the page that follows this ticker: url-safe base64 without padding."""
        text = urlencode({_AFTER: ticker, **self.parameters})
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@dataclass(frozen=True, slots=True)
class Page:
    """Rows of one page; `cursor` leads to the next, None on the last."""

    rows: IntArray
    cursor: str | None


def page_of(listing: Listing, rows: IntArray, query: Query) -> Page:
    """The query's page of these rows (given in ticker order)."""
    matching = rows[_matches(listing, rows, query.parameters)]
    ordered = _after(listing, _ordered(listing, matching, query), query)
    page = ordered[: query.limit]
    if len(ordered) <= query.limit:
        return Page(page, None)
    return Page(page, query.cursor_after(listing.contracts[int(page[-1])].cid))


def _matches(listing: Listing, rows: IntArray, parameters: Mapping[str, str]) -> BoolArray:
    kept = np.ones(len(rows), dtype=np.bool_)
    strikes, days = listing.strike[rows], listing.expiration_day[rows].astype(np.float64)
    for name, text in parameters.items():
        field, _, operator = name.partition(".")
        if operator not in _COMPARISONS:
            raise DataError(f"{name}: unknown parameter")
        if field == "strike_price":
            kept &= _compare(strikes, operator, _number(name, text))
        elif field == "expiration_date":
            kept &= _compare(days, operator, _day(name, text))
        elif name == "contract_type":
            kept &= listing.is_call[rows] == _is_call(text)
        elif name == "ticker":
            kept &= rows == listing.row_of.get(text, -1)
    return kept


def _compare(values: FloatArray, operator: str, limit: float) -> BoolArray:
    return np.asarray(_COMPARISONS[operator](values, limit))


def _ordered(listing: Listing, rows: IntArray, query: Query) -> IntArray:
    """Rows by the sort key, ties by ticker (rows are in ticker order already)."""
    ordered = rows[np.argsort(_sort_keys(listing, query.sort)[rows], kind="stable")]
    return ordered[::-1] if query.descending else ordered


def _after(listing: Listing, ordered: IntArray, query: Query) -> IntArray:
    """What follows the cursor's contract; that may be gone by now, its place is not."""
    if query.after is None:
        return ordered
    keys = _sort_keys(listing, query.sort)[ordered]
    key = _sort_key(parse_ticker(query.after), query.sort)
    if query.descending:
        first = bisect_left(listing.contracts, query.after, key=lambda contract: contract.cid)
        return np.asarray(ordered[(keys < key) | ((keys == key) & (ordered < first))])
    first = bisect_right(listing.contracts, query.after, key=lambda contract: contract.cid)
    return np.asarray(ordered[(keys > key) | ((keys == key) & (ordered >= first))])


def _sort_keys(listing: Listing, sort: str) -> IntArray:
    if sort == "expiration_date":
        return listing.expiration_day
    if sort == "strike_price":
        return listing.strike_milli
    return np.zeros(len(listing), dtype=np.int64)


def _sort_key(contract: OptionTicker, sort: str) -> int:
    if sort == "expiration_date":
        return date.fromisoformat(contract.expiration).toordinal()
    return contract.strike_milli if sort == "strike_price" else 0


def _decode(cursor: str) -> dict[str, str]:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        text = base64.b64decode(padded, altchars=b"-_", validate=True).decode()
        parameters = dict(parse_qsl(text, strict_parsing=True))
    except ValueError as error:
        raise DataError("cursor: malformed") from error
    if _AFTER not in parameters:
        raise DataError("cursor: malformed")
    return parameters


def _limit(parameters: Mapping[str, str], max_limit: int) -> int:
    text = parameters.get("limit", str(DEFAULT_LIMIT))
    limit = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= limit <= max_limit:
        raise DataError(f"limit: {text!r} is not between 1 and {max_limit}")
    return limit


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise DataError(f"{name}: {text!r} is not a number") from error
    if not math.isfinite(value):
        raise DataError(f"{name}: {text!r} is not a number")
    return value


def _day(name: str, text: str) -> float:
    try:
        return float(date.fromisoformat(text).toordinal())
    except ValueError as error:
        raise DataError(f"{name}: {text!r} is not a date (YYYY-MM-DD)") from error


def _is_call(text: str) -> bool:
    if text not in (CALL, PUT):
        raise DataError(f"contract_type: {text!r} is neither call nor put")
    return text == CALL
