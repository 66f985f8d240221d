"""Provider rows as the wire has them, for the tests of ingestion."""

from __future__ import annotations

from typing import Any

from contracts.symbology import CALL, PUT, format_ticker, settlement_ts

EXPIRATION = "2026-01-16"  # a third Friday: SPX settles at 09:30, SPXW at 16:00
MORNING = settlement_ts("SPX", EXPIRATION) - 3600.0
QUOTE_NS = 1_768_570_200_123_456_789

Row = dict[str, Any]


def wire_row(
    strike: float = 6850,
    kind: str = CALL,
    *,
    root: str = "SPXW",
    expiration: str = EXPIRATION,
    **changes: object,
) -> Row:
    """A full row; a change of None leaves the key out."""
    row: Row = {
        "day": {"volume": 36, "close": 0.9, "last_updated": 1_768_539_600_000_000_000},
        "details": {
            "contract_type": kind,
            "exercise_style": "european",
            "expiration_date": expiration,
            "shares_per_contract": 100,
            "strike_price": strike,
            "ticker": format_ticker(root, expiration, kind, round(strike * 1000)),
        },
        "greeks": {"delta": 0.5, "gamma": 0.004, "theta": -3, "vega": 1.25},
        "implied_volatility": 0.12,
        "last_quote": {"bid": 10, "ask": 10.2, "bid_size": 0, "ask_size": 14, "last_updated": QUOTE_NS},
        "last_trade": {"price": 10.1, "size": 2, "exchange": 302, "sip_timestamp": QUOTE_NS},
        "open_interest": 8133,
        "underlying_asset": {"ticker": "I:SPX", "value": 6850.5, "last_updated": QUOTE_NS, "timeframe": "DELAYED"},
    }
    row.update(changes)
    return {name: value for name, value in row.items() if value is not None}


def detailed(row: Row, **details: object) -> Row:
    """The same row with other details; None leaves one out."""
    merged = {**row["details"], **details}
    return {**row, "details": {name: value for name, value in merged.items() if value is not None}}


def both_sides(strikes: list[float], root: str = "SPXW", expiration: str = EXPIRATION) -> list[Row]:
    """A call and a put at every strike."""
    return [wire_row(strike, kind, root=root, expiration=expiration) for strike in strikes for kind in (CALL, PUT)]
