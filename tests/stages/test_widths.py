"""Which widths a board shows: configured, shipped, or multiples of the chain's own strike step."""

from __future__ import annotations

from contracts.geometry import Geometry, build_geometry
from contracts.symbology import CALL
from stages.staging.widths import default_widths
from tests.stages.boards import listing


def chain(*strikes: float, root: str = "XYZ", eligible: str = "") -> Geometry:
    return build_geometry("XYZ", [listing(CALL, strike, root, eligible=eligible) for strike in strikes])


def test_configured_widths_win() -> None:
    assert default_widths("SPX", chain(100, 105), 100, {"SPX": (7.5, 10)}) == (7.5, 10)


def test_spx_and_ndx_have_widths_of_their_own() -> None:
    assert default_widths("SPX", chain(100, 105), 100, {"NDX": (50,)}) == (20, 25, 30, 35, 40, 45, 50)
    assert default_widths("NDX", chain(100, 105), 100, {}) == (50, 60, 70, 80, 100, 120, 130)


def test_other_symbols_get_multiples_of_their_strike_step() -> None:
    assert default_widths("XYZ", chain(99, 99.5, 100, 100.5), 100, {}) == (1, 1.5, 2, 2.5, 3, 4, 5)


def test_the_step_is_measured_within_five_percent_of_spot() -> None:
    wings = (50, 60, 70, 80, 90, 110, 120, 130, 140)
    assert default_widths("XYZ", chain(*wings, 99, 100, 101), 100, {})[0] == 2


def test_without_spot_or_strikes_near_it_the_whole_chain_counts() -> None:
    geometry = chain(100, 110, 120, 125)
    assert default_widths("XYZ", geometry, None, {})[0] == 20
    assert default_widths("XYZ", geometry, 900, {})[0] == 20


def test_the_median_is_a_step_that_is_listed() -> None:
    assert default_widths("XYZ", chain(100, 101, 103.5), 100, {})[0] == 2


def test_steps_are_taken_inside_a_plane_never_between_planes() -> None:
    weekly = [listing(CALL, strike, "XYZ", "2026-01-09") for strike in (98, 100, 102)]
    monthly = [listing(CALL, strike, "XYZ", "2026-01-16") for strike in (98.5, 100.5, 102.5)]
    assert default_widths("XYZ", build_geometry("XYZ", weekly + monthly), 100, {})[0] == 4


def test_ineligible_contracts_do_not_count() -> None:
    rows = [listing(CALL, strike, "XYZ") for strike in (98, 100, 102)]
    adjusted = [listing(CALL, strike, "XYZ", eligible="adjusted") for strike in (98.5, 99, 99.5, 100.5, 101)]
    assert default_widths("XYZ", build_geometry("XYZ", rows + adjusted), 100, {})[0] == 4


def test_a_single_strike_has_no_step() -> None:
    assert default_widths("XYZ", chain(100), 100, {}) == ()
