"""What a market lists: contracts as columns in ticker order, with the facts that hold for a whole session."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property

import numpy as np

from contracts.symbology import (
    CALL,
    INDEX_SYMBOLS,
    OptionTicker,
    series_of,
    settlement_ts,
)
from ops.mock.noise import BoolArray, FloatArray, IntArray

UNKNOWN_CENTS = -1
_THREE_DOLLARS = 300


@dataclass(frozen=True)
class Listing:
    """Contracts in ticker order: a contract's row is its position in every column.

    `symbol_index` points into `symbols`, `expiration_day` is a proleptic ordinal, `settlement` epoch seconds,
    `penny` tells a one-cent tick from the index options' nickels and dimes.
    """

    symbols: tuple[str, ...]
    contracts: tuple[OptionTicker, ...]
    symbol_index: IntArray
    strike_milli: IntArray
    expiration_day: IntArray
    is_call: BoolArray
    settlement: FloatArray
    penny: BoolArray

    @classmethod
    def of(cls, symbols: Sequence[str], contracts: Iterable[OptionTicker]) -> Listing:
        """The listing of these contracts, sorted by ticker; each must be an option on one of `symbols`."""
        ordered = tuple(sorted(contracts, key=lambda contract: contract.cid))
        index = {symbol: position for position, symbol in enumerate(symbols)}
        underlyings = [series_of(contract.root).underlying for contract in ordered]
        return cls(
            symbols=tuple(symbols),
            contracts=ordered,
            symbol_index=np.array([index[name] for name in underlyings], dtype=np.int64),
            strike_milli=np.array([contract.strike_milli for contract in ordered], dtype=np.int64),
            expiration_day=np.array(
                [date.fromisoformat(contract.expiration).toordinal() for contract in ordered], dtype=np.int64
            ),
            is_call=np.array([contract.type == CALL for contract in ordered], dtype=np.bool_),
            settlement=np.array(
                [settlement_ts(contract.root, contract.expiration) for contract in ordered], dtype=np.float64
            ),
            penny=np.array([name not in INDEX_SYMBOLS for name in underlyings], dtype=np.bool_),
        )

    def __len__(self) -> int:
        return len(self.contracts)

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Row by ticker."""
        return {contract.cid: row for row, contract in enumerate(self.contracts)}

    @cached_property
    def strike(self) -> FloatArray:
        """Strikes in dollars."""
        return self.strike_milli / 1000.0

    def rows_of(self, symbol: str) -> IntArray:
        """Rows of one underlying, in ticker order; none for a symbol that is not listed."""
        if symbol not in self.symbols:
            return np.empty(0, dtype=np.int64)
        return np.flatnonzero(self.symbol_index == self.symbols.index(symbol))


@dataclass(frozen=True)
class SessionFacts:
    """Per contract, fixed for a session (sizes: until its first quote). Unknown is NaN or `UNKNOWN_CENTS`.

    Prices in cents, times in epoch seconds.
    """

    open_interest: FloatArray
    volume: FloatArray
    bid_size: FloatArray
    ask_size: FloatArray
    last: IntArray
    last_size: FloatArray
    last_ts: FloatArray
    previous_close: IntArray


def tick_cents(price_cents: IntArray, penny: BoolArray) -> IntArray:
    """The minimum price step: a cent where `penny`, else a nickel, from three dollars on a dime."""
    return np.where(penny, 1, np.where(price_cents < _THREE_DOLLARS, 5, 10)).astype(np.int64)
