"""`marketswarm heatmap FILE`: the published tiles of a chain file, as a table, JSON, CSV and a picture."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from contracts.errors import DataError
from contracts.settings import load_settings
from ops.chain_board import ChainBoard, make_board
from ops.chain_file import ChainFileContract, read_chain_file
from ops.heatmap_file import Choice, run_heatmap, surface_of
from ops.plots import plot_heatmap
from ops.sample_chain import FILE

FRONT, SHARED = "2026-01-12", "2026-01-16"


@pytest.fixture(scope="module")
def board() -> ChainBoard:
    return make_board(read_chain_file(FILE), load_settings({}), "auto")


def quoted(expiration: str, kind: str, root: str = "SPXW") -> dict[float, ChainFileContract]:
    """The contracts of the file by strike."""
    contracts = read_chain_file(FILE).contracts
    return {
        one.strike_milli / 1000: one
        for one in contracts
        if (one.expiration, one.type, one.root) == (expiration, kind, root)
    }


def test_a_butterfly_costs_what_its_quotes_say(board: ChainBoard) -> None:
    surface = surface_of(board, Choice("butterfly", FRONT))
    legs = quoted(FRONT, "call")
    row, column = surface["strikes"].index(6900), surface["widths"].index(30)
    low, middle, high = (legs[strike] for strike in (6870, 6900, 6930))
    assert low.bid and low.ask and middle.bid and middle.ask and high.bid and high.ask
    assert surface["mid"][row][column] == pytest.approx(
        (low.bid + low.ask) / 2 - (middle.bid + middle.ask) + (high.bid + high.ask) / 2
    )
    assert surface["buy"][row][column] == pytest.approx(low.ask - 2 * middle.bid + high.ask)
    assert surface["sell"][row][column] == pytest.approx(low.bid - 2 * middle.ask + high.bid)


def test_a_put_vertical_sells_the_lower_strike(board: ChainBoard) -> None:
    surface = surface_of(board, Choice("vertical", FRONT, "put"))
    legs = quoted(FRONT, "put")
    row, column = surface["strikes"].index(6900), surface["widths"].index(20)
    bought, sold = legs[6900], legs[6880]
    assert bought.ask and sold.bid
    assert surface["buy"][row][column] == pytest.approx(bought.ask - sold.bid)


def test_a_shared_date_shows_the_root_that_settles_pm_unless_named(board: ChainBoard) -> None:
    assert surface_of(board, Choice("single", SHARED))["plane"] == f"SPXW:{SHARED}"
    surface = surface_of(board, Choice("single", SHARED, "call", "SPX"))
    assert (surface["plane"], surface["settlement"]) == (f"SPX:{SHARED}", "am")
    assert surface["buy"][surface["strikes"].index(6900)] == [quoted(SHARED, "call", "SPX")[6900].ask]


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        (Choice("butterfly", "2026-01-17"), f"no expiration '2026-01-17' in this file; there are {FRONT}, 2026-01-13"),
        (Choice("butterfly", SHARED, "call", "NDX"), f"no root 'NDX' on {SHARED}; there are SPX, SPXW"),
    ],
)
def test_what_there_is_not_is_answered_with_what_there_is(board: ChainBoard, choice: Choice, says: str) -> None:
    with pytest.raises(DataError, match=says):
        surface_of(board, choice)


def test_a_strategy_without_any_cell_says_which_widths_were_tried() -> None:
    settings = load_settings({"MASSIVE_WIDTHS_SPX": "3,7"})
    board = make_board(read_chain_file(FILE), settings, "auto")
    with pytest.raises(DataError, match="has no call butterfly of the widths 3, 7"):
        surface_of(board, Choice("butterfly", FRONT))


# --- what is printed


def printed(capsys: pytest.CaptureFixture[str], **how: Any) -> str:
    options: dict[str, Any] = {"as_json": False, "as_csv": False, "png": None, "all_strikes": False} | how
    run_heatmap(FILE, Choice("butterfly", FRONT), load_settings({}), **options)
    return capsys.readouterr().out


def test_the_table_has_a_line_per_strike(board: ChainBoard, capsys: pytest.CaptureFixture[str]) -> None:
    surface = surface_of(board, Choice("butterfly", FRONT))
    head, header, *lines = printed(capsys).splitlines()
    assert f"SPXW:{FRONT}" in head and header.split() == ["STRIKE", *(f"{width:g}" for width in surface["widths"])]
    assert [line.split()[0] for line in lines] == [f"{strike:g}" for strike in surface["strikes"]]
    flagged = surface["flags"][-1][0]
    assert flagged and lines[-1].split()[1].endswith("*")


def test_json_is_the_surface(board: ChainBoard, capsys: pytest.CaptureFixture[str]) -> None:
    assert orjson.loads(printed(capsys, as_json=True)) == surface_of(board, Choice("butterfly", FRONT))


def test_csv_has_a_row_per_cell_and_nothing_where_there_is_no_price(
    board: ChainBoard, capsys: pytest.CaptureFixture[str]
) -> None:
    surface = surface_of(board, Choice("butterfly", FRONT))
    rows = list(csv.DictReader(io.StringIO(printed(capsys, as_csv=True))))
    flags = [one for row in surface["flags"] for one in row if one is not None]
    assert len(rows) == len(flags)
    assert {row["mid"] == "" for row in rows} == {True, False}
    row = next(row for row in rows if (row["strike"], row["width"]) == ("6900", "30"))
    assert float(row["mid"]) == surface["mid"][surface["strikes"].index(6900)][surface["widths"].index(30)]


def test_all_strikes_shows_more_than_the_window(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(printed(capsys, all_strikes=True).splitlines()) > len(printed(capsys).splitlines())


@pytest.mark.parametrize("strategy", ["butterfly", "vertical", "single"])
def test_the_picture_is_a_readable_png(board: ChainBoard, tmp_path: Path, strategy: str) -> None:
    from matplotlib.image import imread

    file = tmp_path / "heatmap.png"
    plot_heatmap(surface_of(board, Choice(strategy, FRONT)), file)
    picture = imread(file)
    assert picture.shape[0] > 500 and picture.shape[1] > 700 and len(np.unique(picture)) > 100


def test_flagged_cells_are_hatched(board: ChainBoard, tmp_path: Path) -> None:
    from matplotlib.image import imread

    surface = surface_of(board, Choice("butterfly", FRONT))
    plot_heatmap(surface, tmp_path / "flagged.png")
    plot_heatmap(surface | {"flags": [[0] * len(row) for row in surface["flags"]]}, tmp_path / "clean.png")
    assert (imread(tmp_path / "flagged.png") != imread(tmp_path / "clean.png")).any()
