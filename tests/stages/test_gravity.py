"""Dealer Gravity: pin density, acceptance, field and confidence, from inputs that the model publishes itself."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.analytics import AnalyticsCut, Moment
from contracts.geometry import Geometry
from contracts.plan import compile_plan
from contracts.planes import UNKNOWN
from contracts.sessions import session_of
from contracts.symbology import CALL
from stages.models.gex import gex_model
from stages.models.gravity import gravity_inputs, gravity_model, gravity_of, history_point, pin_density
from stages.models.liquidity import view_of
from stages.models.session import SessionProfile
from tests.stages.boards import moment_of
from tests.stages.surfaces import RATE, Market, priced_board

FRONT = "SPXW:2026-01-16"
session = session_of(moment_of().ts)
assert session is not None
NOON = session.open_ts + 3 * 3600
STRIKES = tuple(range(6500, 7305, 5))
WIDTHS = (5.0, 10.0, 20.0)


def one_magnet(side: str, strike: float) -> float:
    """Calls at 6910 beside as many calls as puts everywhere."""
    return 1000.0 if (side, strike) == (CALL, 6910) else 10.0


def market_of(ts: float = NOON) -> Market:
    moment = replace(moment_of(6900.0), ts=ts)
    return Market(spot=6900.0, sigma=lambda strike: 0.15, interest=one_magnet, moment=moment)


def board(market: Market | None = None) -> tuple[Geometry, dict[str, AnalyticsCut]]:
    geometry, cuts = priced_board(market or market_of(), STRIKES, ("2026-01-16",), WIDTHS)
    return geometry, dict(cuts)


def inputs_of(
    geometry: Geometry, cuts: dict[str, AnalyticsCut], profile: SessionProfile | None = None, ts: float = NOON
) -> Any:
    moment: Moment = replace(moment_of(6900.0), ts=ts)
    gex = gex_model(moment, geometry, cuts, RATE)
    (plane,) = geometry.planes
    plan = compile_plan(plane, geometry.widths)
    return gravity_inputs(view_of(gex), plane, plan, cuts.get(FRONT), RATE, profile or SessionProfile(), ts)


BOARD = board()
INPUTS: Any = inputs_of(*BOARD)


def test_the_pin_density_sums_to_one_where_every_leg_quotes_both_sides() -> None:
    assert gravity_of(INPUTS)["mass"] == pytest.approx(1.0, abs=0.02)


def test_the_pin_density_is_the_lognormal_mass_between_strikes() -> None:
    years = (session.close_ts - NOON) / 60 / 525_600 if session else math.nan
    deviation = 0.15 * math.sqrt(years)
    strikes = np.array(INPUTS["strikes"])
    d2 = -np.log(strikes / 6900) / deviation - deviation / 2
    density = np.exp(-(d2**2) / 2) / math.sqrt(2 * math.pi) / (strikes * deviation) * 5
    near = np.abs(strikes - 6900) < 40
    assert pin_density(INPUTS)[near] == pytest.approx(density[near], rel=0.15)


def test_best_is_drawn_to_where_dealers_are_long_gamma() -> None:
    found = gravity_of(INPUTS)
    assert 6900 < found["best"] <= 6910
    assert found["low"] <= 6900 <= found["high"]
    assert 0 <= found["confidence"] <= 1


def test_the_inputs_name_everything_that_was_used() -> None:
    assert {name: INPUTS[name] for name in ("front", "spot", "width", "acceptance", "previous_best", "magnet")} == {
        "front": FRONT,
        "spot": 6900.0,
        "width": 5,
        "acceptance": "session",
        "previous_best": None,
        "magnet": 6910,
    }
    assert INPUTS["planes"] == {FRONT: 41}
    assert INPUTS["discount"] == pytest.approx(math.exp(-RATE * 3.5 * 60 / 525_600))
    assert {len(INPUTS[name]) for name in ("strikes", "mid", "net", "time", "volume")} == {len(STRIKES)}


def test_the_model_is_a_function_of_its_published_inputs() -> None:
    model = gravity_model(replace(moment_of(6900.0), ts=NOON + 61), INPUTS)
    again = orjson.loads(orjson.dumps(model))
    assert orjson.dumps({**again, **gravity_of(again["inputs"])}) == orjson.dumps(model)
    assert model["minute_ts"] == NOON + 60


def test_a_line_of_the_history_has_the_results_without_the_inputs() -> None:
    model = gravity_model(moment_of(6900.0), INPUTS)
    assert "inputs" not in history_point(model)
    assert {model[name] for name in ("best", "low", "high", "confidence")} <= set(history_point(model).values())


# --- width


def with_negative_fly(cuts: dict[str, AnalyticsCut], strike: float, width: float) -> dict[str, AnalyticsCut]:
    """The cuts when the call fly at a strike and width has a negative mid."""
    geometry, _ = BOARD
    (plane,) = geometry.planes
    plan = compile_plan(plane, geometry.widths)
    cells = cuts[FRONT].cells.copy()
    at = (plan.strike_milli == strike * 1000) & (plan.width_milli == width * 1000) & (plan.side == 0)
    cells[0, at & (plan.strategy == 0)] = -3
    return {FRONT: replace(cuts[FRONT], cells=cells)}


def test_a_negative_mid_within_one_sigma_makes_the_flies_wider() -> None:
    geometry, cuts = BOARD
    assert inputs_of(geometry, with_negative_fly(cuts, 6905, 5))["width"] == 10
    assert inputs_of(geometry, with_negative_fly(cuts, 7200, 5))["width"] == 5


def test_with_a_negative_mid_at_every_width_the_widest_is_taken() -> None:
    geometry, cuts = BOARD
    for width in WIDTHS:
        cuts = with_negative_fly(cuts, 6905, width)
    assert inputs_of(geometry, cuts)["width"] == 20


def test_a_negative_mid_has_no_density() -> None:
    at = INPUTS["strikes"].index(6905)
    mid = [*INPUTS["mid"][:at], -0.05, *INPUTS["mid"][at + 1 :]]
    assert pin_density({**INPUTS, "mid": mid})[at] == 0


def test_flies_are_of_the_out_of_the_money_side() -> None:
    geometry, cuts = BOARD
    (plane,) = geometry.planes
    plan = compile_plan(plane, geometry.widths)
    cells = cuts[FRONT].cells.copy()
    # nothing of the money: neither calls below the forward nor puts from it up
    in_the_money = (plan.strike_milli < 6_900_000) == (plan.side == 0)
    cells[0, in_the_money] = UNKNOWN
    assert inputs_of(geometry, {FRONT: replace(cuts[FRONT], cells=cells)}) == INPUTS


# --- acceptance


def at_noon(times: dict[int, float], volumes: dict[int, float]) -> Any:
    profile = SessionProfile(
        "2026-01-16",
        NOON,
        time_s={round(strike * 1000): seconds for strike, seconds in times.items()},
        volume={round(strike * 1000): count for strike, count in volumes.items()},
    )
    return inputs_of(*BOARD, profile)


def test_where_spot_has_been_and_options_traded_counts_half_each() -> None:
    only_time = gravity_of(at_noon({6880: 600.0, 6885: 300.0}, dict.fromkeys(STRIKES, 0.0) | {6880: 1.0}))
    assert only_time["best"] == 6880
    both = gravity_of(at_noon({6880: 600.0}, {6915: 5000.0}))
    assert both["best"] in (6880, 6915)


def test_in_the_first_half_hour_no_strike_is_preferred() -> None:
    ts = session.open_ts + 600 if session else 0.0
    geometry, cuts = board(market_of(ts))
    profile = SessionProfile("2026-01-16", ts, time_s={6_700_000: 600.0}, volume={6_700_000: 9.0})
    inputs = inputs_of(geometry, cuts, profile, ts)
    assert inputs["acceptance"] == "opening"
    nothing = {"time": [None] * len(STRIKES), "volume": [None] * len(STRIKES)}
    assert gravity_of(inputs) == gravity_of({**inputs, **nothing})


def test_a_half_that_nothing_is_known_of_prefers_no_strike() -> None:
    times = {6890: 60.0, 6895: 120.0}
    unknown = gravity_of(at_noon(times, {}))
    same_everywhere = gravity_of(at_noon(times, dict.fromkeys(STRIKES, 7.0)))
    assert unknown == same_everywhere


def test_spot_and_volume_where_nothing_pins_give_no_gravity() -> None:
    found = gravity_of(at_noon({6500: 600.0}, {6500: 10.0}))
    assert (found["reason"], found["best"]) == ("no_acceptance", None)
    assert found["mass"] == pytest.approx(1.0, abs=0.02)


# --- the whole, written out


def by_hand(inputs: Any) -> dict[str, float]:
    """models.md 4 strike by strike, without arrays."""
    strikes, spot, sigma, width = inputs["strikes"], inputs["spot"], inputs["sigma"], inputs["width"]
    times, volumes = ([value or 0.0 for value in inputs[name]] for name in ("time", "volume"))
    density, field = {}, {}
    for n in range(1, len(strikes) - 1):
        step = (strikes[n + 1] - strikes[n - 1]) / 2
        density[n] = max(0.0, inputs["mid"][n] or 0.0) / (width * inputs["discount"]) * step / width
    mass = sum(density.values())
    for n, value in density.items():
        if value > 0:
            accepted = 0.5 * times[n] / max(times) + 0.5 * volumes[n] / max(volumes)
            pull = 1 + max(0.0, inputs["net"][n] or 0.0) / inputs["greatest_net"]
            field[strikes[n]] = value / mass * accepted * pull
    smooth = dict.fromkeys(field, 0.0)
    for source, value in field.items():
        weights = {strike: math.exp(-((strike - source) ** 2) / (2 * (sigma / 4) ** 2)) for strike in field}
        for strike, weight in weights.items():
            smooth[strike] += value * weight / sum(weights.values())
    total = sum(smooth.values())
    g = {strike: value / total for strike, value in smooth.items()}
    best = max(g, key=lambda strike: g[strike] * math.exp(-((strike - spot) ** 2) / (2 * sigma**2)))
    reached, low, high = 0.0, None, None
    for strike in sorted(g):
        reached += g[strike]
        low = strike if low is None and reached >= 0.16 else low
        high = strike if high is None and reached >= 0.84 else high
    entropy = -sum(value * math.log(value) for value in g.values() if value > 0)
    assert low is not None and high is not None
    return {"best": best, "low": low, "high": high, "concentration": 1 - entropy / math.log(len(g))}


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_best_low_high_and_concentration_written_out_strike_by_strike(seed: int) -> None:
    draw = np.random.default_rng(seed)
    times = draw.exponential(1.0, len(STRIKES)) ** 4
    volumes = draw.exponential(1.0, len(STRIKES)) ** 4
    inputs = {**INPUTS, "acceptance": "session", "time": times.tolist(), "volume": volumes.tolist()}
    found, expected = gravity_of(inputs), by_hand(inputs)
    assert {name: found[name] for name in ("best", "low", "high")} == {
        name: expected[name] for name in ("best", "low", "high")
    }
    assert found["confidence_parts"]["concentration"] == pytest.approx(expected["concentration"])


# --- confidence


def test_confidence_is_the_mean_of_its_parts_and_the_first_minute_has_one_less() -> None:
    first = gravity_of(INPUTS)
    assert first["confidence_parts"]["persistence"] is None
    known = [part for part in first["confidence_parts"].values() if part is not None]
    assert len(known) == 3
    assert first["confidence"] == pytest.approx(sum(known) / 3)
    later = gravity_of({**INPUTS, "previous_best": first["best"]})
    assert later["confidence_parts"]["persistence"] == 1.0
    assert later["confidence"] == pytest.approx((sum(known) + 1) / 4)


def test_the_parts_of_confidence_by_hand() -> None:
    inputs = {**INPUTS, "previous_best": 6905, "coherence": 4.0}
    found = gravity_of(inputs)
    parts, sigma = found["confidence_parts"], inputs["sigma"]
    assert parts["magnet"] == pytest.approx(math.exp(-abs(found["best"] - 6910) / sigma))
    assert parts["coherence"] == pytest.approx(math.exp(-4.0 / 2.07))
    assert parts["persistence"] == pytest.approx(math.exp(-abs(found["best"] - 6905) / (0.25 * sigma)))
    assert 0 < parts["concentration"] < 1


def test_a_part_that_is_not_known_is_left_out() -> None:
    found = gravity_of({**INPUTS, "coherence": None, "magnet": None})
    assert found["confidence"] == found["confidence_parts"]["concentration"]


# --- nothing to compute


def test_fewer_than_8_strikes_with_density_give_no_gravity() -> None:
    priced = [n for n, density in enumerate(pin_density(INPUTS)) if density > 0]
    kept = set(priced[:7])
    mid = [value if n in kept else None for n, value in enumerate(INPUTS["mid"])]
    found = gravity_of({**INPUTS, "mid": mid})
    assert (found["reason"], found["best"], found["confidence"]) == ("fewer_than_8_strikes", None, None)


def test_without_a_cut_of_the_front_plane_there_is_no_gravity() -> None:
    inputs = inputs_of(BOARD[0], {})
    assert gravity_of(inputs)["reason"] == inputs["reason"] == "no_volatility"


def test_reasons_of_the_view_are_those_of_gravity() -> None:
    inputs = {**INPUTS, "reason": "no_spot"}
    assert gravity_of(inputs) == {
        "reason": "no_spot", "best": None, "high": None, "low": None, "confidence": None, "confidence_parts": None,
        "mass": None,
    }  # fmt: skip


# --- laws

columns = st.lists(st.one_of(st.none(), st.floats(0, 1e6)), min_size=len(STRIKES), max_size=len(STRIKES))
mids = st.lists(st.one_of(st.none(), st.floats(-1, 5)), min_size=len(STRIKES), max_size=len(STRIKES))


@settings(max_examples=50)
@given(mids, columns, columns, st.floats(0.01, 500), st.one_of(st.none(), st.floats(6000, 8000)))
def test_results_are_strikes_in_order_and_confidence_stays_in_its_range(
    mid: list[float | None],
    time: list[float | None],
    volume: list[float | None],
    sigma: float,
    previous: float | None,
) -> None:
    found = gravity_of(
        {**INPUTS, "mid": mid, "time": time, "volume": volume, "sigma": sigma, "previous_best": previous}
    )
    if found["reason"] is None:
        assert {found["low"], found["best"], found["high"]} <= set(STRIKES)
        assert found["low"] <= found["high"]
        assert 0 <= found["confidence"] <= 1


@settings(max_examples=20)
@given(st.integers(-3, 3))
def test_another_scale_of_prices_says_the_same(power: int) -> None:
    scale = 2.0**power
    scaled = {name: [value and value * scale for value in INPUTS[name]] for name in ("strikes", "mid")}
    points = {name: INPUTS[name] * scale for name in ("spot", "sigma", "forward", "width", "magnet")}
    found, plain = (
        gravity_of({**INPUTS, **scaled, **points, "coherence": None}),
        gravity_of({**INPUTS, "coherence": None}),
    )
    assert found["best"] == plain["best"] * scale
    assert found["confidence"] == pytest.approx(plain["confidence"])
