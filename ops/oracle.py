"""The oracle: recorded inputs, folded in journal order through the same pure steps, without a server.

With the journal on, input streams are not trimmed, snapshots do not expire, and every commit records which entries it
finished. Whatever was killed, claimed or interleaved in between, the state in Redis must equal this fold: geometry
and values of the active epoch, and tiles and published cells once everything is quiet. Version numbers, entry ids,
sequence numbers and wall-clock stamps are not compared.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from consumers.encoding import sort_key
from consumers.memory import MemoryStore
from contracts.commit import Applied, Commit, EntryId, SetFields, SetValue
from contracts.errors import DataError
from contracts.geometry import Geometry, decode_geometry
from contracts.keys import Keys, Layer, Stat
from contracts.messages import ChainCompleted
from contracts.plan import compile_plan
from contracts.planes import CHAIN_ROW, HEADER_BYTES, QUOTE_ROW, TRADE_ROW, decode_tiles
from contracts.settings import Settings
from contracts.stage import Entry, Source
from contracts.topology import StageName
from ops.wiring import keys_of, partitions, pure_stage
from stages.calculate.tiles import compute_tiles

_MAX_STEPS = 1000
_READ = 10_000  # journal records in one reply
_FRAMES_AT_ONCE = 2000
_ROWS = {Layer.QUOTES: QUOTE_ROW, Layer.TRADES: TRADE_ROW, Layer.CHAIN: CHAIN_ROW}
COUNTED = ("applied", "older", "geometry_miss", "rejected", "unknown", "malformed", "status", "index")


@dataclass(frozen=True, slots=True)
class JournalRecord:
    """One commit: the entries of a stream that a stage finished."""

    stage: str
    stream: str
    ids: tuple[str, ...]


def read_journal(client: Any, keys: Keys, symbol: str) -> Iterator[JournalRecord]:
    """The journal of a partition in order, read piece by piece."""
    start = "-"
    while found := client.xrange(keys.journal_stream(symbol), start, "+", count=_READ):
        for _, fields in found:
            yield JournalRecord(
                fields[b"stage"].decode(), fields[b"stream"].decode(), tuple(fields[b"ids"].decode().split(","))
            )
        start = f"({found[-1][0].decode()}"


class Fold:
    """Folds the staging inputs of one partition into a store of its own.

    Frames that follow each other are folded many at a time, for it makes no difference how they are cut. An entry
    takes effect where the journal names it first: a promotion at its switch, before its entry is acknowledged.
    """

    def __init__(self, client: Any, settings: Settings, symbols: tuple[str, ...]) -> None:
        self.store = MemoryStore()
        self._client = client
        self._keys = keys_of(settings)
        self._symbol = symbols[0]
        self._sources = {source.stream: source for source in pure_stage(StageName.STAGING, settings, symbols).sources}
        clock = client.hget(self._keys.tick(self._symbol), "clock")
        if clock is not None:
            self.store.commit(Commit(writes=(SetFields(self._keys.tick(self._symbol), {"clock": clock}),)))

    def run(self) -> MemoryStore:
        """Fold everything the journal names."""
        asyncio.run(self._fold())
        return self.store

    async def _fold(self) -> None:
        for stream, ids in self._batches():
            source = self._sources[stream]
            await self._finish(source, self._entries(source, ids))

    def _batches(self) -> Iterator[tuple[str, list[str]]]:
        """(stream, entry ids) in the order of effects; frames joined, entries named twice taken once."""
        frames = self._keys.ws_stream(self._symbol)
        waiting: list[str] = []
        decided: set[str] = set()
        for record in read_journal(self._client, self._keys, self._symbol):
            if record.stage != StageName.STAGING or record.stream not in self._sources:
                continue
            if record.stream == frames:
                waiting += record.ids
                if len(waiting) >= _FRAMES_AT_ONCE:
                    yield frames, waiting
                    waiting = []
                continue
            ids = [one for one in record.ids if one not in decided]
            decided.update(ids)
            if waiting:
                yield frames, waiting
                waiting = []
            if ids:
                yield record.stream, ids
        if waiting:
            yield frames, waiting

    def _entries(self, source: Source[Any, Any], ids: list[str]) -> list[Entry[Any]]:
        entries = []
        for entry_id, fields in self._read(source.stream, ids):
            try:
                message = source.decode(fields)
            except DataError:
                continue  # parked
            if isinstance(message, ChainCompleted):
                self._remember_snapshots(message)
            entries.append(Entry(EntryId(source.stream, entry_id), message))
        return entries

    def _read(self, stream: str, ids: list[str]) -> Iterator[tuple[str, Any]]:
        """Entries in the order asked for. They lie side by side, but for those of other consumers."""
        ordered = sorted(ids, key=sort_key)
        found = dict(self._client.xrange(stream, ordered[0], ordered[-1], count=2 * len(ids)))
        for entry_id in ids:
            fields = found.get(entry_id.encode())
            if fields is None:
                ((_, fields),) = self._client.xrange(stream, entry_id, entry_id)
            yield entry_id, fields

    def _remember_snapshots(self, message: ChainCompleted) -> None:
        keys = [key for key in message.received.values() if not self.store.exists(key)]
        for key, blob in zip(keys, self._client.mget(keys) if keys else (), strict=True):
            if blob is not None:
                self.store.commit(Commit(writes=(SetValue(key, blob),)))

    async def _finish(self, source: Source[Any, Any], entries: list[Entry[Any]]) -> None:
        for _ in range(_MAX_STEPS):
            if not entries:
                return
            try:
                commits = source.step(await source.load(self.store, entries), entries)
            except DataError:
                middle = len(entries) // 2  # an entry that fails alone was parked
                for half in (entries[:middle], entries[middle:]) if middle else ():
                    await self._finish(source, half)
                return
            merged = 0
            for commit in commits:
                outcome = self.store.commit(commit, merged)
                if not isinstance(outcome, Applied):
                    break
                merged = outcome.merged
                done = set(commit.acknowledges)
                entries = [entry for entry in entries if entry.id not in done]
        assert not entries, "the fold did not finish an entry"


def differences(client: Any, settings: Settings) -> list[str]:
    """Where Redis differs from the fold of its own inputs; empty when it does not. Needs the journal, and quiet."""
    found: list[str] = []
    for symbols in partitions(settings):
        store = Fold(client, settings, symbols).run()
        keys = keys_of(settings)
        for symbol in symbols:
            found += _compare_symbol(client, keys, store, symbol)
        found += _compare_counts(client, keys, store, symbols[0])
    return found


def _compare_symbol(client: Any, keys: Keys, store: MemoryStore, symbol: str) -> list[str]:
    folded = store.hashes.get(keys.active(symbol), {}).get(symbol)
    actual = client.hget(keys.active(symbol), symbol)
    if folded is None or actual is None:
        return [] if folded == actual else [f"{symbol}: active epoch {actual!r}, the fold has {folded!r}"]
    geometry = decode_geometry(bytes(store.strings[keys.listing(folded.decode())]))
    listing = client.get(keys.listing(actual.decode()))
    if listing is None or decode_geometry(listing).hash != geometry.hash:
        return [f"{symbol}: the active geometry differs from the fold's"]
    problems = _compare_planes(client, keys, store, geometry, actual.decode(), folded.decode())
    return problems + _compare_contracts(client, keys, store, geometry, actual.decode(), folded.decode())


def _compare_planes(
    client: Any, keys: Keys, store: MemoryStore, geometry: Geometry, epoch: str, folded: str
) -> list[str]:
    problems = []
    for plane in geometry.planes:
        for layer, dtype in _ROWS.items():
            expected = np.frombuffer(
                bytes(store.strings[keys.plane(folded, plane.id, layer)]), dtype, offset=HEADER_BYTES
            ).copy()
            blob = client.get(keys.plane(epoch, plane.id, layer))
            if blob is None:
                problems.append(f"{plane.id}: no {layer}")
                continue
            found = np.frombuffer(blob, dtype, offset=HEADER_BYTES).copy()
            if layer is Layer.QUOTES:
                expected["row_version"] = found["row_version"] = 0
            if layer is Layer.CHAIN:
                # which fetch a group came from is a stamp; a refresh that was coalesced away has its own number
                for rows in (expected, found):
                    rows["greeks"]["chain_ts"] = 0
            if expected.tobytes() != found.tobytes():
                wrong = np.flatnonzero(expected != found)
                problems.append(
                    f"{plane.id}: {len(wrong)} rows of {layer} differ, first {plane.rows[int(wrong[0])].cid}"
                )
        quotes = np.frombuffer(
            bytes(store.strings[keys.plane(folded, plane.id, Layer.QUOTES)]), QUOTE_ROW, offset=HEADER_BYTES
        )
        cells = compute_tiles(compile_plan(plane, geometry.widths), quotes)
        for layer in (Layer.TILES, Layer.PUBLISHED):
            blob = client.get(keys.plane(epoch, plane.id, layer))
            if blob is None or not np.array_equal(decode_tiles(blob).cells, cells):
                problems.append(f"{plane.id}: {layer} differ from the fold's")
    return problems


def _compare_contracts(
    client: Any, keys: Keys, store: MemoryStore, geometry: Geometry, epoch: str, folded: str
) -> list[str]:
    cids = list(geometry.row_of)
    problems = []
    for first in range(0, len(cids), 500):
        pipeline = client.pipeline(transaction=False)
        for cid in cids[first : first + 500]:
            pipeline.hgetall(keys.contract(epoch, cid))
        for cid, found in zip(cids[first : first + 500], pipeline.execute(), strict=True):
            expected = {k.encode(): v for k, v in store.hashes[keys.contract(folded, cid)].items()}
            if _without_stamps(found) != _without_stamps(expected):
                problems.append(f"{cid}: the contract differs: {_first_difference(found, expected)}")
    return problems


def _without_stamps(fields: dict[bytes, bytes]) -> dict[bytes, bytes]:
    return {name: value for name, value in fields.items() if name != b"chain_ts"}


def _first_difference(found: dict[bytes, bytes], expected: dict[bytes, bytes]) -> str:
    names = [name for name in sorted(found.keys() | expected.keys()) if found.get(name) != expected.get(name)]
    return ", ".join(f"{n.decode()} {found.get(n)!r} not {expected.get(n)!r}" for n in names[:3])


def _compare_counts(client: Any, keys: Keys, store: MemoryStore, symbol: str) -> list[str]:
    """Every event recorded is in exactly one of the counters, redelivered or not."""
    analytics = keys.analytics(Stat.HYDRATE, symbol)
    found = Counter({name.decode(): int(value) for name, value in client.hgetall(analytics).items()})
    folded = Counter({name: int(value) for name, value in store.hashes.get(analytics, {}).items()})
    problems = []
    for name in ("frames", "events"):
        if found[name] != folded[name]:
            problems.append(f"{name}: {found[name]} counted, the journal has {folded[name]}")
    total = sum(found[name] for name in COUNTED)
    if total != found["events"] + found["extra_groups"]:
        problems.append(f"{total} events accounted for, {found['events'] + found['extra_groups']} recorded")
    return problems
