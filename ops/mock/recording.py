"""What a recorded provider answers: the newest pages recorded so far, and its clock. Pure.

A question that was recorded gets its recorded answer. Another question about a chain is answered from the rows of
the newest pages, so that a pipeline may ask for other windows and pages than the one that was recorded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import parse_qsl, unquote

import numpy as np
import orjson

from contracts.errors import DataError
from contracts.symbology import NEW_YORK, OptionTicker, parse_ticker, series_of
from ops.mock.listing import Listing
from ops.mock.pages import Query, page_of
from ops.mock.rows import Row

STATUS_PATH = "/v1/marketstatus/now"

_CHAIN_PATH = "/v3/snapshot/options/"
_ROWS_PER_PAGE = 250
_MOST_PAGES = 1000  # kept; a recording of days asks for ever new windows
_LISTED_S = 120.0  # a row not seen for so long before the newest page is of a contract that is gone

_NEXT_ORIGIN = re.compile(rb'("next_url"\s*:\s*")https?://[^/"?]+')

Question = tuple[str, tuple[tuple[str, str], ...]]  # path and query, in one order


@dataclass(frozen=True, slots=True)
class RecordedClock:
    """Market time (epoch seconds) = market_ts + rate x (receive time of the recording - receive_ts)."""

    receive_ts: float
    market_ts: float
    rate: float = 1.0

    def market_time(self, receive_ts: float) -> float:
        """What time it was for the market at a receive time of the recording."""
        return self.market_ts + self.rate * (receive_ts - self.receive_ts)


@dataclass(slots=True)
class _Page:
    ts: float
    body: bytes
    rows: list[Row] | None = None  # decoded when first needed

    def read(self) -> list[Row]:
        if self.rows is None:
            self.rows = _results(self.body)
        return self.rows


@dataclass
class RecordedAnswers:
    """The newest recorded answer to each question, and the clock its status pages tell."""

    clock: RecordedClock | None = None
    _pages: dict[Question, _Page] = field(default_factory=dict)  # oldest first

    def put(self, path: str, ts: float, body: bytes) -> None:
        """An answer that was recorded at receive time `ts` (epoch seconds); `path` with its query."""
        question = question_of(path)
        if question[0] == STATUS_PATH:
            self.clock = _clock_of(body, ts) or self.clock
        self._pages.pop(question, None)
        self._pages[question] = _Page(ts, body)
        while len(self._pages) > _MOST_PAGES:
            del self._pages[next(iter(self._pages))]

    def answer(self, path: str, origin: str) -> bytes | None:
        """The body for a question; `next_url` leads to `origin`. None: nothing recorded helps. DataError: malformed."""
        question = question_of(path)
        page = self._pages.get(question)
        if page is not None:
            return _NEXT_ORIGIN.sub(rb"\g<1>" + origin.encode(), page.body, count=1)
        if question[0].startswith(_CHAIN_PATH):
            return self._chain(question[0], dict(question[1]), origin)
        return None

    def _chain(self, path: str, parameters: Mapping[str, str], origin: str) -> bytes | None:
        rows = self._rows(path)
        symbol = path.removeprefix(_CHAIN_PATH).removeprefix("I:")
        own = [ticker for ticker in map(_ticker, rows) if ticker and series_of(ticker.root).underlying == symbol]
        if not own:
            return None
        listing = Listing.of((symbol,), own)
        page = page_of(listing, np.arange(len(listing)), Query.parse(parameters, _ROWS_PER_PAGE))
        results = [rows[listing.contracts[row].cid] for row in page.rows.tolist()]
        body = {"request_id": "recorded", "status": "OK", "results": results}
        if page.cursor is not None:
            body["next_url"] = f"{origin}{path}?cursor={page.cursor}"
        return orjson.dumps(body)

    def _rows(self, path: str) -> dict[str, Row]:
        """The newest row of every contract that the recent pages of a chain list."""
        pages = [page for (asked, _), page in self._pages.items() if asked == path]
        newest = max((page.ts for page in pages), default=0.0)
        rows: dict[str, Row] = {}
        for page in sorted(pages, key=lambda page: page.ts):
            if page.ts >= newest - _LISTED_S:
                rows.update({str(row["details"]["ticker"]): row for row in page.read()})
        return rows


def question_of(path: str) -> Question:
    """A path with its query, whatever the order and quoting of it; a key in it does not count."""
    bare, _, query = path.partition("?")
    asked = sorted(pair for pair in parse_qsl(query, keep_blank_values=True) if pair[0] != "apiKey")
    return unquote(bare), tuple(asked)


def status_body(clock: RecordedClock, receive_ts: float, speed: float, recorded: bytes | None) -> bytes:
    """The market status at a receive time of the recording, played `speed` times as fast as it was recorded."""
    moment = datetime.fromtimestamp(clock.market_time(receive_ts), NEW_YORK)
    body = _object(recorded) if recorded is not None else {"market": "open"}
    told = {"serverTime": moment.isoformat(timespec="milliseconds"), "clock": {"rate": clock.rate * speed}}
    return orjson.dumps(body | told)


def _clock_of(body: bytes, ts: float) -> RecordedClock | None:
    status = _object(body)
    try:
        moment = datetime.fromisoformat(str(status.get("serverTime")))
    except ValueError:
        return None
    told = status.get("clock")
    rate = told.get("rate", 1.0) if isinstance(told, dict) else 1.0
    return RecordedClock(ts, moment.timestamp(), float(rate))


def _results(body: bytes) -> list[Row]:
    results = _object(body).get("results")
    if not isinstance(results, list):
        return []
    return [row for row in results if isinstance(row, dict) and "ticker" in (row.get("details") or {})]


def _object(body: bytes) -> Row:
    try:
        decoded = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return decoded if isinstance(decoded, dict) else {}


def _ticker(cid: str) -> OptionTicker | None:
    try:
        return parse_ticker(cid)
    except DataError:
        return None
