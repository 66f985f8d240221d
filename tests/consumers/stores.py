"""Two stores behind one face: the commit script on a real server, and its twin in memory.

What is written through `commit` is read back in one shape, so that one suite of tests holds both to the same contract.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import redis

from consumers.broker import Broker
from consumers.memory import MemoryStore
from contracts.commit import Commit, Outcome

Dump = dict[str, object]


class Store(Protocol):
    """Commits, and what they left behind."""

    def commit(self, commit: Commit, merged_before: int = 0) -> Outcome: ...

    def string(self, key: str) -> bytes | None: ...

    def fields(self, key: str) -> dict[str, bytes]: ...

    def members(self, key: str) -> set[str]: ...

    def scores(self, key: str) -> dict[str, float]: ...

    def items(self, key: str) -> list[str]: ...

    def entries(self, key: str) -> list[dict[str, bytes]]: ...

    def wipe(self) -> None: ...

    def dump(self) -> Dump: ...


class InMemory:
    """`consumers.memory`."""

    def __init__(self) -> None:
        self._store = MemoryStore()

    def commit(self, commit: Commit, merged_before: int = 0) -> Outcome:
        return self._store.commit(commit, merged_before)

    def string(self, key: str) -> bytes | None:
        return bytes(self._store.strings[key]) if key in self._store.strings else None

    def fields(self, key: str) -> dict[str, bytes]:
        return dict(self._store.hashes.get(key, {}))

    def members(self, key: str) -> set[str]:
        return set(self._store.sets.get(key, set()))

    def scores(self, key: str) -> dict[str, float]:
        return dict(self._store.scores.get(key, {}))

    def items(self, key: str) -> list[str]:
        return list(self._store.lists.get(key, []))

    def entries(self, key: str) -> list[dict[str, bytes]]:
        return list(self._store.streams.get(key, []))

    def wipe(self) -> None:
        self._store = MemoryStore()

    def dump(self) -> Dump:
        store = self._store
        found: Dump = {key: bytes(value) for key, value in store.strings.items()}
        for kind in (store.hashes, store.sets, store.scores, store.lists, store.streams):
            found |= {key: kind[key].copy() for key in kind if kind[key]}
        return found


class OnServer:
    """`lua/commit.lua` through the broker."""

    def __init__(self, url: str, broker: Broker, loop: asyncio.Runner) -> None:
        self.client: Any = redis.Redis.from_url(url)
        self._broker = broker
        self._loop = loop

    def close(self) -> None:
        self.client.close()

    def commit(self, commit: Commit, merged_before: int = 0) -> Outcome:
        return self._loop.run(self._broker.commit(commit, merged_before))

    def string(self, key: str) -> bytes | None:
        found: bytes | None = self.client.get(key)
        return found

    def fields(self, key: str) -> dict[str, bytes]:
        return {name.decode(): value for name, value in self.client.hgetall(key).items()}

    def members(self, key: str) -> set[str]:
        return {member.decode() for member in self.client.smembers(key)}

    def scores(self, key: str) -> dict[str, float]:
        return {member.decode(): score for member, score in self.client.zrange(key, 0, -1, withscores=True)}

    def items(self, key: str) -> list[str]:
        return [item.decode() for item in self.client.lrange(key, 0, -1)]

    def entries(self, key: str) -> list[dict[str, bytes]]:
        return [{name.decode(): value for name, value in fields.items()} for _, fields in self.client.xrange(key)]

    def wipe(self) -> None:
        self.client.flushdb()

    def dump(self) -> Dump:
        read = {
            b"string": self.string,
            b"hash": self.fields,
            b"set": self.members,
            b"zset": self.scores,
            b"list": self.items,
            b"stream": self.entries,
        }
        return {key.decode(): read[self.client.type(key)](key.decode()) for key in self.client.scan_iter(count=1000)}
