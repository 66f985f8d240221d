"""Own gamma against the gamma that came with recorded chains: the same market, seen by two solvers."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from contracts.settings import load_settings
from ops.chain_file import read_chain_file
from ops.gex_file import gex_of
from stages.calculate.exposure import GammaMode

CHAINS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "chains"

# chains whose quotes are live
LIVE = (
    "spx_2026-07-12_optionsdesk.json",
    "ndx_gflows.csv",
    "rut_2023-09-20_delayed_quotes.json",
    "spy_2025-09-25_2105EDT.csv",
)
AFTER_HOURS = "spx_2022-12-12_gflows.csv"  # 96 % of its bids are 0


@cache
def model_of(name: str, gamma: GammaMode) -> dict[str, Any]:
    """The model of every strike that has not expired."""
    path = CHAINS / name
    if not path.exists():
        pytest.skip(f"the recorded chain {name} is not on this machine")
    return gex_of(read_chain_file(path), gamma, load_settings({}), all_strikes=True, include_expired=False)


@pytest.mark.parametrize("name", LIVE)
def test_net_is_within_2_percent_of_all_gamma(name: str) -> None:
    own, file = model_of(name, "own"), model_of(name, "provider")
    assert own["greek_src"]["venue"] == 0
    assert abs(own["net"] - file["net"]) <= 0.02 * (file["calls"] - file["puts"])


@pytest.mark.parametrize("name", LIVE)
def test_the_contracts_left_without_a_volatility_are_few_and_counted(name: str) -> None:
    own, file = model_of(name, "own"), model_of(name, "provider")
    assert own["dropped"]["no_iv"] <= own["greek_src"]["none"]
    assert own["abs"] >= 0.95 * file["abs"]


def test_a_chain_without_bids_has_hardly_a_volatility() -> None:
    sources = model_of(AFTER_HOURS, "own")["greek_src"]
    assert sources["own"] < 0.05 * sum(sources.values())


@pytest.mark.parametrize("name", LIVE)
def test_our_own_step_in_where_the_provider_rounded_to_nothing(name: str) -> None:
    auto = model_of(name, "auto")
    assert auto["greek_src"]["venue"] > auto["greek_src"]["own"] > 0
