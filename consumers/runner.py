"""The one runner of all stages: read, load, step, commit, for ever; retry, park, claim, renew, trim, drain.

Order of one round for a source:

1. own pending entries first (after a start, a lost connection, or a claim), then new ones;
2. decode each; poison is parked in the commit that acknowledges it;
3. per partition: load the state, take the pure step, apply its commits; a refusal loads and steps again;
4. a DataError of a whole batch is narrowed by halving it until the entry at fault is alone.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from time import time
from typing import Any, TypeAlias, TypeVar

import structlog

from consumers.broker import Broker, RawEntry
from contracts.commit import Applied, Commit, Count, Emit, EntryId, FieldIs, Lost, Refused, Scalar
from contracts.errors import DataError, FatalError, TransientError
from contracts.keys import Keys, Stat
from contracts.stage import Entry, Source, Stage
from contracts.topology import Retention

log = structlog.get_logger("runner")

T = TypeVar("T")
AnySource: TypeAlias = "Source[Any, Any]"

PARKED_KEEP = 10_000
SWEEP_EVERY_S = 1.0
SWEEP_LEASE_MS = 3000
DEAD_CONSUMER_MS = 60_000
MAX_BACKOFF_S = 5.0
REFUSALS_BEFORE_PAUSE = 20
DRAIN_S = 5.0  # what goes on in the background for longer than that after a stop is left to another consumer


@dataclass
class Activity:
    """What this process did; read by the probes and the heartbeat. Local facts, not state."""

    commits: int = 0
    refused: int = 0
    lost: int = 0
    entries: int = 0
    parked: int = 0
    claimed: int = 0
    faults: int = 0
    last_commit_ts: float = 0.0
    last_read_ts: float = 0.0
    waiting_for: str = ""


class Backoff:
    """Capped, jittered delays: 0.05 s doubling to MAX_BACKOFF_S."""

    def __init__(self) -> None:
        self._delay = 0.0

    def reset(self) -> None:
        """The next fault starts small again."""
        self._delay = 0.0

    async def wait(self, stop: asyncio.Event, at_least_s: float = 0.0) -> None:
        """Wait, or return early when stopping."""
        self._delay = min(MAX_BACKOFF_S, self._delay * 2 or 0.05)
        delay = max(at_least_s, self._delay * random.uniform(0.5, 1.0))
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), delay)


class Turn:
    """Who works in the background, one after the other, and how long to wait after a fault."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.backoff = Backoff()


