"""(f): how long the scripts of a promotion keep the server to themselves, at the size of a full board.

Each script is timed by the server (the microseconds its statistics count for scripts): of a bootstrap, then of a
promotion to another geometry before whose switch every contract gets a new quote from the feed, so that all of them
are carried. A promotion is the same scripts each time, so each figure is the median of some repetitions: what another
process of the machine took away in one of them is not the script's.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable
from typing import Any

import redis

from consumers.broker import Broker, RawEntry
from contracts.commit import Applied, Commit, EntryId, Outcome
from contracts.keys import Keys
from contracts.ports import Read
from contracts.stage import Entry, Source
from contracts.topology import StageName
from ops.bench.board import (
    SYMBOL,
    append_frames,
    bench_settings,
    contracts,
    publish_chain,
    quote_frames,
    server,
    stage_of,
)
from ops.wiring import keys_of

CONTRACTS = 5000
FULL_ROW = {"last": 10.1, "last_size": 2, "volume": 100, "iv": 0.2, "delta": 0.5, "gamma": 0.001, "theta": -1.0}

REPEATS = 5

AnySource = Source[Any, Any]
Report = Callable[[str], None]
Board = list[tuple[str, str, str, float]]


def measure_promotions(report: Report, count: int = CONTRACTS) -> dict[str, dict[str, float]]:
    """Figures of a bootstrap and of a promotion with a full carry."""
    runs = [asyncio.run(_promotions(count)) for _ in range(REPEATS)]
    found = {}
    for reason in runs[0]:
        scripts_ms = [statistics.median(times) for times in zip(*(run[reason] for run in runs), strict=True)]
        figures = {
            "scripts": len(scripts_ms),
            "max_ms": round(max(scripts_ms), 2),
            "p99_ms": round(statistics.quantiles(scripts_ms, n=100, method="inclusive")[98], 2),
            "total_ms": round(sum(scripts_ms), 1),
        }
        report(
            f"promote  {reason:9} {count:,} contracts: {figures['scripts']} scripts, max {figures['max_ms']:.2f} ms, "
            f"p99 {figures['p99_ms']:.2f} ms, together {figures['total_ms']:.0f} ms"
        )
        found[reason] = figures
    return found


async def _promotions(count: int) -> dict[str, list[float]]:
    """ms of every script of a bootstrap and of a promotion, in order, on a fresh server."""
    board = contracts(count + 10)
    with server() as url:
        staging = _Staging(url)
        await staging.open()
        bootstrap = await staging.promote(board[10:], [])
        geometry = await staging.promote(board[:-10], quote_frames(board, 3 * len(board), 50))
        await staging.close()
    return {"bootstrap": bootstrap, "geometry": geometry}


class _TimedBroker(Broker):
    """Every read and every commit is one script; ms of each, as the server counts them."""

    def __init__(self, url: str, keys: Keys, statistics_of: Any) -> None:
        super().__init__(url, StageName.STAGING, "bench", keys.cursor(StageName.STAGING, SYMBOL))
        self.times_ms: list[float] = []
        self._statistics_of = statistics_of

    async def read(self, *reads: Read) -> list[object]:
        """Several reads at one moment, timed."""
        before = self._scripts_ms()
        found = await super().read(*reads)
        self.times_ms.append(self._scripts_ms() - before)
        return found

    async def commit(self, commit: Commit, merged_before: int = 0) -> Outcome:
        """A commit, timed."""
        before = self._scripts_ms()
        outcome = await super().commit(commit, merged_before)
        self.times_ms.append(self._scripts_ms() - before)
        return outcome

    def _scripts_ms(self) -> float:
        found = self._statistics_of.info("commandstats").get("cmdstat_evalsha", {"usec": 0})
        return float(found["usec"]) / 1000


class _Staging:
    """One consumer of the staging stage, step by step."""

    def __init__(self, url: str) -> None:
        settings = bench_settings(url)
        self._keys = keys_of(settings)
        self._client: Any = redis.Redis.from_url(url)
        self._chains, self._frames = stage_of(StageName.STAGING, settings).sources
        self._broker = _TimedBroker(url, self._keys, self._client)
        self._fetch = 0

    async def open(self) -> None:
        """Join the groups."""
        for source in (self._chains, self._frames):
            await self._broker.ensure_group(source.stream)

    async def close(self) -> None:
        """Close every connection."""
        await self._broker.close()
        self._client.close()

    async def promote(self, board: Board, meanwhile: list[bytes]) -> list[float]:
        """ms of every script of a promotion; frames that are hydrated right before its switch are not counted."""
        self._fetch += 1
        publish_chain(self._client, self._keys, board, self._fetch, **FULL_ROW)

        timed: list[float] = []

        async def hydrate() -> None:
            timed.extend(self._broker.times_ms)
            append_frames(self._client, self._keys.ws_stream(SYMBOL), meanwhile)
            await self._work(self._frames)
            self._broker.times_ms.clear()

        self._broker.times_ms.clear()
        await self._work(self._chains, hydrate if meanwhile else None)
        return [*timed, *self._broker.times_ms]

    async def _work(self, source: AnySource, before_switch: Callable[[], Awaitable[None]] | None = None) -> None:
        """Load, step and commit what waits on a stream."""
        entries = [_decoded(source, one) for one in await self._broker.read_new(source.stream, source.batch)]
        while entries:
            merged = 0
            for commit in source.step(await source.load(self._broker, entries), entries):
                if commit.decides and before_switch is not None:
                    await before_switch()
                outcome = await self._broker.commit(commit, merged)
                if not isinstance(outcome, Applied):
                    break
                merged = outcome.merged
                done = set(commit.acknowledges)
                entries = [entry for entry in entries if entry.id not in done]


def _decoded(source: AnySource, one: RawEntry) -> Entry[Any]:
    return Entry(EntryId(source.stream, one.id), source.decode(one.fields))
