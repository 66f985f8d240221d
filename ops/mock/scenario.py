"""What happens at a provider, by name: faults that come at a time, and the moment at which a market starts.

A scenario is a value: steps over time and where on the calendar its market begins. Times of steps are seconds
since the mock started, by the local clock. `name:12s` sets how long the fault of a named scenario lasts. A file
says more (TOML, or JSON of the same form; what a step leaves out is as in the scenario of that name):

    start = { day = "third-friday", clock = "09:25:00" }  # or ordinary-day; without it the market is in session
    rate = 2.0  # market seconds per second
    delist_after = "60s"  # expirations leave the listing so long after they settled

    [[steps]]
    what = "silence"
    at = "20s"
    for = "12s"
    every = "60s"  # once, without it
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import time
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

import msgspec

from contracts.errors import FatalError

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)\Z")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

FILE_SUFFIXES = (".toml", ".json")

_AT_S = 30.0  # a pipeline that starts with the mock is live by then
_GAP = 0.03  # fraction of the spot: out of every window


class Fault(StrEnum):
    """What can go wrong; the comment says what a client sees."""

    # the feed
    SILENCE = "silence"  # no option events; sockets, index values and REST stay alive
    RECONNECT = "reconnect"  # sockets are aborted and refused
    STALL = "stall"  # the connections that are open never send again, their TCP stays alive
    ABORT = "abort"  # every connection ends without a close frame
    CLOSE_1000 = "close-1000"  # every connection is closed in good order
    EVICT_OLDEST = "evict-oldest"  # another process with our key connects, again and again: `max_connections`
    SLOW_CONSUMER = "slow-consumer"  # option events come later and later, then the connection ends
    OVER_LIMIT = "over-limit"  # a connection may hold a tenth of the usual number of option contracts on Q
    UNKNOWN_TOPIC = "unknown-topic"  # subscriptions to Q are passed over: no acknowledgement, no error, no events
    AUTH_TIMEOUT = "auth-timeout"  # a key is not answered, then `auth_timeout`
    LATE_AND_DUPLICATE = "late-and-duplicate"  # some events come seconds late, some come twice

    # REST
    PARTIAL_CHAIN = "partial-chain"  # pages of the second expiration answer 500
    CURSOR_LOOP = "cursor-loop"  # the third page of a chain leads back to the second
    DUPLICATE_ROWS = "duplicate-rows"  # a page begins with the last row of the one before
    FORBIDDEN_MID_PAGE = "403-mid-page"  # the second page of a chain is not included in the plan
    HTML_502 = "html-502"  # a web page instead of JSON, with status 502 or 200
    MISSING_GREEKS = "missing-greeks"  # no greeks, no volatility, `{}` for day and last trade
    EMPTY_UNDERLYING = "empty-underlying"  # underlying_asset is `{}`, absent, or delayed
    OI_FLIP = "oi-flip"  # open interest is that of one day or another, from answer to answer
    UNAUTHORISED = "401"  # every key is refused, by REST and by the feed
    THROTTLED = "429"  # too many requests; with a body or without, with Retry-After or without

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


# How each fault comes when a scenario does not say: when, for how long, how often, how much.
DEFAULTS: Mapping[Fault, Step] = MappingProxyType(
    {
        step.what: step
        for step in (
            Step(Fault.SILENCE, for_s=12.0),
            Step(Fault.RECONNECT, for_s=3.0),
            Step(Fault.STALL),
            Step(Fault.ABORT),
            Step(Fault.CLOSE_1000),
            Step(Fault.EVICT_OLDEST, for_s=30.0),
            Step(Fault.SLOW_CONSUMER, for_s=10.0),
            Step(Fault.OVER_LIMIT, at_s=0.0, for_s=60.0),
            Step(Fault.UNKNOWN_TOPIC, at_s=0.0, for_s=60.0),
            Step(Fault.AUTH_TIMEOUT, at_s=0.0, for_s=20.0),
            Step(Fault.LATE_AND_DUPLICATE, for_s=60.0),
            Step(Fault.PARTIAL_CHAIN, for_s=60.0),
            Step(Fault.CURSOR_LOOP, for_s=60.0),
            Step(Fault.DUPLICATE_ROWS, for_s=60.0),
            Step(Fault.FORBIDDEN_MID_PAGE, for_s=30.0),
            Step(Fault.HTML_502, for_s=15.0),
            Step(Fault.MISSING_GREEKS, for_s=60.0),
            Step(Fault.EMPTY_UNDERLYING, for_s=60.0),
            Step(Fault.OI_FLIP, for_s=60.0),
            Step(Fault.UNAUTHORISED, at_s=0.0, for_s=math.inf),
            Step(Fault.THROTTLED, for_s=15.0, every_s=60.0),
            Step(Fault.OUTAGE, for_s=1200.0),
            Step(Fault.NEW_STRIKE),
            Step(Fault.SPOT_GAP, by=_GAP),
        )
    }
)

_BEFORE_OPEN = time(9, 29)
_BEFORE_CLOSE = time(15, 59)
_DELISTED_AFTER_S = 60.0

SCENARIOS: Mapping[str, Scenario] = MappingProxyType(
    {
        "normal": Scenario(),
        **{str(fault): Scenario((step,)) for fault, step in DEFAULTS.items()},
        "expiration-roll": Scenario(start=Start(Day.ORDINARY, _BEFORE_CLOSE), delist_after_s=0.0),
        "expire-at-close": Scenario(start=Start(Day.ORDINARY, _BEFORE_CLOSE), delist_after_s=_DELISTED_AFTER_S),
        "am-settlement": Scenario(start=Start(Day.THIRD_FRIDAY, _BEFORE_OPEN)),
        "frozen-am": Scenario(start=Start(Day.THIRD_FRIDAY, time(11))),
        "drift": Scenario(start=Start(Day.ORDINARY, time(9, 30)), rate=60.0),
    }
)


def parse_scenario(text: str) -> Scenario:
    """A scenario by name, `silence` or with a duration `silence:12s`, or from a file, `morning.toml`.

    FatalError says what is allowed.
    """
    if text.endswith(FILE_SUFFIXES):
        return read_scenario(Path(text))
    name, _, duration = text.partition(":")
    scenario = SCENARIOS.get(name)
    if scenario is None:
        raise FatalError(f"no scenario {name!r}; there are {', '.join(SCENARIOS)}, and files (.toml, .json)")
    if not duration:
        return scenario
    if len(scenario.steps) != 1 or scenario.steps[0].for_s == 0.0:
        raise FatalError(f"scenario {name!r} takes no duration (got {text!r})")
    for_s = _seconds(duration, text)
    (step,) = scenario.steps
    # a longer fault recurs later, so that the provider is healthy in between
    return replace(scenario, steps=(replace(step, for_s=for_s, every_s=max(step.every_s, 2.0 * for_s)),))


# --- files


class _FileStep(msgspec.Struct, forbid_unknown_fields=True, rename={"for_": "for"}):
    what: Fault
    at: str | float | None = None
    for_: str | float | None = None
    every: str | float | None = None
    by: float | None = None


class _FileStart(msgspec.Struct, forbid_unknown_fields=True):
    day: Day
    clock: str


class _File(msgspec.Struct, forbid_unknown_fields=True):
    steps: tuple[_FileStep, ...] = ()
    start: _FileStart | None = None
    rate: float = 1.0
    delist_after: str | float | None = None


def read_scenario(path: Path) -> Scenario:
    """A scenario from a TOML or JSON file; FatalError names the file and what is wrong in it."""
    decode = msgspec.toml.decode if path.suffix == ".toml" else msgspec.json.decode
    try:
        told = decode(path.read_bytes(), type=_File)
        return _scenario_of(told)
    except OSError as error:
        raise FatalError(f"scenario {path}: cannot be read ({error.strerror})") from error
    except (msgspec.DecodeError, msgspec.ValidationError, ValueError, FatalError) as error:
        raise FatalError(f"scenario {path}: {error}") from error


def _scenario_of(told: _File) -> Scenario:
    if not (0.0 < told.rate < math.inf):
        raise FatalError(f"rate {told.rate:g}: must be above 0")
    start = None if told.start is None else Start(told.start.day, time.fromisoformat(told.start.clock))
    if start is None and told.rate != 1.0:
        raise FatalError("rate: a market that runs faster needs a start")
    delist_after_s = None if told.delist_after is None else _length(told.delist_after)
    return Scenario(tuple(_step_of(step) for step in told.steps), start, told.rate, delist_after_s)


def _step_of(told: _FileStep) -> Step:
    step = DEFAULTS[told.what]
    lasts, has_size = step.for_s > 0.0, step.by != 0.0
    if told.for_ is not None and not lasts:
        raise FatalError(f"{told.what} happens at a moment: leave out `for`")
    if told.by is not None and not has_size:
        raise FatalError(f"{told.what} has no size: leave out `by`")
    step = Step(
        told.what,
        at_s=step.at_s if told.at is None else _length(told.at),
        for_s=step.for_s if told.for_ is None else _length(told.for_),
        every_s=math.inf if told.every is None else _length(told.every),
        by=step.by if told.by is None else told.by,
    )
    if (lasts and step.for_s == 0.0) or step.every_s <= step.for_s < math.inf:
        raise FatalError(f"{told.what}: `for` must be above 0 and below `every`")
    return step


def _length(value: str | float) -> float:
    """Seconds, from a number of them or a text such as 20s."""
    if isinstance(value, str):
        return _seconds(value, value)
    if not (0.0 <= value < math.inf):
        raise FatalError(f"{value:g} is no number of seconds")
    return float(value)


def _seconds(duration: str, text: str) -> float:
    match = _DURATION.match(duration)
    if match is None:
        raise FatalError(f"not a duration in {text!r}: use for example 500ms, 12s, 20m or 1h")
    return float(match[1]) * _UNIT_S[match[2]]
