"""What one connection was told: login, acknowledgements, refusals, farewells, and when data came."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence

import structlog

from contracts.errors import FatalError

log = structlog.get_logger("feed")

_CONNECTED = "auth_success"
_ACKNOWLEDGED = {"subscribed to: ": "subscribe", "unsubscribed to: ": "unsubscribe"}
_ENDS = frozenset({"max_connections", "force_disconnect", "slow_consumer", "auth_timeout"})
_NO_ACCESS = ("plan", "entitled", "not authorized", "upgrade")  # what is said when the key itself is fine


class Ended(Exception):  # noqa: N818 (no error: every connection ends)
    """The connection is over, for this reason."""


class Off(Exception):  # noqa: N818
    """The plan does not include this cluster."""


class Connection:
    """What one connection was told: login, acknowledgements, refusals, and when data came.

    `_s`: seconds of a clock that no correction of the time sets; `_ts`: epoch seconds.
    """

    def __init__(self, cluster: str) -> None:
        self.authenticated = asyncio.Event()
        self.settled = asyncio.Event()
        self.asked: dict[str, None] = {}  # pairs requested on this connection, in order
        self.asked_s = 0.0  # when something was requested last
        self.held: set[str] = set()  # pairs acknowledged
        self.awaited: set[str] = set()
        self.refusal = ""
        self.refusals = 0  # `error` statuses
        self.evicted = False
        self.said_goodbye_s = 0.0  # when the provider told that this is the end
        self.newest: tuple[float, bytes] | None = None  # the last data frame and when it came
        self.held_since_s = 0.0  # when the first subscription was acknowledged
        self.last_ts = 0.0  # of the newest data
        self.last_s = 0.0
        self._first_s = 0.0
        self._cluster = cluster
        self._goodbye = ""

    @property
    def steady_s(self) -> float:
        """Seconds between the first and the newest data."""
        return self.last_s - self._first_s

    @property
    def tickers(self) -> set[str]:
        """What was asked for, whatever the topic."""
        return tickers_of(self.asked)

    def note_data(self, ts: float, payload: bytes) -> None:
        """Market data came."""
        self.last_s = time.monotonic()
        self._first_s = self._first_s or self.last_s
        self.last_ts = ts
        self.newest = (ts, payload)

    def expect(self, action: str, pairs: Sequence[str]) -> None:
        """These pairs are about to be (un)subscribed."""
        self.awaited = set(pairs)
        self.refusal = ""
        self.settled.clear()
        if action == "subscribe":
            self.asked |= dict.fromkeys(pairs)
            self.asked_s = time.monotonic()

    def forget(self, pairs: Iterable[str]) -> None:
        """These pairs are no longer ours; where there is room again, what was refused may be asked for again."""
        gone = set(pairs)
        self.held -= gone
        self.asked = {pair: None for pair in self.asked if pair in self.held}

    def take_status(self, status: str, message: str) -> None:
        """Act on a protocol message; raises `Off` or FatalError when the login failed."""
        if status == _CONNECTED:
            self.authenticated.set()
        elif status == "auth_failed":
            raise self._login_error(message)
        elif status == "error":
            self._refused(message)
        elif status in _ENDS:
            self.evicted = self.evicted or status == "max_connections"
            self._goodbye = f"{status}: {message}"
            self.said_goodbye_s = self.said_goodbye_s or time.monotonic()
            log.warning("feed_told", cluster=self._cluster, status=status, message=message)
        elif status == "success":
            self._acknowledged(message)

    def ended(self, reason: str) -> Ended:
        """Why the connection is over: what the provider said last, else how it closed."""
        return Ended(self._goodbye or reason)

    def _login_error(self, message: str) -> Exception:
        if any(word in message.lower() for word in _NO_ACCESS):
            return Off(f"this plan has no WebSocket access to {self._cluster} ({message})")
        return FatalError(
            f"the provider's {self._cluster} feed does not accept the key: set a valid MASSIVE_API_KEY ({message})"
        )

    def _refused(self, message: str) -> None:
        if not self.refusal:
            log.warning("subscription_refused", cluster=self._cluster, message=message)
        self.refusal = message or "refused"
        self.refusals += 1
        self.settled.set()

    def _acknowledged(self, message: str) -> None:
        for prefix, action in _ACKNOWLEDGED.items():
            if message.startswith(prefix):
                pair = message[len(prefix) :].strip()
                self.awaited.discard(pair)
                (self.held.add if action == "subscribe" else self.held.discard)(pair)
                self.held_since_s = self.held_since_s or time.monotonic()
        if not self.awaited:
            self.settled.set()


def tickers_of(pairs: Iterable[str]) -> set[str]:
    """The tickers of `topic.ticker` pairs."""
    return {pair.partition(".")[2] for pair in pairs}
