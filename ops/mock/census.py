"""What clients do at the mock, counted for tests: sockets at the same time, useless subscriptions, REST requests."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Collection
from typing import Any

from ops.mock.connection import Connection

REPEATED = "repeated"  # held already by the same connection
DOUBLED = "doubled"  # held already by another connection of the same key and cluster
IGNORED = "ignored"  # of a topic the cluster does not know
UNLISTED = "unlisted"  # of a ticker that is not listed
REFUSED = "refused"  # over the limit
NOT_HELD = "not_held"  # unsubscribed, but never subscribed

_SUBSCRIPTIONS = (REPEATED, DOUBLED, IGNORED, UNLISTED, REFUSED, NOT_HELD)
_MINUTE_S = 60.0


class Census:
    """Counts sockets by client (what it calls itself) and by key, subscriptions by what is wrong, and requests."""

    def __init__(self) -> None:
        self.subscriptions: Counter[str] = Counter()
        self.evicted = 0
        self.requests = 0
        self.most_requests = 0  # in any minute
        self._requested: deque[float] = deque()  # when, in the last minute
        self._clients = _Crowd()
        self._keys = _Crowd()

    def opened(self, connection: Connection) -> None:
        """A socket was opened; from now on it is alive."""
        self._clients.enter(connection.cluster, connection.name)

    def authenticated(self, connection: Connection, key: str) -> None:
        """It belongs to a key now."""
        self._keys.enter(connection.cluster, _digest(key))

    def closed(self, connection: Connection) -> None:
        """It is gone."""
        self._clients.leave(connection.cluster, connection.name)
        if connection.key is not None:
            self._keys.leave(connection.cluster, _digest(connection.key))

    def requested(self, now: float) -> None:
        """A REST request came (local seconds)."""
        self.requests += 1
        self._requested.append(now)
        while now - self._requested[0] >= _MINUTE_S:
            self._requested.popleft()
        self.most_requests = max(self.most_requests, len(self._requested))

    def most_sockets(self, cluster: str, client: str) -> int:
        """The highest number of sockets this client ever had at the same time."""
        return self._clients.most[cluster, client]

    def as_json(self, connections: Collection[Connection]) -> dict[str, Any]:
        """Everything counted, and the connections there are; keys are told by a digest."""
        return {
            "clients": self._clients.rows("client"),
            "keys": self._keys.rows("key"),
            "subscriptions": {name: self.subscriptions[name] for name in _SUBSCRIPTIONS},
            "evicted": self.evicted,
            "requests": {"all": self.requests, "most_in_a_minute": self.most_requests},
            "connections": [
                {
                    "cluster": one.cluster,
                    "client": one.name,
                    "key": _digest(one.key or ""),
                    "age_s": round(one.age_s, 3),
                    "pairs": len(one.pairs),
                    "quotes": len(one.quotes),
                }
                for one in connections
            ],
        }


class _Crowd:
    """How many there are, were at most, and were in all, by cluster and name."""

    def __init__(self) -> None:
        self.live: Counter[tuple[str, str]] = Counter()
        self.most: Counter[tuple[str, str]] = Counter()
        self.all: Counter[tuple[str, str]] = Counter()

    def enter(self, cluster: str, name: str) -> None:
        who = (cluster, name)
        self.live[who] += 1
        self.all[who] += 1
        self.most[who] = max(self.most[who], self.live[who])

    def leave(self, cluster: str, name: str) -> None:
        self.live[cluster, name] -= 1

    def rows(self, title: str) -> list[dict[str, Any]]:
        return [
            {"cluster": who[0], title: who[1], "live": self.live[who], "most": self.most[who], "opened": count}
            for who, count in sorted(self.all.items())
        ]


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:8]
