"""What a rule says of published values. Pure: the same values judged twice never alert twice.

A rule speaks on a change, so it remembers where it stood: its `Standing`, a few JSON scalars. What is not known
(null) changes nothing: it neither alerts nor is it remembered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ops.alerts.rules import AnyRule, FlipCrossed, ModeChanged, PromotionStorm, Stale, TileBelow, WallMoved

Scalar = str | float | int | bool | None
Standing = Mapping[str, Scalar]
TileKey = tuple[str, str, str, float, float]  # plane as the rule names it, strategy, side, strike, width


@dataclass(frozen=True, slots=True)
class Facts:
    """Published values of one symbol at one moment. `ts` is market time; what is unknown is None."""

    symbol: str
    ts: float
    epoch: str | None = None
    tick: int | None = None
    model_ts: float | None = None  # of the newest published model
    spot: float | None = None
    flip: float | None = None
    walls: Mapping[str, float | None] = field(default_factory=dict)
    mode: str | None = None
    tiles: Mapping[TileKey, float | None] = field(default_factory=dict)  # mid debits
    promotions: tuple[float, ...] = ()  # when, dormancy apart


@dataclass(frozen=True, slots=True)
class Judgement:
    """Where the rule stands now, and when it speaks: what it says, with the values it is about."""

    standing: Standing
    text: str = ""
    values: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def is_alert(self) -> bool:
        """Whether the rule speaks."""
        return bool(self.text)


def judge(rule: AnyRule, facts: Facts, before: Standing | None) -> Judgement:
    """The judgement of one rule; `before` is None when it has never stood anywhere."""
    then = before or {}
    match rule:
        case FlipCrossed():
            return _flip(rule, facts, then)
        case WallMoved():
            return _wall(rule, facts, then)
        case TileBelow():
            return _tile(rule, facts, then)
        case ModeChanged():
            return _mode(facts, then)
        case Stale():
            return _stale(rule, facts, then)
        case PromotionStorm():
            return _storm(rule, facts, then)


def tile_key(rule: TileBelow) -> TileKey:
    """Which tile a rule is about."""
    return rule.plane, rule.strategy, rule.side, rule.strike, rule.width


def _flip(rule: FlipCrossed, facts: Facts, then: Standing) -> Judgement:
    spot, flip = facts.spot, facts.flip
    if spot is None or flip is None or abs(spot - flip) <= rule.beyond:
        return Judgement(then)
    side, old = ("above" if spot > flip else "below"), then.get("side")
    if side == old:
        return Judgement(then)
    now = {"side": side}
    if old is None:
        return Judgement(now)
    text = f"{facts.symbol} spot {spot:g} crossed {side} the flip {flip:g}"
    return Judgement(now, text, {"spot": spot, "flip": flip, "from": old, "to": side})


def _wall(rule: WallMoved, facts: Facts, then: Standing) -> Judgement:
    value, old = facts.walls.get(rule.wall), then.get("value")
    if value is None:
        return Judgement(then)
    if not isinstance(old, int | float):
        return Judgement({"value": value})
    if abs(value - old) < rule.points:
        return Judgement(then)
    text = f"{facts.symbol} {rule.wall.replace('_', ' ')} moved from {old:g} to {value:g}"
    return Judgement({"value": value}, text, {"from": old, "to": value, "spot": facts.spot})


def _tile(rule: TileBelow, facts: Facts, then: Standing) -> Judgement:
    mid = facts.tiles.get(tile_key(rule))
    if mid is None:
        return Judgement(then)
    is_below = mid < rule.debit
    if not is_below or then.get("below"):
        return Judgement({"below": is_below})
    width = f" {rule.width:g} wide" if rule.width else ""
    text = f"{facts.symbol} {rule.strike:g} {rule.side} {rule.strategy}{width} costs {mid:.2f}, below {rule.debit:.2f}"
    return Judgement({"below": True}, text, {"mid": mid, "debit": rule.debit, "spot": facts.spot})


def _mode(facts: Facts, then: Standing) -> Judgement:
    mode, old = facts.mode, then.get("mode")
    if mode is None or mode == old:
        return Judgement(then)
    if old is None:
        return Judgement({"mode": mode})
    return Judgement({"mode": mode}, f"{facts.symbol} mode is {mode}, it was {old}", {"from": old, "to": mode})


def _stale(rule: Stale, facts: Facts, then: Standing) -> Judgement:
    if facts.model_ts is None:
        return Judgement(then)
    age_s = facts.ts - facts.model_ts
    is_stale = age_s > rule.seconds
    if not is_stale or then.get("stale"):
        return Judgement({"stale": is_stale})
    text = f"{facts.symbol} models are {age_s:.0f} s old"
    return Judgement({"stale": True}, text, {"age_s": age_s, "model_ts": facts.model_ts})


def _storm(rule: PromotionStorm, facts: Facts, then: Standing) -> Judgement:
    count = sum(facts.ts - rule.seconds < ts <= facts.ts for ts in facts.promotions)
    is_storm = count > rule.promotions
    if not is_storm or then.get("storm"):
        return Judgement({"storm": is_storm})
    text = f"{facts.symbol} was promoted {count} times within {rule.seconds:g} s"
    return Judgement({"storm": True}, text, {"promotions": count, "seconds": rule.seconds})
