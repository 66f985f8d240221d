"""Tiles: what a strategy costs, what one receives for it, and when there is no price."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.geometry import Plane
from contracts.plan import Plan, cell_labels, compile_plan
from contracts.planes import UNKNOWN, Array, empty_quotes
from contracts.symbology import CALL, PUT
from stages.calculate.tiles import Flag, compute_tiles, dirty_rows, recompute_tiles, touched_cells
from tests.stages.boards import both_sides, cell_of, listing, plane_of, quotes_of, row_of

STRIKES = (95, 100, 105)
BOARD = plane_of(both_sides(STRIKES))
PLAN = compile_plan(BOARD, (5,))

# bid and ask of the calls: a fly of mid 7.10 - 2 * 3.20 + 1.00 = 1.70
CALLS: dict[tuple[str, float], tuple[float | None, float | None]] = {
    (CALL, 95): (7.0, 7.2),
    (CALL, 100): (3.1, 3.3),
    (CALL, 105): (0.9, 1.1),
}

Tile = tuple[int, int, int, int]


def tile(prices: dict[tuple[str, float], tuple[float | None, float | None]], *label: str | float) -> Tile:
    """mid2, buy, sell and flags of one cell of the board."""
    strategy, side, *axes = label
    cell = cell_of(PLAN, str(strategy), str(side), *(float(axis) for axis in axes))
    mid2, buy, sell, flags = compute_tiles(PLAN, quotes_of(BOARD, prices))[:, cell].tolist()
    return mid2, buy, sell, flags


# --- prices, by hand


def test_a_butterfly_is_bought_at_the_asks_of_its_wings_and_twice_the_bid_of_its_body() -> None:
    # mid 1.70; buy 7.20 - 2 * 3.10 + 1.10 = 2.10; sell 7.00 - 2 * 3.30 + 0.90 = 1.30
    assert tile(CALLS, "butterfly", CALL, 100, 5) == (340, 210, 130, 0)


def test_a_call_vertical_buys_the_lower_strike_and_sells_the_upper() -> None:
    # mid 7.10 - 3.20; buy 7.20 - 3.10; sell 7.00 - 3.30
    assert tile(CALLS, "vertical", CALL, 95, 5) == (780, 410, 370, 0)


def test_a_put_vertical_buys_the_upper_strike_and_sells_the_lower() -> None:
    # mid 3.00 - 1.00; buy 3.10 - 0.95; sell 2.90 - 1.05
    assert tile({(PUT, 100): (2.9, 3.1), (PUT, 95): (0.95, 1.05)}, "vertical", PUT, 100, 5) == (400, 215, 185, 0)


def test_a_single_is_bought_at_its_ask_and_sold_at_its_bid() -> None:
    assert tile(CALLS, "single", CALL, 105) == (200, 110, 90, 0)


def test_a_mid_of_half_a_cent_is_exact() -> None:
    assert tile({(CALL, 105): (0.90, 1.15)}, "single", CALL, 105)[0] == 205


def test_a_negative_mid_is_shown() -> None:
    mid2, *_ = tile({**CALLS, (CALL, 100): (4.1, 4.3)}, "butterfly", CALL, 100, 5)
    assert mid2 == -60


# --- no price


def test_a_bid_of_zero_counts_as_a_price_of_zero_but_leaves_no_mid() -> None:
    sold_for_nothing = {**CALLS, (CALL, 105): (0.0, 0.05)}
    # sell 3.10 - 0.05; buy 3.30 - 0.00
    assert tile(sold_for_nothing, "vertical", CALL, 100, 5) == (UNKNOWN, 330, 305, Flag.NO_BID)


def test_an_unknown_bid_is_no_price() -> None:
    assert tile({**CALLS, (CALL, 105): (None, 0.05)}, "vertical", CALL, 100, 5) == (
        UNKNOWN,
        UNKNOWN,
        305,
        Flag.NO_BID,
    )


@pytest.mark.parametrize("ask", [0.0, None])
def test_an_ask_of_zero_or_unknown_is_no_price(ask: float | None) -> None:
    assert tile({**CALLS, (CALL, 105): (0.9, ask)}, "vertical", CALL, 100, 5) == (
        UNKNOWN,
        240,
        UNKNOWN,
        Flag.NO_ASK,
    )


def test_a_missing_wing_still_leaves_the_side_that_does_not_need_it() -> None:
    # selling the fly needs the bids of the wings: 7.00 - 2 * 3.30 + 0.90
    assert tile({**CALLS, (CALL, 95): (7.0, None)}, "butterfly", CALL, 100, 5)[1:3] == (UNKNOWN, 130)


def test_prices_beyond_32_bits_are_no_price_and_never_wrap() -> None:
    quotes = empty_quotes(len(BOARD.rows))
    quotes["quote"]["bid"] = quotes["quote"]["ask"] = 2**31 - 1
    cell = cell_of(PLAN, "single", CALL, 100)
    assert compute_tiles(PLAN, quotes)[:3, cell].tolist() == [UNKNOWN, 2**31 - 1, 2**31 - 1]
    fly = cell_of(PLAN, "butterfly", CALL, 100, 5)
    assert compute_tiles(PLAN, quotes)[:3, fly].tolist() == [0, 0, 0]


# --- flags


@pytest.mark.parametrize(
    ("bid", "ask", "flags"),
    [
        (1.0, 1.1, 0),
        (0.0, 0.05, Flag.NO_BID),
        (None, 0.05, Flag.NO_BID),
        (1.0, 0.0, Flag.NO_ASK),
        (1.0, None, Flag.NO_ASK),
        (None, None, Flag.NO_BID | Flag.NO_ASK | Flag.MISSING_LEG),
        (0.0, 0.0, Flag.NO_BID | Flag.NO_ASK | Flag.MISSING_LEG),
        (1.1, 1.0, Flag.CROSSED),
        (1.0, 1.0, 0),
        (1.0, 1.5, 0),  # 0.50 apart is not above 0.50
        (1.0, 1.51, Flag.WIDE),
        (7.0, 9.0, 0),  # 2.00 apart is not above a quarter of 8.00
        (7.0, 9.01, Flag.WIDE),
        (0.0, 5.0, Flag.NO_BID),  # without a mid nothing is wide
    ],
)
def test_flags_of_one_leg(bid: float | None, ask: float | None, flags: int) -> None:
    assert tile({(CALL, 100): (bid, ask)}, "single", CALL, 100)[3] == flags


def test_a_tile_carries_the_flags_of_all_its_legs() -> None:
    prices = {**CALLS, (CALL, 95): (7.2, 7.0), (CALL, 105): (0.0, 1.1)}
    assert tile(prices, "butterfly", CALL, 100, 5)[3] == Flag.CROSSED | Flag.NO_BID


@pytest.mark.parametrize(
    ("upper_bid", "buy", "flags"),
    [(3.30, 0, Flag.ARBITRAGE), (3.29, 1, 0), (3.40, -10, Flag.ARBITRAGE)],
)
def test_a_vertical_for_nothing_is_an_arbitrage(upper_bid: float, buy: int, flags: int) -> None:
    prices = {**CALLS, (CALL, 105): (upper_bid, 3.5)}
    assert tile(prices, "vertical", CALL, 100, 5)[1::2] == (buy, flags)


@pytest.mark.parametrize(("lower_ask", "flags"), [(8.10, 0), (8.11, Flag.ARBITRAGE)])
def test_a_vertical_above_its_width_is_an_arbitrage(lower_ask: float, flags: int) -> None:
    prices = {**CALLS, (CALL, 95): (8.0, lower_ask)}
    assert tile(prices, "vertical", CALL, 95, 5)[3] == flags


def test_a_single_has_no_width_to_be_above() -> None:
    assert tile({(CALL, 95): (900.0, 901.0)}, "single", CALL, 95)[3] == 0


def test_without_a_natural_debit_there_is_no_arbitrage() -> None:
    prices = {**CALLS, (CALL, 95): (7.0, None), (CALL, 105): (9.0, 9.1)}
    assert tile(prices, "vertical", CALL, 95, 5)[3] == Flag.NO_ASK


# --- against the definition, one cell at a time

cents = st.one_of(st.sampled_from([UNKNOWN, 0, 1, 5, 50, 51, 2**31 - 1]), st.integers(0, 400), st.integers(300, 1200))
GRID = (95, 97.5, 100, 102.5, 105)
contracts = st.lists(
    st.sampled_from([(kind, strike) for kind in (CALL, PUT) for strike in GRID]), min_size=1, unique=True
)
WIDTHS = (2.5, 5.0)
FULL_BOARD = plane_of(both_sides(GRID))
FULL_PLAN = compile_plan(FULL_BOARD, WIDTHS)


@st.composite
def quoted(draw: st.DrawFn, plane: Plane) -> Array:
    """A quote for every row, often missing a side."""
    quotes = empty_quotes(len(plane.rows))
    for name in ("bid", "ask"):
        quotes["quote"][name] = draw(st.lists(cents, min_size=len(plane.rows), max_size=len(plane.rows)))
    return quotes


def leg_flags(bid: int, ask: int) -> int:
    """Section 1 of models.md, read aloud."""
    no_bid, no_ask = bid <= 0, ask <= 0
    flags = 1 * no_bid + 2 * no_ask + 32 * (no_bid and no_ask)
    if not no_bid and not no_ask:
        flags += 4 * (bid > ask)
        flags += 8 * (ask - bid > max(Fraction(50), Fraction(bid + ask, 2) / 4))
    return flags


def one_tile(plane: Plane, quotes: Array, label: list[str | int | float]) -> list[int]:
    """Section 2 of models.md for one cell, in Python integers."""
    strategy, side, strike, width = str(label[0]), str(label[1]), float(label[2]), float(label[3])
    away = width if side == CALL else -width
    legs = {
        "butterfly": [(strike - width, 1), (strike, -2), (strike + width, 1)],
        "vertical": [(strike, 1), (strike + away, -1)],
        "single": [(strike, 1)],
    }[strategy]
    mid2: int | None = 0
    buy: int | None = 0
    sell: int | None = 0
    flags = 0
    for at, weight in legs:
        quote = quotes["quote"][row_of(plane, side, at)]
        bid, ask = int(quote["bid"]), int(quote["ask"])
        flags |= leg_flags(bid, ask)
        received, paid = (bid if bid >= 0 else None), (ask if ask > 0 else None)
        to_buy, to_sell = (paid, received) if weight > 0 else (received, paid)
        mid2 = None if mid2 is None or bid <= 0 or ask <= 0 else mid2 + weight * (bid + ask)
        buy = None if buy is None or to_buy is None else buy + weight * to_buy
        sell = None if sell is None or to_sell is None else sell + weight * to_sell
    if strategy != "single" and buy is not None and (buy <= 0 or buy > Fraction(width) * 100):
        flags |= 16
    prices = [UNKNOWN if price is None or abs(price) >= 2**31 else price for price in (mid2, buy, sell)]
    return [*prices, flags]


@given(st.data(), contracts)
def test_every_tile_is_what_its_definition_says(data: st.DataObject, listed: list[tuple[str, float]]) -> None:
    plane = plane_of(listing(kind, strike) for kind, strike in listed)
    quotes = data.draw(quoted(plane))
    plan = compile_plan(plane, WIDTHS)
    expected = [one_tile(plane, quotes, label) for label in cell_labels(plan)]
    assert compute_tiles(plan, quotes).T.tolist() == expected


# --- incremental

updates = st.lists(st.tuples(st.integers(0, len(FULL_BOARD.rows) - 1), cents, cents), max_size=30)
Update = tuple[int, int, int]


def apply(quotes: Array, batch: list[Update]) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Write a batch of quotes; the rows it names, repeats and all."""
    for row, bid, ask in batch:
        quotes["quote"]["bid"][row], quotes["quote"]["ask"][row] = bid, ask
    return np.array([row for row, _, _ in batch], np.intp)


