"""The gamma profile over spot and the flip, against re-pricing one contract at a time with QuantLib."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import QuantLib
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.analytics import AnalyticsCut, Reason, Source
from contracts.geometry import Geometry
from contracts.symbology import CALL
from stages.models.board import Floats, gather
from stages.models.gex import gex_model
from stages.models.profile import GRID, GammaProfile, crossings, gamma_profiles, total_profile
from tests.stages.boards import moment_of
from tests.stages.surfaces import RATE, Market, even, flat_sigma, priced_board, smile

NEAR, LATER = "SPXW:2026-01-16", "SPXW:2026-01-20"


def repriced(geometry: Geometry, cuts: Mapping[str, AnalyticsCut], spot: float, planes: set[str]) -> Floats:
    """Net GEX on the grid of spots: QuantLib's gamma of every contract at every spot, with its own volatility."""
    net = np.zeros(401)
    for plane in geometry.planes:
        if plane.id not in planes:
            continue
        cut = cuts[plane.id]
        years, forward = float(cut.plane["years"][0]), float(cut.plane["forward"][0])
        for n, contract in enumerate(plane.rows):
            is_call = contract.type == CALL
            side = QuantLib.Option.Call if is_call else QuantLib.Option.Put
            payoff = QuantLib.PlainVanillaPayoff(side, contract.strike_milli / 1000)
            deviation = float(cut.exposures["iv"][n]) * math.sqrt(years)
            weight = float(cut.chain["interest"]["oi"][n]) * 100 * 0.01 * (1 if is_call else -1)
            for j in range(401):
                at = spot * (0.9 + 0.0005 * j)
                gamma = QuantLib.BlackCalculator(payoff, forward * at / spot, deviation, math.exp(-RATE * years)).gamma(
                    at
                )
                net[j] += weight * gamma * at * at
    return net


def sign_changes(spot: float, net: Floats) -> list[float]:
    """Where a profile on the grid changes sign, by linear interpolation."""
    spots = [spot * (0.9 + 0.0005 * j) for j in range(401)]
    points = list(zip(spots, net.tolist(), strict=True))
    return [a + (b - a) * u / (u - v) for (a, u), (b, v) in pairwise(points) if u * v < 0]


def model_of(market: Market, **board: Any) -> dict[str, Any]:
    geometry, cuts = priced_board(market, **board)
    return gex_model(moment_of(market.spot), geometry, cuts, RATE)


@pytest.mark.parametrize("carry", [0.0, 0.03])
def test_the_profile_and_the_flip_are_those_of_an_independent_repricing(carry: float) -> None:
    market = Market(carry=carry)
    geometry, cuts = priced_board(market, strikes=range(80, 121))
    model = gex_model(moment_of(), geometry, cuts, RATE)
    expected = repriced(geometry, cuts, 100.0, {NEAR, LATER})
    assert model["profile"]["net"] == pytest.approx(expected.tolist(), rel=1e-9, abs=1e-9 * np.abs(expected).max())
    assert model["levels"]["flip"]["crossings"] == pytest.approx(sign_changes(100.0, expected), abs=1e-6)
    assert model["levels"]["flip"]["value"] == pytest.approx(sign_changes(100.0, expected)[0], abs=0.05)


def test_the_front_plane_has_a_profile_and_a_flip_of_its_own() -> None:
    geometry, cuts = priced_board(Market(), strikes=range(90, 111))
    model = gex_model(moment_of(), geometry, cuts, RATE)
    expected = repriced(geometry, cuts, 100.0, {NEAR})
    front = model["profile"]["front"]
    assert (front["plane"], model["front"]) == (NEAR, NEAR)
    assert front["net"] == pytest.approx(expected.tolist(), rel=1e-9, abs=1e-9 * np.abs(expected).max())
    assert model["levels"]["flip_front"]["plane"] == NEAR
    assert model["levels"]["flip_front"]["value"] == pytest.approx(sign_changes(100.0, expected)[0], abs=0.05)


def test_the_grid_is_401_spots_within_ten_percent_with_spot_in_the_middle() -> None:
    spots = model_of(Market(spot=6900.1), strikes=range(6500, 7300, 25))["profile"]["spots"]
    assert len(spots) == 401
    assert (spots[0], spots[200], spots[400]) == pytest.approx((6210.09, 6900.1, 7590.11))
    assert spots[200] == 6900.1


def test_the_value_at_spot_is_the_net_of_own_greeks() -> None:
    model = model_of(Market(carry=0.02))
    assert model["net_at_spot"] == model["profile"]["net"][200]
    assert model["net_at_spot"] == pytest.approx(model["net"], rel=1e-9)
    assert model["levels"]["flip"]["net_at_spot"] == model["net_at_spot"]


def test_calls_alone_never_change_sign() -> None:
    market = Market(interest=lambda side, strike: 10.0 if side == CALL else 0.0)
    flip = model_of(market)["levels"]["flip"]
    assert (flip["value"], flip["status"], flip["crossings"]) == (None, "no_sign_change", [])


def test_calls_and_puts_that_cancel_everywhere_never_change_sign() -> None:
    assert model_of(Market(interest=even))["levels"]["flip"]["status"] == "no_sign_change"


# --- which contracts carry it


@pytest.mark.parametrize(("without", "share", "status"), [(2, 0.8, "no_sign_change"), (3, 0.7, "insufficient_iv")])
def test_under_80_percent_of_open_interest_with_own_volatility_there_is_no_flip(
    without: int, share: float, status: str
) -> None:
    geometry, cuts = priced_board(Market(interest=even), strikes=range(98, 103), expirations=("2026-01-16",))
    exposures = cuts[NEAR].exposures.copy()
    exposures["iv"][:without], exposures["source"][:without] = np.nan, Source.VENUE
    model = gex_model(moment_of(), geometry, {NEAR: replace(cuts[NEAR], exposures=exposures)}, RATE)
    flip = model["levels"]["flip"]
    assert (flip["value"], flip["status"], flip["oi_share"]) == (None, status, pytest.approx(share))
    assert model["profile"]["status"] == ("ok" if share == 0.8 else status)
    assert model["net"] is not None


