"""The compiled plan: which cells a plane has, how they are numbered, and which rows they gather."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.geometry import Plane
from contracts.plan import Plan, cell_labels, compile_plan
from contracts.symbology import CALL, PUT
from tests.stages.boards import both_sides, cell_of, listing, plane_of, row_of

GRID = [95, 97.5, 100, 102.5, 105, 110, 115]
boards = st.lists(st.sampled_from([(kind, strike) for kind in (CALL, PUT) for strike in GRID]), min_size=1, unique=True)
excluded = st.sampled_from(["", "", "", "adjusted"])
width_lists = st.lists(st.sampled_from([2.5, 5.0, 7.5, 10.0]), max_size=4).map(tuple)


@st.composite
def planes(draw: st.DrawFn) -> Plane:
    return plane_of(listing(kind, strike, eligible=draw(excluded)) for kind, strike in draw(boards))


def legs_of(plan: Plan, cell: int) -> list[tuple[int, int]]:
    """(row, weight) of the legs a cell has."""
    pairs = zip(plan.legs[:, cell].tolist(), plan.weights[:, cell].tolist(), strict=True)
    return [(row, weight) for row, weight in pairs if weight]


def test_a_butterfly_buys_the_wings_and_sells_the_body_twice() -> None:
    plane = plane_of(both_sides([95, 100, 105]))
    plan = compile_plan(plane, (5,))
    wings = [(row_of(plane, PUT, 95), 1), (row_of(plane, PUT, 100), -2), (row_of(plane, PUT, 105), 1)]
    assert legs_of(plan, cell_of(plan, "butterfly", PUT, 100, 5)) == wings


@pytest.mark.parametrize(("side", "sold"), [(CALL, 105), (PUT, 95)])
def test_a_vertical_sells_above_for_calls_and_below_for_puts(side: str, sold: float) -> None:
    plane = plane_of(both_sides([95, 100, 105]))
    plan = compile_plan(plane, (5,))
    assert legs_of(plan, cell_of(plan, "vertical", side, 100, 5)) == [
        (row_of(plane, side, 100), 1),
        (row_of(plane, side, sold), -1),
    ]


def test_a_single_buys_one_contract() -> None:
    plane = plane_of(both_sides([95, 100]))
    plan = compile_plan(plane, (5,))
    assert legs_of(plan, cell_of(plan, "single", CALL, 95)) == [(row_of(plane, CALL, 95), 1)]


def test_a_leg_that_a_cell_does_not_have_points_after_the_last_row() -> None:
    plane = plane_of(both_sides([95, 100]))
    plan = compile_plan(plane, (5,))
    assert set(plan.legs[plan.weights == 0].tolist()) == {len(plane.rows)}


def test_cells_are_numbered_by_strategy_side_strike_width() -> None:
    plan = compile_plan(plane_of(both_sides([95, 100, 105, 110])), (10, 5))
    assert cell_labels(plan) == [
        ["butterfly", "call", 100, 5],
        ["butterfly", "call", 105, 5],
        ["butterfly", "put", 100, 5],
        ["butterfly", "put", 105, 5],
        ["vertical", "call", 95, 5],
        ["vertical", "call", 95, 10],
        ["vertical", "call", 100, 5],
        ["vertical", "call", 100, 10],
        ["vertical", "call", 105, 5],
        ["vertical", "put", 100, 5],
        ["vertical", "put", 105, 5],
        ["vertical", "put", 105, 10],
        ["vertical", "put", 110, 5],
        ["vertical", "put", 110, 10],
        *[["single", side, strike, 0] for side in ("call", "put") for strike in (95, 100, 105, 110)],
    ]


def test_whole_strikes_read_as_integers_and_half_dollars_stay_exact() -> None:
    plan = compile_plan(plane_of(both_sides([100, 102.5])), (2.5,))
    assert [(type(strike), strike) for strike in plan.strikes] == [(int, 100), (float, 102.5)]
    assert cell_labels(plan)[0] == ["vertical", "call", 100, 2.5]


def test_a_strike_listed_on_one_side_only_has_cells_on_that_side_only() -> None:
    plan = compile_plan(plane_of([listing(CALL, 95), listing(CALL, 100), listing(PUT, 100)]), (5,))
    assert cell_labels(plan) == [
        ["vertical", "call", 95, 5],
        ["single", "call", 95, 0],
        ["single", "call", 100, 0],
        ["single", "put", 100, 0],
    ]


def test_an_ineligible_contract_has_no_cells_but_keeps_its_row() -> None:
    plane = plane_of([listing(CALL, 95, eligible="adjusted"), listing(CALL, 100), listing(CALL, 105)])
    plan = compile_plan(plane, (5,))
    assert plan.strikes == [100, 105]
    assert legs_of(plan, cell_of(plan, "vertical", CALL, 100, 5)) == [(1, 1), (2, -1)]
    assert plan.row_offsets.tolist() == [0, 0, 2, 4]


def test_a_plane_past_its_settlement_has_no_cells() -> None:
    plan = compile_plan(plane_of([listing(CALL, 95, eligible="expired")]), (5,))
    assert (plan.cell_count, plan.strikes, cell_labels(plan)) == (0, [], [])


def test_widths_are_a_set_of_positive_numbers() -> None:
    plane = plane_of(both_sides([95, 100, 105]))
    assert cell_labels(compile_plan(plane, (10, 0, 5, 10, -5))) == cell_labels(compile_plan(plane, (5, 10)))


def test_a_block_is_the_cells_of_one_strategy_and_side() -> None:
    plan = compile_plan(plane_of(both_sides([95, 100, 105])), (5,))
    assert cell_labels(plan)[plan.block("vertical", PUT)] == [
        ["vertical", "put", 100, 5],
        ["vertical", "put", 105, 5],
    ]


def test_nobody_can_change_a_compiled_plan() -> None:
    plan = compile_plan(plane_of(both_sides([95, 100])), (5,))
    with pytest.raises(ValueError, match="read-only"):
        plan.legs[0, 0] = 3


@given(planes(), width_lists)
def test_a_cell_exists_exactly_when_all_its_strikes_are_listed_on_its_side(
    plane: Plane, widths: tuple[float, ...]
) -> None:
    listed = {(row.type, row.strike_milli) for row in plane.rows if not row.eligible}
    strikes = sorted({strike for _, strike in listed})
    expected = []
    for strategy in ("butterfly", "vertical", "single"):
        for side in (CALL, PUT):
            for strike in strikes:
                for width in sorted({round(w * 1000) for w in widths}) if strategy != "single" else [0]:
                    away = width if side == CALL else -width
                    needed = {
                        "butterfly": [strike - width, strike, strike + width],
                        "vertical": [strike, strike + away],
                        "single": [strike],
                    }[strategy]
                    if all((side, leg) in listed for leg in needed):
                        expected.append([strategy, side, strike / 1000, width / 1000])
    assert cell_labels(compile_plan(plane, widths)) == expected


@given(planes(), width_lists)
def test_a_row_knows_exactly_the_cells_that_use_it(plane: Plane, widths: tuple[float, ...]) -> None:
    plan = compile_plan(plane, widths)
    for row in range(len(plane.rows)):
        cells = plan.row_cells[plan.row_offsets[row] : plan.row_offsets[row + 1]].tolist()
        assert cells == [cell for cell in range(plan.cell_count) if row in plan.legs[:, cell]]


@given(planes(), width_lists)
def test_legs_are_contracts_of_the_cells_own_side(plane: Plane, widths: tuple[float, ...]) -> None:
    plan = compile_plan(plane, widths)
    for cell, (_, side, strike, _) in enumerate(cell_labels(plan)):
        rows = [plane.rows[row] for row, _ in legs_of(plan, cell)]
        assert {row.type for row in rows} == {side}
        assert strike in {row.strike_milli / 1000 for row in rows}
        assert not any(row.eligible for row in rows)


def test_index_arrays_are_int32() -> None:
    plan = compile_plan(plane_of(both_sides([95, 100])), (5,))
    assert {array.dtype for array in (plan.legs, plan.row_offsets, plan.row_cells)} == {np.dtype("int32")}
