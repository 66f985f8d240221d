"""Dormancy: what a silent feed does to an epoch. Pure; all times are receive time in epoch seconds.

A chain that arrives while no option event came for longer than a threshold is counted. When more than a configured
number was counted, a new epoch is forced over the same geometry: everything is recomputed. While the silence lasts,
further ones are forced only by chains that changed a value, and not before a delay that doubles from 10 to 60 s. The
first option event resets count and delay: a silence is known by the event before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from contracts.commit import Scalar

FIRST_DELAY_S = 10.0
LONGEST_DELAY_S = 60.0


@dataclass(frozen=True, slots=True)
class DormancySettings:
    """`threshold_s`: silence that makes a chain count; `count`: how many such chains are let pass."""

    threshold_s: float
    count: int


@dataclass(frozen=True, slots=True)
class Silence:
    """The feed of a symbol as a chain finds it.

    `event_ts`: the newest option event, None if there never was one; `silent_s`: for how long there was none, None if
    nobody has looked yet.
    """

    event_ts: float | None = None
    silent_s: float | None = None


@dataclass(frozen=True, slots=True)
class Dormancy:
    """What an epoch's meta keeps of a silence; handed on to the epochs that follow in it."""

    count: int = 0  # chains that arrived in it
    event_ts: float | None = None  # the option event before it
    forced_ts: float | None = None  # when the fetch ended that last forced an epoch
    delay_s: float = 0.0  # not before so much later is another one forced

    @property
    def fields(self) -> dict[str, Scalar]:
        """The fields of the meta."""
        return {
            "dormant_count": self.count,
            "dormant_event_ts": _text(self.event_ts),
            "dormant_forced_ts": _text(self.forced_ts),
            "dormant_delay_s": self.delay_s,
        }

    def after_chain(self, silence: Silence, settings: DormancySettings) -> Dormancy:
        """One more chain arrived, in this silence or after it."""
        known = self if silence.event_ts == self.event_ts else Dormancy(event_ts=silence.event_ts)
        if not is_dormant(silence, settings):
            return known
        return replace(known, count=known.count + 1)

    def forces(self, silence: Silence, ended_ts: float, settings: DormancySettings, *, changed: bool) -> bool:
        """Whether the chain just counted, whose fetch ended at `ended_ts`, forces an epoch.

        `changed`: it told another value than was known.
        """
        if not is_dormant(silence, settings) or self.count <= settings.count:
            return False
        if self.forced_ts is None:
            return True
        return changed and ended_ts - self.forced_ts >= self.delay_s

    def after_forced(self, ended_ts: float) -> Dormancy:
        """An epoch was forced by the fetch that ended then."""
        delay_s = min(2 * self.delay_s, LONGEST_DELAY_S) if self.delay_s else FIRST_DELAY_S
        return replace(self, forced_ts=ended_ts, delay_s=delay_s)


def is_dormant(silence: Silence, settings: DormancySettings) -> bool:
    """Whether the feed is silent for longer than the threshold."""
    return silence.silent_s is not None and silence.silent_s > settings.threshold_s


def decode_dormancy(meta: Mapping[str, str]) -> Dormancy:
    """Read it from an epoch's meta; absent fields are at their start."""
    return Dormancy(
        count=int(meta.get("dormant_count") or 0),
        event_ts=number(meta.get("dormant_event_ts")),
        forced_ts=number(meta.get("dormant_forced_ts")),
        delay_s=number(meta.get("dormant_delay_s")) or 0.0,
    )


def measure_silence(feed: Mapping[str, str], tick: Mapping[str, str], meta: Mapping[str, str]) -> Silence:
    """The silence of a symbol: up to what the last tick recorded as processed, since the newest option event.

    Without any event it counts from the start of the epoch; without a tick or a start it is unknown.
    """
    event_ts = number(feed.get("event_ts"))
    since = event_ts if event_ts is not None else number(meta.get("started_ts"))
    until = number(tick.get("feed_ts"))
    return Silence(event_ts, until - since if until is not None and since is not None else None)


def number(text: str | None) -> float | None:
    """A number of a HASH; unknown is empty or absent."""
    return float(text) if text else None


def _text(value: float | None) -> Scalar:
    return "" if value is None else value
