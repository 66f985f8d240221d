"""The heatmap message: dollar matrices over strike and width, null where there is no cell or no price."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.analytics import MODEL_VERSION, ForwardSource, TickFlag
from contracts.geometry import Geometry, build_geometry
from contracts.plan import cell_labels
from contracts.planes import UNKNOWN, empty_quotes
from contracts.symbology import CALL, PUT
from stages.models.heatmap import heatmap_model, strategy_view
from tests.stages.boards import both_sides, cut_of, listing, moment_of, plans_of, quotes_of, row_of
from tests.stages.surfaces import unknown_plane_row

ID = "SPXW:2026-01-16"
WIDTHS = (5.0, 10.0)
QUOTES: dict[tuple[str, float], tuple[float | None, float | None]] = {
    (CALL, 95): (7.0, 7.25),
    (CALL, 100): (3.1, 3.3),
    (CALL, 105): (0.9, 1.1),
}


def board(*strikes: float) -> Geometry:
    return build_geometry("SPX", both_sides(strikes), WIDTHS)


def model_of(geometry: Geometry) -> dict[str, Any]:
    cuts = {plane.id: cut_of(plane, WIDTHS, quotes_of(plane, QUOTES)) for plane in geometry.planes}
    return heatmap_model(moment_of(), geometry, plans_of(geometry), cuts)


def plane_of(geometry: Geometry) -> dict[str, Any]:
    plane: dict[str, Any] = model_of(geometry)["planes"][ID]
    return plane


def test_a_matrix_is_strikes_by_widths() -> None:
    calls = plane_of(board(95, 100, 105))["vertical"][CALL]
    # rows 95, 100, 105; columns 5, 10; mid 7.125 - 3.20, 7.125 - 1.00, 3.20 - 1.00
    assert calls["mid"] == [[3.925, 6.125], [2.2, None], [None, None]]


def test_buy_sell_and_flags_stand_beside_the_mid() -> None:
    fly = plane_of(board(95, 100, 105))["butterfly"][CALL]
    # buy 7.25 - 2 * 3.10 + 1.10, sell 7.00 - 2 * 3.30 + 0.90
    assert fly["buy"] == [[None, None], [2.15, None], [None, None]]
    assert fly["sell"] == [[None, None], [1.3, None], [None, None]]
    assert fly["flags"] == [[None, None], [0, None], [None, None]]


def test_singles_have_no_widths() -> None:
    singles = plane_of(board(95, 100, 105))["single"][CALL]
    assert singles == {
        "mid": [7.125, 3.2, 1.0],
        "buy": [7.25, 3.3, 1.1],
        "sell": [7.0, 3.1, 0.9],
        "flags": [0, 0, 0],
    }


def test_a_cell_without_a_price_is_null_and_its_flags_say_why() -> None:
    puts = plane_of(board(95, 100, 105))["single"][PUT]
    assert (puts["mid"], puts["flags"]) == ([None] * 3, [1 | 2 | 32] * 3)


def test_a_strike_listed_on_one_side_only_has_no_cell_on_the_other() -> None:
    geometry = build_geometry("SPX", [*both_sides([95, 100]), listing(CALL, 105)], WIDTHS)
    plane = plane_of(geometry)
    assert plane["strikes"] == [95, 100, 105]
    assert plane["single"][PUT]["flags"] == [35, 35, None]


def test_ineligible_contracts_are_not_on_the_strike_axis() -> None:
    geometry = build_geometry("SPX", [*both_sides([95, 100]), listing(CALL, 105, eligible="adjusted")], WIDTHS)
    assert plane_of(geometry)["strikes"] == [95, 100]


def test_the_message_says_what_it_is_and_when() -> None:
    model = model_of(board(95, 100, 105))
    assert {key: value for key, value in model.items() if key != "planes"} == {
        "model": "heatmap",
        "model_version": MODEL_VERSION,
        "symbol": "SPX",
        "epoch": "SPX:1768000000:1f3a",
        "seq": 7,
        "tick": 3,
        "ts": moment_of().ts,
        "complete_to": 1768000001.5,
        "spot": 100.0,
        "widths": [5, 10],
    }


def test_a_plane_says_what_it_is_and_which_version() -> None:
    plane = plane_of(board(95, 100, 105))
    head = {
        "root": "SPXW",
        "expiration": "2026-01-16",
        "dte": 0,
        "settlement": "pm",
        "version": 41,
        "strikes": [95, 100, 105],
    }
    assert {name: plane[name] for name in head} == head


def test_a_plane_tells_its_forward_its_coherence_and_the_flags_of_the_tick() -> None:
    geometry = board(95, 100, 105)
    (plane,) = geometry.planes
    cut = cut_of(plane, WIDTHS, quotes_of(plane, QUOTES))
    told, exposures = cut.plane.copy(), cut.exposures.copy()
    told["forward"], told["coherence"] = 100.25, 0.5
    told["forward_source"], told["flags"] = ForwardSource.PARITY, TickFlag.NEAR_EXPIRY | TickFlag.INCOHERENT
    exposures["flags"][row_of(plane, PUT, 100)] = TickFlag.STALE
    cut = replace(cut, plane=told, exposures=exposures)
    message = heatmap_model(moment_of(), geometry, plans_of(geometry), {ID: cut})["planes"][ID]
    assert (message["forward"], message["forward_source"], message["coherence"]) == (100.25, "parity", 0.5)
    assert message["flags"] == 128 | 256
    assert message["row_flags"] == {"call": [0, 0, 0], "put": [0, 64, 0]}


def test_flags_of_a_side_that_is_not_listed_are_null() -> None:
    geometry = build_geometry("SPX", [*both_sides([95, 100]), listing(CALL, 105)], WIDTHS)
    assert plane_of(geometry)["row_flags"] == {"call": [0, 0, 0], "put": [0, 0, None]}


def test_what_a_plane_does_not_know_is_null() -> None:
    geometry = board(95, 100)
    (plane,) = geometry.planes
    cut = replace(cut_of(plane, WIDTHS), plane=unknown_plane_row())
    message = heatmap_model(moment_of(), geometry, plans_of(geometry), {ID: cut})["planes"][ID]
    assert (message["forward"], message["forward_source"], message["coherence"]) == (None, "none", None)


def test_roots_that_share_a_date_are_planes_of_their_own() -> None:
    geometry = build_geometry("SPX", [*both_sides([100]), *both_sides([100], root="SPX")], WIDTHS)
    cuts = {plane.id: cut_of(plane, WIDTHS) for plane in geometry.planes}
    planes = heatmap_model(moment_of(), geometry, plans_of(geometry), cuts)["planes"]
    assert {name: plane["settlement"] for name, plane in planes.items()} == {"SPX:2026-01-16": "am", ID: "pm"}


def test_a_plane_without_a_cut_has_no_prices_and_says_why() -> None:
    geometry = board(95, 100)
    plane = heatmap_model(moment_of(), geometry, plans_of(geometry), {})["planes"][ID]
    assert (plane["version"], plane["reason"], "vertical" in plane) == (None, "not_computed", False)


@pytest.mark.parametrize("strategy", ["butterfly", "vertical", "single"])
def test_a_strategy_view_is_the_same_model_with_one_strategy(strategy: str) -> None:
    whole = model_of(board(95, 100, 105))
    view = strategy_view(whole, strategy)
    others = {"butterfly", "vertical", "single"} - {strategy}
    assert view["planes"][ID][strategy] == whole["planes"][ID][strategy]
    assert set(whole["planes"][ID]) - set(view["planes"][ID]) == others
    assert set(view) == set(whole)


prices = st.one_of(st.just(UNKNOWN), st.integers(0, 2000))


@given(st.lists(prices, min_size=20, max_size=20))
def test_every_cell_stands_at_its_strike_and_width_and_nothing_else_does(values: list[int]) -> None:
    geometry = board(95, 97.5, 100, 102.5, 105)
    (plane,) = geometry.planes
    quotes = empty_quotes(10)
    quotes["quote"]["bid"], quotes["quote"]["ask"] = values[:10], values[10:]
    cut = cut_of(plane, WIDTHS, quotes)
    plan = plans_of(geometry)[ID]
    message = heatmap_model(moment_of(), geometry, {ID: plan}, {ID: cut})["planes"][ID]
    fields = {"mid": 200, "buy": 100, "sell": 100, "flags": 1}
    expected: dict[tuple[object, ...], float] = {}
    for cell, (strategy, side, strike, width) in enumerate(cell_labels(plan)):
        for (name, unit), value in zip(fields.items(), cut.cells[:, cell].tolist(), strict=True):
            if value != UNKNOWN:
                expected[strategy, side, name, strike, width] = value / unit
    found: dict[tuple[object, ...], float] = {}
    for strategy in ("butterfly", "vertical", "single"):
        for side in (CALL, PUT):
            for name, matrix in message[strategy][side].items():
                for strike, row in zip(message["strikes"], matrix, strict=True):
                    columns = [(0, row)] if strategy == "single" else zip((5, 10), row, strict=True)
                    for width, value in columns:
                        if value is not None:
                            found[strategy, side, name, strike, width] = value
    assert found == expected


@given(st.lists(st.integers(1, 5_000_000), min_size=4, max_size=4))
def test_published_dollars_have_at_most_three_decimals(cents: list[int]) -> None:
    geometry = board(100)
    (plane,) = geometry.planes
    quotes = empty_quotes(2)
    quotes["quote"]["bid"], quotes["quote"]["ask"] = cents[:2], cents[2:]
    model = heatmap_model(moment_of(), geometry, plans_of(geometry), {ID: cut_of(plane, WIDTHS, quotes)})
    for side in (CALL, PUT):
        for name in ("mid", "buy", "sell"):
            (dollars,) = model["planes"][ID]["single"][side][name]
            exponent = Decimal(repr(dollars)).as_tuple().exponent
            assert isinstance(exponent, int)
            assert exponent >= -3


def test_the_message_is_plain_json() -> None:
    model = model_of(board(95, 100, 105))
    assert orjson.loads(orjson.dumps(model)) == model
