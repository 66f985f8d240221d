"""Chain rows as a provider with a fault sends them. Rows take turns, so that every shape of a fault comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ops.mock.rows import Row
from ops.mock.scenario import Fault

_PREVIOUS_INTEREST = 0.9  # of today's: what the day before told


def spoiled(results: Sequence[Row], answer: int, suffers: Callable[[Fault], bool]) -> list[Row]:
    """The rows of the `answer`th answer under the faults that last now."""
    rows = list(results)
    if suffers(Fault.MISSING_GREEKS):
        rows = [_without_greeks(row, turn) for turn, row in enumerate(rows)]
    if suffers(Fault.EMPTY_UNDERLYING):
        rows = [_without_underlying(row, turn) for turn, row in enumerate(rows)]
    if suffers(Fault.OI_FLIP) and answer % 2:
        rows = [_of_the_day_before(row) for row in rows]
    return rows


def _without_greeks(row: Row, turn: int) -> Row:
    """Greeks absent or `{}`, no volatility, no day and no last trade."""
    kept = {name: value for name, value in row.items() if name not in ("greeks", "implied_volatility")}
    return kept | {"day": {}, "last_trade": {}} | ({"greeks": {}} if turn % 2 else {})


def _without_underlying(row: Row, turn: int) -> Row:
    """The underlying `{}`, absent, or delayed."""
    if turn % 3 == 0:
        return row | {"underlying_asset": {}}
    if turn % 3 == 1:
        return {name: value for name, value in row.items() if name != "underlying_asset"}
    return row | {"underlying_asset": row["underlying_asset"] | {"timeframe": "DELAYED"}}


def _of_the_day_before(row: Row) -> Row:
    interest = row.get("open_interest")
    return row if interest is None else row | {"open_interest": int(interest * _PREVIOUS_INTEREST)}
