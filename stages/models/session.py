"""What derived models remember of a session: spot time and option volume by strike, and the last gravity.

Kept in a HASH per underlying, one field per strike, so that a tick writes only what it changed. It is bounded by the
strikes of the front plane and starts over with each session.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.sessions import new_york_date, session_of
from stages.models.board import Floats, Milli

OPENING_S = 1800.0  # in the first half hour of a session no strike is more accepted than another
LONGEST_STEP_S = 60.0  # ticks farther apart tell spot's whereabouts for a minute, not for the time between them

_TIME, _VOLUME = "time:", "volume:"


@dataclass(frozen=True, slots=True)
class SessionProfile:
    """The state after a tick. Strikes are thousandths of a point; times are epoch seconds of the market clock."""

    date: str = ""  # New York date
    ts: float = 0.0  # of the last tick
    minute: int = -1  # the last minute whose gravity was computed, counted from the epoch
    best: float | None = None  # that gravity's best strike
    time_s: Mapping[int, float] = field(default_factory=dict)  # session's spot time within half a step
    volume: Mapping[int, float] = field(default_factory=dict)  # option volume of the front plane, contracts

    def at_tick(
        self, ts: float, spot: float | None, strikes_milli: Milli, volume: Mapping[int, float]
    ) -> SessionProfile:
        """The profile after a tick, from the strikes of the front plane and their volume so far.

        Time passes from tick to tick: the same tick once more changes nothing.
        """
        date = new_york_date(ts).isoformat()
        before = self if date == self.date else SessionProfile(date)
        session = session_of(ts)
        if session is None or not session.contains(ts):
            return replace(before, ts=ts)
        time_s = dict(before.time_s)
        strike = _strike_at(strikes_milli, spot)
        if strike is not None:
            # from the open, or from the tick before; where spot was before the first of all ticks nobody saw
            since_ts = max(before.ts, session.open_ts) if before.ts else ts
            time_s[strike] = time_s.get(strike, 0.0) + min(max(ts - since_ts, 0.0), LONGEST_STEP_S)
        return replace(before, ts=ts, time_s=time_s, volume={**before.volume, **volume})

    def with_gravity(self, minute: int, best: float | None) -> SessionProfile:
        """The profile after a minute's gravity; one without a strike keeps the last best."""
        return replace(self, minute=minute, best=self.best if best is None else best)

    def fields(self) -> dict[str, str]:
        """The fields of the HASH."""
        head = {"date": self.date, "ts": repr(self.ts), "minute": str(self.minute)}
        best = {} if self.best is None else {"best": repr(self.best)}
        times = {f"{_TIME}{strike}": repr(seconds) for strike, seconds in self.time_s.items()}
        return head | best | times | {f"{_VOLUME}{strike}": repr(count) for strike, count in self.volume.items()}


def decode_session(fields: Mapping[bytes, bytes]) -> SessionProfile:
    """The inverse of `SessionProfile.fields`; an empty HASH is an empty profile."""
    if not fields:
        return SessionProfile()
    told = {name.decode(): value.decode() for name, value in fields.items()}
    return SessionProfile(
        date=told["date"],
        ts=float(told["ts"]),
        minute=int(told["minute"]),
        best=float(told["best"]) if "best" in told else None,
        time_s=_by_strike(told, _TIME),
        volume=_by_strike(told, _VOLUME),
    )


def is_opening(ts: float) -> bool:
    """Whether the session of this day is younger than half an hour, or there is none."""
    session = session_of(ts)
    return session is None or ts < session.open_ts + OPENING_S


def volume_by_strike(strike_milli: Milli, volume: Floats) -> dict[int, float]:
    """Known option volume added by strike, calls and puts together."""
    known = np.isfinite(volume)
    strikes, at = np.unique(strike_milli[known], return_inverse=True)
    added: npt.NDArray[Any] = np.bincount(at, volume[known], len(strikes))
    return dict(zip(strikes.tolist(), added.tolist(), strict=True))


def _by_strike(told: Mapping[str, str], prefix: str) -> dict[int, float]:
    return {int(name.removeprefix(prefix)): float(value) for name, value in told.items() if name.startswith(prefix)}


def _strike_at(strikes_milli: Milli, spot: float | None) -> int | None:
    """The strike spot is within half a step of, the lower of two; None outside the strikes."""
    if spot is None or not len(strikes_milli):
        return None
    strikes = strikes_milli / 1000
    nearest = int(np.argmin(np.abs(strikes - spot)))
    neighbour = nearest + (1 if spot > strikes[nearest] else -1)
    if not 0 <= neighbour < len(strikes):
        # beyond the last strike the step is that of the strikes before it
        neighbour = nearest + (nearest - neighbour)
        if not 0 <= neighbour < len(strikes):
            return None
    half = abs(strikes[neighbour] - strikes[nearest]) / 2
    return int(strikes_milli[nearest]) if abs(spot - strikes[nearest]) <= half else None
