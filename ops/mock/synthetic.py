"""The seeded market: spot paths, listings and fair values as pure functions of seed and market time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time, timedelta

import numpy as np

from contracts.symbology import CALL, PUT, OptionTicker, format_ticker, new_york_date, parse_ticker
from ops.mock import pricing, trading_days
from ops.mock.listing import Listing, SessionFacts, tick_cents
from ops.mock.noise import BoolArray, FloatArray, IntArray, uniform, wander, word
from ops.mock.pricing import Valuation

_TRADING_SECONDS_PER_YEAR = 252 * 23_400
_FEWEST_STRIKES = 9
_DAILIES = 6
_WEEKLIES = 2
_MONTHLIES = 2

# A strike that lies on a coarser grid is listed this many times farther from the centre.
_MIDDLE_REACH = 2.5
_COARSE_REACH = 6.0


@dataclass(frozen=True, slots=True)
class Profile:
    """How one underlying trades. `level` is the volatility at the money, steps are in 1/1000 dollar."""

    spot: float
    level: float
    steps_milli: tuple[int, int, int]  # near, farther, far
    root: str  # settles PM
    am_root: str | None = None  # settles AM, third Fridays only
    dailies: bool = True


PROFILES: Mapping[str, Profile] = {
    "SPX": Profile(6900.0, 0.115, (5_000, 25_000, 100_000), "SPXW", "SPX"),
    "NDX": Profile(25_000.0, 0.165, (10_000, 25_000, 100_000), "NDXP", "NDX"),
    "RUT": Profile(2500.0, 0.18, (5_000, 10_000, 50_000), "RUTW", "RUT"),
    "XSP": Profile(690.0, 0.115, (1_000, 5_000, 10_000), "XSP"),
    "SPY": Profile(688.0, 0.115, (1_000, 5_000, 10_000), "SPY"),
    "QQQ": Profile(608.0, 0.165, (1_000, 5_000, 10_000), "QQQ"),
    "IWM": Profile(249.0, 0.18, (1_000, 5_000, 10_000), "IWM"),
}


def profile_of(symbol: str) -> Profile:
    """The underlying's profile; any other symbol is a stock of some made-up price with weekly expirations."""
    known = PROFILES.get(symbol)
    if known is not None:
        return known
    spot = 40.0 + 10.0 * (word(symbol) % 40)
    return Profile(spot, 0.3, (1_000, 5_000, 10_000), symbol, dailies=False)


