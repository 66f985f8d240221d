"""Which strategy widths a symbol's board shows (models.md section 2)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from contracts.geometry import Geometry
from contracts.settings import DEFAULT_WIDTHS

STEP_MULTIPLES = (2, 3, 4, 5, 6, 8, 10)
NEAR_SPOT = 0.05


def default_widths(
    symbol: str, geometry: Geometry, spot: float | None, configured: Mapping[str, tuple[float, ...]]
) -> tuple[float, ...]:
    """The configured widths in points, else the shipped ones, else multiples of the usual strike step.

    The step is the median distance between neighbouring eligible strikes of a plane (legs of a strategy share
    one), over all planes, within 5 % of spot; over all strikes if spot is unknown or no two lie near it.
    Empty if no plane has two eligible strikes.
    """
    widths = configured.get(symbol) or DEFAULT_WIDTHS.get(symbol)
    if widths:
        return tuple(float(width) for width in widths)
    steps = _strike_steps(geometry, spot) or _strike_steps(geometry, None)
    if not steps:
        return ()
    # the lower median: a step that is listed, never the average of two
    step_milli = sorted(steps)[(len(steps) - 1) // 2]
    return tuple(multiple * step_milli / 1000 for multiple in STEP_MULTIPLES)


def _strike_steps(geometry: Geometry, spot: float | None) -> list[int]:
    """Distances between neighbouring eligible strikes of each plane, both near spot, in thousandths."""
    steps: list[int] = []
    for plane in geometry.planes:
        strikes = sorted({row.strike_milli for row in plane.rows if not row.eligible})
        if spot is not None:
            reach = NEAR_SPOT * spot
            strikes = [strike for strike in strikes if abs(strike / 1000 - spot) <= reach]
        steps += [above - below for below, above in pairwise(strikes)]
    return steps
