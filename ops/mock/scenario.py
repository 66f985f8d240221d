"""What happens at a provider, by name: faults that come at a time, and the moment at which a market starts.

A scenario is a value: steps over time and where on the calendar its market begins. Times of steps are seconds
since the mock started, by the local clock. `name:12s` sets how long the fault of a named scenario lasts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import time
from enum import StrEnum
from types import MappingProxyType

from contracts.errors import FatalError

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)\Z")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

_AT_S = 20.0  # a pipeline that starts with the mock is live by then
_GAP = 0.03  # fraction of the spot: out of every window


class Fault(StrEnum):
    """What can go wrong; the comment says what a client sees."""

    # the feed
    SILENCE = "silence"  # no option events; sockets, index values and REST stay alive
    RECONNECT = "reconnect"  # sockets are aborted and refused

    # REST
    PARTIAL_CHAIN = "partial-chain"  # pages with the second expiration answer 500
    UNAUTHORISED = "401"  # every key is refused, by REST and by the feed
    THROTTLED = "429"  # too many requests

    # everything
    OUTAGE = "outage"  # REST and sockets are dropped without an answer

    # the market
    NEW_STRIKE = "new-strike"  # each symbol's first expiration lists one more strike
    SPOT_GAP = "spot-gap"  # the spot jumps


@dataclass(frozen=True, slots=True)
class Step:
    """A fault from `at_s` on for `for_s` seconds (0: a moment), again every `every_s` (never again by default).

    `by` is how much, where a fault has a size: the jump of the spot as a fraction of it.
    """

    what: Fault
    at_s: float = _AT_S
    for_s: float = 0.0
    every_s: float = math.inf
    by: float = 0.0

    def covers(self, elapsed_s: float) -> bool:
        """Whether the fault lasts at this time."""
        since = elapsed_s - self.at_s
        if since < 0.0:
            return False
        return (since if math.isinf(self.every_s) else since % self.every_s) < self.for_s

    def times_begun(self, elapsed_s: float) -> int:
        """How often the fault has begun by now."""
        since = elapsed_s - self.at_s
        if since < 0.0:
            return 0
        return 1 if math.isinf(self.every_s) else 1 + int(since // self.every_s)


class Day(StrEnum):
    """Which day of the calendar a scenario takes."""

    ORDINARY = "ordinary-day"  # trades, and is no monthly expiration
    THIRD_FRIDAY = "third-friday"  # a monthly expiration: AM series settle at its opening


@dataclass(frozen=True, slots=True)
class Start:
    """The first such moment of New York time that a data folder's market has not passed yet."""

    day: Day
    clock: time


@dataclass(frozen=True, slots=True)
class Scenario:
    """Faults over time, and the market they happen in; the default is a healthy provider in session.

    With `start` the market begins at that moment and runs through opening and close. `rate` is market seconds per
    second. `delist_after_s`: an expiration leaves the listing so long after it settled; None: with its day.
    """

    steps: tuple[Step, ...] = ()
    start: Start | None = None
    rate: float = 1.0
    delist_after_s: float | None = None

    def acts(self, fault: Fault, elapsed_s: float) -> bool:
        """Whether this fault lasts at this time."""
        return any(step.what is fault and step.covers(elapsed_s) for step in self.steps)

    def times_begun(self, fault: Fault, elapsed_s: float) -> int:
        """How often this fault has begun by now."""
        return sum(step.times_begun(elapsed_s) for step in self.steps if step.what is fault)

    def spot_factor(self, elapsed_s: float) -> float:
        """What the spot path is multiplied with: every jump so far."""
        gaps = (step for step in self.steps if step.what is Fault.SPOT_GAP)
        return math.prod((1.0 + step.by) ** step.times_begun(elapsed_s) for step in gaps)


def lasting(fault: Fault, for_s: float = math.inf, at_s: float = 0.0) -> Scenario:
    """One fault and nothing else; by default from the beginning for ever."""
    return Scenario((Step(fault, at_s, for_s),))


_BEFORE_OPEN = time(9, 29, 30)
_BEFORE_CLOSE = time(15, 59, 30)

SCENARIOS: Mapping[str, Scenario] = MappingProxyType(
    {
        "normal": Scenario(),
        Fault.SILENCE: lasting(Fault.SILENCE, 12.0, _AT_S),
        Fault.RECONNECT: lasting(Fault.RECONNECT, 3.0, _AT_S),
        Fault.OUTAGE: lasting(Fault.OUTAGE, 1200.0, _AT_S),
        Fault.PARTIAL_CHAIN: lasting(Fault.PARTIAL_CHAIN, 60.0, _AT_S),
        Fault.NEW_STRIKE: lasting(Fault.NEW_STRIKE, 0.0, _AT_S),
        Fault.SPOT_GAP: Scenario((Step(Fault.SPOT_GAP, by=_GAP),)),
        "expiration-roll": Scenario(start=Start(Day.ORDINARY, _BEFORE_CLOSE), delist_after_s=0.0),
        "am-settlement": Scenario(start=Start(Day.THIRD_FRIDAY, _BEFORE_OPEN)),
        "drift": Scenario(start=Start(Day.ORDINARY, time(9, 30)), rate=60.0),
        Fault.UNAUTHORISED: lasting(Fault.UNAUTHORISED),
        Fault.THROTTLED: Scenario((Step(Fault.THROTTLED, _AT_S, 5.0, 30.0),)),
    }
)


def parse_scenario(text: str) -> Scenario:
    """A scenario by name, `normal` or with a duration `silence:12s`; FatalError says what is allowed."""
    name, _, duration = text.partition(":")
    scenario = SCENARIOS.get(name)
    if scenario is None:
        raise FatalError(f"no scenario {name!r}; there are {', '.join(SCENARIOS)}")
    if not duration:
        return scenario
    for_s = _seconds(duration, text)
    if len(scenario.steps) != 1 or scenario.steps[0].for_s == 0.0:
        raise FatalError(f"scenario {name!r} takes no duration (got {text!r})")
    (step,) = scenario.steps
    # a longer fault recurs later, so that the provider is healthy in between
    return replace(scenario, steps=(replace(step, for_s=for_s, every_s=max(step.every_s, 2.0 * for_s)),))


def _seconds(duration: str, text: str) -> float:
    match = _DURATION.match(duration)
    if match is None:
        raise FatalError(f"not a duration in {text!r}: use for example 500ms, 12s, 20m or 1h")
    return float(match[1]) * _UNIT_S[match[2]]