class SyntheticSource:
    """A market of the given symbols. Contracts that a scenario lists later are in `added`.

    With `delist_after_s` an expiration leaves the listing so long after it settled, else with its day.
    """

    def __init__(
        self, symbols: Sequence[str], seed: int, contracts_per_symbol: int, delist_after_s: float | None = None
    ) -> None:
        self.symbols = tuple(symbols)
        self.added: list[OptionTicker] = []
        self._seed = seed
        self._contracts_per_symbol = contracts_per_symbol
        self._delist_after_s = delist_after_s
        self._profiles = {symbol: profile_of(symbol) for symbol in symbols}
        self._levels = np.array([self._profiles[symbol].level for symbol in symbols])

    def listing_day(self, ts: float) -> date:
        """The day whose listing holds at this instant: a new day lists and delists."""
        return new_york_date(ts)

    def listing_end(self, ts: float) -> float:
        """Until when (epoch seconds) the listing of `ts` holds: midnight, or when the day's expiration leaves it."""
        day = self.listing_day(ts)
        leaving, midnight = self._delisting(day), trading_days.at(day + timedelta(days=1), time(0))
        return min(leaving, midnight) if ts < leaving else midnight

    def listing(self, ts: float) -> Listing:
        """Everything listed at `ts`."""
        day = self.listing_day(ts)
        contracts = {contract.cid: contract for symbol in self.symbols for contract in self._contracts(symbol, day)}
        contracts.update((contract.cid, contract) for contract in self.added)
        first = day if ts < self._delisting(day) else day + timedelta(days=1)
        alive = (contract for contract in contracts.values() if contract.expiration >= first.isoformat())
        return Listing.of(self.symbols, alive)

    def _delisting(self, day: date) -> float:
        """When expirations of this day leave the listing while the day lasts."""
        if self._delist_after_s is None:
            return math.inf
        return trading_days.at(day, trading_days.CLOSE) + self._delist_after_s

    def spots(self, ts: float) -> FloatArray:
        """Spot per symbol, in dollars or index points."""
        return np.array([self.spot_path(symbol, np.array([ts]))[0] for symbol in self.symbols])

    def spot_path(self, symbol: str, ts: FloatArray) -> FloatArray:
        """Spot of one symbol at many instants: one common factor, one of its own."""
        profile = self._profiles[symbol]
        path = 0.85 * wander(self._seed, "market", ts) + 0.53 * wander(self._seed, symbol, ts)
        scale = profile.level / np.sqrt(_TRADING_SECONDS_PER_YEAR)
        return np.asarray(np.round(profile.spot * np.exp(scale * path), 2))

    def valuation(self, listing: Listing, spots: FloatArray, ts: float) -> Valuation:
        """Fair values and greeks of the listing; NaN greeks where a deep option has no time value left."""
        years = pricing.years_between(ts, listing.settlement)
        levels = self._levels[listing.symbol_index]
        fair = pricing.value(spots[listing.symbol_index], listing.strike, years, levels, listing.is_call)
        return _without_deep_greeks(listing, fair)

    def quotes(self, listing: Listing, fair: Valuation) -> tuple[IntArray, IntArray]:
        """Bid and ask in cents around fair value on the tick grid; a nearly worthless one has no bid (0)."""
        return quotes_around(fair.price, listing.penny)

    def facts(self, listing: Listing, ts: float) -> SessionFacts:
        """Open interest, volume and last trade: more of it near the money and at round strikes."""
        day = self.listing_day(ts)
        opened = trading_days.at(day, trading_days.OPEN)
        words = np.array([word(contract.cid) for contract in listing.contracts])

        def draw(label: str) -> FloatArray:
            return uniform(self._seed, word(label), words, day.toordinal())

        fair = self.valuation(listing, self.spots(opened), opened)
        interest = np.floor(self._interest(listing, fair) * np.exp(3.0 * draw("interest") - 1.5))
        volume = np.floor(interest * 0.5 * draw("volume"))
        last = (fair.price * 20.0).round().astype(np.int64) * 5
        previous = last * (0.9 + 0.2 * draw("previous")) / 5.0
        return SessionFacts(
            open_interest=interest,
            volume=volume,
            bid_size=1.0 + np.floor(100.0 * draw("bid")),
            ask_size=1.0 + np.floor(100.0 * draw("ask")),
            last=np.maximum(last, 5),
            last_size=1.0 + np.floor(20.0 * draw("size")),
            last_ts=np.minimum(opened + np.round(280.0 * draw("time"), 3), round(ts, 3)),
            previous_close=np.maximum(previous.round().astype(np.int64) * 5, 5),
        )

    def new_strike(self, listing: Listing, spots: FloatArray) -> None:
        """From the next listing on, each symbol's first expiration has one more strike, just above spot."""
        for symbol, spot in zip(self.symbols, spots, strict=True):
            rows = listing.rows_of(symbol)
            profile = self._profiles[symbol]
            expiration = min(listing.contracts[row].expiration for row in rows)
            taken = {listing.contracts[row].strike_milli for row in rows}
            strike = next(
                candidate
                for candidate in _half_steps_above(float(spot), profile.steps_milli[0])
                if candidate not in taken
            )
            self.added += _pair(profile.root, expiration, strike)

    def _contracts(self, symbol: str, day: date) -> list[OptionTicker]:
        profile = self._profiles[symbol]
        planes = _planes(profile, day)
        count = max(_FEWEST_STRIKES, round(self._contracts_per_symbol / (2 * len(planes))))
        strikes = strike_grid(profile.spot, profile.steps_milli, count)
        return [
            contract
            for root, expiration in planes
            for strike in strikes
            for contract in _pair(root, expiration, strike)
        ]

    def _interest(self, listing: Listing, fair: Valuation) -> FloatArray:
        """Typical open interest: falls with the distance from the money, stands out at round strikes."""
        coarse = np.array([self._profiles[symbol].steps_milli[2] for symbol in listing.symbols])
        round_strike = listing.strike_milli % coarse[listing.symbol_index] == 0
        out_of_the_money = np.clip(np.abs(fair.delta), 0.0, 0.5)
        return 4_000.0 * out_of_the_money * np.where(round_strike, 3.0, 1.0) + 20.0


