"""The market behind the mock provider: a listing, its quotes now, and the events that change them.

Pure: time comes as an argument and all randomness from the seed, so equal calls give equal events.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import date
from typing import Any, Protocol

import numpy as np
import orjson

from contracts.symbology import INDEX_SYMBOLS, provider_underlying
from ops.chain_file import ChainFile
from ops.mock import pricing, trading_days
from ops.mock.listing import UNKNOWN_CENTS, Listing, SessionFacts, tick_cents
from ops.mock.noise import FloatArray, IntArray
from ops.mock.pricing import Valuation
from ops.mock.recorded import RecordedSource
from ops.mock.synthetic import SyntheticSource

Event = dict[str, Any]

REPRICE_S = 0.25
_EXCHANGE = 302

# Sequence numbers start from the market's time, faster than a feed consumes them, so they rise over restarts.
_SEQUENCE_EPOCH_MS = 1_577_836_800_000
_SEQUENCES_PER_MS = 100


class MarketSource(Protocol):
    """Where a market's contracts and values come from."""

    @property
    def symbols(self) -> tuple[str, ...]: ...
    def listing_day(self, ts: float) -> date: ...
    def listing_end(self, ts: float) -> float: ...
    def listing(self, ts: float) -> Listing: ...
    def spots(self, ts: float) -> FloatArray: ...
    def spot_path(self, symbol: str, ts: FloatArray) -> FloatArray: ...
    def valuation(self, listing: Listing, spots: FloatArray, ts: float) -> Valuation: ...
    def quotes(self, listing: Listing, fair: Valuation) -> tuple[IntArray, IntArray]: ...
    def facts(self, listing: Listing, ts: float) -> SessionFacts: ...
    def new_strike(self, listing: Listing, spots: FloatArray) -> None: ...


