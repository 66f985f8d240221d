"""A recorded chain as a market: the file's own values, which only the jitter of the feed moves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from datetime import date

import numpy as np

from contracts.symbology import new_york_date, parse_ticker
from ops.chain_file import ChainFile, ChainFileContract
from ops.mock.listing import UNKNOWN_CENTS, Listing, SessionFacts
from ops.mock.noise import FloatArray, IntArray
from ops.mock.pricing import Valuation


class RecordedSource:
    """One chain file. Everything in the file stays listed, expired expirations too."""

    def __init__(self, chain: ChainFile) -> None:
        self.symbols: tuple[str, ...] = (chain.symbol,)
        self._chain = chain
        self._contracts = sorted(chain.contracts, key=lambda contract: contract.cid)
        self._bid = _cents(contract.bid for contract in self._contracts)
        self._ask = _cents(contract.ask for contract in self._contracts)
        self._valuation = Valuation(
            price=(self._column(lambda row: row.bid) + self._column(lambda row: row.ask)) / 2.0,
            iv=self._column(lambda row: row.iv),
            delta=self._column(lambda row: row.delta),
            gamma=self._column(lambda row: row.gamma),
            theta=self._column(lambda row: row.theta),
            vega=self._column(lambda row: row.vega),
        )

    def listing_day(self, ts: float) -> date:
        """The file's day, whatever the time."""
        return new_york_date(self._chain.ts)

    def listing_end(self, ts: float) -> float:
        """Never: its listing does not change."""
        return math.inf

    def listing(self, ts: float) -> Listing:
        """Every contract of the file."""
        return Listing.of(self.symbols, (parse_ticker(contract.cid) for contract in self._contracts))

    def spots(self, ts: float) -> FloatArray:
        """The file's spot."""
        return np.array([self._chain.spot])

    def spot_path(self, symbol: str, ts: FloatArray) -> FloatArray:
        """The file's spot, at every instant."""
        return np.full(len(ts), self._chain.spot)

    def valuation(self, listing: Listing, spots: FloatArray, ts: float) -> Valuation:
        """The file's volatility and greeks, NaN where it has none; `price` is the middle of the quote."""
        return self._valuation

    def quotes(self, listing: Listing, fair: Valuation) -> tuple[IntArray, IntArray]:
        """The file's bid and ask in cents."""
        return self._bid.copy(), self._ask.copy()

    def facts(self, listing: Listing, ts: float) -> SessionFacts:
        """The file's open interest, volume, sizes and last trade."""
        return SessionFacts(
            open_interest=self._column(lambda row: row.oi),
            volume=self._column(lambda row: row.volume),
            bid_size=self._column(lambda row: row.bid_size),
            ask_size=self._column(lambda row: row.ask_size),
            last=_cents(row.last for row in self._contracts),
            last_size=self._column(lambda row: row.last_size),
            last_ts=self._column(lambda row: row.last_ts),
            previous_close=_cents(None for _ in self._contracts),
        )

    def new_strike(self, listing: Listing, spots: FloatArray) -> None:
        """A recording gains no contracts."""

    def _column(self, field: Callable[[ChainFileContract], float | None]) -> FloatArray:
        values = (field(contract) for contract in self._contracts)
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _cents(dollars: Iterable[float | None]) -> IntArray:
    return np.array([UNKNOWN_CENTS if value is None else round(value * 100) for value in dollars], dtype=np.int64)
