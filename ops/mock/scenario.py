"""What can go wrong at a provider, by name: a table of scenarios and when each of them acts.

Times are seconds since the mock started, by the local clock. `name:12s` sets how long the disturbance lasts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from contracts.errors import FatalError

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)\Z")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Window:
    """From `after_s` on for `length_s`, again every `every_s` (never again by default)."""

    after_s: float
    length_s: float
    every_s: float = math.inf

    def covers(self, elapsed_s: float) -> bool:
        """Whether the window is open."""
        since = elapsed_s - self.after_s
        if since < 0.0:
            return False
        return (since if math.isinf(self.every_s) else since % self.every_s) < self.length_s


NEVER = Window(math.inf, 0.0)
ALWAYS = Window(0.0, math.inf)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One disturbance of an otherwise healthy provider; the default is none."""

    silent: Window = NEVER  # no option events, sockets stay open
    disconnected: Window = NEVER  # sockets aborted and refused
    dead: Window = NEVER  # REST and sockets dropped without an answer
    failing_expiration: Window = NEVER  # pages with the second expiration answer 500
    throttled: Window = NEVER  # REST answers 429
    unauthorised: Window = NEVER  # every key is refused
    new_strike_after_s: float = math.inf
    gap_after_s: float = math.inf
    gap: float = 0.0  # jump of the spot, fraction
    drift_per_minute: float = 0.0  # fraction, swinging between plus and minus drift_limit
    drift_limit: float = 0.04

    def spot_factor(self, elapsed_s: float) -> float:
        """What the spot path is multiplied with."""
        jump = self.gap if elapsed_s >= self.gap_after_s else 0.0
        return (1.0 + jump) * (1.0 + self._drift(elapsed_s))

    def _drift(self, elapsed_s: float) -> float:
        if self.drift_per_minute == 0.0:
            return 0.0
        limit = self.drift_limit
        way = self.drift_per_minute * elapsed_s / 60.0
        return limit - abs((way + limit) % (4.0 * limit) - 2.0 * limit)


SCENARIOS: Mapping[str, Scenario] = {
    "normal": Scenario(),
    "silence": Scenario(silent=Window(20.0, 12.0, 60.0)),
    "reconnect": Scenario(disconnected=Window(20.0, 3.0, 30.0)),
    "outage": Scenario(dead=Window(20.0, 1200.0)),
    "partial-chain": Scenario(failing_expiration=Window(20.0, 60.0, 120.0)),
    "new-strike": Scenario(new_strike_after_s=20.0),
    "spot-gap": Scenario(gap_after_s=20.0, gap=0.03),
    "drift": Scenario(drift_per_minute=0.004),
    "401": Scenario(unauthorised=ALWAYS),
    "429": Scenario(throttled=Window(20.0, 5.0, 30.0)),
}
_WINDOWS = ("silent", "disconnected", "dead", "failing_expiration", "throttled")


def parse_scenario(text: str) -> Scenario:
    """A scenario by name, `normal` or with a duration `silence:12s`; FatalError says what is allowed."""
    name, _, duration = text.partition(":")
    scenario = SCENARIOS.get(name)
    if scenario is None:
        raise FatalError(f"no scenario {name!r}; there are {', '.join(SCENARIOS)}")
    if not duration:
        return scenario
    length_s = _seconds(duration, text)
    for field in _WINDOWS:
        window: Window = getattr(scenario, field)
        if window != NEVER:
            # A longer disturbance recurs later, so that the provider is healthy in between.
            every_s = max(window.every_s, 2.0 * length_s)
            changed: dict[str, Any] = {field: replace(window, length_s=length_s, every_s=every_s)}
            return replace(scenario, **changed)
    raise FatalError(f"scenario {name!r} takes no duration (got {text!r})")


def _seconds(duration: str, text: str) -> float:
    match = _DURATION.match(duration)
    if match is None:
        raise FatalError(f"not a duration in {text!r}: use for example 500ms, 12s, 20m or 1h")
    return float(match[1]) * _UNIT_S[match[2]]
