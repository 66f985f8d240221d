"""Pictures of models, made by matplotlib without a display."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from contracts.errors import DataError
from contracts.symbology import NEW_YORK

Json = dict[str, Any]
Floats = npt.NDArray[np.float64]

BILLION = 1e9
SHOWN_SHARE = 0.98  # of the gamma exposure: strikes far out would squeeze what matters
LEVELS = (("call_wall", "call wall", "tab:green"), ("put_wall", "put wall", "tab:red"), ("flip", "flip", "tab:purple"))
PRICES = ("mid", "buy", "sell")
MOST_LABELLED = 600  # cells; more would be unreadable
DPI = 110
_PLATE = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0}


def plot_gex(model: Json, file: Path) -> None:
    """Bars of calls and puts by strike, below them the net re-priced over spot, with crossings and levels."""
    if model["net"] is None:
        raise DataError(f"nothing to plot: {model['reason']}")
    figure, (bars, curve) = plt.subplots(2, 1, figsize=(11, 8), sharex=True, height_ratios=(3, 2), layout="constrained")
    _plot_strikes(bars, model)
    _plot_profile(curve, model)
    for axes in (bars, curve):
        axes.axhline(0, color="black", linewidth=0.6)
        axes.axvline(model["spot"], color="black", linewidth=1.2)
    _mark_levels(bars, model)
    bars.set_title(
        f"{model['symbol']} {model['spot']:,.2f}, {_when(model['ts'])}: gamma exposure, "
        f"net {model['net'] / BILLION:,.2f} bn USD per 1 %"
    )
    _save(figure, file)


def plot_heatmap(surface: Json, file: Path) -> None:
    """Mid debit over strike x width, coloured by its share of the width (single: mid, buy and sell by strike).

    The spot is a line, flagged cells are hatched, cells without a mid stay grey.
    """
    flat = surface["strategy"] == "single"
    columns = [_column(surface[name]) for name in (PRICES if flat else PRICES[:1])]
    prices = np.concatenate(columns, axis=1)
    flags = np.concatenate([_column(surface["flags"])] * len(columns), axis=1)
    labels = list(PRICES) if flat else [f"{width:g}" for width in surface["widths"]]
    colour = prices if flat else prices / np.array(surface["widths"], np.float64)
    across, up = _edges(np.arange(len(labels), dtype=np.float64)), _edges(np.array(surface["strikes"], np.float64))
    figure, axes = plt.subplots(figsize=(8, min(16.0, 2.5 + 0.17 * len(up))), layout="constrained")
    axes.set_facecolor("0.9")
    mesh = axes.pcolormesh(across, up, np.ma.masked_invalid(colour), cmap="viridis")
    axes.add_collection(_hatched(flags > 0, across, up))
    if prices.size <= MOST_LABELLED:
        _write_prices(axes, prices, surface["strikes"])
    axes.axhline(surface["spot"], color="tab:red", linewidth=1.5)
    axes.annotate(f" {surface['spot']:,.2f}", (across[-1], surface["spot"]), color="tab:red", va="center")
    axes.set_xticks(np.arange(len(labels)), labels)
    axes.set_xlabel("price" if flat else "width, points")
    axes.set_ylabel("centre strike" if surface["strategy"] == "butterfly" else "strike")
    axes.set_title(f"{surface['plane']} {surface['side']} {surface['strategy']}, mid in USD, {_when(surface['ts'])}")
    figure.colorbar(mesh, ax=axes, label="USD" if flat else "mid / width", pad=0.1, shrink=0.6)
    figure.supxlabel("hatched: flagged (one side missing, wide, crossed, arbitrage); grey: no mid", fontsize=8)
    _save(figure, file)


def _hatched(flagged: npt.NDArray[np.bool_], across: Floats, up: Floats) -> PatchCollection:
    cells = [
        Rectangle((across[column], up[row]), across[column + 1] - across[column], up[row + 1] - up[row])
        for row, column in np.argwhere(flagged).tolist()
    ]
    return PatchCollection(cells, facecolor="none", edgecolor="0.45", hatch="////", linewidth=0.0)


def _write_prices(axes: Axes, prices: Floats, strikes: list[float]) -> None:
    for row, column in np.argwhere(np.isfinite(prices)).tolist():
        axes.text(
            column, strikes[row], f"{prices[row, column]:.2f}", ha="center", va="center", fontsize=6, color="white",
            path_effects=[withStroke(linewidth=1.2, foreground="0.15")],
        )  # fmt: skip


def _plot_strikes(axes: Axes, model: Json) -> None:
    strikes, calls, puts = (_column(list(column)) for column in zip(*model["by_strike"], strict=True))
    calls, puts = np.nan_to_num(calls) / BILLION, np.nan_to_num(puts) / BILLION
    low, high = _span(strikes, calls - puts, model)
    width = 0.8 * float(np.median(np.diff(strikes[(strikes >= low) & (strikes <= high)]))) if len(strikes) > 2 else 1.0
    axes.bar(strikes, calls, width, color="tab:green", label="calls")
    axes.bar(strikes, puts, width, color="tab:red", label="puts")
    axes.plot(strikes, calls + puts, color="black", linewidth=0.8, label="net")
    axes.set_xlim(low, high)
    axes.set_ylabel("bn USD per 1 %, by strike")
    axes.legend(loc="lower left")


def _plot_profile(axes: Axes, model: Json) -> None:
    axes.set_ylabel("bn USD per 1 %, net at spot")
    axes.set_xlabel("strike, spot")
    profile, flip = model["profile"], model["levels"]["flip"]
    if profile["net"] is None:
        axes.text(0.5, 0.5, f"no profile: {profile['status']}", transform=axes.transAxes, ha="center")
        return
    axes.plot(profile["spots"], np.array(profile["net"]) / BILLION, color="tab:blue", label="all expirations")
    if profile["front"]["net"] is not None:
        front = np.array(profile["front"]["net"]) / BILLION
        axes.plot(profile["spots"], front, color="tab:orange", linewidth=0.9, label=profile["front"]["plane"])
    axes.plot(flip["crossings"], np.zeros(len(flip["crossings"])), "o", color="tab:purple", label="crossings")
    axes.legend(loc="lower right")


def _mark_levels(axes: Axes, model: Json) -> None:
    for height, (name, label, color) in enumerate(LEVELS):
        value = model["levels"][name]["value"]
        if value is not None:
            axes.axvline(value, color=color, linestyle="--", linewidth=1.0)
            place = (value, 0.97 - 0.05 * height)
            axes.annotate(f" {label} {value:,.6g}", place, xycoords=("data", "axes fraction"), color=color, bbox=_PLATE)


def _span(strikes: Floats, strength: Floats, model: Json) -> tuple[float, float]:
    """The strikes that carry nearly all of it, and every level."""
    shares = np.cumsum(strength) / max(float(strength.sum()), 1e-300)
    low, high = np.interp([(1 - SHOWN_SHARE) / 2, (1 + SHOWN_SHARE) / 2], shares, strikes)
    values = [model["levels"][name]["value"] for name, *_ in LEVELS]
    marks = [model["spot"], *(value for value in values if value is not None)]
    margin = 0.02 * (high - low)
    return min(low, *marks) - margin, max(high, *marks) + margin


def _column(values: list[Any]) -> Floats:
    """Numbers with NaN for null: matplotlib leaves those out."""
    return np.array(values, np.float64)


def _edges(centres: Floats) -> Floats:
    """The borders between neighbouring strikes, halfway."""
    if len(centres) == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    between = (centres[1:] + centres[:-1]) / 2
    return np.concatenate(([2 * centres[0] - between[0]], between, [2 * centres[-1] - between[-1]]))


def _when(ts: float) -> str:
    return f"{datetime.fromtimestamp(ts, NEW_YORK):%Y-%m-%d %H:%M} New York"


def _save(figure: Figure, file: Path) -> None:
    try:
        figure.savefig(file, dpi=DPI, metadata={"Software": None})
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be written: {error}") from error
    finally:
        plt.close(figure)
