"""Greeks and gamma exposure per contract at one moment: a pure function of the plane's arrays and the tick.

`gamma * open interest * multiplier * S^2 * 0.01`: US dollars of delta per 1 % move of spot S, calls positive,
puts negative (models.md section 3). Which gamma: models.md section 1, "Greeks".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from contracts.analytics import EXPOSURE_ROW, PLANE_ROW, ForwardSource, Reason, Source, TickFlag
from contracts.planes import Array
from stages.calculate.columns import Columns, Floats, Mask
from stages.calculate.greeks import (
    SHORTEST_MINUTES,
    Surface,
    delta_later,
    expected_move,
    fit_surface,
    own_greeks,
    years_of,
)

GammaMode = Literal["provider", "auto", "own"]
Integers = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Conventions:
    """What the numbers of a tick depend on besides rows and tick (settings MASSIVE_GAMMA, _RATE, _STALE_SEC)."""

    gamma_mode: GammaMode = "auto"
    rate: float = 0.04  # per year
    stale_sec: float = 60.0


DEFAULT_CONVENTIONS = Conventions()


def compute_exposures(
    columns: Columns,
    quotes: Array,
    chain: Array,
    spot: float | None,
    market_ts: float,
    conventions: Conventions = DEFAULT_CONVENTIONS,
    *,
    include_ineligible: bool = False,
) -> tuple[Array, Array]:
    """EXPOSURE_ROW per contract and the one PLANE_ROW of a plane, from its QUOTE_ROW and CHAIN_ROW rows.

    Spot in points, market time in epoch seconds. `provider` takes the provider's gamma as it is, `auto` not when it
    is 0 (the provider rounds to four decimals), `own` never. What is left gets our own gamma, unless `provider`;
    without any it counts as `NO_IV`. Without spot `gex` is unknown, `gamma_oi` is not. `include_ineligible` keeps
    adjusted and expired contracts in the sums. `volume` is left to the caller.
    """
    minutes = (columns.settlement_ts - market_ts) / 60.0
    is_live = minutes > 0
    surface = fit_surface(columns, quotes, spot, minutes, conventions.rate) if is_live and spot is not None else None
    rows = _unknown(EXPOSURE_ROW, len(columns.strike))
    _choose_greeks(rows, columns, chain["greeks"], surface, conventions.gamma_mode)
    rows["flags"] = np.where(_stale(quotes, conventions.stale_sec), TickFlag.STALE, 0)
    open_interest = chain["interest"]["oi"]
    reasons = _reasons(rows["source"], open_interest)
    rows["reason"] = reasons if include_ineligible else _with_excluded(reasons, columns, is_live=is_live)
    kept = np.flatnonzero(rows["reason"] == Reason.KEPT)
    gamma_oi = rows["gamma"][kept] * open_interest[kept] * columns.multiplier[kept]
    rows["gamma_oi"][kept] = gamma_oi
    if spot is not None:
        rows["gex"][kept] = columns.sign[kept] * gamma_oi * (spot * spot * 0.01)
    return _one_nan(rows), _one_nan(_plane_row(columns, surface, minutes))


def _plane_row(columns: Columns, surface: Surface | None, minutes: float) -> Array:
    row = _unknown(PLANE_ROW, 1)
    row["forward_source"] = ForwardSource.NONE
    if minutes > 0:
        row["years"] = years_of(minutes)
        row["flags"] = TickFlag.NEAR_EXPIRY if minutes < SHORTEST_MINUTES else 0
    if surface is None:
        return row
    forward, move = surface.forward, expected_move(columns, surface)
    row["forward"], row["coherence"] = forward.value, forward.coherence
    row["forward_source"], row["strikes_used"] = forward.source, forward.strikes_used
    row["sigma_forward"], row["em_1sigma"], row["straddle"] = move.sigma, move.one_sigma, move.straddle
    row["flags"] |= TickFlag.INCOHERENT if forward.is_incoherent(surface.spot) else 0
    return row


# --- greeks


def _choose_greeks(
    rows: Array, columns: Columns, provided: npt.NDArray[np.void], surface: Surface | None, mode: GammaMode
) -> None:
    """Fill in greeks and their source: the provider's, else our own; vanna is always our own, it tells none."""
    venue = _usable_gamma(provided["gamma"], mode)
    rows["source"] = np.where(venue, Source.VENUE, Source.NONE)
    rows["gamma"] = np.where(venue, provided["gamma"], np.nan)
    rows["delta"] = np.where(venue, provided["delta"], np.nan)
    if surface is None:
        return
    own = own_greeks(columns, surface)
    rows["iv"], rows["vanna"] = own.iv, own.vanna
    if mode != "provider":
        mine = ~venue & np.isfinite(own.gamma)
        rows["source"][mine] = np.where(np.isfinite(own.iv[mine]), Source.OWN, Source.INTERP)
        rows["gamma"][mine] = own.gamma[mine]
        unknown = np.isnan(rows["delta"])
        rows["delta"][unknown] = own.delta[unknown]
    rows["delta_15m"] = delta_later(columns, surface, own, rows["delta"])


def _usable_gamma(gamma: Floats, mode: GammaMode) -> Mask:
    if mode == "own":
        return np.zeros(len(gamma), np.bool_)
    return _known(gamma) if mode == "provider" else _known(gamma) & (gamma > 0)


def _known(values: Floats) -> Mask:
    """Neither gamma nor open interest can be negative: such a value is no value."""
    known: Mask = np.isfinite(values) & (values >= 0)
    return known


# --- quality


def _stale(quotes: Array, stale_sec: float) -> Mask:
    """Quotes older than the plane's newest by more than `stale_sec`; one without a time has no age."""
    quoted_ms = quotes["quote"]["ms"]
    stale: Mask = (quoted_ms > 0) & (quoted_ms < quoted_ms.max(initial=0) - stale_sec * 1000.0)
    return stale


def _reasons(source: Integers, open_interest: Floats) -> Integers:
    """Per contract what it lacks: open interest, else greeks."""
    reasons = np.where(source == Source.NONE, np.int32(Reason.NO_IV), np.int32(Reason.KEPT))
    reasons[~_known(open_interest)] = Reason.NO_OI
    return reasons


def _with_excluded(reasons: Integers, columns: Columns, *, is_live: bool) -> Integers:
    """Contracts that take no part: their listing says so, or they settled since the board was made."""
    excluded = columns.excluded
    if not is_live:
        excluded = np.where(excluded == Reason.KEPT, np.int32(Reason.EXPIRED), excluded)
    return np.where(excluded == Reason.KEPT, reasons, excluded)


def _unknown(dtype: np.dtype[np.void], count: int) -> Array:
    """Rows whose numbers are NaN and whose integers are 0."""
    rows = np.zeros(count, dtype)
    for name in dtype.names or ():
        if dtype[name].kind == "f":
            rows[name] = np.nan
    return rows


def _one_nan(rows: Array) -> Array:
    """Every NaN as the same bits: which one arithmetic leaves behind is the processor's choice."""
    for name in rows.dtype.names or ():
        if rows.dtype[name].kind == "f":
            rows[name][np.isnan(rows[name])] = np.nan
    return rows