def test_the_share_is_of_open_interest_in_scope() -> None:
    geometry, cuts = priced_board(Market(interest=even))
    settled = cuts[NEAR].exposures.copy()
    settled["reason"], settled["iv"] = Reason.EXPIRED, np.nan
    cuts = {**cuts, NEAR: replace(cuts[NEAR], exposures=settled)}
    assert gex_model(moment_of(), geometry, cuts, RATE)["profile"]["oi_share"] == 1.0


def test_a_plane_without_a_forward_has_no_profile() -> None:
    geometry, cuts = priced_board(Market())
    row = cuts[NEAR].plane.copy()
    row["forward"] = np.nan
    model = gex_model(moment_of(), geometry, {**cuts, NEAR: replace(cuts[NEAR], plane=row)}, RATE)
    front = model["profile"]["front"]
    assert (front["net"], front["spots"], front["oi_share"], front["status"]) == (None, None, 0.0, "insufficient_iv")
    assert model["levels"]["flip_front"]["value"] is None


def test_the_profiles_of_the_planes_add_up_to_the_whole() -> None:
    geometry, cuts = priced_board(Market())
    board = gather(geometry, cuts)
    planes = gamma_profiles(board, 100.0, RATE)
    first, second, whole = (one.net for one in (*planes, total_profile(board, planes, 100.0)))
    assert first is not None and second is not None and whole is not None
    assert whole.tolist() == (first + second).tolist()


def test_a_volatility_of_its_own_per_side_is_priced_per_side() -> None:
    geometry, cuts = priced_board(Market(), strikes=range(95, 106), expirations=("2026-01-16",))
    exposures = cuts[NEAR].exposures.copy()
    exposures["iv"][::2] *= 1.1  # of the calls
    cuts = {NEAR: replace(cuts[NEAR], exposures=exposures)}
    expected = repriced(geometry, cuts, 100.0, {NEAR})
    net = gex_model(moment_of(), geometry, cuts, RATE)["profile"]["net"]
    assert net == pytest.approx(expected.tolist(), rel=1e-9, abs=1e-9 * np.abs(expected).max())


# --- crossings of any profile


def profile(net: list[float]) -> GammaProfile:
    values = np.full(401, net[-1])
    values[: len(net)] = net
    return GammaProfile(1000.0, values, 1.0, "ok")


def test_every_crossing_is_found_by_linear_interpolation() -> None:
    # 900 and 900.5 at -1 and 3: a quarter of the way; back at 901 between 3 and -3: half of it
    assert crossings(profile([-1.0, 3.0, -3.0])) == pytest.approx([900.125, 900.75])


def test_a_zero_between_two_signs_is_the_crossing() -> None:
    assert crossings(profile([-1.0, 0.0, 1.0])) == pytest.approx([900.5])


def test_a_stretch_without_gamma_is_crossed_in_its_middle() -> None:
    assert crossings(profile([-1.0, 0.0, 0.0, 0.0, 1.0])) == pytest.approx([901.0])


def test_a_zero_between_equal_signs_is_no_crossing() -> None:
    assert crossings(profile([1.0, 0.0, 1.0])) == []


def test_what_is_only_rounding_has_no_sign() -> None:
    assert crossings(profile([-1e-13, 1.0, 1e-13, -1e-14])) == []


@given(st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=401))
def test_crossings_lie_on_the_grid_in_order_and_split_the_signs(net: list[float]) -> None:
    one = profile(net)
    found = crossings(one)
    assert found == sorted(found)
    assert all(900.0 <= crossing <= 1100.0 for crossing in found)
    assert one.net is not None
    counted = one.net[np.abs(one.net) > 1e-12 * np.abs(one.net).max()]
    assert len(found) == int((np.diff(np.sign(counted)) != 0).sum())


def test_of_several_crossings_the_nearest_to_spot_is_the_flip() -> None:
    # puts in the middle, calls on both sides: two crossings, the upper one nearer
    market = Market(
        spot=104.0, sigma=flat_sigma, interest=lambda side, strike: 90.0 if (side == CALL) != (94 < strike < 106) else 0
    )
    flip = model_of(market, expirations=("2026-01-16",))["levels"]["flip"]
    assert len(flip["crossings"]) == 2
    assert flip["value"] == max(flip["crossings"])


# --- laws


@settings(max_examples=25)
@given(st.floats(0.5, 50.0))
def test_the_flip_scales_with_spot_and_strikes(scale: float) -> None:
    base = model_of(Market(sigma=smile), strikes=range(80, 121))["levels"]["flip"]["value"]
    strikes = [round(strike * scale, 3) for strike in range(80, 121)]
    at = dict(zip(strikes, range(80, 121), strict=True))
    plain = Market()
    scaled = Market(
        spot=100.0 * scale,
        sigma=lambda strike: smile(min(strikes, key=lambda one: abs(one - strike)) / scale),
        interest=lambda side, strike: plain.interest(side, at[strike]),
    )
    found = model_of(scaled, strikes=strikes)["levels"]["flip"]["value"]
    assert found == pytest.approx(base * scale, rel=2e-4)


def test_the_same_board_gives_the_same_bits() -> None:
    geometry, cuts = priced_board(Market())
    first, second = (gex_model(moment_of(), geometry, cuts, RATE)["profile"]["net"] for _ in range(2))
    assert first == second
    assert GRID[200] == 1.0
