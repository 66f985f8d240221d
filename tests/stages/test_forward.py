"""The forward of a plane by put-call parity, which strikes say it, and how far they agree."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.analytics import ForwardSource
from contracts.symbology import CALL, PUT
from stages.calculate.columns import compile_columns
from stages.calculate.forward import Forward, mid_prices, parity_forward
from tests.stages.boards import Contract, both_sides, listing, plane_of, quotes_of

Quote = tuple[float | None, float | None]

SPOT = 1000.0  # strikes from 995 to 1005 are near
NEAR = (995, 998, 1000, 1002, 1005)


def pair(strike: float, call: float, put: float, half_spread: float = 0.05) -> dict[Contract, Quote]:
    """Two-sided quotes of both sides around their mids."""
    return {(kind, strike): (mid - half_spread, mid + half_spread) for kind, mid in ((CALL, call), (PUT, put))}


def agreeing(strikes: Iterable[float], forward: float) -> dict[Contract, Quote]:
    """Quotes of strikes that all say this forward (no discount)."""
    quotes: dict[Contract, Quote] = {}
    for strike in strikes:
        quotes |= pair(strike, 20 + max(0.0, forward - strike), 20 + max(0.0, strike - forward))
    return quotes


def forward_of(
    quotes: Mapping[Contract, Quote], strikes: Iterable[float] = NEAR, discount: float = 1.0, spot: float = SPOT
) -> Forward:
    plane = plane_of(both_sides(strikes))
    return parity_forward(compile_columns(plane), mid_prices(quotes_of(plane, quotes)), spot, discount)


def test_the_forward_is_strike_plus_call_minus_put() -> None:
    found = forward_of(agreeing(NEAR, 1001.5))
    assert (found.source, found.strikes_used) == (ForwardSource.PARITY, 5)
    assert [found.value, found.coherence] == pytest.approx([1001.5, 0.0], abs=1e-9)


def test_call_minus_put_is_worth_more_at_settlement() -> None:
    discount = math.exp(-0.04 * 0.5)
    found = forward_of({**pair(998, 12, 5), **pair(1000, 10, 5), **pair(1002, 8, 5)}, discount=discount)
    assert found.value == pytest.approx(1000 + 5 / discount)


def test_one_strike_that_is_off_does_not_move_the_median() -> None:
    quotes = agreeing(NEAR, 1001.5) | pair(1002, 30, 20)
    found = forward_of(quotes)
    assert found.value == pytest.approx(1001.5)
    assert found.coherence == pytest.approx(10.5)  # 1012 against 1001.5


@pytest.mark.parametrize(
    "broken",
    [(None, 20.0), (20.0, None), (0.0, 20.0), (20.0, 0.0), (0.0, 0.0), (25.0, 20.0)],
    ids=["no bid", "no ask", "bid 0", "ask 0", "worthless", "crossed"],
)
def test_a_strike_counts_only_when_both_sides_quote_uncrossed(broken: Quote) -> None:
    quotes = agreeing(NEAR, 1001.5) | {(PUT, 1005): broken}
    assert forward_of(quotes).strikes_used == 4


def test_a_locked_market_is_not_crossed() -> None:
    quotes = agreeing(NEAR, 1001.5) | {(PUT, 1005): (23.5, 23.5)}
    assert forward_of(quotes).strikes_used == 5


def test_strikes_farther_than_half_a_percent_are_not_asked() -> None:
    beyond = (994.9, 1005.1)
    strikes = (*NEAR, *beyond)
    quotes = agreeing(NEAR, 1001.5) | agreeing(beyond, 1050.0)
    found = forward_of(quotes, strikes)
    assert found.strikes_used == 5
    assert found.value == pytest.approx(1001.5)


def test_with_fewer_than_three_near_strikes_the_one_of_least_difference_says_it() -> None:
    quotes = pair(1000, 21, 20) | pair(1002, 20, 22) | pair(1100, 20.5, 20)
    found = forward_of(quotes, (*NEAR, 1100))
    assert found.value == pytest.approx(1100.5)
    assert (found.source, found.strikes_used) == (ForwardSource.NEAREST, 1)
    assert math.isnan(found.coherence)


def test_ties_go_to_the_strike_nearest_spot_then_the_lower_one() -> None:
    quotes = pair(900, 21, 20) | pair(990, 20, 21) | pair(1010, 21, 20)
    assert forward_of(quotes, (900, 990, 1010)).value == pytest.approx(989)


def test_without_any_pair_spot_says_it() -> None:
    quotes: dict[Contract, Quote] = {(CALL, 1000): (20.0, 20.1)}
    found = forward_of(quotes, discount=0.8)
    assert (found.value, found.source, found.strikes_used) == (1250.0, ForwardSource.SPOT, 0)
    assert math.isnan(found.coherence)


def test_a_strike_that_says_a_negative_forward_says_nothing() -> None:
    assert forward_of(pair(995, 1, 2000) | pair(998, 1, 2000) | pair(1000, 1, 2000)).source is ForwardSource.SPOT


def test_a_strike_with_one_listed_side_is_no_pair() -> None:
    plane = plane_of([listing(CALL, 1000)])
    mids = mid_prices(quotes_of(plane, {(CALL, 1000): (20.0, 20.1)}))
    assert parity_forward(compile_columns(plane), mids, SPOT, 1.0).source is ForwardSource.SPOT


def test_adjusted_contracts_say_nothing_about_the_forward() -> None:
    plane = plane_of(
        [listing(kind, strike, multiplier=10, eligible="adjusted") for kind in (CALL, PUT) for strike in NEAR]
    )
    columns = compile_columns(plane)
    assert not len(columns.strikes)
    mids = mid_prices(quotes_of(plane, agreeing(NEAR, 1001.5)))
    assert parity_forward(columns, mids, SPOT, 1.0).source is ForwardSource.SPOT


@pytest.mark.parametrize(
    ("spot", "coherence", "flagged"),
    [(1000.0, 1.0, False), (1000.0, 1.01, True), (7000.0, 2.0, False), (7000.0, 2.2, True), (1000.0, math.nan, False)],
)
def test_a_plane_is_incoherent_above_a_point_or_3_in_10_000_of_spot(
    spot: float, coherence: float, *, flagged: bool
) -> None:
    assert Forward(spot, coherence, ForwardSource.PARITY, 5).is_incoherent(spot) is flagged


def test_mids_are_exact_in_half_cents() -> None:
    plane = plane_of([listing(CALL, 1000)])
    assert mid_prices(quotes_of(plane, {(CALL, 1000): (20.0, 20.01)})).tolist() == [20.005]


def test_mids_of_the_largest_prices_do_not_overflow() -> None:
    plane = plane_of([listing(CALL, 1000)])
    assert mid_prices(quotes_of(plane, {(CALL, 1000): (21_000_000.0, 21_000_000.0)})).tolist() == [21_000_000.0]


@given(st.lists(st.integers(-500, 500), min_size=1, max_size=11), st.floats(0.85, 1.02))
def test_the_forward_lies_among_those_of_its_strikes_and_coherence_spans_them(
    differences: list[int], discount: float
) -> None:
    strikes = [995 + n for n in range(len(differences))]
    quotes: dict[Contract, Quote] = {}
    for strike, cents in zip(strikes, differences, strict=True):
        quotes |= pair(strike, 20 + cents / 100, 20)
    found = forward_of(quotes, strikes, discount)
    said = [strike + cents / 100 / discount for strike, cents in zip(strikes, differences, strict=True)]
    assert min(said) - 1e-9 <= found.value <= max(said) + 1e-9
    if len(said) >= 3:
        assert found.coherence == pytest.approx(max(said) - min(said), abs=1e-9)
        assert found.value == pytest.approx(float(np.median(said)))