@given(quoted(FULL_BOARD), updates, st.lists(st.integers(0, 30), max_size=6))
def test_incremental_equals_full_wherever_the_batches_are_cut(
    quotes: Array, sequence: list[Update], cuts: list[int]
) -> None:
    cells = compute_tiles(FULL_PLAN, quotes)
    bounds = [0, *sorted(cuts), len(sequence)]
    for start, end in pairwise(bounds):
        cells = recompute_tiles(FULL_PLAN, quotes, cells, apply(quotes, sequence[start:end]))
    np.testing.assert_array_equal(cells, compute_tiles(FULL_PLAN, quotes))


def test_recomputing_leaves_the_given_cells_alone() -> None:
    quotes = quotes_of(BOARD, CALLS)
    before = compute_tiles(PLAN, quotes)
    kept = before.copy()
    quotes["quote"]["ask"][row_of(BOARD, CALL, 105)] += 1
    after = recompute_tiles(PLAN, quotes, before, np.array([row_of(BOARD, CALL, 105)]))
    np.testing.assert_array_equal(before, kept)
    assert (after != before).any()


@given(st.lists(st.integers(0, len(FULL_BOARD.rows) - 1), max_size=8))
def test_touched_cells_are_those_with_a_leg_on_the_rows(rows: list[int]) -> None:
    expected = [cell for cell in range(FULL_PLAN.cell_count) if set(FULL_PLAN.legs[:, cell].tolist()) & set(rows)]
    assert touched_cells(FULL_PLAN, np.array(rows, np.intp)).tolist() == expected


