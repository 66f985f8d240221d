"""`marketswarm gex FILE`: gamma exposure of a chain file, through the steps of the pipeline, without a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from contracts.settings import Settings
from contracts.symbology import NEW_YORK
from ops.chain_board import make_board
from ops.chain_file import ChainFile, read_chain_file
from ops.tables import format_table
from stages.calculate.exposure import GammaMode

Json = dict[str, Any]

LEVELS = ("call_wall", "put_wall", "flip", "flip_front", "abs_gamma", "magnet", "max_pain")
SUMS = ("net", "calls", "puts", "abs", "gamma_oi", "net_at_spot")
PLANE_COLUMNS = ("PLANE", "DTE", "FORWARD", "COHERENCE", "SIGMA", "EM_1SIGMA", "STRADDLE", "MAX_PAIN")


def run_gex(
    file: Path,
    settings: Settings,
    gamma: GammaMode,
    *,
    as_json: bool,
    png: Path | None,
    all_strikes: bool,
    include_expired: bool,
) -> None:
    """Print the gamma exposure of a chain file (US dollars per 1 % move), its levels and expected moves."""
    model = gex_of(read_chain_file(file), gamma, settings, all_strikes=all_strikes, include_expired=include_expired)
    if png is not None:
        from ops.plots import plot_gex

        plot_gex(model, png)
    if as_json:
        print(orjson.dumps({**summary(model), "gex": model}).decode())
    else:
        print("\n".join(_lines(model)))


def gex_of(chain: ChainFile, gamma: GammaMode, settings: Settings, *, all_strikes: bool, include_expired: bool) -> Json:
    """The published gamma exposure model of a chain file at the file's own time."""
    board = make_board(chain, settings, gamma, all_strikes=all_strikes, include_expired=include_expired)
    return dict(orjson.loads(orjson.dumps(board.models().by_name["gex"])))


def summary(model: Json) -> Json:
    """The figures traders compare first; a null says why beside it."""
    levels = {name: model["levels"][name]["value"] for name in LEVELS}
    status = {
        f"{name}_status": model["levels"][name]["status"] for name in LEVELS if model["levels"][name]["value"] is None
    }
    why = {"reason": model["reason"]} if model["reason"] else {}
    return {name: model[name] for name in SUMS} | levels | status | why


def _lines(model: Json) -> Iterator[str]:
    from datetime import datetime

    when = datetime.fromtimestamp(model["ts"], NEW_YORK)
    yield f"{model['symbol']} {model['spot']} at {when:%Y-%m-%d %H:%M} New York, US dollars per 1 % move"
    yield from (f"{name:18} {_shown(value)}" for name, value in summary(model).items())
    yield f"{'flip crossings':18} {', '.join(_shown(one) for one in model['levels']['flip']['crossings']) or '-'}"
    exposures = model["exposures"]
    for name, unit in exposures["units"].items():
        if name in exposures:
            yield f"{name + ' exposure':18} {_shown(exposures[name])} ({unit})"
    for what in ("greek_src", "dropped"):
        yield f"{what:18} {', '.join(f'{name} {count}' for name, count in model[what].items())}"
    yield ""
    yield format_table(PLANE_COLUMNS, [_plane_row(name, plane) for name, plane in model["planes"].items()])


def _plane_row(name: str, plane: Json) -> tuple[str, ...]:
    fields = ("dte", "forward", "coherence", "sigma_forward", "em_1sigma", "straddle")
    pain = (plane.get("max_pain") or {}).get("value")
    return (name, *(_shown(plane.get(field)) for field in fields), _shown(pain))


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e6 else f"{value:,.4g}" if abs(value) < 1 else f"{value:,.2f}"
    return str(value)
