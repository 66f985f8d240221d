"""The pipeline without a server: entries folded through the pure stages over a store in memory.

`Pipeline` reads each stream in order, decodes, loads, steps and commits until every entry is acknowledged, and what
stages emit feeds the next. It knows no groups: an entry that was not finished (`ProcessDiedError`) is simply read
again. Beside it stand the builders of chains and frames that the tests share.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

from consumers.memory import MemoryStore
from contracts.commit import Applied, Commit, EntryId, Outcome, SetValue
from contracts.errors import DataError
from contracts.geometry import Geometry, decode_geometry
from contracts.keys import Keys, Layer
from contracts.messages import ChainCompleted, EpochForce, Message, encode
from contracts.planes import Array, unpack_rows
from contracts.settings import Settings, load_settings
from contracts.snapshot import ChainRow, ChainSnapshot, encode_snapshot
from contracts.stage import Entry, Source
from contracts.symbology import CALL, PUT, format_ticker
from contracts.topology import StageName
from ops.wiring import keys_of, pure_stage, tickers
from stages.staging.records import ROW_TYPES

T = TypeVar("T")
Sources = tuple[Source[Any, Any], ...]

NOW = 1_768_500_000.0  # 2026-01-15 13:00 in New York
EXPIRATION = "2026-01-16"
LATER = "2026-01-20"
STRIKES = tuple(range(6850, 6955, 5))

_MAX_STEPS = 100


class ProcessDiedError(Exception):
    """The process died before this commit."""


def drive(awaited: Awaitable[T]) -> T:
    """What a coroutine that never waits returns, as those of the store in memory."""
    steps = awaited.__await__()
    try:
        next(steps)
    except StopIteration as done:
        found: T = done.value
        return found
    raise AssertionError("the store in memory does not wait")


# --- what comes in


def cid_of(strike: float, kind: str = CALL, expiration: str = EXPIRATION, root: str = "SPXW") -> str:
    """A provider ticker."""
    return format_ticker(root, expiration, kind, round(strike * 1000))


def chain_row(
    strike: float, kind: str = CALL, expiration: str = EXPIRATION, root: str = "SPXW", **values: object
) -> ChainRow:
    """A listed contract with a quote of 10.00 to 10.50 ten seconds old; `values` replace any field."""
    told: dict[str, Any] = {
        "id": cid_of(strike, kind, expiration, root), "root": root, "type": kind, "strike": strike,
        "settlement": "am" if root == "SPX" else "pm", "exercise": "european", "multiplier": 100,
        "bid": 10.0, "ask": 10.5, "bid_size": 5, "ask_size": 6, "quote_ts": NOW - 10.0, "last": 10.2, "last_size": 1,
        "last_ts": NOW - 20.0, "volume": 100, "iv": 0.2, "delta": 0.5, "gamma": 0.001, "theta": -1.0, "vega": 2.0,
        "oi": 500.0,
    }  # fmt: skip
    return ChainRow(**(told | values))


def chain_rows(
    strikes: Sequence[float] = STRIKES, expiration: str = EXPIRATION, root: str = "SPXW", **values: object
) -> list[ChainRow]:
    """A call and a put at every strike."""
    return [chain_row(strike, kind, expiration, root, **values) for strike in strikes for kind in (CALL, PUT)]


def quote(cid: str, bid: float | None, ask: float | None, t: int, q: int = 1, **other: object) -> dict[str, object]:
    """A quote as the feed sends it."""
    return {"ev": "Q", "sym": cid, "bp": bid, "ap": ask, "bs": 3, "as": 4, "t": t, "q": q, **other}


def frame(*events: Mapping[str, object], ts: float = NOW) -> dict[str, bytes]:
    """A raw frame received at `ts`."""
    return {"ts": repr(ts).encode(), "payload": json.dumps(events).encode()}


# --- the fold


class Pipeline:
    """All pure stages over one store. `commits` are those that were tried, with their outcome, in order."""

    def __init__(self, store: MemoryStore | None = None, settings: Settings | None = None) -> None:
        self.settings = settings or load_settings({"MASSIVE_SYMBOLS": "SPX"})
        self.store = store or MemoryStore()
        self.keys: Keys = keys_of(self.settings)
        self.symbols = self.settings.massive_symbols
        self.commits: list[tuple[StageName, Commit, Outcome]] = []
        self.parked: list[tuple[EntryId, str]] = []
        self.commits_before_crash: int | None = None
        self.before_commit: Callable[[Commit], None] = lambda commit: None
        self._done: dict[str, int] = {}
        self.restart()

    def restart(self) -> None:
        """New processes: the stages forget everything they had in memory."""
        names = (StageName.STAGING, StageName.CALCULATE, StageName.MODELS)
        partitions = [(symbol,) for symbol in self.symbols] if self.keys.partitioned else [self.symbols]
        self.sources: dict[StageName, Sources] = {
            name: tuple(
                source
                for symbols in partitions
                for source in pure_stage(name, self.settings, symbols).sources
            )
            for name in names
        }  # fmt: skip
        self.tickers = {
            symbol: ticker
            for symbols in partitions
            for symbol, ticker in zip(symbols, tickers(self.settings, symbols), strict=True)
        }

    def fork(self, store: MemoryStore | None = None) -> Pipeline:
        """Other processes over the same store (or a copy), which have read as far as these."""
        other = Pipeline(store or self.store, self.settings)
        other._done = dict(self._done)
        return other

    def skip(self, stream: str) -> None:
        """Read nothing of what a stream holds: somebody else has it."""
        self._done[stream] = len(self.store.streams.get(stream, []))

    # --- input

    def append(self, stream: str, fields: Mapping[str, bytes | str | int]) -> None:
        """Add an entry to a stream."""
        told = {name: value if isinstance(value, bytes) else str(value).encode() for name, value in fields.items()}
        self.store.streams.setdefault(stream, []).append(told)

    def feed(self, *frames: Mapping[str, bytes], symbol: str = "SPX") -> None:
        """Add raw frames."""
        for one in frames:
            self.append(self.keys.ws_stream(symbol), one)

    def announce(
        self,
        number: int,
        chains: Mapping[str, Sequence[ChainRow]],
        *,
        failed: Sequence[str] = (),
        ts: float = NOW,
        spot: float | None = 6900.0,
        symbol: str = "SPX",
    ) -> ChainCompleted:
        """Publish fetch `number` with one snapshot per expiration, and announce it."""
        received: dict[str, str] = {}
        for expiration, rows in chains.items():
            key = self.keys.chain_snapshot(symbol, expiration, round(ts * 1000) + number)
            snapshot = ChainSnapshot(ts, symbol, expiration, 6900, 50, tuple(rows))
            self.store.commit(Commit(writes=(SetValue(key, encode_snapshot(snapshot)),)))
            received[expiration] = key
        message = ChainCompleted(symbol, number, ts, (*received, *failed), received, tuple(failed), spot, ts, ts)
        self.append(self.keys.chain_stream(symbol), encode(message))
        return message

    def order(self, request: str = "test", *, ts: float = NOW, symbol: str = "SPX") -> None:
        """Order a promotion over the same geometry."""
        self.append(self.keys.chain_stream(symbol), encode(EpochForce(symbol, request, ts)))

    # --- work

    def run(self, *only: StageName, batch: int = 0) -> None:
        """Work until nothing is unread (of the stages named, or of all); `batch` cuts reads smaller."""
        while any(self._read(name, source, batch) for name in only or self.sources for source in self.sources[name]):
            pass

    def fetch(self, number: int, chains: Mapping[str, Sequence[ChainRow]], **how: Any) -> str:
        """Announce a fetch and let staging finish it; the epoch that is active then."""
        self.announce(number, chains, **how)
        self.run(StageName.STAGING)
        return self.active(how.get("symbol", "SPX"))

    def tick(self, now_ts: float = NOW, symbol: str = "SPX", owner: str = "ticker") -> list[Outcome]:
        """One tick of a symbol by whoever holds its lease."""
        lease = self.keys.lease("tick", symbol)
        self.store.commit(Commit(writes=(SetValue(lease, owner),)))
        ticker = self.tickers[symbol]
        state = drive(ticker.load(self.store))
        return [self._commit(StageName.STAGING, one, 0) for one in ticker.step(state, now_ts, lease, owner)]

    def _read(self, name: StageName, source: Source[Any, Any], batch: int) -> bool:
        """One read of a source; whether there was anything."""
        first = self._done.get(source.stream, 0)
        fields = self.store.streams.get(source.stream, [])[first : first + (batch or source.batch)]
        partitions: dict[Hashable, list[Entry[Any]]] = {}
        for number, told in enumerate(fields, first + 1):
            entry_id = EntryId(source.stream, f"{number}-0")
            try:
                message = source.decode({key.encode(): value for key, value in told.items()})
            except DataError as error:
                self.parked.append((entry_id, str(error)))
                continue
            partitions.setdefault(source.partition(message), []).append(Entry(entry_id, message))
        for entries in partitions.values():
            self.finish(name, source, entries)
        self._done[source.stream] = first + len(fields)
        return bool(fields)

    def finish(self, name: StageName, source: Source[Any, Any], entries: list[Entry[Any]]) -> None:
        """Load, step and commit until every entry is acknowledged, as the runner does."""
        for _ in range(_MAX_STEPS):
            if not entries:
                return
            merged = 0
            for commit in source.step(drive(source.load(self.store, entries)), entries):
                outcome = self._commit(name, commit, merged)
                if not isinstance(outcome, Applied):
                    break
                merged = outcome.merged
                done = set(commit.acknowledges)
                entries = [entry for entry in entries if entry.id not in done]
        raise AssertionError(f"{name} did not finish {entries}")

    def _commit(self, name: StageName, commit: Commit, merged: int) -> Outcome:
        self.before_commit(commit)
        if self.commits_before_crash is not None:
            if self.commits_before_crash == 0:
                raise ProcessDiedError
            self.commits_before_crash -= 1
        outcome = self.store.commit(commit, merged)
        self.commits.append((name, commit, outcome))
        return outcome

    # --- what came of it

    def active(self, symbol: str = "SPX") -> str:
        """The active epoch; empty if there is none."""
        return self.store.hashes.get(self.keys.active(symbol), {}).get(symbol, b"").decode()

    def fields(self, key: str) -> dict[str, str]:
        """A HASH as text."""
        return {name: value.decode() for name, value in self.store.hashes.get(key, {}).items()}

    def contract(self, cid: str, epoch: str = "") -> dict[str, str]:
        """The readable HASH of a contract of the active epoch."""
        return self.fields(self.keys.contract(epoch or self.active(), cid))

    def meta(self, epoch: str = "") -> dict[str, str]:
        """Facts about an epoch, the active one unless named."""
        return self.fields(self.keys.meta(epoch or self.active()))

    def counts(self, key: str) -> dict[str, int]:
        """Counters."""
        return {name: int(value) for name, value in self.store.hashes.get(key, {}).items()}

    def geometry(self, epoch: str = "") -> Geometry:
        """The frozen contract set of an epoch."""
        return decode_geometry(bytes(self.store.strings[self.keys.listing(epoch or self.active())]))

    def rows(self, layer: Layer, plane: str = "", epoch: str = "") -> Array:
        """The rows of a layer, of the first plane unless named."""
        plane = plane or self.geometry(epoch).planes[0].id
        blob = bytes(self.store.strings[self.keys.plane(epoch or self.active(), plane, layer)])
        return unpack_rows(blob, ROW_TYPES[layer])

    def emitted(self, stream: str, kind: type[Message]) -> list[dict[str, Any]]:
        """The bodies of the messages of a type on a stream, in order."""
        entries = self.store.streams.get(stream, [])
        return [json.loads(one["data"]) for one in entries if one["type"].decode() == kind.TYPE]
