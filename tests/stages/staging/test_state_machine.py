"""Staging under every interleaving: three consumers, a real server, and whatever hypothesis can think of.

The machine appends chains (same or other geometry, partial, late, from a clock that stepped back, expired), operators'
orders and frames (good, for contracts nobody listed, broken), lets the board run out, and decides what each consumer
does next: read, let some commits through, die before the next, or lose its entries to another (who goes on as a
zombie). Everything else is real: steps, runner, commit script, server. Beside it runs a small model, written without a
look at the steps: a dictionary of the newest quote per contract. After every step:

* no contract outside its epoch's geometry, and the active epoch complete: every key of its geometry exists;
* the geometry is that of the fetch that decided it, and no older fetch supersedes;
* nothing newer is lost, and no value is there that nobody told;
* dirty and clean are consistent, with each other and with the versions; the timeline holds each id once.

In the end somebody finishes everything; then the board equals the model, and Redis equals the fold of its inputs in
journal order (`ops/oracle.py`). `--hypothesis-profile=thorough` runs a hundred times as many examples.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, assume
from hypothesis import settings as how
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from structlog.testing import capture_logs

from consumers.broker import Broker, RawEntry
from consumers.runner import Runner
from contracts.commit import Applied, Commit, Outcome
from contracts.errors import TransientError
from contracts.geometry import Geometry, decode_geometry
from contracts.keys import Keys, Layer, Stat
from contracts.messages import ChainCompleted, EpochForce, encode
from contracts.planes import QUOTE_ROW, unpack_rows
from contracts.settings import Settings, load_settings
from contracts.snapshot import ChainSnapshot, encode_snapshot
from contracts.stage import Source
from contracts.symbology import CALL, PUT
from contracts.topology import StageName
from contracts.versions import Versions
from ops.oracle import differences
from ops.wiring import keys_of, pure_stage, tickers
from stages.staging.records import SUBSTRATE_LAYERS
from tests.leaks import leaks_of
from tests.pipeline import EXPIRATION, LATER, NOW, chain_row, cid_of, quote

SYMBOL = "SPX"
CONSUMERS = 3
TIMELINE_LENGTH = 4
STEPS = 25
WORKERS = st.sampled_from((0, 1, 2, 0, 1, 2, 3, 4, 5, 6, 7))  # chains twice: their work is the longest
SHAPES: tuple[dict[str, tuple[int, ...]], ...] = (
    {EXPIRATION: (6900, 6905), LATER: (6900,)},
    {EXPIRATION: (6900, 6905, 6910), LATER: (6900,)},
    {EXPIRATION: (6905, 6910), LATER: (6900, 6905)},
    {EXPIRATION: (6900, 6905)},
)
STRIKES = (6900, 6905, 6910, 6915)  # nobody ever lists the last one
CIDS = [cid_of(strike, kind, day) for day in (EXPIRATION, LATER) for strike in STRIKES for kind in (CALL, PUT)]
BROKEN = (b"no json", b"{}", b'[{"ev":"Q"', b"\xff", b'"text"')
STRANGE: tuple[dict[str, object], ...] = (
    {"ev": "Q", "sym": CIDS[0], "bp": 1.005, "ap": 2.0, "bs": 1, "as": 1, "t": round(NOW * 1000), "q": 1},
    {"ev": "Q", "sym": CIDS[1], "bp": -3.0, "ap": 2.0, "bs": 1, "as": 1, "t": round(NOW * 1000), "q": 1},
    {"ev": "Q", "sym": CIDS[2], "bp": "ten", "ap": 2.0, "t": 1, "q": 1},
    {"ev": "Q", "sym": CIDS[3], "bp": 1.0, "ap": 2.0, "bs": 1, "as": 1, "t": round(NOW * 1000), "q": 2**60},
    {"ev": "XYZ", "sym": CIDS[0]},
    {"ev": "status", "status": "success", "message": "subscribed"},
    {"ev": "V", "T": "I:SPX", "val": 6901.5, "t": round(NOW * 1000)},
)

Quote = tuple[int, int, int, int, int]  # ms, rank, seq, bid and ask in cents: its order is that of newest-wins
Told = dict[str, Quote]


@dataclass(frozen=True)
class Fetch:
    """What a fetch told: the quote of every contract it listed, and the expirations that failed."""

    number: int
    quotes: Told
    failed: tuple[str, ...] = ()
    expired: bool = False


@dataclass
class Model:
    """What must be on the board, by what took effect so far."""

    epoch: str = ""
    fetch: int = 0
    board: dict[str, Quote | None] = field(default_factory=dict)  # listed contract -> newest quote that took effect
    told: dict[str, set[Quote]] = field(default_factory=dict)  # every quote anybody ever told
    is_lost: bool = False  # the board ran out; the next fetch makes another

    def promote(self, epoch: str, fetch: Fetch) -> None:
        """Listed is what the fetch lists and what failed; quotes known before stay where they are newer."""
        if self.is_lost:
            self.board, self.is_lost = {}, False
        listed = {*fetch.quotes, *(cid for cid in self.board if _expiration(cid) in fetch.failed)}
        self.board = {cid: self._newest(self.board.get(cid), fetch.quotes.get(cid)) for cid in sorted(listed)}
        self.epoch, self.fetch = epoch, fetch.number

    def refresh(self, fetch: Fetch) -> None:
        """The quotes of the fetch, where they are newer."""
        self.apply(fetch.quotes.items())
        self.fetch = fetch.number

    def apply(self, quotes: Any) -> None:
        """(contract, quote) of frames: what is not listed is a miss."""
        for cid, told in quotes:
            if cid in self.board:
                self.board[cid] = self._newest(self.board[cid], told)

    @staticmethod
    def _newest(*quotes: Quote | None) -> Quote | None:
        return max((one for one in quotes if one is not None), default=None)


class GatedBroker(Broker):
    """A broker whose commits wait until they are let through."""

    def __init__(self, url: str, stage: StageName, consumer: str, cursor: str) -> None:
        super().__init__(url, stage, consumer, cursor)
        self.arrived = asyncio.Event()
        self.opened = asyncio.Event()
        self.applied: Callable[[Commit], None] = lambda commit: None
        self.refused: Callable[[Commit], None] = lambda commit: None

    async def commit(self, commit: Commit, merged_before: int = 0) -> Outcome:
        """Wait at the gate; tell what became of the commit."""
        self.arrived.set()
        await self.opened.wait()
        self.opened.clear()
        outcome = await super().commit(commit, merged_before)
        (self.applied if isinstance(outcome, Applied) else self.refused)(commit)
        return outcome


class Worker:
    """One consumer of one stream: a runner that works on what it is given, one commit at a time."""

    def __init__(self, url: str, settings: Settings, stage: StageName, number: int, source: int) -> None:
        keys = keys_of(settings)
        self._settings = settings
        self._number = source
        self._lives = 0
        self._name = f"{stage}-{source}-{number}"
        self.broker = GatedBroker(url, stage, self._name, keys.cursor(stage, SYMBOL))
        self._stage = stage
        self._task: asyncio.Task[None] | None = None
        self.begin_anew()

    def begin_anew(self) -> None:
        """A new process: another name, nothing in memory."""
        self._lives += 1
        self.broker.consumer = f"{self._name}-{self._lives}"
        stage = pure_stage(self._stage, self._settings, (SYMBOL,))
        # ticks would go on in the background: here one thing happens at a time
        self.source: Source[Any, Any] = replace(stage.sources[self._number], in_background=None)
        stage = replace(stage, sources=(self.source,))
        self._runner = Runner(stage, self.broker, keys_of(self._settings), SYMBOL, claim_idle_ms=60_000, journal=True)

    @property
    def group(self) -> str:
        """The consumer group."""
        return self.broker.group

    @property
    def is_busy(self) -> bool:
        """Whether it has a commit at the gate."""
        return self._task is not None

    async def work(self, entries: list[RawEntry]) -> None:
        """Start on these entries, up to the first commit."""
        self._task = asyncio.create_task(self._runner._process(self.source, entries))
        await self._settle()

    async def let_through(self) -> None:
        """One commit, up to the next."""
        self.broker.arrived.clear()
        self.broker.opened.set()
        await self._settle()

    async def die(self) -> None:
        """Stop where it is, before its next commit."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        self.broker.arrived.clear()
        self.broker.opened.clear()
        self.begin_anew()

    async def _settle(self) -> None:
        assert self._task is not None
        at_gate = asyncio.create_task(self.broker.arrived.wait())
        await asyncio.wait([self._task, at_gate], return_when=asyncio.FIRST_COMPLETED)
        if not self._task.done():
            return
        at_gate.cancel()
        done, self._task = self._task, None
        try:
            done.result()
        except TransientError:
            return  # the runner would wait and start over with its pending entries; so does the next read


