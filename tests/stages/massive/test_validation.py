"""Every line of the table of checks (`ops/docs/validation.md`): what is found is counted where the table says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from stages.massive.fetch import INCOMPLETE, MALFORMED, REFUSED, UNAVAILABLE
from stages.massive.rows import CHECKS, Surface, read_surface
from tests.stages.massive.chains import EXPIRATION, MORNING, both_sides, detailed, wire_row

BOTH = both_sides([6850.0])

# what makes a counter count, beside a call and a put that are fine
FOUND: dict[str, Sequence[Any]] = {
    "duplicate_rows": BOTH[:1],
    "bad_quotes": [wire_row(6855.0), wire_row(6855.0, "put", last_quote={"bid": -1.0, "ask": 2.0})],
    "bad_trades": [wire_row(6855.0), wire_row(6855.0, "put", last_trade={"price": 1.005})],
    "rows_without_greeks": [wire_row(6855.0, greeks={}), wire_row(6855.0, "put")],
    "one_sided_strikes": [wire_row(6855.0)],
    "adjusted_rows": [wire_row(6855.0), detailed(wire_row(6855.0, "put"), shares_per_contract=103)],
    "refused_ticker": [{}],
    "refused_expiration": [wire_row(expiration="2026-01-20")],
    "refused_type": [detailed(wire_row(6855.0), contract_type="other")],
    "refused_strike": [detailed(wire_row(6855.0), strike_price=6856.0)],
    "refused_multiplier": [detailed(wire_row(6855.0), shares_per_contract=0)],
}
FAILED = {f"failed_{kind}" for kind in (INCOMPLETE, MALFORMED, REFUSED, UNAVAILABLE)}


def surface_with(rows: Sequence[Any]) -> Surface:
    return read_surface(EXPIRATION, [*BOTH, *rows], MORNING)


def test_the_table_has_every_counter_of_rows_and_fetches() -> None:
    assert {check.counter for check in CHECKS} - {"-"} == FOUND.keys() | FAILED


def test_every_line_says_what_becomes_of_it() -> None:
    assert {check.verdict for check in CHECKS} == {"repaired", "flagged", "refused", "failed"}
    assert all(check.counter.startswith("failed_") for check in CHECKS if check.verdict == "failed")
    assert all(check.counter.startswith("refused_") for check in CHECKS if check.verdict == "refused")


def test_a_surface_without_fault_counts_nothing() -> None:
    assert surface_with([]).counts == {}


@pytest.mark.parametrize("counter", FOUND)
def test_what_is_found_is_counted(counter: str) -> None:
    surface = surface_with(FOUND[counter])
    refused = {"refused_rows": 1} if counter.startswith("refused_") else {}
    assert surface.counts == {counter: 1, **refused}


@pytest.mark.parametrize("check", [check for check in CHECKS if check.counter in FOUND], ids=lambda one: one.counter)
def test_only_refused_rows_are_left_out(check: Any) -> None:
    contracts = {row.id for row in surface_with(FOUND[check.counter]).rows}
    expected = 2 if check.verdict == "refused" or check.counter == "duplicate_rows" else None
    assert len(contracts) == (expected or len(BOTH) + len(FOUND[check.counter]))


@pytest.mark.parametrize("rows", [[], BOTH[:1], BOTH[1:]])
def test_half_a_surface_says_what_is_missing(rows: list[Any]) -> None:
    assert read_surface(EXPIRATION, rows, MORNING).missing


def test_pages_that_overlap_give_each_contract_once() -> None:
    rows = both_sides([6800.0 + 5 * n for n in range(50)])
    surface = read_surface(EXPIRATION, [*rows[:60], *rows[40:]], MORNING)
    assert len(surface.rows) == 100 and surface.counts == {"duplicate_rows": 20}
