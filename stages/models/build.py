"""The JSON models of a tick, built from its cuts. Pure, and the longest computation of the tick path."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from contracts.analytics import AnalyticsCut, Moment, decode_cut
from contracts.keys import Keys
from stages.calculate.layers import compiled_epoch
from stages.calculate.plan import STRATEGIES
from stages.models.gex import gex_model, gex_sides
from stages.models.heatmap import heatmap_model, strategy_view


def build_models(
    keys: Keys, listing: bytes, moment: Moment, cuts: Sequence[AnalyticsCut | bytes], rate: float
) -> dict[str, bytes]:
    """Key -> finished JSON of every model of a symbol, from the cuts of all planes in the order of the geometry."""
    compiled = compiled_epoch(moment.epoch, listing)
    by_plane = {
        plane.id: decode_cut(cut) if isinstance(cut, bytes) else cut
        for plane, cut in zip(compiled.geometry.planes, cuts, strict=True)
    }
    heatmap = heatmap_model(moment, compiled.geometry, compiled.plans, by_plane)
    models = {
        keys.heatmap_model(moment.symbol): heatmap,
        keys.gex_model(moment.symbol): gex_model(moment, compiled.geometry, by_plane, rate),
    }
    for strategy in STRATEGIES:
        models[keys.heatmap_model(moment.symbol, strategy)] = strategy_view(heatmap, strategy)
    for side, model in gex_sides(moment, compiled.geometry, by_plane).items():
        models[keys.gex_model(moment.symbol, side)] = model
    return {key: orjson.dumps(model) for key, model in models.items()}