def test_a_row_is_dirty_while_its_version_is_above_the_computed_one() -> None:
    quotes = empty_quotes(3)
    quotes["row_version"] = [7, 8, 9]
    assert dirty_rows(quotes, 7).tolist() == [1, 2]


def test_a_plane_without_cells_has_tiles_of_length_zero() -> None:
    plane = plane_of([listing(CALL, 95, eligible="expired")])
    plan = compile_plan(plane, (5,))
    cells = compute_tiles(plan, empty_quotes(1))
    assert cells.shape == (4, 0)
    assert recompute_tiles(plan, empty_quotes(1), cells, np.array([0])).shape == (4, 0)


# --- laws on arbitrage-free quotes

STEP = 5
LADDER = tuple(range(50, 150, STEP))
LAW_BOARD = plane_of(both_sides(LADDER))
LAW_PLAN = compile_plan(LAW_BOARD, (STEP, 2 * STEP, 4 * STEP))


@st.composite
def arbitrage_free(draw: st.DrawFn) -> Array:
    """Quotes of zero width: every contract at its average payoff over four settlement values, plus a dime.

    Four outcomes make a quarter the smallest unit, so cents are exact; the dime keeps bids above 0.
    """
    outcomes = draw(st.lists(st.integers(40, 160), min_size=4, max_size=4))
    quotes = empty_quotes(len(LAW_BOARD.rows))
    for row, contract in enumerate(LAW_BOARD.rows):
        sign = 1 if contract.type == CALL else -1
        payoffs = [max(sign * (outcome - contract.strike_milli // 1000), 0) for outcome in outcomes]
        quotes["quote"]["bid"][row] = quotes["quote"]["ask"][row] = 25 * sum(payoffs) + 10
    return quotes


def mids(plan: Plan, cells: np.ndarray[tuple[int, ...], np.dtype[np.int32]]) -> dict[tuple[object, ...], int]:
    return {tuple(label): int(mid2) for label, mid2 in zip(cell_labels(plan), cells[0], strict=True)}


@given(arbitrage_free())
def test_verticals_and_flies_are_worth_between_nothing_and_their_width(quotes: Array) -> None:
    for (strategy, _, _, width), mid2 in mids(LAW_PLAN, compute_tiles(LAW_PLAN, quotes)).items():
        if strategy != "single":
            assert isinstance(width, int)
            assert 0 <= mid2 <= 2 * 100 * width


@given(arbitrage_free())
def test_a_call_fly_is_worth_its_put_fly(quotes: Array) -> None:
    worth = mids(LAW_PLAN, compute_tiles(LAW_PLAN, quotes))
    calls = {label[2:]: mid2 for label, mid2 in worth.items() if label[:2] == ("butterfly", CALL)}
    puts = {label[2:]: mid2 for label, mid2 in worth.items() if label[:2] == ("butterfly", PUT)}
    assert calls == puts


@given(quoted(LAW_BOARD))
def test_flies_telescope_to_vertical_differences_on_any_quotes(quotes: Array) -> None:
    quotes["quote"]["bid"] = np.clip(quotes["quote"]["bid"], 1, 10_000)
    quotes["quote"]["ask"] = np.clip(quotes["quote"]["ask"], 1, 10_000)
    worth = mids(LAW_PLAN, compute_tiles(LAW_PLAN, quotes))
    centres = LADDER[3:-3]
    flies = sum(worth["butterfly", CALL, centre, STEP] for centre in centres)
    first, last = centres[0] - STEP, centres[-1]
    assert flies == worth["vertical", CALL, first, STEP] - worth["vertical", CALL, last, STEP]
