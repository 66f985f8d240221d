"""What comes of quotes: trades, aggregates of trades over a second and a minute, and fair market values.

A trade happens at a quote now and then, at its bid or its ask; the market remembers it, so that chain rows agree.
Index values have aggregates, too, of the values themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from contracts.symbology import new_york_date
from ops.mock import trading_days
from ops.mock.market import Event, Market, dollars, number

_TRADED = 0.1  # of the quotes
_LARGEST_TRADE = 20
_EXCHANGE = 302
_CONDITION = 209
_NANOSECONDS_PER_MS = 1_000_000
WINDOW_MS = {"A": 1000, "AM": 60_000}


@dataclass(slots=True)
class _Window:
    """Trades of one contract between two moments; prices in dollars."""

    start_ms: int
    day_volume: float
    prices: list[float]
    sizes: list[int]


class Activity:
    """Turns quote events of a market into events of the other topics, from a seed."""

    def __init__(self, market: Market, seed: int) -> None:
        self._market = market
        self._random = np.random.default_rng(seed)
        self._open: dict[str, dict[str, _Window]] = {topic: {} for topic in WINDOW_MS}

    def trades(self, quotes: Sequence[Event]) -> list[Event]:
        """T events at some of these quotes; the market's last trade and volume follow."""
        draws = self._random.random((3, len(quotes)))
        found = []
        for quote, draw, side, size in zip(quotes, *draws, strict=True):
            if draw < _TRADED:
                price = quote["bp"] if side < 0.5 and quote["bp"] > 0 else quote["ap"]
                found.append(self._trade(quote, price, 1 + int(size * _LARGEST_TRADE)))
        return found

    def aggregates(self, topic: str, now_ms: int) -> list[Event]:
        """A or AM events of the windows that are over; a window without trades has none."""
        length_ms, windows = WINDOW_MS[topic], self._open[topic]
        over = [cid for cid, window in windows.items() if now_ms >= window.start_ms + length_ms]
        return [_aggregate(topic, cid, windows.pop(cid), length_ms) for cid in over]

    def _trade(self, quote: Event, price: float, size: int) -> Event:
        day_volume, sequence = self._market.note_trade(quote["sym"], price, size, quote["t"])
        for topic, length_ms in WINDOW_MS.items():
            start_ms = quote["t"] // length_ms * length_ms
            window = self._open[topic].setdefault(quote["sym"], _Window(start_ms, 0.0, [], []))
            window.day_volume = day_volume
            window.prices.append(price)
            window.sizes.append(size)
        return {
            "ev": "T",
            "sym": quote["sym"],
            "x": _EXCHANGE,
            "p": price,
            "s": size,
            "c": [_CONDITION],
            "t": quote["t"],
            "q": sequence,
        }


@dataclass(slots=True)
class _Bar:
    """Values of one index from a moment on, in points."""

    start_ms: int
    values: list[float] = field(default_factory=list)


class IndexBars:
    """A and AM events of indices: first, last, highest and lowest value of a second and of a minute. No volume."""

    def __init__(self, market: Market) -> None:
        self._market = market
        self._bars: dict[tuple[str, str], _Bar] = {}  # by topic and ticker

    def take(self, values: Sequence[Event]) -> list[Event]:
        """Take V events as they are sent; returns the bars that were over before them."""
        over = []
        for value in values:
            for topic, length_ms in WINDOW_MS.items():
                name, start_ms = (topic, value["T"]), value["t"] // length_ms * length_ms
                bar = self._bars.get(name)
                if bar is None or bar.start_ms != start_ms:
                    over += [] if bar is None else [self._event(topic, value["T"], bar)]
                    bar = self._bars[name] = _Bar(start_ms)
                bar.values.append(value["val"])
        return over

    def _event(self, topic: str, ticker: str, bar: _Bar) -> Event:
        opened = trading_days.at(new_york_date(bar.start_ms / 1000), trading_days.OPEN)
        return {
            "ev": topic,
            "sym": ticker,
            "op": number(float(self._market.spot_path(ticker.removeprefix("I:"), [opened])[0])),
            "o": bar.values[0],
            "c": bar.values[-1],
            "h": max(bar.values),
            "l": min(bar.values),
            "s": bar.start_ms,
            "e": bar.start_ms + WINDOW_MS[topic],
        }


def fair_values(quotes: Iterable[Event]) -> list[Event]:
    """FMV events beside these quotes: the middle, with fractions of a cent, stamped in nanoseconds."""
    return [
        {
            "ev": "FMV",
            "fmv": number(round((quote["bp"] + quote["ap"]) / 2, 4)),
            "sym": quote["sym"],
            "t": quote["t"] * _NANOSECONDS_PER_MS,
        }
        for quote in quotes
    ]


def _aggregate(topic: str, cid: str, window: _Window, length_ms: int) -> Event:
    prices, volume = window.prices, sum(window.sizes)
    paid = sum(price * size for price, size in zip(prices, window.sizes, strict=True))
    average = dollars(round(100 * paid / volume))
    return {
        "ev": topic,
        "sym": cid,
        "v": volume,
        "av": number(window.day_volume),
        "op": prices[0],
        "vw": average,
        "o": prices[0],
        "c": prices[-1],
        "h": max(prices),
        "l": min(prices),
        "a": average,
        "z": max(1, volume // len(prices)),
        "s": window.start_ms,
        "e": window.start_ms + length_ms,
    }