class Market:
    """A market at a moment. Prices are integer cents, columns follow the rows of `listing`.

    `still` keeps every value as first listed. `spot_factor` multiplies the spot path (scenarios set it). Quotes
    follow the spot every `reprice_s` market seconds.
    """

    def __init__(
        self,
        source: MarketSource,
        seed: int,
        start_ts: float,
        *,
        still: bool = False,
        reprice_s: float = REPRICE_S,
    ) -> None:
        self.start_ts = start_ts
        self.still = still
        self._reprice_s = reprice_s
        self.spot_factor = 1.0
        self._source = source
        self._random = np.random.default_rng(seed)
        self._sequence = (int(start_ts * 1000) - _SEQUENCE_EPOCH_MS) * _SEQUENCES_PER_MS
        self._watched: frozenset[str] | None = None
        self._list(start_ts)

    @classmethod
    def synthetic(
        cls,
        symbols: Sequence[str] = ("SPX", "NDX"),
        seed: int = 1,
        contracts: int = 2000,
        start_ts: float | None = None,
        *,
        still: bool = False,
        rate: float = 1.0,
        delist_after_s: float | None = None,
    ) -> Market:
        """A seeded market with about `contracts` contracts per symbol, from a seeded trading morning on.

        `rate`: how fast its clock runs, so that a fast day does not cost more work per second.
        """
        begin = first_moment(seed) if start_ts is None else start_ts
        source = SyntheticSource(symbols, seed, contracts, delist_after_s)
        return cls(source, seed, begin, still=still, reprice_s=REPRICE_S * max(rate, 1.0))

    @classmethod
    def from_chain(
        cls, chain: ChainFile, seed: int = 1, start_ts: float | None = None, *, still: bool = False
    ) -> Market:
        """A market around a recorded chain's values; it starts at the file's own moment."""
        begin = chain.ts if start_ts is None else start_ts
        return cls(RecordedSource(chain), seed, begin, still=still)

    @property
    def symbols(self) -> tuple[str, ...]:
        """Underlyings without prefix."""
        return self._source.symbols

    def spot(self, symbol: str) -> float:
        """The symbol's spot at the last pricing."""
        return float(self.spots[self.symbols.index(symbol)])

    def spot_path(self, symbol: str, ts: Sequence[float]) -> FloatArray:
        """The symbol's undisturbed spot at past instants (epoch seconds)."""
        return self._source.spot_path(symbol, np.asarray(ts, dtype=np.float64))

    def advance(self, ts: float) -> None:
        """Bring listing, spot and quotes to the market time `ts`; a time that is past changes nothing."""
        if ts >= self._listing_end:
            self._list(ts)
        elif not self.still and ts - self.priced_ts >= self._reprice_s:
            self._reprice(ts)

    def watch(self, cids: Collection[str] | None) -> None:
        """Draw quote events from these contracts only (None: from all); unknown ones never quote."""
        self._watched = None if cids is None else frozenset(cids)
        self._weigh()

    def new_strike(self) -> None:
        """List one more strike in each symbol's first expiration, where the source can."""
        self._source.new_strike(self.listing, self.spots)
        self._list(self.priced_ts)

    def quote_events(self, market_ts_ms: int, n: int) -> list[Event]:
        """The next `n` quote events (provider's Q form), near-the-money contracts more often.

        None come when no watched contract can quote.
        """
        self.advance(market_ts_ms / 1000)
        total = self._cumulative[-1] if len(self._cumulative) else 0.0
        if n <= 0 or total <= 0.0:
            return []
        rows = np.searchsorted(self._cumulative, self._random.random(n) * total, side="right")
        bid, ask = self._jitter(rows)
        bid_size, ask_size = self._random.integers(1, 200, size=(2, n))
        self.bid[rows], self.ask[rows] = bid, ask
        self.bid_size[rows], self.ask_size[rows] = bid_size, ask_size
        self.quote_ts_ms[rows] = market_ts_ms
        first = self._sequence + 1
        self._sequence += n
        return [
            {
                "ev": "Q",
                "sym": self._cids[row],
                "bx": _EXCHANGE,
                "ax": _EXCHANGE,
                "bp": dollars(bid_cents),
                "ap": dollars(ask_cents),
                "bs": bids,
                "as": asks,
                "t": market_ts_ms,
                "q": sequence,
            }
            for row, bid_cents, ask_cents, bids, asks, sequence in zip(
                rows.tolist(),
                bid.tolist(),
                ask.tolist(),
                bid_size.tolist(),
                ask_size.tolist(),
                range(first, first + n),
                strict=True,
            )
        ]

    def note_trade(self, cid: str, price: float, size: int, ts_ms: int) -> tuple[float, int]:
        """Make this the contract's last trade (dollars); returns the day's volume with it, and a sequence number."""
        row, facts = self.listing.row_of[cid], self.facts
        facts.volume[row] = np.nan_to_num(facts.volume[row]) + size
        facts.last[row] = round(price * 100)
        facts.last_size[row], facts.last_ts[row] = size, ts_ms / 1000
        self._sequence += 1
        return float(facts.volume[row]), self._sequence

    def frames(self, market_ts_ms: int, n: int, frame_events: int) -> Iterator[bytes]:
        """The next `n` quote events as encoded frames (JSON arrays) of at most `frame_events` events each."""
        return encode_frames(self.quote_events(market_ts_ms, n), frame_events)

    def index_events(self, market_ts_ms: int) -> list[Event]:
        """The present value of every index among the symbols (provider's V form)."""
        self.advance(market_ts_ms / 1000)
        return [
            {"ev": "V", "val": number(self.spot(symbol)), "T": provider_underlying(symbol), "t": market_ts_ms}
            for symbol in self.symbols
            if symbol in INDEX_SYMBOLS
        ]

    def _list(self, ts: float) -> None:
        """Take the listing that holds at `ts`; every quote starts afresh."""
        self.day = self._source.listing_day(ts)
        self._listing_end = self._source.listing_end(ts)
        self.listing = self._source.listing(ts)
        self.facts = self._source.facts(self.listing, ts)
        self._cids = [contract.cid for contract in self.listing.contracts]
        self.bid_size, self.ask_size = self.facts.bid_size.copy(), self.facts.ask_size.copy()
        self._price(ts)
        self.bid, self.ask = self._base_bid.copy(), self._base_ask.copy()
        self.quote_ts_ms = np.full(len(self.listing), int(ts * 1000), dtype=np.int64)
        self._weigh()

    def _reprice(self, ts: float) -> None:
        """Follow the spot: contracts whose fair quote moved take it; settled ones stay frozen."""
        before_bid, before_ask = self._base_bid, self._base_ask
        self._price(ts)
        settled = self.listing.settlement <= ts
        self._base_bid[settled], self._base_ask[settled] = before_bid[settled], before_ask[settled]
        moved = (self._base_bid != before_bid) | (self._base_ask != before_ask)
        self.bid[moved], self.ask[moved] = self._base_bid[moved], self._base_ask[moved]
        self.quote_ts_ms[moved] = int(ts * 1000)
        self._weigh()

    def _price(self, ts: float) -> None:
        self.priced_ts = ts
        self.spots = np.round(self._source.spots(ts) * self.spot_factor, 4)
        self.valuation = self._source.valuation(self.listing, self.spots, ts)
        self._base_bid, self._base_ask = self._source.quotes(self.listing, self.valuation)

    def _jitter(self, rows: IntArray) -> tuple[IntArray, IntArray]:
        """Bid and ask of these rows, each at most a tick off its base; a bid of 0 stays 0, none crosses."""
        penny = self.listing.penny[rows]
        base_bid, base_ask = self._base_bid[rows], self._base_ask[rows]
        step = self._random.integers(-1, 2, size=(2, len(rows)))
        tick = tick_cents(base_bid, penny)
        bid = np.where(base_bid > 0, np.maximum(base_bid + step[0] * tick, tick), 0)
        ask = base_ask + step[1] * tick_cents(base_ask, penny)
        return bid, np.maximum(ask, bid + tick_cents(bid, penny))

    def _weigh(self) -> None:
        """How often each contract quotes, cumulated over the rows."""
        spots = self.spots[self.listing.symbol_index]
        years = pricing.years_between(self.priced_ts, self.listing.settlement)
        distance = np.abs(np.log(self.listing.strike / spots)) / (0.15 * np.sqrt(years + 1.0 / 365.0))
        weights = (np.exp(-distance) + 0.01) / (1.0 + 365.0 * years)
        weights[self.listing.settlement <= self.priced_ts] = 0.0
        weights[(self._base_bid == UNKNOWN_CENTS) | (self._base_ask <= self._base_bid)] = 0.0
        if self._watched is not None:
            weights[[cid not in self._watched for cid in self._cids]] = 0.0
        self._cumulative = np.cumsum(weights)


def first_moment(seed: int) -> float:
    """When a seeded market begins: ten o'clock on its first morning."""
    return trading_days.at(trading_days.first_morning(seed), trading_days.FIRST_START)


def encode_frames(events: Sequence[Event], frame_events: int) -> Iterator[bytes]:
    """Events as JSON arrays of at most `frame_events` each."""
    for start in range(0, len(events), frame_events):
        yield orjson.dumps(events[start : start + frame_events])


def dollars(cents: int) -> int | float:
    """Cents as the wire states dollars: whole numbers without a decimal point."""
    return cents // 100 if cents % 100 == 0 else cents / 100


def number(value: float) -> int | float:
    """A float as the wire states it: whole numbers without a decimal point."""
    return int(value) if value.is_integer() else value
