"""Gamma exposure per contract at one moment: a pure function of the plane's arrays and the tick.

`gamma * open interest * multiplier * S^2 * 0.01`: US dollars of delta per 1 % move of spot S, calls positive,
puts negative (models.md section 3). Gamma is the provider's (models.md section 1, "Greeks", step 1).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from contracts.analytics import EXPOSURE_ROW, Reason, Source
from contracts.geometry import Plane
from contracts.planes import Array
from contracts.symbology import CALL

GammaMode = Literal["provider", "auto", "own"]

_EXCLUDED = {"": Reason.KEPT, "expired": Reason.EXPIRED}  # any other reason is an adjustment


def compute_exposures(
    plane: Plane,
    chain: Array,
    spot: float | None,
    market_ts: float,
    gamma_mode: GammaMode = "auto",
    include_ineligible: bool = False,
) -> Array:
    """EXPOSURE_ROW per contract of the plane, from its CHAIN_ROW rows, spot in points and the market time.

    `provider` takes the provider's gamma as it is, `auto` not when it is 0 (the provider rounds to four
    decimals), `own` never; what is left without gamma counts as `NO_IV`. Without spot `gex` is unknown,
    `gamma_oi` is not. `include_ineligible` keeps adjusted and expired contracts in the sums.
    """
    gamma, open_interest = chain["greeks"]["gamma"], chain["interest"]["oi"]
    usable = _usable_gamma(gamma, gamma_mode)
    reason = np.where(usable, Reason.KEPT, Reason.NO_IV)
    reason[~_known(open_interest)] = Reason.NO_OI
    if not include_ineligible:
        excluded = _excluded(plane, market_ts)
        np.copyto(reason, excluded, where=excluded != Reason.KEPT)

    rows = np.full(len(chain), np.array((np.nan, np.nan, np.nan, Source.NONE, Reason.KEPT), EXPOSURE_ROW))
    rows["reason"] = reason
    rows["source"][usable] = Source.VENUE
    rows["gamma"][usable] = gamma[usable]
    kept = np.flatnonzero(reason == Reason.KEPT)
    multiplier = np.array([row.multiplier for row in plane.rows], np.float64)
    gamma_oi = gamma[kept] * open_interest[kept] * multiplier[kept]
    rows["gamma_oi"][kept] = gamma_oi
    if spot is not None:
        sign = np.array([1.0 if row.type == CALL else -1.0 for row in plane.rows])
        rows["gex"][kept] = sign[kept] * gamma_oi * (spot * spot * 0.01)
    return rows


def _usable_gamma(gamma: npt.NDArray[np.float64], mode: GammaMode) -> npt.NDArray[np.bool_]:
    if mode == "own":
        return np.zeros(len(gamma), np.bool_)
    return _known(gamma) if mode == "provider" else _known(gamma) & (gamma > 0)


def _known(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Neither gamma nor open interest can be negative: such a value is no value."""
    return np.isfinite(values) & (values >= 0)


def _excluded(plane: Plane, market_ts: float) -> npt.NDArray[np.int64]:
    """Per contract why it takes no part: its listing says so, or it settled since the board was made."""
    settled = market_ts >= plane.settlement_ts
    reasons = [_EXCLUDED.get(row.eligible, Reason.ADJUSTED) for row in plane.rows]
    return np.array([Reason.EXPIRED if settled and not why else why for why in reasons], np.int64)
