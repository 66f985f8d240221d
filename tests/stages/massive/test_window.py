"""Windows of strikes: they hold what is wanted, ignore drift and noise, and never shrink within a session."""

from __future__ import annotations

from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.geometry import Listing
from contracts.symbology import CALL, PUT, settlement_ts
from stages.massive.rows import read_surface
from stages.massive.window import (
    KEPT_FACTOR,
    NARROWEST,
    YEAR_S,
    Windows,
    WindowSettings,
    at_the_money_sigma,
    decode_windows,
    encode_windows,
    half_width,
    in_session,
    latched,
    nearest_first,
    plan_windows,
    shard_of,
    snapped,
    steady_selection,
)
from tests.stages.boards import listing
from tests.stages.massive.chains import EXPIRATION, MORNING, wire_row

SETTINGS = WindowSettings()
MONTH = "2026-02-20"

spots = st.lists(st.floats(5000, 9000), min_size=1, max_size=12)
sigmas = st.floats(0.02, 1.5)


def plan(previous: Windows, spot: float, settings: WindowSettings = SETTINGS, market_ts: float = MORNING) -> Windows:
    return plan_windows(previous, "SPX", [EXPIRATION, MONTH], spot, market_ts, settings)


def test_the_formula() -> None:
    years = (settlement_ts("SPXW", MONTH) - MORNING) / YEAR_S
    half = half_width("SPX", MONTH, 7000.0, MORNING, 0.12, SETTINGS)
    assert half == pytest.approx(2 * 0.12 * sqrt(years) * 7000.0)
    low, high = plan(latched(Windows("2026-01-16"), {MONTH: 0.12}), 7000.0).kept[MONTH]
    assert (low, high) == pytest.approx((7000.0 - KEPT_FACTOR * half, 7000.0 + KEPT_FACTOR * half))


def test_the_last_minutes_still_show_a_surface() -> None:
    close = settlement_ts("SPXW", EXPIRATION)
    for market_ts in (close - 60, close, close + 3600):
        assert half_width("SPX", EXPIRATION, 7000.0, market_ts, 0.12, SETTINGS) == NARROWEST * 7000.0


def test_an_unknown_volatility_counts_as_twenty_percent() -> None:
    told = plan(latched(Windows("2026-01-16"), {MONTH: 0.20}), 7000.0)
    assert plan(Windows(), 7000.0).kept[MONTH] == told.kept[MONTH]


def test_the_volatility_that_counts_until_one_is_told_can_be_set() -> None:
    told = plan(latched(Windows("2026-01-16"), {MONTH: 0.35}), 7000.0)
    assert plan(Windows(), 7000.0, WindowSettings(unknown_sigma=0.35)).kept[MONTH] == told.kept[MONTH]


def test_points_override_sigma() -> None:
    windows = plan(latched(Windows("2026-01-16"), {MONTH: 0.5}), 7000.0, WindowSettings(points=100.0))
    assert windows.kept == {EXPIRATION: (6850.0, 7150.0), MONTH: (6850.0, 7150.0)}
    assert WindowSettings(points="all").unlimited and not WindowSettings(points=100.0).unlimited


@given(spots, st.lists(sigmas, min_size=12, max_size=12))
def test_within_a_session_windows_never_shrink_and_hold_what_is_wanted(path: list[float], noise: list[float]) -> None:
    windows = Windows()
    for spot, sigma in zip(path, noise, strict=False):
        before = windows
        windows = plan(latched(in_session(windows, MORNING), {MONTH: sigma}), spot)
        for expiration in (EXPIRATION, MONTH):
            low, high = windows.kept[expiration]
            latch = windows.sigma.get(expiration, 0.20)
            half = half_width("SPX", expiration, spot, MORNING, latch, SETTINGS)
            assert low <= spot - half and spot + half <= high
            if expiration in before.kept:
                assert low <= before.kept[expiration][0] and before.kept[expiration][1] <= high
        assert windows.sigma[MONTH] >= before.sigma.get(MONTH, 0.0)


@given(st.floats(-0.999, 0.999), st.floats(0.01, 0.2))
def test_drift_and_noise_inside_the_kept_window_change_nothing(drift: float, noise: float) -> None:
    first = plan(latched(Windows("2026-01-16"), {EXPIRATION: 0.2, MONTH: 0.2}), 7000.0)
    room = min(
        (KEPT_FACTOR - 1) * half_width("SPX", expiration, 7000.0, MORNING, 0.2, SETTINGS)
        for expiration in (EXPIRATION, MONTH)
    )
    # the wanted width grows with the spot, so not all of the room is there
    spot = 7000.0 + drift * room * 0.9
    assert plan(latched(first, {EXPIRATION: noise, MONTH: noise}), spot).kept == first.kept


def test_leaving_the_window_moves_only_the_one_that_was_left() -> None:
    first = plan(Windows(), 7000.0)
    low, high = first.kept[EXPIRATION]
    moved = plan(first, high)
    assert moved.kept[EXPIRATION][0] == low and moved.kept[EXPIRATION][1] > high
    assert moved.kept[MONTH] == first.kept[MONTH]


