"""Market Mode: do dealers dampen moves or amplify them, 0 (compression) to 100 (expansion) (models.md 4)."""

from __future__ import annotations

import math

from contracts.analytics import Moment
from stages.models.board import Json
from stages.models.liquidity import View, head_of

COMPRESSION_BELOW = 34
EXPANSION_FROM = 67


def mode_model(moment: Moment, view: View, gex: Json, liquidity: Json) -> Json:
    """The message `massive:mode:model:{U}`, from the same tick's GEX and Liquidity Intent."""
    reason = liquidity["reason"]
    score = None if reason else _score(view, gex, liquidity)
    return {
        **head_of("mode", moment),
        "reason": reason,
        "score": score,
        "mode": None if score is None else _mode(score),
        "inputs": {
            **view.inputs,
            "net": gex["net"],
            "abs": gex["abs"],
            "lfi": liquidity["lfi"],
            "c1": liquidity["inputs"]["c1"],
        },
    }


def _score(view: View, gex: Json, liquidity: Json) -> float:
    net, lfi, c1 = float(gex["net"]), float(liquidity["lfi"]), float(liquidity["inputs"]["c1"])
    amplified = _logistic(-4 * net / float(gex["abs"]))
    score = 100 * (0.40 * _beyond_flip(view, net) + 0.25 * amplified + 0.25 * (1 - lfi / 100) + 0.10 * (1 - c1))
    return min(max(score, 0.0), 100.0)


def _beyond_flip(view: View, net: float) -> float:
    """0 far above the flip, 1 far below; without a flip the side that the sign of net tells."""
    if view.flip is None:
        return 0.0 if net >= 0 else 1.0
    return _logistic(-3 * (view.spot - view.flip) / view.sigma)


def _mode(score: float) -> str:
    if score < COMPRESSION_BELOW:
        return "compression"
    return "expansion" if score >= EXPANSION_FROM else "transition"


def _logistic(x: float) -> float:
    # tanh does not overflow
    return 0.5 * (1 + math.tanh(x / 2))
