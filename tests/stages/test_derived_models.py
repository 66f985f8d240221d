"""Liquidity Intent and Market Mode: their formulas by hand, their ranges, and what they do not depend on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.analytics import Moment
from stages.models.gex import gex_model
from stages.models.liquidity import TRAIL_POINTS, Trail, extended, liquidity_model, view_of
from stages.models.mode import mode_model
from tests.stages.boards import moment_of
from tests.stages.surfaces import RATE, Market, priced_board

FRONT = "SPXW:2026-01-16"

Rows = Sequence[tuple[float, float | None, float | None]]  # strike, calls, puts

# spot 100, sigma 5: net -20 at 90, +10 at 97, +30 at 104, +40 at 112
HAND_MADE: Rows = [(90, 10.0, -30.0), (97, 10.0, None), (104, 50.0, -20.0), (112, 40.0, None)]


def gex_of(
    rows: Rows = HAND_MADE, spot: float | None = 100.0, sigma: float | None = 5.0, flip: float | None = None
) -> Any:
    """A GEX message as far as the derived models read it."""
    calls, puts = sum(row[1] or 0.0 for row in rows), sum(row[2] or 0.0 for row in rows)
    return {
        "front": FRONT,
        "spot": spot,
        "planes": {FRONT: {"version": 41, "em_1sigma": sigma}},
        "by_strike": [list(row) for row in rows],
        "levels": {"flip": {"value": flip}, "magnet": {"value": 112}},
        "net": calls + puts if rows else None,
        "abs": calls - puts if rows else None,
    }


def liquidity_of(gex: Any, trail: Trail = (), moment: Moment | None = None) -> dict[str, Any]:
    return liquidity_model(moment or moment_of(), view_of(gex), trail)


def mode_of(gex: Any) -> dict[str, Any]:
    view = view_of(gex)
    return mode_model(moment_of(), view, gex, liquidity_model(moment_of(), view, ()))


# --- Liquidity Intent


def test_bias_and_index_of_a_small_board() -> None:
    model = liquidity_of(gex_of())
    # above 70, below -10: imbalance 60/80; sum |net| (K - S) = 20(-10) + 10(-3) + 30(4) + 40(12) = 370, A = 100
    bias = 100 * (0.6 * 60 / 80 + 0.4 * 370 / (100 * 5))
    # within 5: 97 and 104, both positive; within 10: 90 too
    lfi = 0.5 * 50 * (1 + 1) + 0.3 * 100 * 0.6 + 0.2 * 100 * 0.4
    assert (model["bias"], model["lfi"]) == pytest.approx((bias, lfi))
    assert model["quadrant"] == "Pin / Mean Reversion"
    assert model["reason"] is None


def test_every_part_is_published() -> None:
    inputs = liquidity_of(gex_of(flip=99.0))["inputs"]
    parts = {"imbalance": 0.75, "centre": 0.74, "r1": 1.0, "c1": 0.4, "c2": 0.6, "flip_closeness": 0.6}
    assert {name: inputs[name] for name in parts} == pytest.approx(parts)
    assert inputs["planes"] == {FRONT: 41}
    assert (inputs["front"], inputs["spot"], inputs["sigma"], inputs["flip"]) == (FRONT, 100.0, 5.0, 99.0)


def test_a_flip_nearby_takes_from_both() -> None:
    far, near = liquidity_of(gex_of(flip=97.5)), liquidity_of(gex_of(flip=99.0))
    assert far["bias"] == liquidity_of(gex_of())["bias"]
    assert near["bias"] == pytest.approx(far["bias"] - 50 * 0.6)
    assert near["lfi"] == pytest.approx(far["lfi"] - 30 * 0.6)


@pytest.mark.parametrize(
    ("rows", "quadrant"),
    [
        ([(99, 10.0, None), (101, 50.0, None)], "Pin / Mean Reversion"),
        ([(80, None, -90.0), (99, 50.0, None), (101, 30.0, None)], "False Breakout Risk"),
        ([(60, None, -90.0), (98, None, -50.0), (101, None, -30.0)], "Downside Acceleration"),
        ([(99, None, -30.0), (130, 90.0, None)], "Air-Pocket Expansion"),
    ],
)
def test_the_quadrants(rows: Rows, quadrant: str) -> None:
    assert liquidity_of(gex_of(rows))["quadrant"] == quadrant


def test_exposure_far_away_moves_the_centre_no_further_than_its_end() -> None:
    inputs = liquidity_of(gex_of([(101, 1.0, None), (500, 90.0, None)]))["inputs"]
    assert inputs["centre"] == 1.0


@pytest.mark.parametrize(
    ("gex", "reason"),
    [
        (gex_of(spot=None), "no_spot"),
        ({**gex_of(), "front": None}, "no_front_plane"),
        (gex_of(sigma=None), "no_volatility"),
        (gex_of([]), "no_exposures"),
        (gex_of([(99, 5.0, -5.0)]), "no_exposures"),
        (gex_of([(100, 5.0, None)]), "no_net_beside_spot"),
        (gex_of([(90, 5.0, None)]), "no_strike_within_1sigma"),
    ],
)
def test_without_a_value_there_is_a_reason_and_nothing_is_guessed(gex: Any, reason: str) -> None:
    trail = [[1.0, 2.0, 3.0]]
    model = liquidity_of(gex, trail)
    assert (model["reason"], model["bias"], model["lfi"], model["quadrant"]) == (reason, None, None, None)
    assert model["trail"] == trail
    mode = mode_model(moment_of(), view_of(gex), gex, model)
    assert (mode["reason"], mode["score"], mode["mode"]) == (reason, None, None)


# --- its trail


def test_the_trail_has_one_point_per_half_minute_of_market_time() -> None:
    trail: list[list[float]] = []
    for second in range(100):
        model = liquidity_of(gex_of(), trail, replace(moment_of(), ts=1_768_500_010.0 + second))
        trail = model["trail"]
    assert [point[0] - 1_768_500_000 for point in trail] == [10, 30, 60, 90]
    assert trail[-1][1:] == [model["bias"], model["lfi"]]


def test_the_trail_keeps_the_last_120_points() -> None:
    trail: list[list[float]] = []
    for number in range(200):
        trail = extended(trail, [30.0 * number, 0.0, 0.0])
    assert len(trail) == TRAIL_POINTS
    assert trail[0][0] == 30.0 * 80


def test_a_clock_that_was_set_back_takes_its_points_along() -> None:
    assert extended([[30.0, 0.0, 0.0], [9000.0, 0.0, 0.0]], [70.0, 1.0, 2.0]) == [[30.0, 0.0, 0.0], [70.0, 1.0, 2.0]]


@given(st.lists(st.integers(0, 400), max_size=60))
def test_the_same_point_once_more_changes_nothing(seconds: list[int]) -> None:
    trail: list[list[float]] = []
    for second in sorted(seconds):
        once = extended(trail, [float(second), 1.0, 2.0])
        assert extended(once, [float(second), 1.0, 2.0]) == once
        trail = once


# --- Market Mode


def test_the_score_of_a_small_board() -> None:
    model = mode_of(gex_of(flip=99.0))
    lfi = liquidity_of(gex_of(flip=99.0))["lfi"]
    beyond = 1 / (1 + math.exp(3 * (100 - 99) / 5))
    amplified = 1 / (1 + math.exp(4 * 60 / 160))
    score = 100 * (0.40 * beyond + 0.25 * amplified + 0.25 * (1 - lfi / 100) + 0.10 * (1 - 0.4))
    assert model["score"] == pytest.approx(score)
    assert model["inputs"]["lfi"] == lfi


def test_without_a_flip_the_sign_of_net_decides() -> None:
    long, short = [(99, 10.0, None), (101, 10.0, None)], [(99, None, -10.0), (101, None, -10.0)]
    assert mode_of(gex_of(long))["score"] == pytest.approx(100 * 0.25 / (1 + math.exp(4)))
    assert mode_of(gex_of(short))["score"] == pytest.approx(100 * (0.40 + 0.25 / (1 + math.exp(-4)) + 0.25 * 0.5))


@pytest.mark.parametrize(
    ("rows", "flip", "mode"),
    [
        ([(99, 10.0, None), (101, 10.0, None)], 60.0, "compression"),
        ([(99, None, -10.0), (101, None, -10.0)], 140.0, "expansion"),
        ([(99, 10.0, None), (101, None, -10.0), (102, 1.0, None)], 100.0, "transition"),
    ],
)
def test_the_modes(rows: Rows, flip: float, mode: str) -> None:
    assert mode_of(gex_of(rows, flip=flip))["mode"] == mode


# --- laws

nets = st.floats(-1e12, 1e12).filter(lambda net: net == 0 or abs(net) > 1e-3)
boards = st.lists(st.tuples(st.integers(50, 150), nets), min_size=1, unique_by=lambda row: row[0])
sigmas = st.floats(1e-3, 1e3)
flips = st.one_of(st.none(), st.floats(90, 110))


def rows_of(board: list[tuple[int, float]], scale: float = 1.0) -> Rows:
    return [
        (strike, net * scale if net >= 0 else None, net * scale if net < 0 else None) for strike, net in sorted(board)
    ]


@given(boards, sigmas, flips)
def test_results_stay_in_their_range(board: list[tuple[int, float]], sigma: float, flip: float | None) -> None:
    gex = gex_of(rows_of(board), sigma=sigma, flip=flip)
    liquidity, mode = liquidity_of(gex), mode_of(gex)
    assert (liquidity["reason"] is None) == (liquidity["bias"] is not None)
    if liquidity["reason"] is None:
        assert -100 <= liquidity["bias"] <= 100
        assert 0 <= liquidity["lfi"] <= 100
        assert 0 <= mode["score"] <= 100


@given(boards, sigmas, flips, st.integers(1, 20))
def test_ten_times_the_open_interest_says_the_same(
    board: list[tuple[int, float]], sigma: float, flip: float | None, power: int
) -> None:
    one, more = (gex_of(rows_of(board, scale), sigma=sigma, flip=flip) for scale in (1.0, 2.0**power))
    first, second = liquidity_of(one), liquidity_of(more)
    assert (first["bias"], first["lfi"], first["reason"]) == (second["bias"], second["lfi"], second["reason"])
    assert mode_of(one)["score"] == mode_of(more)["score"]


@given(boards, st.floats(1e-2, 1e2), flips, st.integers(-3, 6))
def test_another_scale_of_prices_says_the_same(
    board: list[tuple[int, float]], sigma: float, flip: float | None, power: int
) -> None:
    scale = 2.0**power
    one = gex_of(rows_of(board), sigma=sigma, flip=flip)
    scaled_rows = [(strike * scale, calls, puts) for strike, calls, puts in rows_of(board)]
    scaled_flip = None if flip is None else flip * scale
    other = gex_of(scaled_rows, 100.0 * scale, sigma * scale, scaled_flip)
    first, second = liquidity_of(one), liquidity_of(other)
    assert (first["bias"], first["lfi"], first["reason"]) == (second["bias"], second["lfi"], second["reason"])
    assert mode_of(one)["score"] == mode_of(other)["score"]


def test_they_are_derived_from_the_published_gex_message() -> None:
    market = Market()
    geometry, cuts = priced_board(market)
    gex = gex_model(moment_of(), geometry, cuts, RATE)
    view = view_of(gex)
    liquidity = liquidity_model(moment_of(), view, ())
    mode = mode_model(moment_of(), view, gex, liquidity)
    assert (view.reason, view.sigma) == (None, gex["planes"][FRONT]["em_1sigma"])
    assert (liquidity["reason"], mode["reason"]) == (None, None)
    assert liquidity["inputs"]["planes"] == mode["inputs"]["planes"] == dict.fromkeys(gex["planes"], 41)
