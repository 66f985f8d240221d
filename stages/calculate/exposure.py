"""Gamma exposure per contract at one moment: a pure function of the plane's arrays and the tick.

`gamma * open interest * multiplier * S^2 * 0.01`: US dollars of delta per 1 % move of spot S, calls positive,
puts negative (models.md section 3). Gamma is the provider's (models.md section 1, "Greeks", step 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from contracts.analytics import EXPOSURE_ROW, PLANE_ROW, ForwardSource, Reason, Source
from contracts.planes import Array
from stages.calculate.columns import Columns

GammaMode = Literal["provider", "auto", "own"]


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
    is 0 (the provider rounds to four decimals), `own` never; what is left without gamma counts as `NO_IV`. Without
    spot `gex` is unknown, `gamma_oi` is not. `include_ineligible` keeps adjusted and expired contracts in the sums.
    """
    gamma, open_interest = chain["greeks"]["gamma"], chain["interest"]["oi"]
    usable = _usable_gamma(gamma, conventions.gamma_mode)
    reason = np.where(usable, Reason.KEPT, Reason.NO_IV)
    reason[~_known(open_interest)] = Reason.NO_OI
    if not include_ineligible:
        excluded = _excluded(columns, market_ts)
        np.copyto(reason, excluded, where=excluded != Reason.KEPT)

    rows = _unknown(EXPOSURE_ROW, len(chain))
    rows["reason"] = reason
    rows["source"] = np.where(usable, Source.VENUE, Source.NONE)
    rows["gamma"][usable] = gamma[usable]
    kept = np.flatnonzero(reason == Reason.KEPT)
    gamma_oi = gamma[kept] * open_interest[kept] * columns.multiplier[kept]
    rows["gamma_oi"][kept] = gamma_oi
    if spot is not None:
        rows["gex"][kept] = columns.sign[kept] * gamma_oi * (spot * spot * 0.01)
    plane = _unknown(PLANE_ROW, 1)
    plane["forward_source"] = ForwardSource.NONE
    return rows, plane


def _unknown(dtype: np.dtype[np.void], count: int) -> Array:
    """Rows whose numbers are NaN and whose integers are 0."""
    rows = np.zeros(count, dtype)
    for name in dtype.names or ():
        if dtype[name].kind == "f":
            rows[name] = np.nan
    return rows


def _usable_gamma(gamma: npt.NDArray[np.float64], mode: GammaMode) -> npt.NDArray[np.bool_]:
    if mode == "own":
        return np.zeros(len(gamma), np.bool_)
    return _known(gamma) if mode == "provider" else _known(gamma) & (gamma > 0)


def _known(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Neither gamma nor open interest can be negative: such a value is no value."""
    return np.isfinite(values) & (values >= 0)


def _excluded(columns: Columns, market_ts: float) -> npt.NDArray[np.int32]:
    """Per contract why it takes no part: its listing says so, or it settled since the board was made."""
    if market_ts < columns.settlement_ts:
        return columns.excluded
    return np.where(columns.excluded == Reason.KEPT, np.int32(Reason.EXPIRED), columns.excluded)