class Background:
    """Work of a source that goes on while the source is read; one piece at a time and partition, in order."""

    def __init__(self) -> None:
        self.ids: set[str] = set()  # entries in the works: they are pending, but not to be started again
        self.left = False  # some of them are still to be done, and pending
        self._turns: dict[Hashable, Turn] = {}
        self._tasks: set[asyncio.Task[bool]] = set()
        self._failure: BaseException | None = None

    def turn(self, partition: Hashable) -> Turn:
        """The turn of a partition; there are as many as symbols."""
        return self._turns.setdefault(partition, Turn())

    def start(self, work: Coroutine[Any, Any, bool], ids: set[str]) -> None:
        """Start a piece of work on these entries; it tells whether it is done with them."""
        self.ids |= ids
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(done, ids))

    def raise_failure(self) -> None:
        """Raise what ended a piece of work, if anything did."""
        if self._failure is not None:
            raise self._failure

    async def finished(self) -> None:
        """Wait for what was started, but not for ever: what is not done then stays pending for whoever claims it."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=DRAIN_S)
            await asyncio.gather(*(ended(task) for task in late))
        self.raise_failure()

    def _ended(self, task: asyncio.Task[bool], ids: set[str]) -> None:
        self._tasks.discard(task)
        self.ids -= ids
        if task.cancelled():
            return
        self._failure = task.exception() or self._failure
        self.left = self.left or (task.exception() is None and not task.result())


class Runner:
    """Runs one stage as one consumer of its group until `stop` is set."""

    def __init__(
        self, stage: Stage, broker: Broker, keys: Keys, symbol: str, *, claim_idle_ms: int, journal: bool
    ) -> None:
        self.stage = stage
        self.broker = broker
        self.activity = Activity()
        self._keys = keys
        self._symbol = symbol  # which partition; any of its symbols
        self._claim_idle_ms = claim_idle_ms
        self._journal = journal
        self._stop = asyncio.Event()
        self._redo: dict[str, bool] = {source.stream: True for source in stage.sources}
        self._background = {source.stream: Background() for source in stage.sources}

    async def run(self, stop: asyncio.Event) -> None:
        """Work until stopped; unfinished entries stay pending and go to whoever claims them."""
        self._stop = stop
        async with asyncio.TaskGroup() as tasks:
            for source in self.stage.sources:
                tasks.create_task(self._consume(source, stop), name=f"{self.stage.name}:{source.row.name}")
            tasks.create_task(self._sweep(stop), name=f"{self.stage.name}:sweep")
        with suppress(TransientError):
            for source in self.stage.sources:
                await self.broker.leave(source.stream)

    # --- reading

    async def _consume(self, source: AnySource, stop: asyncio.Event) -> None:
        backoff = Backoff()
        await self._until_done(lambda: self.broker.ensure_group(source.stream), backoff, stop)
        while not stop.is_set():
            try:
                await self._round(source, stop)
                backoff.reset()
                self.activity.waiting_for = ""
            except TransientError as error:
                self._redo[source.stream] = True
                await self._pause(error, backoff, stop)
                if "NOGROUP" in str(error):
                    await self._until_done(lambda: self.broker.ensure_group(source.stream), backoff, stop)
        await self._background[source.stream].finished()

    async def _round(self, source: AnySource, stop: asyncio.Event) -> None:
        background = self._background[source.stream]
        background.raise_failure()
        if background.left:
            background.left, self._redo[source.stream] = False, True
        if self._redo[source.stream]:
            self._redo[source.stream] = False  # before reading: what is claimed meanwhile sets it again
            entries = await self.broker.read_pending(source.stream, source.batch + len(background.ids))
            entries = [entry for entry in entries if entry.id not in background.ids]
            if entries:
                self._redo[source.stream] = True
        else:
            entries = await self.broker.read_new(source.stream, source.batch)
        self.activity.last_read_ts = time()
        if entries:
            async with self._renewed(source, entries):
                await self._process(source, entries)

    async def _until_done(self, act: Callable[[], Awaitable[None]], backoff: Backoff, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await act()
                return
            except TransientError as error:
                await self._pause(error, backoff, stop)

    async def _pause(self, error: TransientError, backoff: Backoff, stop: asyncio.Event) -> None:
        self.activity.faults += 1
        if self.activity.waiting_for != str(error):
            self.activity.waiting_for = str(error)
            log.warning("waiting", stage=self.stage.name, reason=str(error))
        await backoff.wait(stop, error.retry_after_s or 0.0)

    # --- working

    async def _process(self, source: AnySource, raw: Sequence[RawEntry]) -> None:
        partitions: dict[Hashable, list[Entry[Any]]] = {}
        for one in raw:
            entry_id = EntryId(source.stream, one.id)
            try:
                message = source.decode(one.fields)
            except DataError as error:
                await self._park(entry_id, one.fields, error)
                continue
            partitions.setdefault(source.partition(message), []).append(Entry(entry_id, message))
        fields = {one.id: one.fields for one in raw}
        if source.in_background is not None:
            for key in [key for key, found in partitions.items() if source.in_background(found[0].message)]:
                # with `concurrent` a partition waits for its own work only
                turn = self._background[source.stream].turn(key if source.concurrent else None)
                self._work_in_background(source, turn, partitions.pop(key), fields)
        if source.concurrent:
            work = (self._finish(source, entries, fields) for entries in partitions.values())
            _raise_first(await asyncio.gather(*work, return_exceptions=True))
            return
        for entries in partitions.values():
            await self._finish(source, entries, fields)

    def _work_in_background(
        self, source: AnySource, turn: Turn, entries: list[Entry[Any]], fields: dict[str, dict[bytes, bytes]]
    ) -> None:
        background = self._background[source.stream]
        raw = [RawEntry(entry.id.id, fields[entry.id.id]) for entry in entries]

        async def work() -> bool:
            async with self._renewed(source, raw), turn.lock:
                try:
                    await self._finish(source, entries, fields)
                except TransientError as error:
                    await self._pause(error, turn.backoff, self._stop)
                    return False  # tried again from the pending entries
                turn.backoff.reset()
                return True

        background.start(work(), {entry.id.id for entry in entries})

    async def _finish(
        self, source: AnySource, entries: list[Entry[Any]], fields: dict[str, dict[bytes, bytes]]
    ) -> None:
        """Load, step and commit until every entry is acknowledged, parked, or another's."""
        refusals = 0
        count = len(entries)
        while entries:
            try:
                state = await source.load(self.broker, entries)
                commits = source.step(state, entries)
            except DataError as error:
                if len(entries) == 1:
                    await self._park(entries[0].id, fields[entries[0].id.id], error)
                    return
                middle = len(entries) // 2
                await self._finish(source, entries[:middle], fields)
                await self._finish(source, entries[middle:], fields)
                return
            entries, refused = await self._apply(commits, entries)
            if refused:
                refusals += 1
                if self._stop.is_set():
                    return  # what is left stays pending for its next owner
                if refusals % REFUSALS_BEFORE_PAUSE == 0:
                    await asyncio.sleep(0.01)
        self.activity.entries += count

    async def _apply(self, commits: Sequence[Commit], entries: list[Entry[Any]]) -> tuple[list[Entry[Any]], bool]:
        merged = 0
        for commit in commits:
            outcome = await self.broker.commit(self._journaled(commit), merged)
            match outcome:
                case Applied():
                    merged = outcome.merged
                    self.activity.commits += 1
                    self.activity.last_commit_ts = time()
                    done = set(commit.acknowledges)
                    entries = [entry for entry in entries if entry.id not in done]
                case Lost(owned):
                    self.activity.lost += 1
                    await self._count_refusal(commit, outcome)
                    ours = {one for one in (*commit.acknowledges, *commit.holds) if one.id in owned}
                    concerned = {*commit.acknowledges, *commit.holds}
                    return [entry for entry in entries if entry.id not in concerned or entry.id in ours], True
                case _:
                    self.activity.refused += 1
                    await self._count_refusal(commit, outcome)
                    return entries, True
        return entries, False

    async def _count_refusal(self, commit: Commit, outcome: Lost | Refused) -> None:
        """Count what was refused because the board moved on; the commit itself wrote nothing, not even a count."""
        active = self._keys.active(self._symbol)
        if commit.holds:
            name = "fences"  # part of a promotion: its builder was overtaken
        elif isinstance(outcome, Refused) and isinstance(outcome.guard, FieldIs) and outcome.guard.key == active:
            name = "stale_epoch_refusals"  # made for an epoch that is no longer the active one
        else:
            return
        counts = Count(self._keys.analytics(Stat.EPOCH, self._symbol), {name: 1})
        await self.broker.commit(Commit(writes=(counts,)))

    def _journaled(self, commit: Commit) -> Commit:
        effective = (*commit.acknowledges, *(commit.holds if commit.decides else ()))
        if not self._journal or not effective:
            return commit
        by_stream: dict[str, list[str]] = {}
        for entry in effective:
            by_stream.setdefault(entry.stream, []).append(entry.id)
        record: list[Emit] = [
            Emit(
                self._keys.journal_stream(self._symbol),
                {"stage": self.stage.name, "stream": stream, "ids": ",".join(ids)},
            )
            for stream, ids in by_stream.items()
        ]
        return replace(commit, writes=(*commit.writes, *record))

    async def _park(self, entry: EntryId, fields: dict[bytes, bytes], error: DataError) -> None:
        """Move an entry nobody can use aside, with the reason, in the commit that acknowledges it."""
        about: dict[str, Scalar] = {"reason": str(error), "id": entry.id}
        payload = {parked_name(name.decode("utf-8", "replace")): value for name, value in fields.items()}
        parked = Emit(Keys.parked(entry.stream), {**about, **payload}, keep=PARKED_KEEP)
        outcome = await self.broker.commit(self._journaled(Commit((entry,), writes=(parked,))))
        if not isinstance(outcome, Applied):
            return  # somebody else owns it by now
        self.activity.parked += 1
        log.warning("parked", stage=self.stage.name, stream=entry.stream, id=entry.id, reason=str(error))

    # --- housekeeping

    @asynccontextmanager
    async def _renewed(self, source: AnySource, entries: Sequence[RawEntry]):  # type: ignore[no-untyped-def]
        """While the body runs, keep its entries from being claimed."""
        ids = [entry.id for entry in entries]

        async def renew() -> None:
            while True:
                await asyncio.sleep(self._claim_idle_ms / 4000)
                with suppress(TransientError):
                    await self.broker.renew(source.stream, ids)

        task = asyncio.create_task(renew())
        try:
            yield
        finally:
            await ended(task)

    async def _sweep(self, stop: asyncio.Event) -> None:
        """One consumer of the group claims idle entries, trims, and removes dead consumers."""
        lease = self._keys.lease(f"sweep:{self.stage.name}", self._symbol)
        cursors = {source.stream: "0-0" for source in self.stage.sources}
        while not stop.is_set():
            with suppress(TransientError):
                if await self.broker.take_lease(lease, SWEEP_LEASE_MS):
                    for source in self.stage.sources:
                        await self._sweep_stream(source, cursors)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), SWEEP_EVERY_S)
        with suppress(TransientError, FatalError):
            await self.broker.drop_lease(lease)

    async def _sweep_stream(self, source: AnySource, cursors: dict[str, str]) -> None:
        stream = source.stream
        cursors[stream], claimed = await self.broker.claim_idle(stream, self._claim_idle_ms, cursors[stream])
        if claimed:
            self.activity.claimed += claimed
            self._redo[stream] = True
            log.info("claimed", stage=self.stage.name, stream=stream, entries=claimed)
        if source.row.retention is Retention.ACKNOWLEDGED and not self._journal:
            await self.broker.trim(stream)
        await self.broker.forget_dead(stream, DEAD_CONSUMER_MS)


async def ended(task: asyncio.Future[T], patience_s: float = 0.1) -> None:
    """Cancel a task until it has ended: once may not be enough, and its cancellation must not pass for our own.

    `patience_s`: how long its own end may take before it is cancelled again.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=patience_s)


def parked_name(name: str) -> str:
    """What a field of an entry is called once parked: our own two names are taken."""
    return f"payload:{name}" if name in ("reason", "id") else name


def _raise_first(results: Sequence[object]) -> None:
    """Raise what went wrong, worst first: one partition's fault has not disturbed the others."""
    errors = [one for one in results if isinstance(one, BaseException)]
    for error in sorted(errors, key=lambda one: isinstance(one, TransientError)):
        raise error
