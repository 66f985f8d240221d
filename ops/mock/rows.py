"""The provider's row shapes: what is unknown is left out, never null; whole numbers have no decimal point."""

from __future__ import annotations

from datetime import datetime, time
from typing import Any

import numpy as np

from contracts.symbology import INDEX_SYMBOLS, NEW_YORK, new_york_date, provider_underlying, series_of
from ops.mock import trading_days
from ops.mock.listing import UNKNOWN_CENTS
from ops.mock.market import Market, dollars, number
from ops.mock.noise import FloatArray

Row = dict[str, Any]

_EXCHANGE = 302
_PRIMARY_EXCHANGE = "XCBO"
_TRADE_CONDITION = 209
_NANOSECONDS_PER_MS = 1_000_000
_REAL_TIME = "REAL-TIME"
_INDEX_NAMES = {
    "SPX": "S&P 500",
    "NDX": "Nasdaq-100",
    "RUT": "Russell 2000",
    "XSP": "Mini-SPX",
    "MRUT": "Mini-Russell 2000",
    "VIX": "Cboe Volatility Index",
}


def snapshot_row(market: Market, row: int, *, greeks: bool = True) -> Row:
    """One contract of the chain snapshot; `greeks=False` is what an index without its prefix gets."""
    result: Row = {
        "day": _day(market, row),
        "details": details(market, row),
        "last_quote": _last_quote(market, row),
        "last_trade": _last_trade(market, row),
        "underlying_asset": _underlying_asset(market, row),
    }
    interest = float(market.facts.open_interest[row])
    if not np.isnan(interest):
        result["open_interest"] = number(interest)
    if not greeks:
        return result
    result["greeks"] = _greeks(market, row)
    volatility = float(market.valuation.iv[row])
    if not np.isnan(volatility):
        result["implied_volatility"] = volatility
    if _symbol(market, row) not in INDEX_SYMBOLS and market.ask[row] > 0:
        result["break_even_price"] = round(_break_even(market, row), 4)
    return result


def universal_option_row(market: Market, row: int) -> Row:
    """One contract of the universal snapshot: the ticker stands outside the details."""
    result = snapshot_row(market, row)
    ticker = result["details"].pop("ticker")
    return {
        "ticker": ticker,
        "type": "options",
        "market_status": market_status(market.priced_ts),
        "session": result.pop("day"),
        **result,
    }


def contract_row(market: Market, row: int) -> Row:
    """One contract of the reference endpoint."""
    contract = market.listing.contracts[row]
    style = series_of(contract.root).exercise
    return {
        "cfi": f"O{contract.type[0].upper()}{style[0].upper()}{'I' if style == 'european' else 'S'}PS",
        "contract_type": contract.type,
        "exercise_style": style,
        "expiration_date": contract.expiration,
        "primary_exchange": _PRIMARY_EXCHANGE,
        "shares_per_contract": 100,
        "strike_price": number(contract.strike),
        "ticker": contract.cid,
        "underlying_ticker": _symbol(market, row),
    }


def underlying_row(market: Market, symbol: str) -> Row:
    """One index (`I:SPX`) or stock of the index and universal snapshots."""
    is_index = symbol in INDEX_SYMBOLS
    spot = market.spot(symbol)
    result: Row = {
        "ticker": provider_underlying(symbol),
        "type": "indices" if is_index else "stocks",
        "name": _INDEX_NAMES.get(symbol, symbol),
        "market_status": market_status(market.priced_ts),
        "session": _session(market, symbol, spot),
    }
    if not is_index:
        return result
    return result | {"value": number(spot), "last_updated": _ns(market.priced_ts), "timeframe": _REAL_TIME}


def not_found_row(ticker: str) -> Row:
    """What stands in for the data of an unknown ticker."""
    return {"ticker": ticker, "error": "NOT_FOUND", "message": "Ticker not found."}


def details(market: Market, row: int) -> Row:
    """What a contract is."""
    contract = market.listing.contracts[row]
    return {
        "contract_type": contract.type,
        "exercise_style": series_of(contract.root).exercise,
        "expiration_date": contract.expiration,
        "shares_per_contract": 100,
        "strike_price": number(contract.strike),
        "ticker": contract.cid,
    }


def market_status(ts: float) -> str:
    """open, extended-hours or closed."""
    if trading_days.in_session(ts):
        return "open"
    moment = datetime.fromtimestamp(ts, NEW_YORK)
    extended = time(4) <= moment.time() < time(20)
    return "extended-hours" if extended and trading_days.is_trading_day(moment.date()) else "closed"


def _symbol(market: Market, row: int) -> str:
    return market.symbols[int(market.listing.symbol_index[row])]


