"""The JSON models of a tick, built from its cuts. Pure, and the longest computation of the tick path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import orjson

from contracts.analytics import AnalyticsCut, Moment, decode_cut
from contracts.compiled import CompiledEpoch, compiled_epoch
from contracts.keys import Keys
from stages.models.board import Json, front_plane
from stages.models.gex import gex_messages
from stages.models.gravity import gravity_inputs, gravity_model, history_point, minute_of
from stages.models.heatmap import encode_heatmap, heatmap_model
from stages.models.liquidity import Trail, View, liquidity_model, view_of
from stages.models.mode import mode_model
from stages.models.session import SessionProfile, decode_session, volume_by_strike

MODEL_NAMES = ("heatmap", "gex", "liquidity", "mode", "gravity")


@dataclass(frozen=True, slots=True)
class Memory:
    """What derived models remember from tick to tick: all of it stored, none of it known to a process alone."""

    trail: Trail = ()
    session: SessionProfile = field(default_factory=SessionProfile)


def decode_memory(trail: object, session: object) -> Memory:
    """The memory in its two keys, as they were read; absent ones are an empty memory."""
    assert isinstance(session, dict)
    return Memory(orjson.loads(trail) if isinstance(trail, bytes) else [], decode_session(session))


@dataclass(frozen=True, slots=True)
class Models:
    """The models of a tick by name (`heatmap`, `gex`, `liquidity`, `mode`; `gravity` when a minute closed)."""

    by_name: dict[str, Json]
    sides: dict[str, Json]  # GEX of calls and of puts
    memory: Memory


@dataclass(frozen=True, slots=True)
class Documents:
    """What a tick publishes: finished JSON by key, the gravity's line of the minute history, and the new memory."""

    by_key: dict[str, bytes]
    gravity_point: bytes | None
    memory: Memory


def build_documents(
    keys: Keys, listing: bytes, moment: Moment, cuts: Sequence[AnalyticsCut | bytes], rate: float, memory: Memory
) -> Documents:
    """The models of a tick, encoded: what a worker process hands back."""
    models = build_models(listing, moment, cuts, rate, memory)
    gravity = models.by_name.get("gravity")
    point = orjson.dumps(history_point(gravity)) if gravity else None
    return Documents(encode_models(keys, moment.symbol, models), point, models.memory)


def build_models(
    listing: bytes, moment: Moment, cuts: Sequence[AnalyticsCut | bytes], rate: float, memory: Memory
) -> Models:
    """Every model of a symbol, from the cuts of all planes in the order of the geometry and what was remembered.

    A function of its arguments alone: the same cuts, tick and memory give the same bits.
    """
    compiled = compiled_epoch(moment.epoch, listing)
    by_plane = {
        plane.id: decode_cut(cut) if isinstance(cut, bytes) else cut
        for plane, cut in zip(compiled.geometry.planes, cuts, strict=True)
    }
    gex, sides = gex_messages(moment, compiled.geometry, by_plane, rate)
    view = view_of(gex)
    liquidity = liquidity_model(moment, view, memory.trail)
    models = {
        "heatmap": heatmap_model(moment, compiled.geometry, compiled.plans, by_plane),
        "gex": gex,
        "liquidity": liquidity,
        "mode": mode_model(moment, view, gex, liquidity),
    }
    session, gravity = _gravity(moment, compiled, by_plane, view, rate, memory.session)
    if gravity is not None:
        models["gravity"] = gravity
    return Models(models, sides, Memory(liquidity["trail"], session))


def encode_models(keys: Keys, symbol: str, models: Models) -> dict[str, bytes]:
    """Key -> finished JSON of every model, with the views of one strategy and of one side."""
    views = encode_heatmap(models.by_name["heatmap"])
    encoded = {keys.heatmap_model(symbol, strategy): document for strategy, document in views.items()}
    for name, model in models.by_name.items():
        if name != "heatmap":
            encoded[keys.model(name, symbol)] = orjson.dumps(model)
    for side, message in models.sides.items():
        encoded[keys.gex_model(symbol, side)] = orjson.dumps(message)
    return encoded


def _gravity(
    moment: Moment,
    compiled: CompiledEpoch,
    cuts: dict[str, AnalyticsCut],
    view: View,
    rate: float,
    before: SessionProfile,
) -> tuple[SessionProfile, Json | None]:
    """The session's profile after this tick; and at the first tick after a minute's close its gravity."""
    front = front_plane(compiled.geometry, moment.ts)
    plan = compiled.plans[front.id] if front else None
    cut = cuts.get(front.id) if front else None
    volume: dict[int, float] = {}
    if front is not None and cut is not None:
        strike_milli = np.array([row.strike_milli for row in front.rows], np.int64)
        volume = volume_by_strike(strike_milli, cut.exposures["volume"])
    strikes = plan.strikes_milli if plan else np.zeros(0, np.int64)
    session = before.at_tick(moment.ts, moment.spot, strikes, volume)
    minute = minute_of(moment.ts)
    if minute <= session.minute:
        return session, None
    inputs = gravity_inputs(view, front, plan, cut, rate, session, moment.ts)
    gravity = gravity_model(moment, inputs)
    return session.with_gravity(minute, gravity["best"]), gravity
