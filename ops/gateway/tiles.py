"""One tile in full: its legs with their quotes, its prices, what it can win and lose, and the order for it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from math import isfinite
from typing import Any

import numpy as np
import orjson

from contracts.compiled import CompiledEpochs
from contracts.errors import DataError
from contracts.geometry import Listing, Plane
from contracts.keys import Keys, Layer
from contracts.plan import SIDES, SINGLE, STRATEGIES, Plan
from contracts.planes import QUOTE_ROW, UNKNOWN, Array, Ints, decode_tiles, unpack_rows
from contracts.ports import GetFields, GetValue, Reader
from contracts.symbology import CALL, INDEX_SERIES
from stages.calculate.tiles import Flag

Json = dict[str, Any]

MOST_POINTS = 1e6
_WEEKLY = frozenset(root for root, series in INDEX_SERIES.items() if root != series.underlying)
_RATIOS = {"butterfly": (1, -2, 1), "vertical": (1, -1), "single": (1,)}
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")


@dataclass(frozen=True, slots=True)
class TileName:
    """Which tile: strike and width in points; the width of a single is 0."""

    strategy: str
    side: str
    strike: float
    width: float

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise DataError(f"no strategy {self.strategy!r}; there are {', '.join(STRATEGIES)}")
        if self.side not in SIDES:
            raise DataError(f"no side {self.side!r}; there are {', '.join(SIDES)}")
        for name, value in (("strike", self.strike), ("width", self.width)):
            if not (isfinite(value) and 0 <= value <= MOST_POINTS):
                raise DataError(f"{name}: a number of points is expected, from 0 to {MOST_POINTS:g}")


def cell_of(plan: Plan, name: TileName) -> int | None:
    """The number of the tile's cell; None if it is not on the plan."""
    block = plan.block(name.strategy, name.side)
    at_strike = plan.strike_milli[block] == round(name.strike * 1000)
    found = np.flatnonzero(at_strike & (plan.width_milli[block] == round(name.width * 1000)))
    return int(block.start) + int(found[0]) if len(found) else None


def neighbour_of(plan: Plan, cell: int, spot: float) -> int | None:
    """The same tile one strike nearer to spot; None at spot itself, or when there is none."""
    block = plan.block(STRATEGIES[plan.strategy[cell]], SIDES[plan.side[cell]])
    strikes, strike = plan.strike_milli[block], int(plan.strike_milli[cell])
    towards = strikes > strike if spot * 1000 > strike else strikes < strike
    found = np.flatnonzero(towards & (plan.width_milli[block] == plan.width_milli[cell]))
    if not len(found) or spot * 1000 == strike:
        return None
    return int(block.start) + int(found[np.abs(strikes[found] - strike).argmin()])


def tile_view(
    symbol: str, plane: Plane, plan: Plan, cell: int, cells: Ints, quotes: Array, spot: float | None = None
) -> Json:
    """The tile as JSON: prices in dollars, unknown null; `order` is null with a reason when there is no mid."""
    mid2, buy, sell, flags = (int(value) for value in cells[:, cell])
    strategy, side = STRATEGIES[plan.strategy[cell]], SIDES[plan.side[cell]]
    width = int(plan.width_milli[cell]) / 1000
    mid = _mid(mid2)
    neighbour = None if spot is None else neighbour_of(plan, cell, spot)
    legs = [plane.rows[row] for row in plan.legs[:, cell].tolist()[: len(_RATIOS[strategy])]]
    rows = [quotes[row] for row in plan.legs[:, cell].tolist()[: len(legs)]]
    return {
        "symbol": symbol,
        "plane": plane.id,
        "strategy": strategy,
        "side": side,
        "strike": int(plan.strike_milli[cell]) / 1000,
        "width": width,
        "cell": cell,
        "mid": mid,
        "buy": _dollars(buy),
        "sell": _dollars(sell),
        "flags": [flag.name.lower() for flag in Flag if flags & flag and flag.name],
        **_payoff(strategy, mid, width),
        "pct_diff": None if neighbour is None else _change_pct(mid, _mid(int(cells[0, neighbour]))),
        "legs": [_leg(listing, ratio, row) for listing, ratio, row in zip(legs, _RATIOS[strategy], rows, strict=True)],
        "order": None if mid is None else order_line(symbol, plane, strategy, side, legs, mid),
        "order_reason": "no mid: a leg has no bid or no ask" if mid is None else None,
    }


