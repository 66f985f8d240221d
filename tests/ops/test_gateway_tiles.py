"""One tile in full: legs, prices, flags, and the order line for every strategy."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest

from contracts.errors import DataError
from contracts.geometry import Listing, Plane
from contracts.plan import Plan, compile_plan
from contracts.planes import UNKNOWN, Array, empty_quotes
from contracts.symbology import format_ticker
from ops.gateway.tiles import Json, TileName, cell_of, tile_view
from stages.calculate.tiles import compute_tiles
from tests.ops.pipeline import STRIKES, SYMBOL
from tests.ops.scene import PLANE, Scene

AXIS = (6800, 6820, 6840, 6860)


def plane_of(root: str, expiration: str = "2026-01-16") -> Plane:
    rows = tuple(
        Listing(root, expiration, strike * 1000, kind, format_ticker(root, expiration, kind, strike * 1000),
                "am" if root == "SPX" else "pm", "european", 100)
        for strike in AXIS for kind in ("call", "put")
    )  # fmt: skip
    return Plane(f"{root}:{expiration}", root, expiration, rows)


def quotes_of(plane: Plane) -> Array:
    """Calls at 40, 25, 14, 7 and puts at 6, 12, 22, 36, all half a dollar wide."""
    mids = {"call": (4000, 2500, 1400, 700), "put": (600, 1200, 2200, 3600)}
    quotes = empty_quotes(len(plane.rows))
    for at, row in enumerate(plane.rows):
        mid = mids[row.type][AXIS.index(row.strike_milli // 1000)]
        quotes["quote"]["bid"][at], quotes["quote"]["ask"][at] = mid - 25, mid + 25
        quotes["quote"]["ms"][at] = 1_767_800_000_000 + at
    return quotes


def view(name: TileName, root: str = "SPXW", quotes: Array | None = None, spot: float | None = None) -> Json:
    plane = plane_of(root)
    plan = compile_plan(plane, (20.0, 40.0))
    rows = quotes_of(plane) if quotes is None else quotes
    cell = cell_of(plan, name)
    assert cell is not None
    return tile_view("SPX", plane, plan, cell, compute_tiles(plan, rows), rows, spot)


@pytest.mark.parametrize(
    ("name", "root", "order"),
    [
        (
            TileName("butterfly", "call", 6820, 20),
            "SPXW",
            "BUY +1 BUTTERFLY SPX 100 (Weeklys) 16 JAN 26 6800/6820/6840 CALL @4.00 LMT",
        ),
        (
            TileName("vertical", "call", 6800, 40),
            "SPXW",
            "BUY +1 VERTICAL SPX 100 (Weeklys) 16 JAN 26 6800/6840 CALL @26.00 LMT",
        ),
        (
            TileName("vertical", "put", 6860, 20),
            "SPXW",
            "BUY +1 VERTICAL SPX 100 (Weeklys) 16 JAN 26 6860/6840 PUT @14.00 LMT",
        ),
        (TileName("single", "put", 6840, 0), "SPXW", "BUY +1 SPX 100 (Weeklys) 16 JAN 26 6840 PUT @22.00 LMT"),
        # the morning-settled series of the same day is the standard one
        (TileName("single", "put", 6840, 0), "SPX", "BUY +1 SPX 100 16 JAN 26 6840 PUT @22.00 LMT"),
        (
            TileName("butterfly", "put", 6840, 20),
            "SPX",
            "BUY +1 BUTTERFLY SPX 100 16 JAN 26 6820/6840/6860 PUT @4.00 LMT",
        ),
    ],
)
def test_order_lines(name: TileName, root: str, order: str) -> None:
    assert view(name, root)["order"] == order


def test_a_butterfly_with_its_legs() -> None:
    tile = view(TileName("butterfly", "call", 6820, 20))
    assert [(leg["ratio"], leg["strike"], leg["bid"], leg["ask"]) for leg in tile["legs"]] == [
        (1, 6800.0, 39.75, 40.25),
        (-2, 6820.0, 24.75, 25.25),
        (1, 6840.0, 13.75, 14.25),
    ]
    assert (tile["mid"], tile["buy"], tile["sell"]) == (4.0, 5.0, 3.0)
    assert (tile["max_profit"], tile["max_loss"], tile["r2r"]) == (16.0, 4.0, 4.0)
    assert tile["legs"][0]["id"] == "O:SPXW260116C06800000" and tile["legs"][0]["ts"] == 1_767_800_000.0
    assert tile["flags"] == []


def test_a_single_has_no_bound_above() -> None:
    tile = view(TileName("single", "call", 6800, 0))
    assert (tile["mid"], tile["max_profit"], tile["max_loss"], tile["r2r"]) == (40.0, None, 40.0, None)


def test_the_change_to_the_next_strike_towards_spot() -> None:
    name = TileName("single", "call", 6820, 0)
    assert view(name, spot=6855.0)["pct_diff"] == pytest.approx(100 * (14 - 25) / 25)
    assert view(name, spot=6801.0)["pct_diff"] == pytest.approx(100 * (40 - 25) / 25)
    assert view(name, spot=6820.0)["pct_diff"] is None
    assert view(name)["pct_diff"] is None
    assert view(TileName("single", "call", 6860, 0), spot=6900.0)["pct_diff"] is None


def test_without_a_mid_there_is_no_order_and_a_reason() -> None:
    quotes = quotes_of(plane_of("SPXW"))
    quotes["quote"]["bid"][2] = UNKNOWN  # the 6820 call, the middle leg
    tile = view(TileName("butterfly", "call", 6820, 20), quotes=quotes)
    assert tile["mid"] is None and tile["order"] is None and "no bid" in tile["order_reason"]
    assert tile["legs"][1]["bid"] is None and tile["legs"][1]["ask"] == 25.25
    assert "no_bid" in tile["flags"]
    assert (tile["max_profit"], tile["max_loss"], tile["r2r"], tile["pct_diff"]) == (None, None, None, None)


def test_a_debit_of_nothing_has_no_reward_to_risk() -> None:
    quotes = quotes_of(plane_of("SPXW"))
    quotes["quote"]["bid"][0] -= 400
    quotes["quote"]["ask"][0] -= 400
    tile = view(TileName("butterfly", "call", 6820, 20), quotes=quotes)
    assert tile["mid"] == 0.0 and tile["r2r"] is None and "arbitrage" not in tile["flags"]


def test_every_cell_is_found_by_its_name() -> None:
    plan: Plan = compile_plan(plane_of("SPXW"), (20.0, 40.0))
    for cell in range(plan.cell_count):
        strategy = ("butterfly", "vertical", "single")[plan.strategy[cell]]
        side = ("call", "put")[plan.side[cell]]
        name = TileName(strategy, side, plan.strike_milli[cell] / 1000, plan.width_milli[cell] / 1000)
        assert cell_of(plan, name) == cell
    assert cell_of(plan, TileName("single", "call", 6801, 0)) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 1e9])
def test_a_strike_is_a_number_of_points(value: float) -> None:
    with pytest.raises(DataError, match="strike: a number of points"):
        TileName("single", "call", value, 0)


# --- over HTTP


def _path(**changes: str) -> str:
    asked = {"plane": PLANE, "strategy": "single", "side": "call", "strike": "6900", "width": "0"} | changes
    return f"/api/tiles/{SYMBOL}?" + urlencode({name: value for name, value in asked.items() if value})


async def test_a_tile_of_the_active_epoch(scene: Scene) -> None:
    scene.pipeline.quote(STRIKES[20], 8.0, 8.5)
    await scene.pipeline.settle()
    status, tile = await scene.get(_path())
    assert status == 200 and tile["epoch"] == scene.pipeline.epoch() and tile["version"] >= 1
    assert (tile["mid"], tile["legs"][0]["bid"]) == (8.25, 8.0)


@pytest.mark.parametrize(
    ("changes", "status", "complaint"),
    [
        ({"plane": ""}, 400, "plane is missing"),
        ({"strike": ""}, 400, "strike is missing"),
        ({"strike": "abc"}, 400, "numbers of points"),
        ({"strike": "nan"}, 400, "strike: a number of points"),
        ({"strike": "1e999"}, 400, "strike: a number of points"),
        ({"strategy": "condor"}, 400, "no strategy 'condor'"),
        ({"side": "both"}, 400, "no side 'both'"),
        ({"strike": "6901"}, 404, "no such tile"),
        ({"plane": "SPX:1999-01-01"}, 404, "no such tile"),
        ({"plane": "\x00\udcff".encode("utf-8", "replace").decode()}, 404, "no such tile"),
    ],
)
async def test_odd_tiles(scene: Scene, changes: dict[str, str], status: int, complaint: str) -> None:
    found, body = await scene.get(_path(**changes))
    assert found == status and complaint in body["error"]
