"""`marketswarm heatmap FILE`: one strategy of one expiration of a chain file, through the steps of the pipeline."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from contracts.errors import DataError
from contracts.geometry import Plane
from contracts.settings import Settings
from ops.chain_board import ChainBoard, make_board
from ops.chain_file import read_chain_file
from ops.tables import format_table

Json = dict[str, Any]

PRICES = ("mid", "buy", "sell")


@dataclass(frozen=True, slots=True)
class Choice:
    """Which part of a board to show; an empty root is the one there is, else the one that settles PM."""

    strategy: str
    expiration: str
    side: str = "call"
    root: str = ""


def run_heatmap(
    file: Path,
    choice: Choice,
    settings: Settings,
    *,
    as_json: bool,
    as_csv: bool,
    png: Path | None,
    all_strikes: bool,
) -> None:
    """Print debits in dollars by strike and width: a table of mids, or JSON, or CSV with all prices and flags."""
    board = make_board(read_chain_file(file), settings, settings.massive_gamma, all_strikes=all_strikes)
    surface = surface_of(board, choice)
    if png is not None:
        from ops.plots import plot_heatmap

        plot_heatmap(surface, png)
    if as_json:
        print(orjson.dumps(surface).decode())
    elif as_csv:
        print(_csv(surface), end="")
    else:
        print(_table(surface))


def surface_of(board: ChainBoard, choice: Choice) -> Json:
    """One strategy and side of one plane as the published heatmap has it, with the axes beside it.

    `mid`, `buy`, `sell` (dollars) and `flags` are [strike][width]; a single has one width, 0. Rows without any cell
    are left out. DataError names the expirations or roots there are.
    """
    plane = _chosen(board, choice)
    heatmap = orjson.loads(orjson.dumps(board.models().by_name["heatmap"]))
    told = heatmap["planes"][plane.id]
    columns = {name: [_as_row(one) for one in told[choice.strategy][choice.side][name]] for name in (*PRICES, "flags")}
    kept = [at for at, row in enumerate(columns["flags"]) if any(flags is not None for flags in row)]
    if not kept:
        widths = ", ".join(f"{width:g}" for width in heatmap["widths"])
        raise DataError(f"{plane.id} has no {choice.side} {choice.strategy} of the widths {widths}")
    return {
        "symbol": heatmap["symbol"], "ts": heatmap["ts"], "spot": heatmap["spot"], "plane": plane.id,
        "root": plane.root, "expiration": plane.expiration, "dte": told["dte"], "settlement": told["settlement"],
        "strategy": choice.strategy, "side": choice.side,
        "strikes": [told["strikes"][at] for at in kept],
        "widths": heatmap["widths"] if choice.strategy != "single" else [0],
        **{name: [column[at] for at in kept] for name, column in columns.items()},
    }  # fmt: skip


def _chosen(board: ChainBoard, choice: Choice) -> Plane:
    planes = board.compiled.geometry.planes
    of_day = [plane for plane in planes if plane.expiration == choice.expiration]
    if not of_day:
        there = ", ".join(dict.fromkeys(plane.expiration for plane in planes))
        raise DataError(f"no expiration {choice.expiration!r} in this file; there are {there}")
    named = [plane for plane in of_day if plane.root == choice.root] if choice.root else of_day
    if not named:
        there = ", ".join(plane.root for plane in of_day)
        raise DataError(f"no root {choice.root!r} on {choice.expiration}; there are {there}")
    return min(named, key=lambda plane: plane.rows[0].settlement != "pm")


def _as_row(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _table(surface: Json) -> str:
    head = (
        f"{surface['symbol']} {surface['spot']}  {surface['plane']}  {surface['side']} {surface['strategy']}, "
        "mid debit in dollars (* flagged, - no price)"
    )
    headers = ("STRIKE", *(f"{width:g}" if width else "mid" for width in surface["widths"]))
    rows = [
        (f"{strike:g}", *(_cell(mid, flags) for mid, flags in zip(mids, flagged, strict=True)))
        for strike, mids, flagged in zip(surface["strikes"], surface["mid"], surface["flags"], strict=True)
    ]
    return head + "\n" + format_table(headers, rows)


def _cell(mid: float | None, flags: int | None) -> str:
    if flags is None:
        return ""
    return ("-" if mid is None else f"{mid:.3f}") + ("*" if flags else "")


def _csv(surface: Json) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("strike", "width", *PRICES, "flags"))
    writer.writerows(_csv_rows(surface))
    return out.getvalue()


def _csv_rows(surface: Json) -> Iterator[tuple[Any, ...]]:
    for at, strike in enumerate(surface["strikes"]):
        for number, width in enumerate(surface["widths"]):
            values = [surface[name][at][number] for name in (*PRICES, "flags")]
            if values[-1] is not None:
                yield (strike, width, *values)
