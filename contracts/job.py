"""The fetch job of a symbol: the one valid ticket, and what the next fetch needs to know. A HASH in Redis.

Exactly one fetch is outstanding: a fetch commits only while its entry carries the valid ticket. Requests for an
earlier fetch only set `again`; the tick issues the next ticket when due and replaces one that was lost.

Beside the fields of `Job` the HASH holds what the fetch keeps for itself: `session`, `sigma` and `windows` (JSON by
expiration), `latency_s`, and `failed` (JSON, expiration to reason).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

LOST_AFTER_S = 60.0  # a fetch that shows no progress for so long is issued anew


@dataclass(frozen=True, slots=True)
class Job:
    """`ticket` 0: none outstanding. Times are receive time, epoch seconds. `fetch` is the newest fetch number.

    `asked_ts`: when the outstanding fetch was first asked for; a ticket that replaces a lost one leaves it.
    """

    ticket: int = 0
    last_ticket: int = 0
    issued_ts: float = 0.0
    progress_ts: float = 0.0
    not_before_ts: float = 0.0
    again: str = ""
    fetch: int = 0
    asked_ts: float = 0.0
    period_s: float = 0.0  # until the next fetch has ended, as the last one saw it

    def due(self, now_ts: float) -> str:
        """Why a ticket must be issued now; empty if none."""
        if self.ticket:
            quiet = now_ts - max(self.issued_ts, self.progress_ts)
            return "lost" if quiet > LOST_AFTER_S else ""
        if self.again:
            return self.again
        return "interval" if now_ts >= self.not_before_ts else ""


def decode_job(fields: Mapping[bytes, bytes]) -> Job:
    """Read the job HASH; absent fields are at their start."""

    def number(name: bytes) -> float:
        return float(fields.get(name) or 0)

    return Job(
        ticket=int(number(b"ticket")),
        last_ticket=int(number(b"last_ticket")),
        issued_ts=number(b"issued_ts"),
        progress_ts=number(b"progress_ts"),
        not_before_ts=number(b"not_before_ts"),
        again=fields.get(b"again", b"").decode(),
        fetch=int(number(b"fetch")),
        asked_ts=number(b"asked_ts"),
        period_s=number(b"period_s"),
    )