def quotes_around(price: FloatArray, penny: BoolArray) -> tuple[IntArray, IntArray]:
    """Bid and ask in cents around fair dollars, outwards on the tick grid, never crossed."""
    cents = price * 100.0
    tick = tick_cents(cents.astype(np.int64), penny)
    half = tick * (0.4 + 0.15 * np.sqrt(price))
    bid = _on_grid(cents - half, penny, np.floor)
    ask = _on_grid(cents + half, penny, np.ceil)
    return bid, np.maximum(ask, bid + tick_cents(bid, penny))


def strike_grid(center: float, steps_milli: tuple[int, int, int], count: int) -> list[int]:
    """The `count` strikes (1/1000 dollar) a market would list first: fine near the centre, coarse far out."""
    near, middle, coarse = steps_milli
    center_milli = center * 1000.0
    strikes = np.arange(near, 3.0 * center_milli, near, dtype=np.int64)
    reach = np.where(strikes % middle == 0, _MIDDLE_REACH, 1.0)
    reach[strikes % coarse == 0] = _COARSE_REACH
    nearest = np.argsort(np.abs(strikes - center_milli) / reach, kind="stable")[:count]
    return sorted(int(strike) for strike in strikes[nearest])


def _planes(profile: Profile, day: date) -> list[tuple[str, str]]:
    """The (root, expiration) pairs listed on a day."""
    monthlies = trading_days.monthly_expirations(day, _MONTHLIES)
    if profile.dailies:
        dailies = trading_days.daily_expirations(day, _DAILIES)
        weeklies = trading_days.weekly_expirations(trading_days.next_trading_day(dailies[-1]), _WEEKLIES)
    else:
        dailies, weeklies = [], trading_days.weekly_expirations(day, _DAILIES)
    expirations = sorted({*dailies, *weeklies, *monthlies})
    planes = [(profile.root, expiration.isoformat()) for expiration in expirations]
    if profile.am_root is not None:
        planes += [(profile.am_root, expiration.isoformat()) for expiration in monthlies]
    return planes


def _pair(root: str, expiration: str, strike_milli: int) -> list[OptionTicker]:
    return [parse_ticker(format_ticker(root, expiration, kind, strike_milli)) for kind in (CALL, PUT)]


def _half_steps_above(spot: float, step_milli: int) -> range:
    half = step_milli // 2
    first = (int(spot * 1000.0) // step_milli) * step_milli + half
    return range(first, first + 1000 * step_milli, half)


def _on_grid(cents: FloatArray, penny: BoolArray, rounding: Callable[[FloatArray], FloatArray]) -> IntArray:
    tick = tick_cents(np.maximum(cents, 0.0).astype(np.int64), penny)
    steps = np.maximum(rounding(cents / tick), 0.0)
    return steps.astype(np.int64) * tick


def _without_deep_greeks(listing: Listing, fair: Valuation) -> Valuation:
    """The provider's solver fails deep in the money: no volatility and no greeks there."""
    solved = np.abs(fair.delta) < 0.9995
    unknown = np.where(solved, 0.0, np.nan)
    return Valuation(
        fair.price,
        fair.iv + unknown,
        fair.delta + unknown,
        fair.gamma + unknown,
        fair.theta + unknown,
        fair.vega + unknown,
    )
