"""Exposure of one contract: gamma * open interest * multiplier * S^2 * 0.01, and why a contract is left out."""

from __future__ import annotations

import numpy as np
import pytest

from contracts.analytics import Reason, Source
from contracts.geometry import Plane
from contracts.planes import Array, empty_quotes
from contracts.symbology import CALL, PUT
from stages.calculate.columns import compile_columns
from stages.calculate.exposure import Conventions, GammaMode, compute_exposures
from tests.stages.boards import AN_HOUR_BEFORE, both_sides, chain_of, listing, plane_of

BOARD = plane_of(both_sides([100]))
CHAIN = chain_of(BOARD, {(CALL, 100): (0.02, 300), (PUT, 100): (0.02, 500)})


def exposures_of(
    board: Plane,
    chain: Array,
    spot: float | None = 50.0,
    market_ts: float = AN_HOUR_BEFORE,
    mode: GammaMode = "auto",
    *,
    include_ineligible: bool = False,
) -> Array:
    """The rows of a board that nobody quotes."""
    conventions, quotes = Conventions(mode), empty_quotes(len(board.rows))
    columns = compile_columns(board)
    return compute_exposures(
        columns, quotes, chain, spot, market_ts, conventions, include_ineligible=include_ineligible
    )[0]


def call_with(gamma: float | None, open_interest: float | None, mode: GammaMode) -> Array:
    """The row of one call."""
    board = plane_of([listing(CALL, 100)])
    chain = chain_of(board, {(CALL, 100): (gamma, open_interest)})
    return exposures_of(board, chain, mode=mode)


def test_a_call_adds_and_a_put_subtracts_dollars_per_percent() -> None:
    # 0.02 * 300 * 100 * 50^2 * 0.01 = 15,000 and 0.02 * 500 * 100 * 50^2 * 0.01 = 25,000
    rows = exposures_of(BOARD, CHAIN)
    assert rows["gex"].tolist() == [15_000.0, -25_000.0]


def test_gamma_times_open_interest_carries_no_sign() -> None:
    rows = exposures_of(BOARD, CHAIN)
    assert rows["gamma_oi"].tolist() == [600.0, 1000.0]


def test_the_multiplier_counts() -> None:
    board = plane_of([listing(CALL, 100, multiplier=10)])
    rows = exposures_of(board, chain_of(board, {(CALL, 100): (0.02, 300)}))
    assert rows["gex"].tolist() == [1_500.0]


def test_without_spot_only_the_dollars_are_unknown() -> None:
    rows = exposures_of(BOARD, CHAIN, None)
    assert np.isnan(rows["gex"]).all()
    assert rows["gamma_oi"].tolist() == [600.0, 1000.0]
    assert rows["reason"].tolist() == [Reason.KEPT, Reason.KEPT]


@pytest.mark.parametrize(
    ("mode", "gamma", "source", "reason"),
    [
        ("provider", 0.02, Source.VENUE, Reason.KEPT),
        ("provider", 0.0, Source.VENUE, Reason.KEPT),
        ("provider", None, Source.NONE, Reason.NO_IV),
        ("auto", 0.02, Source.VENUE, Reason.KEPT),
        ("auto", 0.0, Source.NONE, Reason.NO_IV),  # a gamma of four decimals: this one was rounded away
        ("auto", None, Source.NONE, Reason.NO_IV),
        ("own", 0.02, Source.NONE, Reason.NO_IV),
        ("provider", -0.1, Source.NONE, Reason.NO_IV),
    ],
)
def test_which_gamma_is_used(mode: GammaMode, gamma: float | None, source: Source, reason: Reason) -> None:
    row = call_with(gamma, 300, mode)[0]
    assert (row["source"], row["reason"]) == (source, reason)


def test_a_provider_gamma_of_zero_contributes_zero() -> None:
    assert call_with(0.0, 300, "provider")["gex"].tolist() == [0.0]


def test_a_contract_without_open_interest_is_left_out() -> None:
    row = call_with(0.02, None, "provider")[0]
    assert row["reason"] == Reason.NO_OI
    assert row["source"] == Source.VENUE
    assert np.isnan(row["gex"])


def test_open_interest_of_zero_is_known() -> None:
    row = call_with(0.02, 0, "provider")[0]
    assert (row["reason"], row["gex"]) == (Reason.KEPT, 0.0)


@pytest.mark.parametrize(("eligible", "reason"), [("adjusted", Reason.ADJUSTED), ("expired", Reason.EXPIRED)])
def test_an_ineligible_contract_is_left_out_unless_asked_for(eligible: str, reason: Reason) -> None:
    board = plane_of([listing(CALL, 100, eligible=eligible)])
    chain = chain_of(board, {(CALL, 100): (0.02, 300)})
    assert exposures_of(board, chain)["reason"].tolist() == [reason]
    kept = exposures_of(board, chain, include_ineligible=True)
    assert (kept["reason"].tolist(), kept["gex"].tolist()) == ([Reason.KEPT], [15_000.0])


def test_a_plane_that_settled_since_its_board_was_made_is_expired() -> None:
    at_settlement = BOARD.settlement_ts
    assert set(exposures_of(BOARD, CHAIN, 50.0, at_settlement)["reason"].tolist()) == {Reason.EXPIRED}
    assert set(exposures_of(BOARD, CHAIN, 50.0, at_settlement - 1)["reason"].tolist()) == {Reason.KEPT}


def test_an_adjusted_contract_stays_adjusted_when_its_plane_settles() -> None:
    board = plane_of([listing(CALL, 100, eligible="adjusted")])
    rows = exposures_of(board, chain_of(board, {}), 50.0, board.settlement_ts)
    assert rows["reason"].tolist() == [Reason.ADJUSTED]


def test_the_same_inputs_give_the_same_bytes() -> None:
    missing = chain_of(BOARD, {(CALL, 100): (None, None)})
    rows = [exposures_of(BOARD, missing).tobytes() for _ in range(2)]
    assert rows[0] == rows[1]