def _expiration(cid: str) -> str:
    return EXPIRATION if "260116" in cid else LATER


class Interleavings(RuleBasedStateMachine):
    """What may happen, in any order."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.client: Any = redis.Redis.from_url(url)
        self.client.flushdb()
        environment = {"REDIS_URL": url, "MASSIVE_SYMBOLS": SYMBOL, "MARKETSWARM_TIMELINE_LENGTH": str(TIMELINE_LENGTH)}
        self.settings = load_settings(environment)
        self.keys: Keys = keys_of(self.settings)
        self.loop = asyncio.Runner()
        self.model = Model()
        self.fetches: dict[str, Fetch] = {}  # by entry id
        self.orders: set[str] = set()  # entry ids
        self.frames: dict[str, list[tuple[str, Quote]]] = {}  # by entry id: the usable quotes
        self.late: list[ChainCompleted] = []
        self.told_by: dict[int, Fetch] = {}
        self.effective: set[int] = set()  # fetches that took effect
        self.was_lost = False
        self.partial: set[int] = set()  # fetches of which some rows may be in, but which did not take effect as a whole
        self.vault: dict[int, dict[str, bytes]] = {}  # snapshots that ran out
        self.clock_s = 0.0
        self.receive_s = NOW + 1000.0
        self.sequence = 0
        self.chains = [self._worker(StageName.STAGING, number, 0) for number in range(CONSUMERS)]
        self.feeds = [self._worker(StageName.STAGING, number, 1) for number in range(CONSUMERS)]
        self.calculators = [self._worker(StageName.CALCULATE, number, 0) for number in range(2)]
        self.publisher = self._worker(StageName.MODELS, 0, 0)
        self.workers = [*self.chains, *self.feeds, *self.calculators]
        (self.ticker,) = tickers(self.settings, (SYMBOL,))
        self.clockwork = Broker(url, StageName.STAGING, "ticker", self.keys.cursor(StageName.STAGING, SYMBOL))

    def _worker(self, stage: StageName, number: int, source: int) -> Worker:
        worker = Worker(self.settings.redis_url or "", self.settings, stage, number, source)
        worker.broker.applied = lambda commit: self._took_effect(worker, commit)
        self.loop.run(worker.broker.ensure_group(worker.source.stream))
        return worker

    # --- chains

    @initialize(bid=st.integers(1, 9))
    def first_chain(self, bid: int) -> None:
        """Every story begins with an epoch: before it everything is a miss."""
        self.fetch(0, bid, failed=None, late=False)
        self._finish(self.chains)

    @rule(
        shape=st.integers(0, len(SHAPES) - 1),
        bid=st.integers(1, 9),
        failed=st.sampled_from((None, None, EXPIRATION, LATER)),
        late=st.booleans(),
    )
    def fetch(self, shape: int, bid: int, failed: str | None, late: bool) -> None:
        """A fetch of some geometry; an expiration of it may fail, and its announcement may come late."""
        number = len(self.told_by) + 1
        days = {day: strikes for day, strikes in SHAPES[shape].items() if day != failed}
        missing = (failed,) if failed in SHAPES[shape] else ()
        ts, ms = NOW + self.clock_s, round((NOW + number) * 1000)
        received: dict[str, str] = {}
        quotes: Told = {}
        for day, strikes in days.items():
            rows = []
            for strike in strikes:
                for kind in (CALL, PUT):
                    told: dict[str, Any] = {"bid": float(bid), "ask": bid + 0.5, "quote_ts": NOW + number}
                    told |= {"last_ts": NOW + number, "volume": None, "delta": number / 100}
                    rows.append(chain_row(strike, kind, day, **told))
                    quotes[rows[-1].id] = (ms, 0, -1, bid * 100, bid * 100 + 50)
            received[day] = self.keys.chain_snapshot(SYMBOL, day, number)
            snapshot = ChainSnapshot(ts, SYMBOL, day, 6900, 50, tuple(rows))
            self.client.set(received[day], encode_snapshot(snapshot), px=600_000)
        fetch = self.told_by[number] = Fetch(number, quotes, missing)
        self._tell(fetch.quotes.items())
        message = ChainCompleted(SYMBOL, number, ts, (*received, *missing), received, missing, 6900.0, ts)
        if late:
            self.late.append(message)
        else:
            self._announce(message)

    @precondition(lambda self: self.late)
    @rule(which=st.integers(0, 5))
    def a_late_fetch_arrives(self, which: int) -> None:
        """Its announcement was on its way while newer ones arrived."""
        self._announce(self.late.pop(which % len(self.late)))

    def _announce(self, message: ChainCompleted) -> None:
        entry_id = self.client.xadd(self.keys.chain_stream(SYMBOL), encode(message))
        self.fetches[entry_id.decode()] = self.told_by[message.fetch]

    @rule()
    def order(self) -> None:
        """An operator forces an epoch over the same geometry."""
        message = EpochForce(SYMBOL, f"order {len(self.orders)}", self.receive_s)
        self.orders.add(self.client.xadd(self.keys.chain_stream(SYMBOL), encode(message)).decode())

    @precondition(lambda self: len(self.fetches) > 1)
    @rule(back=st.integers(0, 2))
    def snapshots_run_out(self, back: int) -> None:
        """The snapshots of a recent fetch expire, read or not."""
        number = len(self.told_by) - back
        assume(number > 0 and number not in self.vault)
        names = list(self.client.scan_iter(self.keys.chain_snapshot(SYMBOL, "*", number), count=1000))
        self.vault[number] = {name.decode(): self.client.get(name) for name in names}
        if names:
            self.client.delete(*names)

    @precondition(lambda self: self.model.board and not self.model.is_lost)
    @rule(dice=st.integers(0, 4))
    def the_board_runs_out(self, dice: int) -> None:
        """The whole pipeline was off for longer than the board lives."""
        assume(dice == 0)
        names = self.client.scan_iter(f"epoch:{self.model.epoch}:*", count=1000)
        self.client.delete(*names)
        self.model.is_lost = self.was_lost = True

    # --- frames

    @rule(
        events=st.lists(
            st.tuples(st.sampled_from(CIDS), st.integers(0, 40), st.integers(1, 3), st.integers(1, 20)),
            min_size=1,
            max_size=6,
        ),
        strange=st.sampled_from((None, None, None, *STRANGE)),
    )
    def frame(self, events: list[tuple[str, int, int, int]], strange: dict[str, object] | None) -> None:
        """A frame of quotes; an event of it may be strange: the rest of the frame counts."""
        told: list[tuple[str, Quote]] = []
        sent: list[dict[str, object]] = [strange] if strange else []
        for cid, half_seconds, sequence, bid in events:
            ms = round(NOW * 1000) + 500 * half_seconds
            sent.append(quote(cid, bid / 10, bid / 10 + 1, ms, sequence))
            told.append((cid, (ms, 1, sequence, bid * 10, bid * 10 + 100)))
        entry_id = self._append_frame(json.dumps(sent).encode())
        self.frames[entry_id] = told
        self._tell(told)

    @rule(payload=st.sampled_from(BROKEN))
    def broken_frame(self, payload: bytes) -> None:
        """What is no frame at all is parked, alone."""
        self.frames[self._append_frame(payload)] = []

    def _append_frame(self, payload: bytes) -> str:
        self.receive_s += 0.25
        body = {"ts": repr(self.receive_s), "payload": payload}
        found: bytes = self.client.xadd(self.keys.ws_stream(SYMBOL), body)
        return found.decode()

    def _tell(self, quotes: Any) -> None:
        for cid, told in quotes:
            self.model.told.setdefault(cid, set()).add(told)

    # --- clocks and ticks

    @rule(receive=st.sampled_from((-3.0, 0.0, 1.0, 7.0)), market=st.sampled_from((-600.0, -1.0, 0.0, 5.0, 600.0)))
    def time_passes(self, receive: float, market: float) -> None:
        """A tick; hosts and providers correct their clocks, back and forth."""
        self.receive_s += receive
        self.clock_s += market
        lease = self.keys.lease("tick", SYMBOL)
        self.client.set(lease, "ticker", px=60_000)

        async def one() -> None:
            state = await self.ticker.load(self.clockwork)
            for commit in self.ticker.step(state, self.receive_s, lease, "ticker"):
                await self.clockwork.commit(commit)

        self.loop.run(one())

    # --- consumers

    @rule(which=WORKERS, count=st.integers(1, 4), commits=st.sampled_from((0, 1, 2, 3, 5, 8, 13, 50)))
    def work(self, which: int, count: int, commits: int) -> None:
        """A consumer reads, unless it has work: own unfinished entries first; then some of its commits arrive."""
        worker = self.workers[which]
        if not worker.is_busy:
            self._start(worker, count)
        for _ in range(commits):
            if worker.is_busy:
                self.loop.run(worker.let_through())

    @rule(
        before=st.integers(0, len(SHAPES) - 1),
        shape=st.integers(0, len(SHAPES) - 1),
        first=st.integers(0, 7),
        second=st.integers(0, 7),
        commits=st.integers(0, 12),
        what=st.sampled_from(("fetch", "frame", "nothing")),
        steals=st.booleans(),
        finishes=st.booleans(),
        bid=st.integers(1, 9),
    )
    def overlap(
        self,
        before: int,
        shape: int,
        first: int,
        second: int,
        commits: int,
        what: str,
        steals: bool,
        finishes: bool,
        bid: int,
    ) -> None:
        """One consumer stops on its way, something happens, another works to its end, the first goes on."""
        if first < CONSUMERS and not self.workers[first].is_busy:
            self.fetch(before, bid, failed=None, late=False)
        self.work(first, 4, commits)
        if what == "fetch":
            self.fetch(shape, bid, failed=None, late=False)
        elif what == "frame":
            self.frame([(cid, 20 + bid, 2, bid) for cid in CIDS], None)
            self.work(3, 4, 50)
        if steals and self._owners(self.workers[second]):
            self.claim(second, 0, 0)
        self.work(second, 4, 50)
        if finishes:
            self.work(first, 4, 50)

    @rule(which=WORKERS)
    def die(self, which: int) -> None:
        """A consumer is killed before its next commit; its entries stay its own."""
        self.loop.run(self.workers[which].die())

    @rule(which=WORKERS, victim=st.integers(0, 20), commits=st.sampled_from((0, 1, 3, 50)))
    def claim(self, which: int, victim: int, commits: int) -> None:
        """A consumer takes over the entries of another, dead or alive: who is alive goes on as a zombie."""
        worker = self.workers[which]
        owners = self._owners(worker)
        if owners:
            self._claim(worker, owners[victim % len(owners)])
            self.work(which, 4, commits)

    def _owners(self, worker: Worker) -> list[bytes]:
        rows = self.client.xinfo_consumers(worker.source.stream, worker.group)
        own = worker.broker.consumer.encode()
        return sorted(row["name"] for row in rows if row["pending"] and row["name"] != own)

    def _claim(self, worker: Worker, owner: bytes) -> None:
        stream, group = worker.source.stream, worker.group
        rows = self.client.xpending_range(stream, group, "-", "+", 1000, consumername=owner)
        ids = [row["message_id"] for row in rows]
        self.client.xclaim(stream, group, worker.broker.consumer, 0, ids, justid=True)

    def _start(self, worker: Worker, count: int) -> bool:
        """Read and begin; whether there was anything."""
        for start in ("0", ">"):
            streams = {worker.source.stream: start}
            reply = self.client.xreadgroup(worker.group, worker.broker.consumer, streams, count=count)
            entries = [RawEntry(entry_id.decode(), fields) for entry_id, fields in reply[0][1]] if reply else []
            if entries:
                self.loop.run(worker.work(entries))
                return True
        return False

    # --- what takes effect

    def _took_effect(self, worker: Worker, commit: Commit) -> None:
        """Follow, in the model, what a commit did."""
        if worker.group != StageName.STAGING:
            return
        ids = [entry.id for entry in (*commit.acknowledges, *commit.holds)]
        if worker in self.feeds:
            for entry_id in ids:
                self.model.apply(self.frames[entry_id])
            return
        active = (self.client.hget(self.keys.active(SYMBOL), SYMBOL) or b"").decode()
        applied = int(self.client.hget(self.keys.meta(active), "fetch") or 0) if active else 0
        if active != self.model.epoch and applied == self.model.fetch:
            assert self.orders & set(ids), "an epoch that nobody asked for"
            self.model.epoch = active
        elif active != self.model.epoch:
            assert applied in {self.fetches[entry_id].number for entry_id in ids if entry_id in self.fetches}
            assert applied > self.model.fetch, "an older fetch superseded a newer one"
            self._whole(self.told_by[applied])
            self.model.promote(active, self.told_by[applied])
        elif commit.acknowledges and applied != self.model.fetch:
            assert applied > self.model.fetch, "an older fetch superseded a newer one"
            self._whole(self.told_by[applied])
            self.model.refresh(self.told_by[applied])
        elif not ids and self._phase() != "carrying":
            self.partial |= {number for number in self.told_by if number > self.model.fetch}

    def _whole(self, fetch: Fetch) -> None:
        """A fetch took effect; chains tell newer quotes each time, so what older ones left of theirs is replaced."""
        self.effective.add(fetch.number)
        covered = {number for number in self.partial if number <= fetch.number and not fetch.failed}
        self.partial -= {*covered, fetch.number}

    def _phase(self) -> str:
        building = self.client.hgetall(self.keys.building(SYMBOL))
        return building.get(b"phase", b"").decode() if building.get(b"id", b"").decode() == self.model.epoch else ""

    # --- after every step

    @invariant()
    def the_board_is_whole_and_true(self) -> None:
        """The geometry is the model's, complete, nothing beside it; every quote is at least what took effect."""
        if not self.model.epoch or self.model.is_lost:
            return
        geometry, quotes = self._board()
        assert set(geometry.row_of) == set(self.model.board)
        self._assert_complete(geometry)
        carrying = self._phase() == "carrying"
        for cid, least in self.model.board.items():
            found = quotes[cid]
            assert found is None or found in self.model.told[cid], f"{cid}: nobody told {found}"
            if not carrying and least is not None:
                assert found is not None and found >= least, f"{cid}: {found} is older than {least}"

    @invariant()
    def marks_and_timeline_are_consistent(self) -> None:
        """Dirty and clean exclude each other and say what the versions say; each id stands on the timeline once."""
        keys, epoch = self.keys, self.model.epoch
        if not epoch or self.model.is_lost:
            return
        dirty = {one.decode() for one in self.client.smembers(keys.dirty(SYMBOL))}
        clean = {one.decode() for one in self.client.smembers(keys.clean(SYMBOL))}
        timeline = [one.decode() for one in self.client.lrange(keys.timeline(SYMBOL), 0, -1)]
        metas = {name.decode() for name in self.client.scan_iter(keys.meta("*"), count=1000)}
        versions = Versions(self.client.hgetall(keys.versions(epoch)))
        lagging = [plane.id for plane in self._geometry().planes if versions.lags(plane.id, "tiles", "quotes")]
        assert dirty == ({epoch} if lagging else set())
        assert clean <= set(timeline) and not clean & dirty
        assert int(versions.fields[b"lagging"]) == len(lagging)
        assert timeline[0] == epoch and len(timeline) <= TIMELINE_LENGTH
        seconds = [int(one.split(":")[1]) for one in timeline]
        assert seconds == sorted(set(seconds), reverse=True), "ids go on, and none is used twice"
        assert metas == {keys.meta(one) for one in timeline}

    def _geometry(self) -> Geometry:
        return decode_geometry(self.client.get(self.keys.listing(self.model.epoch)))

    def _board(self) -> tuple[Geometry, dict[str, Quote | None]]:
        geometry = self._geometry()
        quotes: dict[str, Quote | None] = {}
        for plane in geometry.planes:
            blob = self.client.get(self.keys.plane(self.model.epoch, plane.id, Layer.QUOTES))
            for listing, row in zip(plane.rows, unpack_rows(blob, QUOTE_ROW)["quote"], strict=True):
                found = tuple(int(row[name]) for name in ("ms", "rank", "seq", "bid", "ask"))
                quotes[listing.cid] = found if found[0] >= 0 else None  # type: ignore[assignment]
        return geometry, quotes

    def _assert_complete(self, geometry: Geometry) -> None:
        """Every key of the geometry exists, and no other contract, in this epoch or any before."""
        keys, epoch = self.keys, self.model.epoch
        names = [keys.listing(epoch), keys.versions(epoch), keys.had_ws_updates(epoch)]
        names += [keys.plane(epoch, plane.id, layer) for plane in geometry.planes for layer in SUBSTRATE_LAYERS]
        names += [keys.geometry(epoch, day) for day in geometry.expirations]
        assert self.client.exists(*names) == len(names)
        for old in self.client.lrange(keys.timeline(SYMBOL), 0, -1):
            listing = self.client.get(keys.listing(old.decode()))
            listed = decode_geometry(listing).row_of if listing else ()
            pattern = keys.contract(old.decode(), "*")
            found = {name.decode() for name in self.client.scan_iter(pattern, count=1000)}
            assert found == {keys.contract(old.decode(), cid) for cid in listed}
        for day in geometry.expirations:
            members = {one.decode() for one in self.client.zrange(keys.geometry(epoch, day), 0, -1)}
            assert members == {cid for cid in geometry.row_of if _expiration(cid) == day}

    # --- the end

    def teardown(self) -> None:
        """Somebody finishes everything; then the board equals the model, and Redis the fold."""
        try:
            if self.model.is_lost:
                self.fetch(0, 5, failed=None, late=False)
            self._finish(self.workers)
            if self.partial:
                # what is left of a torn refresh is true but of no fetch that took effect: the next chain replaces it
                self.fetch(0, 5, failed=None, late=False)
                self._finish(self.workers)
            self._assert_settled()
        finally:
            self._close()

    def _assert_settled(self) -> None:
        self.the_board_is_whole_and_true()
        self.marks_and_timeline_are_consistent()
        assert self._phase() != "carrying"
        assert self._board()[1] == self.model.board
        self._assert_every_event_is_counted_once()
        self._finish([*self.workers, self.publisher])
        for number in self.effective & self.vault.keys():  # read in time, so the fold may read them too
            for name, blob in self.vault[number].items():
                self.client.set(name, blob, px=600_000)
        if not self.was_lost:  # the fold keeps its board
            assert differences(self.client, self.settings) == []
        assert not leaks_of(self.client)

    def _assert_every_event_is_counted_once(self) -> None:
        counts = Counter(
            {k.decode(): int(v) for k, v in self.client.hgetall(self.keys.analytics(Stat.HYDRATE, SYMBOL)).items()}
        )
        fates = ("applied", "older", "geometry_miss", "rejected", "unknown", "malformed", "status", "index")
        assert sum(counts[name] for name in fates) == counts["events"] + counts["extra_groups"]
        parked = self.client.xlen(Keys.parked(self.keys.ws_stream(SYMBOL)))
        assert counts["frames"] + parked == len(self.frames), (dict(counts), parked)

    def _finish(self, workers: list[Worker]) -> None:
        """Kill everybody; then one consumer of each stream claims what is left and works until nothing is."""
        for worker in workers:
            self.loop.run(worker.die())
        first_of: dict[str, Worker] = {}
        for worker in workers:
            first_of.setdefault(worker.source.stream, worker)
        for _ in range(200):
            if not sum(self._finish_stream(worker) for worker in first_of.values()):
                return
        raise AssertionError(f"there is no end: {self.model}")

    def _finish_stream(self, worker: Worker) -> bool:
        for owner in self._owners(worker):
            self._claim(worker, owner)
        if not self._start(worker, 100):
            return False
        for _ in range(1000):
            if not worker.is_busy:
                return True
            self.loop.run(worker.let_through())
        raise AssertionError(f"{worker.source.stream} is not finished by a thousand commits")

    def _close(self) -> None:
        for worker in [*self.workers, self.publisher]:
            self.loop.run(worker.die())
            self.loop.run(worker.broker.close())
        self.loop.run(self.clockwork.close())
        self.loop.close()
        self.client.flushdb()
        self.client.close()


def test_staging_is_exact_under_every_interleaving(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("hydrate.MAX_ROWS", "chain.MERGE_ROWS", "promotion.BUILD_ROWS"):
        monkeypatch.setattr(f"stages.staging.{name}", 8)  # small boards, but many commits
    examples = how().max_examples  # of the profile: 100 unless told otherwise
    settings = how(
        max_examples=examples,
        stateful_step_count=STEPS,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    with capture_logs():  # what is parked is told by thousands
        run_state_machine_as_test(partial(Interleavings, redis_url), settings=settings)  # type: ignore[arg-type]
