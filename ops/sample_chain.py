"""The chain the project ships: the mock's synthetic SPX at one moment; `python -m ops.sample_chain` writes it."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ops.mock.market import Market

FILE = Path(__file__).parent / "docs" / "data" / "spx_synthetic.json.gz"

SYMBOL = "SPX"
SEED = 11
CONTRACTS = 2000
TS = datetime(2026, 1, 12, 17, 30, tzinfo=UTC).timestamp()  # half past noon in New York


def make_chain() -> bytes:
    """The chain in the exchange's delayed-quotes form, compressed: the same bytes each time."""
    market = Market.synthetic((SYMBOL,), SEED, CONTRACTS, TS)
    document = {
        "timestamp": f"{datetime.fromtimestamp(TS, UTC):%Y-%m-%d %H:%M:%S}",
        "symbol": f"_{SYMBOL}",
        "data": {"symbol": f"_{SYMBOL}", "current_price": market.spot(SYMBOL), "options": _rows(market)},
    }
    return gzip.compress(orjson.dumps(document), mtime=0)


def _rows(market: Market) -> list[dict[str, Any]]:
    greeks, facts = market.valuation, market.facts
    return [
        {
            "option": contract.cid.removeprefix("O:"),
            "bid": int(market.bid[row]) / 100,
            "bid_size": int(market.bid_size[row]),
            "ask": int(market.ask[row]) / 100,
            "ask_size": int(market.ask_size[row]),
            "iv": _rounded(greeks.iv[row]),
            "open_interest": _count(facts.open_interest[row]),
            "volume": _count(facts.volume[row]),
            "delta": _rounded(greeks.delta[row]),
            "gamma": _rounded(greeks.gamma[row]),
            "theta": _rounded(greeks.theta[row]),
            "vega": _rounded(greeks.vega[row]),
            "last_trade_price": int(facts.last[row]) / 100,
            "last_trade_time": None,
        }
        for row, contract in enumerate(market.listing.contracts)
    ]


def _rounded(value: float) -> float | None:
    """Four decimals, as the exchange has them."""
    return round(float(value), 4) if np.isfinite(value) else None


def _count(value: float) -> int | None:
    """Contracts; the market knows none deep in the money."""
    return int(value) if np.isfinite(value) else None


if __name__ == "__main__":
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_bytes(make_chain())
    print(f"{FILE}: {FILE.stat().st_size:,} bytes")