async def read_tile(
    reader: Reader, keys: Keys, compiled: CompiledEpochs, symbol: str, plane_id: str, name: TileName
) -> Json | None:
    """A tile of the active epoch as it is now; None if there is none of that name, or the epoch is being built."""
    active, told = await reader.read(GetFields(keys.active(symbol)), GetValue(keys.spot(symbol)))
    assert isinstance(active, dict)
    spot = orjson.loads(told)["value"] if isinstance(told, bytes) else None
    epoch = active.get(symbol.encode(), b"").decode()
    found = await compiled.get(reader, epoch) if epoch else None
    plane = next((one for one in found.geometry.planes if one.id == plane_id), None) if found else None
    if found is None or plane is None:
        return None
    cell = cell_of(found.plans[plane_id], name)
    tiles, quotes = await reader.values(*(keys.plane(epoch, plane_id, layer) for layer in (Layer.TILES, Layer.QUOTES)))
    if cell is None or tiles is None or quotes is None:
        return None
    rows = unpack_rows(quotes, QUOTE_ROW)
    view = tile_view(symbol, plane, found.plans[plane_id], cell, decode_tiles(tiles).cells, rows, spot)
    return {"epoch": epoch, "version": decode_tiles(tiles).version, **view}


def order_line(symbol: str, plane: Plane, strategy: str, side: str, legs: list[Listing], mid: float) -> str:
    """A limit order at the mid as thinkorswim writes it: `BUY +1 BUTTERFLY SPX 100 (Weeklys) 19 FEB 26 ...`."""
    day = date.fromisoformat(plane.expiration)
    spread = "" if strategy == SINGLE else f" {strategy.upper()}"
    weekly = " (Weeklys)" if plane.root in _WEEKLY else ""
    strikes = "/".join(f"{listing.strike_milli / 1000:g}" for listing in legs)
    expires = f"{day.day} {_MONTHS[day.month - 1]} {day:%y}"
    return f"BUY +1{spread} {symbol} 100{weekly} {expires} {strikes} {side.upper()} @{mid:.2f} LMT"


def _leg(listing: Listing, ratio: int, row: Any) -> Json:
    quote = row["quote"]
    return {
        "id": listing.cid,
        "ratio": ratio,
        "strike": listing.strike_milli / 1000,
        "type": "call" if listing.type == CALL else "put",
        "bid": _dollars(int(quote["bid"])),
        "ask": _dollars(int(quote["ask"])),
        "ts": int(quote["ms"]) / 1000 if int(quote["ms"]) > 0 else None,
    }


def _payoff(strategy: str, mid: float | None, width: float) -> Json:
    """models.md 2: at most the width less the debit; a single has no bound above."""
    if strategy == SINGLE or mid is None:
        return {"max_profit": None, "max_loss": mid, "r2r": None}
    return {"max_profit": width - mid, "max_loss": mid, "r2r": (width - mid) / mid if mid > 0 else None}


def _change_pct(here: float | None, there: float | None) -> float | None:
    """models.md 2: change from one mid debit to another; None when the first is not above 0."""
    return None if here is None or there is None or here <= 0 else 100 * (there - here) / here


def _mid(mid2: int) -> float | None:
    return None if mid2 == UNKNOWN else mid2 / 200


def _dollars(cents: int) -> float | None:
    return None if cents == UNKNOWN else cents / 100
