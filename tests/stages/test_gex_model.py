"""The GEX message: sums over roots, levels, what was summed and what was left out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.analytics import MODEL_VERSION, AnalyticsCut
from contracts.geometry import Geometry, Listing, build_geometry
from contracts.symbology import CALL, PUT
from stages.calculate.exposure import GammaMode
from stages.models.gex import gex_messages, gex_model
from tests.stages.boards import AN_HOUR_BEFORE, SESSION_START, both_sides, chain_of, cut_of, listing, moment_of

NEXT_WEEK = "2026-01-23"

# side, strike, gamma, open interest, root, expiration
Line = tuple[str, float, float | None, float | None, str, str]

# With S = 100 and multiplier 100 a contract weighs gamma * open interest * 10,000 dollars.
# SPX and SPXW share the date and the strike 100: keyed by strike and date alone one of each pair would be lost.
HAND_MADE: list[Line] = [
    (CALL, 95, 0.01, 100, "SPXW", "2026-01-16"),  # + 10,000
    (PUT, 95, 0.01, 400, "SPXW", "2026-01-16"),  # - 40,000
    (CALL, 100, 0.02, 200, "SPXW", "2026-01-16"),  # + 40,000
    (PUT, 100, 0.02, 100, "SPXW", "2026-01-16"),  # - 20,000
    (CALL, 100, 0.02, 50, "SPX", "2026-01-16"),  # + 10,000
    (PUT, 100, 0.02, 350, "SPX", "2026-01-16"),  # - 70,000
    (CALL, 105, 0.01, 900, "SPXW", NEXT_WEEK),  # + 90,000
    (PUT, 105, 0.01, 100, "SPXW", NEXT_WEEK),  # - 10,000
]


def board(lines: Sequence[Line]) -> tuple[Geometry, dict[tuple[str, str, str, float], Line]]:
    rows: list[Listing] = []
    by_contract = {}
    for line in lines:
        side, strike, _, _, root, expiration = line
        rows.append(listing(side, strike, root, expiration))
        by_contract[root, expiration, side, strike] = line
    return build_geometry("SPX", rows), by_contract


def cuts_of(
    lines: Sequence[Line], spot: float | None = 100.0, gamma_mode: GammaMode = "provider"
) -> tuple[Geometry, dict[str, AnalyticsCut]]:
    geometry, by_contract = board(lines)
    cuts = {}
    for plane in geometry.planes:
        values = {
            (side, strike): line[2:4]
            for (root, expiration, side, strike), line in by_contract.items()
            if (root, expiration) == (plane.root, plane.expiration)
        }
        cuts[plane.id] = cut_of(plane, chain=chain_of(plane, values), moment=moment_of(spot), gamma_mode=gamma_mode)
    return geometry, cuts


def model_of(lines: Sequence[Line], spot: float | None = 100.0, gamma_mode: GammaMode = "provider") -> dict[str, Any]:
    geometry, cuts = cuts_of(lines, spot, gamma_mode)
    return gex_model(moment_of(spot), geometry, cuts, rate=0.04)


def one_plane(*lines: tuple[str, float, float | None, float | None]) -> list[Line]:
    return [(*line, "SPXW", "2026-01-16") for line in lines]


WALLS = ("call_wall", "put_wall", "abs_gamma", "magnet")

# --- sums, by hand


def test_net_calls_and_puts_of_a_small_chain() -> None:
    model = model_of(HAND_MADE)
    assert (model["net"], model["calls"], model["puts"]) == pytest.approx((10_000, 150_000, -140_000))


def test_abs_and_gamma_times_open_interest_are_unsigned() -> None:
    model = model_of(HAND_MADE)
    assert model["abs"] == pytest.approx(290_000)
    # 100 * (1 + 4 + 4 + 2 + 1 + 7 + 9 + 1)
    assert model["gamma_oi"] == pytest.approx(2_900)


def test_roots_that_share_a_strike_are_summed_and_none_is_lost() -> None:
    flat = [x for row in model_of(HAND_MADE)["by_strike"] for x in row]
    assert flat == pytest.approx([95, 10_000, -40_000, 100, 50_000, -90_000, 105, 90_000, -10_000])


def test_by_expiration_sums_roots_and_counts_calendar_days() -> None:
    model = model_of(HAND_MADE)["by_expiration"]
    assert list(model) == ["2026-01-16", NEXT_WEEK]
    assert model["2026-01-16"] == pytest.approx(
        {"dte": 0, "net": -70_000, "calls": 60_000, "puts": -130_000, "abs": 190_000, "gamma_oi": 1_900}
    )
    assert model[NEXT_WEEK] == pytest.approx(
        {"dte": 7, "net": 80_000, "calls": 90_000, "puts": -10_000, "abs": 100_000, "gamma_oi": 1_000}
    )


def test_sides_hold_signed_dollars_by_expiration_and_strike() -> None:
    geometry, cuts = cuts_of(HAND_MADE)
    sides = gex_messages(moment_of(), geometry, cuts, rate=0.04)[1]
    assert {**sides["puts"], "expirations": None} == {
        "ts": AN_HOUR_BEFORE,
        "symbol": "SPX",
        "epoch": "SPX:1768000000:1f3a",
        "unit": "usd_per_1pct",
        "expirations": None,
    }
    assert sides["calls"]["expirations"]["2026-01-16"] == pytest.approx({"95": 10_000, "100": 50_000})
    assert sides["puts"]["expirations"]["2026-01-16"] == pytest.approx({"95": -40_000, "100": -90_000})
    assert sides["puts"]["expirations"][NEXT_WEEK] == pytest.approx({"105": -10_000})


def test_a_side_names_only_strikes_it_has_a_value_for() -> None:
    geometry, cuts = cuts_of(one_plane((CALL, 97.5, 0.01, 100), (PUT, 97.5, None, 100)))
    sides = gex_messages(moment_of(), geometry, cuts, rate=0.04)[1]
    assert sides["calls"]["expirations"]["2026-01-16"] == pytest.approx({"97.5": 10_000})
    assert sides["puts"]["expirations"] == {}


# --- levels


def levels_of(*lines: tuple[str, float, float | None, float | None], spot: float = 100.0) -> dict[str, Any]:
    levels: dict[str, Any] = model_of(one_plane(*lines), spot)["levels"]
    return levels


def test_each_level_names_its_strike_its_strength_and_its_method() -> None:
    levels = model_of(HAND_MADE)["levels"]
    assert {name: levels[name] for name in WALLS} == {
        "call_wall": {
            "value": 105,
            "status": "ok",
            "strength": pytest.approx(90_000),
            "method": "strike >= spot of greatest call GEX",
        },
        "put_wall": {
            "value": 100,
            "status": "ok",
            "strength": pytest.approx(90_000),
            "method": "strike <= spot of greatest |put GEX|",
        },
        "abs_gamma": {
            "value": 100,
            "status": "ok",
            "strength": pytest.approx(140_000),
            "method": "strike of greatest calls + |puts| GEX",
        },
        "magnet": {
            "value": 105,
            "status": "ok",
            "strength": pytest.approx(80_000),
            "method": "strike of greatest |net GEX|",
        },
    }


def test_the_call_wall_is_never_below_spot_nor_the_put_wall_above() -> None:
    levels = levels_of(
        (CALL, 90, 0.01, 900), (CALL, 110, 0.01, 1), (PUT, 110, 0.01, 900), (PUT, 90, 0.01, 1), spot=100.0
    )
    assert (levels["call_wall"]["value"], levels["put_wall"]["value"]) == (110, 90)


def test_a_strike_at_spot_belongs_to_both_sides() -> None:
    levels = levels_of((CALL, 100, 0.01, 9), (PUT, 100, 0.01, 9))
    assert (levels["call_wall"]["value"], levels["put_wall"]["value"]) == (100, 100)


def test_a_tie_goes_to_the_strike_nearest_spot() -> None:
    tied = [(CALL, strike, 0.01, 100) for strike in (90.0, 97.5, 105.0)]
    assert levels_of(*tied)["abs_gamma"]["value"] == 97.5


def test_a_tie_at_equal_distance_goes_to_the_lower_strike() -> None:
    assert levels_of((CALL, 105, 0.01, 100), (CALL, 95, 0.01, 100))["magnet"]["value"] == 95


def test_a_magnet_may_be_negative_gamma() -> None:
    assert levels_of((CALL, 95, 0.01, 100), (PUT, 105, 0.01, 200))["magnet"]["value"] == 105


def test_without_calls_above_spot_there_is_no_call_wall() -> None:
    level = levels_of((CALL, 90, 0.01, 100), (PUT, 90, 0.01, 100))["call_wall"]
    assert (level["value"], level["status"], level["strength"]) == (None, "no_candidate", None)


def test_a_gamma_of_zero_everywhere_builds_no_wall() -> None:
    model = model_of(one_plane((CALL, 100, 0.0, 100)))
    assert model["net"] == 0.0
    assert {model["levels"][name]["status"] for name in WALLS} == {"no_candidate"}


# --- what is absent, and what was left out


def test_without_spot_every_dollar_is_null_and_the_reason_given() -> None:
    model = model_of(HAND_MADE, spot=None)
    assert model["reason"] == "no_spot"
    assert [model[name] for name in ("net", "calls", "puts", "abs")] == [None] * 4
    assert model["by_strike"] == []
    assert model["by_expiration"][NEXT_WEEK] == {
        "dte": 7,
        "net": None,
        "calls": None,
        "puts": None,
        "abs": None,
        "gamma_oi": pytest.approx(1_000),
    }
    levels = {name: level for name, level in model["levels"].items() if name != "max_pain"}
    assert {(level["value"], level["status"]) for level in levels.values()} == {(None, "no_spot")}
    assert model["gamma_oi"] == pytest.approx(2_900)


def test_without_usable_contracts_the_sums_are_null_not_zero() -> None:
    model = model_of(one_plane((CALL, 100, None, 10), (PUT, 100, 0.01, None)))
    assert model["reason"] == "no_exposures"
    assert [model[name] for name in ("net", "calls", "puts", "abs", "gamma_oi")] == [None] * 5
    assert {model["levels"][name]["status"] for name in WALLS} == {"no_exposures"}


def test_a_board_without_planes_is_null_with_its_reason() -> None:
    model = gex_model(moment_of(), build_geometry("SPX", []), {}, rate=0.04)
    assert (model["net"], model["reason"], model["by_expiration"], model["asof_quote"]) == (
        None,
        "no_exposures",
        {},
        None,
    )


def test_what_was_left_out_is_counted_by_reason() -> None:
    lines = one_plane((CALL, 95, None, 10), (CALL, 100, 0.01, None), (PUT, 100, None, None), (PUT, 95, 0.01, 5))
    model = model_of(lines)
    assert model["dropped"] == {"no_iv": 1, "no_oi": 2, "adjusted": 0, "expired": 0}
    assert model["greek_src"] == {"venue": 2, "own": 0, "interp": 0, "none": 2}


def test_ineligible_contracts_are_counted_and_outside_the_scope() -> None:
    rows = [*both_sides([100]), listing(CALL, 120, eligible="adjusted"), listing(PUT, 80, eligible="expired")]
    geometry = build_geometry("SPX", rows)
    (plane,) = geometry.planes
    contracts = [(CALL, 100.0), (PUT, 100.0), (CALL, 120.0), (PUT, 80.0)]
    cuts = {plane.id: cut_of(plane, chain=chain_of(plane, dict.fromkeys(contracts, (0.01, 100))))}
    model = gex_model(moment_of(), geometry, cuts, rate=0.04)
    assert model["dropped"] == {"no_iv": 0, "no_oi": 0, "adjusted": 1, "expired": 1}
    assert model["greek_src"]["venue"] == 2
    assert model["scope"]["windows"] == {"2026-01-16": {"lo": 100, "hi": 100}}
    assert model["scope"]["oi_share"] == 0.5


def test_scope_tells_roots_expirations_windows_and_the_share_of_open_interest() -> None:
    assert model_of([*HAND_MADE, (CALL, 115, None, 2200, "SPXW", NEXT_WEEK)])["scope"] == {
        "roots": ["SPX", "SPXW"],
        "expirations": ["2026-01-16", NEXT_WEEK],
        "windows": {"2026-01-16": {"lo": 95, "hi": 100}, NEXT_WEEK: {"lo": 105, "hi": 115}},
        "oi_share": 1.0,
        "oi_share_of": "substrate",
        "oi_used_share": 0.5,
    }


def test_a_plane_without_a_cut_is_named_and_not_summed() -> None:
    geometry, cuts = cuts_of(HAND_MADE)
    del cuts[f"SPXW:{NEXT_WEEK}"]
    model = gex_model(moment_of(), geometry, cuts, rate=0.04)
    plane = model["planes"][f"SPXW:{NEXT_WEEK}"]
    assert (plane["T"], plane["version"], plane["reason"]) == (None, None, "not_computed")
    assert model["scope"]["expirations"] == ["2026-01-16"]
    assert model["calls"] == pytest.approx(60_000)


def test_the_message_says_what_it_is_and_when() -> None:
    geometry, cuts = cuts_of(HAND_MADE)
    cuts["SPXW:2026-01-16"].quotes["quote"]["ms"][0] = 1_768_599_999_250
    model = gex_model(moment_of(), geometry, cuts, rate=0.04)
    head = {
        "model": "gex",
        "model_version": MODEL_VERSION,
        "symbol": "SPX",
        "epoch": "SPX:1768000000:1f3a",
        "seq": 7,
        "tick": 3,
        "ts": AN_HOUR_BEFORE,
        "complete_to": 1768000001.5,
        "asof_quote": 1_768_599_999.25,
        "asof_spot": AN_HOUR_BEFORE,
        "oi_asof": SESSION_START,
        "spot": 100.0,
        "unit": "usd_per_1pct",
        "sign_convention": "calls+ puts-",
        "weight": "oi",
        "rate": 0.04,
        "reason": None,
    }
    assert {key: model[key] for key in head} == head
    planes = {name: (plane["T"], plane["version"]) for name, plane in model["planes"].items()}
    assert planes["SPXW:2026-01-16"] == (450 / 525_600, 41)
    assert planes["SPX:2026-01-16"] == (60 / 525_600, 41)


def test_contracts_that_settled_this_morning_have_left_the_sums() -> None:
    geometry, cuts = cuts_of(HAND_MADE)
    noon = AN_HOUR_BEFORE + 3.5 * 3600
    (settled,) = [plane for plane in geometry.planes if plane.root == "SPX"]
    cuts[settled.id] = cut_of(settled, chain=cuts[settled.id].chain, moment=moment_of(ts=noon))
    model = gex_model(moment_of(ts=noon), geometry, cuts, rate=0.04)
    assert model["dropped"]["expired"] == 2
    assert model["net"] == pytest.approx(70_000)


def test_time_to_settlement_is_at_least_a_minute_and_null_once_settled() -> None:
    geometry, cuts = cuts_of(one_plane((CALL, 100, 0.01, 10)))
    (plane,) = geometry.planes
    for seconds, expected in ((90, 1.5 / 525_600), (10, 1 / 525_600), (0, None)):
        model = gex_model(moment_of(ts=plane.settlement_ts - seconds), geometry, cuts, rate=0.04)
        assert model["planes"][plane.id]["T"] == expected


# --- properties

contracts = st.lists(
    st.tuples(
        st.sampled_from([CALL, PUT]),
        st.sampled_from([90, 95, 97.5, 100, 105]),
        st.one_of(st.none(), st.just(0.0), st.floats(0.0001, 0.1)),
        st.one_of(st.none(), st.integers(0, 50_000)),
        st.sampled_from(["SPX", "SPXW"]),
        st.sampled_from(["2026-01-16", NEXT_WEEK]),
    ),
    unique_by=lambda line: (line[0], line[1], line[4], line[5]),
    max_size=12,
)
spots = st.one_of(st.none(), st.floats(50, 150))


@given(contracts, spots)
def test_by_strike_sums_to_the_totals_exactly(lines: list[Line], spot: float | None) -> None:
    model = model_of(lines, spot)
    if model["net"] is not None:
        calls = puts = 0.0
        for _, call, put in model["by_strike"]:
            calls += call or 0.0
            puts += put or 0.0
        assert (model["calls"] or 0.0, model["puts"] or 0.0) == (calls, puts)
        assert (model["net"], model["abs"]) == (calls + puts, calls - puts)


def test_totals_are_added_strike_after_strike() -> None:
    # enough strikes that a pairwise summation would round differently
    model = model_of(one_plane(*((CALL, 1000 + strike, 1 / (strike + 3), 7) for strike in range(300))))
    total = 0.0
    for _, call, _ in model["by_strike"]:
        total += call
    assert model["calls"] == total


@given(contracts, spots)
def test_by_expiration_and_sides_add_up_to_the_totals(lines: list[Line], spot: float | None) -> None:
    geometry, cuts = cuts_of(lines, spot)
    model = gex_model(moment_of(spot), geometry, cuts, rate=0.04)
    if model["net"] is not None:
        known = [row for row in model["by_expiration"].values() if row["net"] is not None]
        assert sum(row["net"] for row in known) == pytest.approx(model["net"], abs=1e-3)
        for side, message in gex_messages(moment_of(spot), geometry, cuts, rate=0.04)[1].items():
            values = [value for strikes in message["expirations"].values() for value in strikes.values()]
            assert sum(values) == pytest.approx(model[side] or 0.0, abs=1e-3)


@given(st.data(), contracts, spots)
def test_the_order_of_contracts_changes_nothing(data: st.DataObject, lines: list[Line], spot: float | None) -> None:
    shuffled = data.draw(st.permutations(lines))
    assert orjson.dumps(model_of(lines, spot)) == orjson.dumps(model_of(shuffled, spot))


@given(contracts, spots, st.sampled_from(["provider", "auto", "own"]))
def test_every_contract_is_either_summed_or_counted_as_left_out(
    lines: list[Line], spot: float | None, mode: GammaMode
) -> None:
    model = model_of(lines, spot, mode)
    summed = 0
    for _, _, gamma, interest, _, _ in lines:
        usable = {"provider": gamma is not None, "auto": bool(gamma), "own": False}[mode]
        summed += usable and interest is not None
    assert sum(model["dropped"].values()) == len(lines) - summed
    assert sum(model["greek_src"].values()) == len(lines)


def no_constant(name: str) -> None:
    raise AssertionError(f"{name} is not a number to publish")


@given(contracts, spots)
def test_no_value_is_ever_not_a_number(lines: list[Line], spot: float | None) -> None:
    # the standard encoder writes NaN and Infinity where there are any; the strict reader then refuses them
    json.loads(json.dumps(model_of(lines, spot)), parse_constant=no_constant)
