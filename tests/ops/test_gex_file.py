"""`marketswarm gex FILE` reproduces the figures known for the recorded chains, through the steps of the pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest

from contracts.settings import load_settings
from ops.chain_file import read_chain_file
from ops.gex_file import gex_of, summary

CHAINS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "chains"

# file -> net, with every listed row and the file's own gamma (US dollars per 1 % move)
NETS = {
    "spx_2026-07-12_optionsdesk.json": 49.23827316e9,
    "spx_2022-12-12_gflows.csv": -1.075156892e9,
    "ndx_gflows.csv": 1.0875414956e9,
    "spy_2025-09-25_2105EDT.csv": -3.9178358823e9,
    "rut_2023-09-20_delayed_quotes.json": -1.270000618e9,
}


def figures(name: str, *, include_expired: bool = True, all_strikes: bool = True) -> dict[str, float]:
    path = CHAINS / name
    if not path.exists():
        pytest.skip(f"the recorded chain {name} is not on this machine")
    chain = read_chain_file(path)
    return summary(
        gex_of(chain, "provider", load_settings({}), all_strikes=all_strikes, include_expired=include_expired)
    )


@pytest.mark.parametrize("name", NETS)
def test_net_of_every_listed_row(name: str) -> None:
    assert figures(name)["net"] == pytest.approx(NETS[name], rel=1e-6)


def test_sides_and_walls_of_spx() -> None:
    found = figures("spx_2026-07-12_optionsdesk.json")
    assert found["calls"] == pytest.approx(80.81115148e9, rel=1e-6)
    assert found["puts"] == pytest.approx(-31.57287832e9, rel=1e-6)
    assert (found["call_wall"], found["put_wall"]) == (7600, 7450)


def test_the_expired_date_is_left_out_unless_asked_for() -> None:
    found = figures("rut_2023-09-20_delayed_quotes.json", include_expired=False)
    assert found["net"] == pytest.approx(-1.253137036e9, rel=1e-6)


def test_without_all_strikes_only_the_window_counts() -> None:
    name = "spx_2026-07-12_optionsdesk.json"
    assert figures(name, all_strikes=False)["puts"] != figures(name)["puts"]
