"""The server as the runner sees it: groups, entries, atomic commits, reads at one moment, leases."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from math import isfinite
from typing import Any

from redis.exceptions import NoScriptError, ResponseError

from consumers.clients import BLOCK_MS, connect, connect_reader, faults_named, uninterrupted
from consumers.encoding import encode_commit
from contracts.commit import Applied, Commit, Lost, Outcome, Refused
from contracts.ports import (
    Backlog,
    CountExisting,
    GetBacklog,
    GetFields,
    GetHead,
    GetItems,
    GetMemoryPolicy,
    GetQuantiles,
    GetValue,
    Quantiles,
    Read,
    Waiting,
)

FIRST = "0"


class Script:
    """A Lua script of `lua/`, called by its digest and sent whole when the server does not know it (yet).

    One that only reads says so: then a user who may only read can call it.
    """

    def __init__(self, name: str, *, only_reads: bool = False) -> None:
        self._source = (files("consumers") / "lua" / f"{name}.lua").read_text()
        self._only_reads = only_reads
        self._digest = ""

    async def __call__(self, client: Any, keys: Sequence[str], *arguments: bytes | str | int) -> object:
        call = client.evalsha_ro if self._only_reads else client.evalsha
        if self._digest:
            try:
                return await uninterrupted(call(self._digest, len(keys), *keys, *arguments))
            except NoScriptError:
                pass
        self._digest = await uninterrupted(client.script_load(self._source))
        return await uninterrupted(call(self._digest, len(keys), *keys, *arguments))


@dataclass(frozen=True, slots=True)
class RawEntry:
    """An entry as read: id and fields."""

    id: str
    fields: dict[bytes, bytes]


class Broker:
    """One consumer of one group, and its way to the state. Errors are TransientError or FatalError."""

    def __init__(self, redis_url: str, group: str, consumer: str, cursor_key: str) -> None:
        self.group = group
        self.consumer = consumer
        self._url = redis_url
        # replies are checked where they are used; redis-py types every shape a reply might have under any option
        self._client: Any = connect(redis_url)
        self._readers: dict[str, Any] = {}
        self._cursor_key = cursor_key
        self._commit = Script("commit")
        self._renew = Script("renew")
        self._trim = Script("trim")
        self._forget = Script("forget")
        self._lease = Script("lease")
        self._read_all = Script("read", only_reads=True)
        self._budget = Script("budget")

    async def close(self) -> None:
        """Close every connection."""
        for client in (self._client, *self._readers.values()):
            await client.aclose()

    async def ping(self) -> None:
        """Raise unless the server answers."""
        with faults_named(self._url):
            await uninterrupted(self._client.ping())

    # --- group and entries

    async def ensure_group(self, stream: str) -> None:
        """Create the group at its durable cursor: nothing acknowledged comes again, nothing is skipped."""
        with faults_named(self._url):
            cursor = await uninterrupted(self._client.hget(self._cursor_key, stream))
            start = cursor.decode() if cursor else FIRST
            try:
                await uninterrupted(self._client.xgroup_create(stream, self.group, start, mkstream=True))
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise

    async def read_new(self, stream: str, count: int) -> list[RawEntry]:
        """Entries nobody has read; waits up to BLOCK_MS for the first."""
        # the server serves who has waited longest: with equal waits that may be the same one for ever
        return await self._read(stream, ">", count, round(BLOCK_MS * random.uniform(0.5, 1.0)))

    async def read_pending(self, stream: str, count: int) -> list[RawEntry]:
        """This consumer's own unfinished entries, oldest first."""
        return await self._read(stream, FIRST, count, None)

    async def _read(self, stream: str, start: str, count: int, block_ms: int | None) -> list[RawEntry]:
        reader: Any = self._readers.get(stream)
        if reader is None:
            reader = self._readers[stream] = connect_reader(self._url)
        with faults_named(self._url):
            reply = await uninterrupted(
                reader.xreadgroup(self.group, self.consumer, {stream: start}, count=count, block=block_ms)
            )
        if not reply:
            return []
        # a pending entry that was deleted from the stream comes without fields: nothing is left to work on
        return [RawEntry(entry_id.decode(), fields or {}) for entry_id, fields in reply[0][1]]

    async def claim_idle(self, stream: str, idle_ms: int, cursor: str) -> tuple[str, int]:
        """Take over entries idle for longer than `idle_ms`; returns the next cursor and how many were taken.

        COUNT stays at 100: the server scans ten times as many.
        """
        with faults_named(self._url):
            reply = await uninterrupted(
                self._client.xautoclaim(
                    stream, self.group, self.consumer, idle_ms, start_id=cursor, count=100, justid=False
                )
            )
        return reply[0].decode(), len(reply[1])

    async def renew(self, stream: str, ids: Sequence[str]) -> None:
        """Keep entries from being claimed while we work on them."""
        with faults_named(self._url):
            await self._renew(self._client, [stream], self.group, self.consumer, *ids)

    async def trim(self, stream: str) -> int:
        """Drop what the group has acknowledged."""
        with faults_named(self._url):
            reply = await self._trim(self._client, [stream], self.group)
        assert isinstance(reply, int)
        return reply

    async def forget_dead(self, stream: str, idle_ms: int) -> None:
        """Remove consumers that have been away for `idle_ms` and own nothing."""
        with faults_named(self._url):
            for row in await uninterrupted(self._client.xinfo_consumers(stream, self.group)):
                if row["pending"] == 0 and row["idle"] > idle_ms and row["name"].decode() != self.consumer:
                    await self._forget(self._client, [stream], self.group, row["name"])

    async def leave(self, stream: str) -> None:
        """Leave the group, unless entries of ours are unfinished: those go to whoever claims them."""
        with faults_named(self._url):
            await self._forget(self._client, [stream], self.group, self.consumer)

    # --- state

    async def commit(self, commit: Commit, merged_before: int = 0) -> Outcome:
        """Apply a commit, all or nothing."""
        keys, body, large = encode_commit(commit, self._cursor_key)
        with faults_named(self._url):
            reply = await self._commit(self._client, keys, self.group, self.consumer, body, merged_before, *large)
        assert isinstance(reply, list)
        if reply[0] == b"ok":
            return Applied(reply[1])
        if reply[0] == b"refused":
            return Refused(commit.guards[reply[1]])
        return Lost(frozenset(entry_id.decode() for entry_id in reply[1:]))

    async def values(self, *keys: str) -> list[bytes | None]:
        """The values of several keys."""
        with faults_named(self._url):
            reply: list[bytes | None] = await uninterrupted(self._client.mget(keys))
        return reply

    async def fields(self, key: str) -> dict[bytes, bytes]:
        """A whole HASH; empty if absent."""
        with faults_named(self._url):
            reply: dict[bytes, bytes] = await uninterrupted(self._client.hgetall(key))
        return reply

    async def read(self, *reads: Read) -> list[object]:
        """Several reads at one moment, results in order."""
        keys: list[str] = []
        kinds: list[str] = []
        for one in reads:
            names, kind = _read_of(one)
            keys += names
            kinds.append(kind)
        with faults_named(self._url):
            replies = await self._read_all(self._client, keys, *kinds)
        assert isinstance(replies, list)
        return [_reply_of(one, reply) for one, reply in zip(reads, replies, strict=True)]

    async def append(self, stream: str, entries: Iterable[dict[str, bytes | str]], keep: int | None = None) -> None:
        """Append entries in one round trip; after an error some may have been appended (at least once).

        `keep`: the stream is held to about so many entries.
        """
        with faults_named(self._url):
            await uninterrupted(self._append(stream, entries, keep))

    async def _append(self, stream: str, entries: Iterable[dict[str, bytes | str]], keep: int | None) -> None:
        async with self._client.pipeline(transaction=False) as pipeline:
            for fields in entries:
                pipeline.xadd(stream, fields, maxlen=keep)
            await pipeline.execute()

    async def waiting(self, stream: str, group: str, *, trimmed: bool) -> Waiting:
        """What waits in a stream for a group.

        `trimmed`: the stream holds nothing else (the group's own figure is wrong after trims); without trimming its
        lag and pending entries are counted.
        """
        with faults_named(self._url):
            try:
                stream_facts = await uninterrupted(self._client.xinfo_stream(stream))
            except ResponseError as error:
                if "no such key" in str(error):
                    return Waiting()
                raise
            length, added = int(stream_facts["length"]), int(stream_facts["entries-added"])
            if not length:
                return Waiting(added=added)
            size: int = await uninterrupted(self._client.memory_usage(stream, samples=10)) or 0
            entries = length
            if not trimmed:
                rows = await uninterrupted(self._client.xinfo_groups(stream))
                lags = [row["lag"] + row["pending"] for row in rows if row["name"].decode() == group and row.get("lag")]
                entries = min(length, lags[0]) if lags else 0
        return Waiting(entries, size * entries // length, added)

    async def newest_entries(self, stream: str, after: str, count: int) -> list[RawEntry]:
        """Entries after an id, for readers that are no group; does not wait."""
        with faults_named(self._url):
            reply = await uninterrupted(self._client.xrange(stream, f"({after}", "+", count=count))
        return [RawEntry(entry_id.decode(), fields) for entry_id, fields in reply]

    async def drop_up_to(self, stream: str, entry_id: str) -> None:
        """Delete entries up to an id, itself included."""
        ms, _, sequence = entry_id.partition("-")
        with faults_named(self._url):
            await uninterrupted(self._client.xtrim(stream, minid=f"{ms}-{int(sequence) + 1}", approximate=False))

    async def live_consumers(self, stream: str, idle_ms: int) -> int:
        """How many consumers of our group have asked for work within `idle_ms`, by the server's clock."""
        with faults_named(self._url):
            try:
                # before 7.2 a read that waited in vain is no sign of life; looking at one's own entries is
                await uninterrupted(self._client.xreadgroup(self.group, self.consumer, {stream: FIRST}, count=1))
                rows = await uninterrupted(self._client.xinfo_consumers(stream, self.group))
            except ResponseError as error:
                if "NOGROUP" in str(error) or "no such key" in str(error):
                    return 0
                raise
        return sum(row["idle"] <= idle_ms for row in rows)

    async def reserve(self, budget: str, limit: int, window_ms: int, hold_ms: int = 0) -> float:
        """Take one of `limit` slots a window of a shared budget (0: no limit): 0, or the seconds to wait and ask again.

        `hold_ms`: nobody gets a slot before that is over; no slot is taken.
        """
        with faults_named(self._url):
            reply = await self._budget(self._client, [budget], limit, window_ms, hold_ms)
        assert isinstance(reply, int)
        return reply / 1000

    # --- leases and fields outside commits

    async def take_lease(self, key: str, ttl_ms: int) -> bool:
        """Take or renew a lease; one owner at a time."""
        with faults_named(self._url):
            return await self._lease(self._client, [key], self.consumer, ttl_ms) == 1

    async def drop_lease(self, key: str) -> None:
        """Give a lease back if it is ours."""
        with faults_named(self._url):
            await self._lease(self._client, [key], self.consumer, 0)

    async def set_field(self, key: str, field: str, value: bytes) -> None:
        """`HSET key field value`."""
        with faults_named(self._url):
            await uninterrupted(self._client.hset(key, field, value))

    async def drop_field(self, key: str, field: str) -> None:
        """`HDEL key field`."""
        with faults_named(self._url):
            await uninterrupted(self._client.hdel(key, field))


def _read_of(read: Read) -> tuple[tuple[str, ...], str]:
    """The keys of a read and how `lua/read.lua` names it."""
    match read:
        case GetValue(key):
            return (key,), "get"
        case GetHead(key, size):
            return (key,), f"head:{size}"
        case GetFields(key):
            return (key,), "hgetall"
        case GetItems(key, start, stop):
            return (key,), f"lrange:{start}:{stop}"
        case CountExisting(keys):
            return keys, f"exists:{len(keys)}"
        case GetBacklog(stream, parked, group):
            return (stream, parked), f"backlog:{group}"
        case GetQuantiles(key):
            return (key,), "quantiles"
        case GetMemoryPolicy():
            return (), "policy"


def _reply_of(read: Read, reply: Any) -> object:
    match read:
        case GetFields():
            return _fields(reply)
        case GetBacklog():
            return _backlog(reply)
        case GetQuantiles():
            return Quantiles(reply[0], *(float(score) for score in reply[1:])) if reply else None
        case GetMemoryPolicy():
            return reply.decode()
        case _:
            return reply


def _fields(flat: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _backlog(reply: list[Any]) -> Backlog:
    waiting_id, waiting_ts, last_id, server_ms, parked, *groups = reply
    return Backlog(
        waiting_id.decode(),
        _number(waiting_ts),
        last_id.decode(),
        server_ms,
        tuple(group.decode() for group in groups),
        parked,
    )


def _number(text: bytes) -> float | None:
    """A number of a foreign writer, if it is one."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if isfinite(number) else None
