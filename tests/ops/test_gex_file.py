"""`marketswarm gex FILE` reproduces the figures known for the recorded chains, through the steps of the pipeline."""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from contracts.errors import DataError
from contracts.settings import load_settings
from ops.chain_board import make_board
from ops.chain_file import read_chain_file
from ops.gex_file import gex_of, run_gex, summary
from ops.sample_chain import FILE, make_chain
from stages.calculate.exposure import GammaMode

CHAINS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "chains"

# file -> net, with every listed row and the file's own gamma (US dollars per 1 % move)
NETS = {
    "spx_2026-07-12_optionsdesk.json": 49.23827316e9,
    "spx_2022-12-12_gflows.csv": -1.075156892e9,
    "ndx_gflows.csv": 1.0875414956e9,
    "spy_2025-09-25_2105EDT.csv": -3.9178358823e9,
    "rut_2023-09-20_delayed_quotes.json": -1.270000618e9,
}
QUOTED = ("spx_2026-07-12_optionsdesk.json", "ndx_gflows.csv", "spy_2025-09-25_2105EDT.csv")
RUT = "rut_2023-09-20_delayed_quotes.json"


@cache
def model(
    name: str, gamma: GammaMode = "provider", *, include_expired: bool = True, all_strikes: bool = True
) -> dict[str, Any]:
    path = CHAINS / name
    if not path.exists():
        pytest.skip(f"the recorded chain {name} is not on this machine")
    chain = read_chain_file(path)
    return gex_of(chain, gamma, load_settings({}), all_strikes=all_strikes, include_expired=include_expired)


# --- figures of the sources


@pytest.mark.parametrize("name", NETS)
def test_net_of_every_listed_row(name: str) -> None:
    assert summary(model(name))["net"] == pytest.approx(NETS[name], rel=1e-6)


def test_sides_and_walls_of_spx() -> None:
    found = summary(model("spx_2026-07-12_optionsdesk.json"))
    assert found["calls"] == pytest.approx(80.81115148e9, rel=1e-6)
    assert found["puts"] == pytest.approx(-31.57287832e9, rel=1e-6)
    assert (found["call_wall"], found["put_wall"]) == (7600, 7450)


def test_the_expired_date_is_left_out_unless_asked_for() -> None:
    found = summary(model(RUT, include_expired=False))
    assert found["net"] == pytest.approx(-1.253137036e9, rel=1e-6)


def test_without_all_strikes_only_the_window_counts() -> None:
    name = "spx_2026-07-12_optionsdesk.json"
    assert model(name, all_strikes=False)["puts"] != model(name)["puts"]


@pytest.mark.parametrize(("name", "include_expired"), [*((name, True) for name in QUOTED), (RUT, False)])
def test_own_gamma_agrees_with_the_file_where_quotes_are_live(name: str, include_expired: bool) -> None:
    told, own = (model(name, gamma, include_expired=include_expired) for gamma in ("provider", "own"))
    assert own["greek_src"]["own"] and not own["greek_src"]["venue"]
    assert abs(own["net"] - told["net"]) <= 0.02 * told["abs"]


def test_without_bids_there_is_no_flip_and_the_reason_is_told() -> None:
    flip = model("spx_2022-12-12_gflows.csv", "own")["levels"]["flip"]
    assert flip["value"] is None and flip["status"] == "insufficient_iv"


@pytest.mark.parametrize(
    ("name", "roots"),
    [("spx_2022-12-12_gflows.csv", {"SPX", "SPXW"}), ("ndx_gflows.csv", {"NDX", "NDXP"}), (QUOTED[0], {"SPX", "SPXW"})],
)
def test_roots_that_share_dates_and_strikes_stay_apart(name: str, roots: set[str]) -> None:
    planes = model(name)["planes"]
    by_date: dict[str, set[str]] = {}
    for plane in planes.values():
        by_date.setdefault(plane["expiration"], set()).add(plane["root"])
    shared = [expiration for expiration, found in by_date.items() if found == roots]
    assert shared
    assert len({planes[f"{root}:{shared[0]}"]["T"] for root in roots}) == 2  # one settles in the morning


# --- the shipped chain


@pytest.fixture(scope="module")
def shipped() -> dict[str, Any]:
    return gex_of(read_chain_file(FILE), "auto", load_settings({}), all_strikes=False, include_expired=False)


def test_the_shipped_chain_is_the_one_the_synthetic_market_makes() -> None:
    assert gzip.decompress(FILE.read_bytes()) == gzip.decompress(make_chain())
    assert FILE.stat().st_size < 100_000


def test_the_shipped_chain_has_every_figure(shipped: dict[str, Any]) -> None:
    assert all(value is not None for value in summary(shipped).values())
    assert {plane["root"] for plane in shipped["planes"].values()} == {"SPX", "SPXW"}
    for plane in shipped["planes"].values():
        assert plane["em_1sigma"] > 0 and plane["straddle"] > 0 and plane["max_pain"]["value"]


def test_the_same_file_gives_the_same_bits() -> None:
    boards = [make_board(read_chain_file(FILE), load_settings({}), "auto").models() for _ in range(2)]
    assert orjson.dumps(boards[0].by_name) == orjson.dumps(boards[1].by_name)


def test_the_page_says_what_the_model_says(shipped: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    run_gex(FILE, load_settings({}), "auto", as_json=False, png=None, all_strikes=False, include_expired=False)
    page = capsys.readouterr().out
    assert (
        f"{'net':18} {shipped['net']:,.0f}" in page and f"{'flip':18} {shipped['levels']['flip']['value']:,.2f}" in page
    )
    for name, plane in shipped["planes"].items():
        (line,) = [line for line in page.splitlines() if line.startswith(name)]
        assert f"{plane['em_1sigma']:,.2f}" in line


def test_json_has_figures_and_the_whole_model(shipped: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    run_gex(FILE, load_settings({}), "auto", as_json=True, png=None, all_strikes=False, include_expired=False)
    found = orjson.loads(capsys.readouterr().out)
    assert found["gex"] == shipped and found["net"] == shipped["net"]
    assert found["put_wall"] == shipped["levels"]["put_wall"]["value"]


# --- pictures


def test_the_picture_is_a_readable_png(tmp_path: Path, shipped: dict[str, Any]) -> None:
    from matplotlib.image import imread

    from ops.plots import plot_gex

    file = tmp_path / "gex.png"
    plot_gex(shipped, file)
    picture = imread(file)
    assert picture.shape[0] > 600 and picture.shape[1] > 900 and len(np.unique(picture)) > 50


def test_what_cannot_be_drawn_or_written_is_one_clear_error(tmp_path: Path, shipped: dict[str, Any]) -> None:
    from ops.plots import plot_gex

    with pytest.raises(DataError, match="nothing to plot: no_spot"):
        plot_gex(shipped | {"net": None, "reason": "no_spot"}, tmp_path / "gex.png")
    with pytest.raises(DataError, match="cannot be written"):
        plot_gex(shipped, tmp_path / "nowhere" / "gex.png")
    unflipped = {"profile": {"spots": None, "net": None, "oi_share": 0.1, "status": "insufficient_iv", "front": None}}
    plot_gex(shipped | unflipped, tmp_path / "gex.png")  # says so in the picture
