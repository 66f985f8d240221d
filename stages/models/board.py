"""The contracts of all planes at one tick as columns, the front plane, and how numbers become JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.analytics import EXPOSURE_ROW, AnalyticsCut, Reason
from contracts.geometry import Geometry, Plane
from contracts.planes import Array
from contracts.symbology import CALL

Json = dict[str, Any]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Milli = npt.NDArray[np.int64]

NO_SPOT = "no_spot"
NO_EXPOSURES = "no_exposures"  # every contract was left out: `dropped` says why
NO_INTEREST = "no_open_interest"
NO_FRONT_PLANE = "no_front_plane"  # every plane has settled
NO_VOLATILITY = "no_volatility"  # no own implied volatility at the forward of the front plane
NOT_COMPUTED = "not_computed"
OK = "ok"


@dataclass(frozen=True, slots=True, eq=False)
class Board:
    """Every contract of the planes that have a cut, in geometry order: planes by settlement, contracts by strike."""

    planes: tuple[Plane, ...]
    cuts: tuple[AnalyticsCut, ...]
    rows: tuple[slice, ...]  # the contracts of each plane
    expirations: tuple[str, ...]  # ascending
    expiration: npt.NDArray[np.int64]  # number in `expirations`
    strike_milli: Milli
    is_call: Mask
    is_american: Mask
    sign: Floats  # +1 calls, -1 puts
    multiplier: Floats
    open_interest: Floats  # NaN unknown
    exposures: Array  # EXPOSURE_ROW

    @property
    def kept(self) -> Mask:
        """Contracts with open interest and greeks."""
        kept: Mask = self.exposures["reason"] == Reason.KEPT
        return kept

    @property
    def in_scope(self) -> Mask:
        """Contracts the model is about, with or without usable data."""
        excluded: Mask = np.isin(self.exposures["reason"], (Reason.ADJUSTED, Reason.EXPIRED))
        return ~excluded

    @property
    def known_interest(self) -> Floats:
        """Open interest, 0 where there is none or it is unknown."""
        return np.where(self.open_interest > 0, self.open_interest, 0.0)


def gather(geometry: Geometry, cuts: Mapping[str, AnalyticsCut]) -> Board:
    """The board of some planes, by plane id."""
    planes = tuple(plane for plane in geometry.planes if plane.id in cuts)
    found = tuple(cuts[plane.id] for plane in planes)
    expirations = tuple(sorted({plane.expiration for plane in planes}))
    sizes = [len(plane.rows) for plane in planes]
    ends = np.cumsum([0, *sizes]).tolist()
    rows = [row for plane in planes for row in plane.rows]
    is_call = np.array([row.type == CALL for row in rows], np.bool_)
    return Board(
        planes=planes,
        cuts=found,
        rows=tuple(slice(start, end) for start, end in pairwise(ends)),
        expirations=expirations,
        expiration=np.repeat(np.array([expirations.index(plane.expiration) for plane in planes], np.int64), sizes),
        strike_milli=np.array([row.strike_milli for row in rows], np.int64),
        is_call=is_call,
        is_american=np.array([row.exercise == "american" for row in rows], np.bool_),
        sign=np.where(is_call, 1.0, -1.0),
        multiplier=np.array([row.multiplier for row in rows], np.float64),
        open_interest=np.concatenate([np.zeros(0), *(cut.chain["interest"]["oi"] for cut in found)]),
        exposures=np.concatenate([np.zeros(0, EXPOSURE_ROW), *(cut.exposures for cut in found)]),
    )


def front_plane(geometry: Geometry, ts: float) -> Plane | None:
    """The eligible plane of earliest settlement after `ts`, PM before AM on ties."""
    live = [
        plane for plane in geometry.planes if plane.settlement_ts > ts and any(not row.eligible for row in plane.rows)
    ]
    return min(
        live, key=lambda plane: (plane.settlement_ts, plane.rows[0].settlement == "am", plane.root), default=None
    )


def number(value: float | np.floating[Any]) -> float | None:
    """A float to publish; unknown is null."""
    return float(value) if math.isfinite(value) else None


def numbers(values: npt.NDArray[Any], known: Mask) -> list[Any]:
    """Numbers to publish, null where one is not known."""
    nullable = values.astype(object)
    nullable[~known] = None
    return list(nullable.tolist())


def sum_in_order(values: Floats) -> float | None:
    """One addition after the other, as any client does it (`np.sum` has an order of its own); None of nothing."""
    return float(np.add.accumulate(values)[-1]) if len(values) else None