def _ns(ts: float) -> int:
    """Nanoseconds by way of whole milliseconds: a float of nanoseconds would be off by hundreds."""
    return round(ts * 1000) * _NANOSECONDS_PER_MS


def _last_quote(market: Market, row: int) -> Row:
    bid, ask = int(market.bid[row]), int(market.ask[row])
    updated = int(market.quote_ts_ms[row]) * _NANOSECONDS_PER_MS
    result: Row = {"last_updated": updated, "timeframe": _REAL_TIME}
    if bid != UNKNOWN_CENTS:
        result |= {"bid": dollars(bid), "bid_exchange": _EXCHANGE} | _size("bid_size", market.bid_size, row)
    if ask != UNKNOWN_CENTS:
        result |= {"ask": dollars(ask), "ask_exchange": _EXCHANGE} | _size("ask_size", market.ask_size, row)
    if UNKNOWN_CENTS not in (bid, ask):
        result["midpoint"] = number((bid + ask) / 200)
    return result


def _size(name: str, column: FloatArray, row: int) -> Row:
    value = float(column[row])
    return {} if np.isnan(value) else {name: number(value)}


def _last_trade(market: Market, row: int) -> Row:
    last, volume = int(market.facts.last[row]), float(market.facts.volume[row])
    last_ts, size = float(market.facts.last_ts[row]), float(market.facts.last_size[row])
    if last == UNKNOWN_CENTS or (volume == 0.0 and market.facts.previous_close[row] != UNKNOWN_CENTS):
        return {}
    result: Row = {
        "price": dollars(last),
        "exchange": _EXCHANGE,
        "conditions": [_TRADE_CONDITION],
        "timeframe": _REAL_TIME,
    }
    if not np.isnan(size):
        result["size"] = int(size)
    if not np.isnan(last_ts):
        result["sip_timestamp"] = _ns(last_ts)
    return result


def _day(market: Market, row: int) -> Row:
    """The day's bar, `{}` for a contract that has not traded."""
    volume, last = float(market.facts.volume[row]), int(market.facts.last[row])
    previous = int(market.facts.previous_close[row])
    if np.isnan(volume) or volume == 0.0:
        return {}
    midnight = trading_days.at(new_york_date(market.priced_ts), time(0))
    result: Row = {"volume": number(volume), "last_updated": _ns(midnight)}
    if last != UNKNOWN_CENTS:
        result["close"] = dollars(last)
    if previous == UNKNOWN_CENTS:
        return result
    return result | {
        "open": dollars(previous),
        "high": dollars(max(previous, last)),
        "low": dollars(min(previous, last)),
        "vwap": number((previous + last) / 200),
        "previous_close": dollars(previous),
        "change": dollars(last - previous),
        "change_percent": round(100.0 * (last - previous) / previous, 4),
    }


def _greeks(market: Market, row: int) -> Row:
    columns = {
        "delta": market.valuation.delta,
        "gamma": market.valuation.gamma,
        "theta": market.valuation.theta,
        "vega": market.valuation.vega,
    }
    values = {name: float(column[row]) for name, column in columns.items()}
    return {name: value for name, value in values.items() if not np.isnan(value)}


def _underlying_asset(market: Market, row: int) -> Row:
    symbol = _symbol(market, row)
    spot = market.spot(symbol)
    result: Row = {
        "ticker": provider_underlying(symbol),
        "last_updated": _ns(market.priced_ts),
        "timeframe": _REAL_TIME,
    }
    if symbol in INDEX_SYMBOLS:
        return result | {"value": number(spot)}
    return result | {
        "price": number(spot),
        "change_to_break_even": round(_break_even(market, row) - spot, 4),
    }


def _break_even(market: Market, row: int) -> float:
    middle = (max(int(market.bid[row]), 0) + max(int(market.ask[row]), 0)) / 200
    strike = float(market.listing.strike[row])
    return strike + middle if market.listing.is_call[row] else strike - middle


def _session(market: Market, symbol: str, spot: float) -> Row:
    """The underlying's day so far, sampled from its path once a minute."""
    opened = trading_days.at(new_york_date(market.priced_ts), trading_days.OPEN)
    minutes = np.arange(opened, max(market.priced_ts, opened + 1.0), 60.0)
    path = [*market.spot_path(symbol, [opened - 63_000.0, *minutes]), spot]
    previous, day = float(path[0]), [float(value) for value in path[1:]]
    return {
        "change": number(round(spot - previous, 4)),
        "change_percent": number(round(100.0 * (spot / previous - 1.0), 4)),
        "close": number(spot),
        "high": number(max(day)),
        "low": number(min(day)),
        "open": number(day[0]),
        "previous_close": number(previous),
    }