def test_a_session_starts_afresh() -> None:
    windows = plan(latched(Windows("2026-01-16"), {MONTH: 0.9}), 7000.0)
    assert in_session(windows, MORNING + 3600) == windows
    assert in_session(windows, MORNING + 86_400) == Windows("2026-01-17")
    tomorrow = plan(windows, 7000.0, market_ts=MORNING + 86_400)
    assert tomorrow.kept[MONTH][1] < windows.kept[MONTH][1]


def test_snapping_goes_outwards_only() -> None:
    windows = Windows("2026-01-16", kept={MONTH: (6801.0, 7199.0)})
    assert snapped(windows, MONTH, 6800.0, 7200.0).kept[MONTH] == (6800.0, 7200.0)
    assert snapped(windows, MONTH, None, 7200.0).kept[MONTH] == (6801.0, 7200.0)
    assert snapped(windows, MONTH, 6805.0, 7190.0).kept[MONTH] == (6801.0, 7199.0)


def test_windows_survive_the_job() -> None:
    windows = plan(latched(Windows("2026-01-16"), {MONTH: 0.1234567890123}), 6999.987654321)
    fields = {
        name.encode(): value if isinstance(value, bytes) else value.encode()
        for name, value in encode_windows(windows).items()
    }
    assert decode_windows(fields) == windows
    assert decode_windows({}) == Windows()
    assert decode_windows({**fields, b"windows": b'{"x": 1}'}) == Windows()


def test_at_the_money_volatility_is_that_of_the_nearest_eligible_strike() -> None:
    rows = read_surface(
        EXPIRATION,
        [
            wire_row(6900, CALL, implied_volatility=0.10),
            wire_row(6900, PUT, implied_volatility=0.14),
            wire_row(6950, CALL, implied_volatility=0.50),
            wire_row(6905, CALL, implied_volatility=1e-05),  # a solver's sentinel
            wire_row(6905, PUT, implied_volatility=None),
        ],
        MORNING,
    ).rows
    assert at_the_money_sigma(rows, 6906.0) == pytest.approx(0.12)
    settled = read_surface(EXPIRATION, [wire_row(root="SPX")], settlement_ts("SPX", EXPIRATION)).rows
    assert at_the_money_sigma(settled, 6850.0) is None


def test_subscriptions_go_nearest_first() -> None:
    listings: list[Listing] = [
        listing(CALL, 6900),
        listing(PUT, 6850),
        listing(CALL, 6850, expiration="2026-01-20"),
        listing(CALL, 6851, eligible="expired"),
        listing(CALL, 6840),
    ]
    order = nearest_first(listings, 6849.0, 10)
    assert order == [
        "O:SPXW260116P06850000", "O:SPXW260120C06850000", "O:SPXW260116C06840000", "O:SPXW260116C06900000",
    ]  # fmt: skip
    assert nearest_first(listings, 6849.0, 2) == order[:2]
    assert nearest_first(listings, None, 10)[-1] == "O:SPXW260120C06850000"


# --- what one connection carries

TICKERS = [f"O:{n:02d}" for n in range(40)]
rankings = st.permutations(TICKERS)
selections = st.sets(st.sampled_from(TICKERS)).map(frozenset)


@given(rankings, selections, st.integers(0, 45), st.integers(0, 20))
def test_a_selection_holds_the_most_wanted_and_nothing_beyond_the_border(
    ranked: list[str], held: frozenset[str], limit: int, border: int
) -> None:
    chosen = steady_selection(ranked, held, limit, border)
    assert len(chosen) == len(set(chosen)) == min(limit, len(ranked))
    assert set(ranked[: max(0, limit - border)]) <= set(chosen) <= set(ranked[: limit + border])


@given(rankings, selections, st.integers(0, 45), st.integers(0, 20))
def test_what_was_selected_stays_selected(ranked: list[str], held: frozenset[str], limit: int, border: int) -> None:
    chosen = steady_selection(ranked, held, limit, border)
    assert steady_selection(ranked, frozenset(chosen), limit, border) == chosen


@given(st.sets(st.integers(0, 10**6)), st.integers(1, 8))
def test_the_connections_carry_every_contract_once(numbers: set[int], shards: int) -> None:
    tickers = [f"O:SPXW260116C{n:08d}" for n in numbers]
    assert all(0 <= shard_of(ticker, shards) < shards for ticker in tickers)


def test_the_connections_carry_about_as_much_each() -> None:
    tickers = [f"O:SPXW2601{day}{side}{strike:08d}" for day in (16, 20, 21) for side in "CP"
               for strike in range(5_900_000, 7_900_000, 4_000)]  # fmt: skip
    sizes = [sum(shard_of(ticker, 4) == shard for ticker in tickers) for shard in range(4)]
    assert sum(sizes) == 3000 and max(sizes) <= 950
