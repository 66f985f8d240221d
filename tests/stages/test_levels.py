"""Max pain, expected move, and delta, vanna and charm exposure of the GEX message."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.analytics import AnalyticsCut, Reason, Source
from contracts.geometry import Listing, build_geometry
from contracts.symbology import CALL, PUT
from stages.models.gex import gex_model
from tests.stages.boards import both_sides, listing, moment_of
from tests.stages.surfaces import (
    RATE,
    Market,
    black_price,
    priced_board,
    priced_cut,
    spot_delta,
    years_of,
)

NEAR, LATER = "SPXW:2026-01-16", "SPXW:2026-01-20"


def model_of(market: Market, **board: Any) -> dict[str, Any]:
    geometry, cuts = priced_board(market, **board)
    return gex_model(moment_of(market.spot), geometry, cuts, RATE)


# --- max pain

interests = st.dictionaries(
    st.tuples(st.sampled_from([CALL, PUT]), st.sampled_from([95.0, 97.5, 100.0, 105.0])),
    st.integers(0, 50_000),
    min_size=1,
)


@given(interests)
def test_max_pain_is_the_strike_of_least_intrinsic_value_of_open_interest(interest: dict[Any, int]) -> None:
    strikes = (95.0, 97.5, 100.0, 105.0)
    market = Market(interest=lambda side, strike: interest.get((side, strike), 0))
    pain = model_of(market, strikes=strikes)["planes"][NEAR]["max_pain"]
    paid = {
        settled: sum(
            100 * count * max(settled - strike if side == CALL else strike - settled, 0.0)
            for (side, strike), count in interest.items()
        )
        for settled in strikes
    }
    if not any(interest.values()):
        assert pain == {"value": None, "status": "no_open_interest", "strength": None}
        return
    assert pain["value"] == min(strikes, key=lambda strike: (paid[strike], strike))
    assert pain["strength"] == min(paid.values())


def test_of_strikes_with_as_little_pain_the_lowest_is_named() -> None:
    # one call at 95 and one put at 105: every settlement between them costs the same
    market = Market(interest=lambda side, strike: float((side, strike) in ((CALL, 95), (PUT, 105))))
    assert model_of(market, strikes=(95, 100, 105))["planes"][NEAR]["max_pain"]["value"] == 95


def test_unknown_open_interest_is_no_open_interest() -> None:
    market = Market(interest=lambda side, strike: float("nan"))
    assert model_of(market)["levels"]["max_pain"]["status"] == "no_open_interest"


def test_the_level_is_the_front_planes_and_says_so() -> None:
    model = model_of(Market())
    level = model["levels"]["max_pain"]
    assert level["plane"] == model["front"] == NEAR
    assert level["value"] == model["planes"][NEAR]["max_pain"]["value"]
    assert "intrinsic" in level["method"]


# --- front plane


def test_the_front_plane_settles_first() -> None:
    rows = [*both_sides([100], root="SPX"), *both_sides([100])]
    geometry = build_geometry("SPX", rows)
    assert gex_model(moment_of(), geometry, {}, RATE)["front"] == "SPX:2026-01-16"  # at 09:30, SPXW at 16:00
    settled = geometry.planes[0].settlement_ts
    assert gex_model(moment_of(ts=settled), geometry, {}, RATE)["front"] == NEAR
    assert gex_model(moment_of(ts=settled + 86_400), geometry, {}, RATE)["front"] is None


def test_of_planes_that_settle_at_one_instant_the_pm_one_is_the_front() -> None:
    am = [replace_settlement(row, "am") for row in both_sides([100], root="AAA")]
    geometry = build_geometry("SPX", [*am, *both_sides([100], root="BBB")])
    assert len({plane.settlement_ts for plane in geometry.planes}) == 1
    assert gex_model(moment_of(), geometry, {}, RATE)["front"] == "BBB:2026-01-16"


def test_a_plane_of_adjusted_contracts_only_is_never_the_front() -> None:
    adjusted = [listing(CALL, 100, eligible="adjusted")]
    geometry = build_geometry("SPX", [*adjusted, *both_sides([100], expiration="2026-01-20")])
    assert gex_model(moment_of(), geometry, {}, RATE)["front"] == LATER


# --- expected move


def test_the_expected_move_of_a_plane_is_published_beside_its_forward() -> None:
    plane = model_of(Market(sigma=lambda strike: 0.2))["planes"][NEAR]
    years = 450 / 525_600
    assert plane["em_1sigma"] == pytest.approx(100 * 0.2 * years**0.5)
    assert plane["straddle"] == pytest.approx(2 * black_price(True, 100, 100, years, 0.2))
    assert plane["straddle"] == pytest.approx(0.7979 * plane["em_1sigma"], rel=1e-3)
    assert (plane["forward_source"], plane["strikes_used"], plane["reason"]) == ("parity", 5, None)


# --- delta, vanna, charm


def test_delta_exposure_is_sign_times_delta_times_contracts_times_spot() -> None:
    market = Market()
    geometry, cuts = priced_board(market, strikes=(95, 100), expirations=("2026-01-16",))
    (plane,) = geometry.planes
    years = years_of(plane, market.moment.ts)
    expected = {}
    for strike in (95, 100):
        sigma = market.sigma(strike)
        call = spot_delta(True, 100, 100, strike, years, sigma) * market.interest(CALL, strike)
        put = -spot_delta(False, 100, 100, strike, years, sigma) * market.interest(PUT, strike)
        expected[strike] = (call + put) * 100 * 100
    exposures = gex_model(moment_of(), geometry, cuts, RATE)["exposures"]
    assert {row[0]: row[2] for row in exposures["by_strike"]} == pytest.approx(expected)
    assert exposures["delta"] == pytest.approx(sum(expected.values()))


def test_vanna_is_per_volatility_point_and_charm_per_15_minutes() -> None:
    market = Market()
    geometry, cuts = priced_board(market, strikes=(95,), expirations=("2026-01-16",))
    (plane,) = geometry.planes
    years, sigma = years_of(plane, market.moment.ts), market.sigma(95)
    vanna = charm = 0.0
    for side, sign in ((CALL, 1), (PUT, -1)):
        contracts = sign * market.interest(side, 95) * 100 * 100
        now = spot_delta(side == CALL, 100, 100, 95, years, sigma)
        vanna += contracts * 0.01 * (spot_delta(side == CALL, 100, 100, 95, years, sigma + 1e-5) - now) / 1e-5
        charm += contracts * (spot_delta(side == CALL, 100, 100, 95, years - 15 / 525_600, sigma) - now)
    exposures = gex_model(moment_of(), geometry, cuts, RATE)["exposures"]
    assert exposures["columns"] == ["strike", "gamma_oi", "delta", "vanna", "charm_15m"]
    assert (exposures["vanna"], exposures["charm_15m"]) == pytest.approx((vanna, charm))
    assert exposures["by_strike"][0][3:] == [exposures["vanna"], exposures["charm_15m"]]


def test_summed_contracts_without_a_greek_are_left_out_and_counted() -> None:
    geometry, cuts = priced_board(Market(), strikes=(95, 100), expirations=("2026-01-16",))
    exposures = cuts[NEAR].exposures.copy()
    exposures["vanna"][:2] = np.nan  # both of 95
    exposures["delta_15m"] = np.nan
    told = gex_model(moment_of(), geometry, {NEAR: replace(cuts[NEAR], exposures=exposures)}, RATE)["exposures"]
    assert told["missing"] == {"delta": 0, "vanna": 2, "charm_15m": 4}
    assert told["charm_15m"] is None
    assert [row[3] for row in told["by_strike"]] == [None, told["vanna"]]


def test_totals_are_the_sums_of_their_columns() -> None:
    model = model_of(Market())
    columns = np.array(model["exposures"]["by_strike"], np.float64).T
    assert columns[1].sum() == pytest.approx(model["gamma_oi"])
    for name, column in zip(("delta", "vanna", "charm_15m"), columns[2:], strict=True):
        assert model["exposures"][name] == pytest.approx(column.sum())


def test_american_contracts_with_greeks_of_our_own_are_counted() -> None:
    rows = [replace_exercise(row) for row in both_sides([95, 100, 105], root="SPY")]
    geometry = build_geometry("SPY", rows)
    (plane,) = geometry.planes
    cut: AnalyticsCut = priced_cut(plane, Market())
    exposures = cut.exposures.copy()
    exposures["source"][:2] = Source.VENUE
    exposures["reason"][2] = Reason.NO_OI
    model = gex_model(moment_of(), geometry, {plane.id: replace(cut, exposures=exposures)}, RATE)
    assert (model["american_approx"], model["planes"][plane.id]["exercise"]) == (3, "american")
    assert model_of(Market())["american_approx"] == 0


def replace_exercise(row: Listing) -> Listing:
    return msgspec.structs.replace(row, exercise="american")


def replace_settlement(row: Listing, settlement: str) -> Listing:
    return msgspec.structs.replace(row, settlement=settlement)
