"""Rules of alerts: what a TOML file may say. Points and dollars as published; seconds.

[[rule]]
name = "flip"
when = "flip_crossed"
"""

from __future__ import annotations

import re
import tomllib
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec

from contracts.errors import DataError
from contracts.plan import SIDES, SINGLE, STRATEGIES
from ops.gateway.tiles import MOST_POINTS

MOST_RULES = 200
FRONT = "front"  # the plane that settles next

_PLANE = r"^(front|[A-Z0-9.]{1,10}:[0-9]{4}-[0-9]{2}-[0-9]{2})$"
_URL = r"^https?://[^\s/]+\S*$"

Positive = Annotated[float, msgspec.Meta(gt=0, le=1e9)]


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="when"):
    """What all rules have. Without a symbol a rule is for every symbol; `webhook` is posted to with each alert."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$")]
    symbol: Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{1,6}[0-9]?$")] | None = None
    webhook: Annotated[str, msgspec.Meta(pattern=_URL)] | None = None


class FlipCrossed(Rule, tag="flip_crossed", frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Spot changes sides of the gamma flip, and is more than `beyond` points past it."""

    beyond: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0


class WallMoved(Rule, tag="wall_moved", frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A wall is at least `points` from where it was when this rule last spoke."""

    wall: Literal["call_wall", "put_wall"]
    points: Positive


class TileBelow(Rule, tag="tile_below", frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The mid debit of a tile falls below `debit` dollars. `plane` is `front` or a plane's id."""

    strategy: Literal["butterfly", "vertical", "single"]
    side: Literal["call", "put"]
    strike: Annotated[float, msgspec.Meta(gt=0, le=MOST_POINTS)]
    debit: Annotated[float, msgspec.Meta(ge=-1e6, le=1e6)]
    width: Annotated[float, msgspec.Meta(ge=0, le=MOST_POINTS)] = 0.0
    plane: Annotated[str, msgspec.Meta(pattern=_PLANE)] = FRONT


class ModeChanged(Rule, tag="mode_changed", frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Market Mode becomes another one."""


class Stale(Rule, tag="stale", frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The newest published model is older than `seconds`."""

    seconds: Positive


class PromotionStorm(Rule, tag="promotion_storm", frozen=True, forbid_unknown_fields=True, kw_only=True):
    """More than `promotions` promotions within `seconds`, dormancy apart."""

    promotions: Annotated[int, msgspec.Meta(ge=1, le=90)] = 6
    seconds: Positive = 60.0


AnyRule: TypeAlias = FlipCrossed | WallMoved | TileBelow | ModeChanged | Stale | PromotionStorm

_RULE = re.compile(r" - at `\$\.rule\[(\d+)\]((?:\.\w+)?)`")
assert STRATEGIES == ("butterfly", "vertical", "single") and SIDES == ("call", "put")


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rule: Annotated[list[AnyRule], msgspec.Meta(max_length=MOST_RULES)] = []


def parse_rules(text: str) -> tuple[AnyRule, ...]:
    """The rules of a file; `DataError` says which rule is wrong and why."""
    try:
        read = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also numbers too long, brackets too deep
        raise DataError(f"not TOML: {error}") from None
    try:
        rules = msgspec.convert(read, _File).rule
    except msgspec.ValidationError as error:
        raise DataError(_explained(str(error), read)) from None
    names = [rule.name for rule in rules]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise DataError(f"rule {doubled[0]!r}: the name is given twice")
    for rule in rules:
        if isinstance(rule, TileBelow) and (rule.strategy == SINGLE) != (rule.width == 0):
            raise DataError(f"rule {rule.name!r}: width: a single has none, a butterfly and a vertical have one")
        if rule.webhook is not None and not _is_address(rule.webhook):
            raise DataError(f"rule {rule.name!r}: webhook: no address (which may be a secret, so it is not shown)")
    return tuple(rules)


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that are no IPv6 address, a port that is no number
        return False


def _explained(problem: str, read: dict[str, Any]) -> str:
    """msgspec's words with the rule's own name in place of its number."""
    found = _RULE.search(problem)
    if found is None:
        return problem
    number = int(found[1])
    name = read["rule"][number].get("name") if isinstance(read["rule"][number], dict) else None
    place = f"rule {name!r}" if isinstance(name, str) else f"rule {number + 1}"
    return f"{place}: {found[2].removeprefix('.') + ': ' if found[2] else ''}{problem[: found.start()]}"
