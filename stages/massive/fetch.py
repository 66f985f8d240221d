"""Ingestion of chains: a `chain.fetch` job becomes snapshots, pointers and one `chain.completed`.

`load` does what has effects: it asks the provider, if the entry carries the job's valid ticket. `step` is pure: it
turns what was fetched into one commit, guarded by that ticket. A failed expiration is recorded, never a partial
plane; when nothing arrives at all, the job waits for the provider and is tried again.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias, TypeVar

import msgspec
import structlog

from contracts.clock import LOCAL, MarketClock, decode_clock, encode_clock
from contracts.commit import Commit, Count, Emit, FieldIs, Sample, Scalar, SetFields, SetNewest, SetValue, Write
from contracts.errors import DataError, TransientError
from contracts.job import Job, decode_job
from contracts.keys import Keys, Stat
from contracts.messages import ChainCompleted, ChainFetch, Fields, decode, encode
from contracts.ports import GetFields, GetValue, Reader
from contracts.snapshot import ChainSnapshot, encode_snapshot
from contracts.stage import Entry, Source
from contracts.topology import StageName, streams_of
from stages.massive.rest import Chain, PageRefusedError, Spot, ThrottledError
from stages.massive.rows import Surface, read_surface
from stages.massive.window import (
    Windows,
    WindowSettings,
    at_the_money_sigma,
    decode_windows,
    encode_windows,
    in_session,
    latched,
    plan_windows,
    snapped,
)

log = structlog.get_logger("fetch")

JOB_BATCH = 1  # a consumer takes one job at a time: the next one goes to whoever is free
PROGRESS_EVERY_S = 5.0
CLOCK_TOLERANCE_S = 2.0  # the provider tells whole seconds: a smaller difference is no news
PROBE = 0.01  # of the spot: how far around it a volatility is looked for before the first window

UNAVAILABLE = "unavailable"  # the provider could not answer for this expiration
MALFORMED = "malformed"  # it answered with something nobody can use
INCOMPLETE = "incomplete"  # no full surface: calls or puts are missing
REFUSED = "refused"  # it refused a page after it had given others
NONE_FAILED = b"{}"  # `failed` of a job whose last fetch was whole

# upper bounds of the latency histogram, seconds; what takes longer counts under `inf`
LATENCY_BOUNDS_S = (0.25, 0.5, 1, 2, 5, 10, 30, 60, 300)

T = TypeVar("T")

FetchEntries: TypeAlias = "Sequence[Entry[ChainFetch]]"
Progress: TypeAlias = "Callable[[str], Awaitable[None]]"


class Provider(Protocol):
    """What a fetch asks of the provider; `rest.ProviderClient` is it."""

    async def clock(self) -> MarketClock:
        """The provider's time beside ours."""
        ...

    async def expirations(self, symbol: str, count: int | None, market_ts: float) -> list[str]:
        """The next tradable expirations, or all of them."""
        ...

    async def chain(self, symbol: str, expiration: str, low: float | None = None, high: float | None = None) -> Chain:
        """The raw rows of an expiration in a range of strikes."""
        ...

    async def listed_strike(self, symbol: str, expiration: str, at: float, *, above: bool) -> float | None:
        """The nearest listed strike on one side of a price."""
        ...

    async def spot(self, symbol: str) -> Spot | None:
        """The underlying's value."""
        ...


@dataclass(frozen=True, slots=True)
class FetchSettings:
    """What fetching needs from the settings.

    `expirations` None: every one the provider lists. `snapshot_ttl_ms` 0: snapshots are kept (the journal needs them).
    """

    expirations: int | None
    interval_s: float
    interval_closed_s: float
    snapshot_ttl_ms: int
    window: WindowSettings = field(default_factory=WindowSettings)
    parallel: int = 4  # expirations asked for at the same time
    budgeted: bool = False  # requests are limited: what a fetch takes says nothing about the provider


@dataclass(frozen=True, slots=True)
class Failure:
    """An expiration that did not arrive: UNAVAILABLE, MALFORMED ..., in words, and when to come back."""

    kind: str
    reason: str
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Fetched:
    """All one fetch brought. `ended_ts` and `latency_s` are by our clock; `spot`: the newest known, fetched or not."""

    requested: tuple[str, ...]
    surfaces: Mapping[str, Surface]  # by expiration
    failures: Mapping[str, Failure]
    pages: int
    spot: Spot | None
    windows: Windows
    clock: MarketClock
    market_ts: float  # as the fetch began
    ended_ts: float
    latency_s: float


@dataclass(frozen=True, slots=True)
class FetchState:
    """What the step looks at. `fetched` None: no entry carried the valid ticket. `was_partial`: the fetch before it."""

    symbol: str
    job: Job
    fetched: Fetched | None = None
    was_partial: bool = False


class Fetching:
    """load and step of the jobs source of one partition. `progress(symbol)` is called every few seconds of a fetch."""

    def __init__(self, keys: Keys, client: Provider, settings: FetchSettings, progress: Progress) -> None:
        self._keys = keys
        self._client = client
        self._settings = settings
        self._progress = progress

    # --- load

    async def load(self, reader: Reader, entries: FetchEntries) -> FetchState:
        """Fetch, if one of the entries is the valid ticket.

        TransientError when nothing arrived: the entry stays and is tried again. FatalError: the key or the plan.
        """
        symbol = entries[0].message.symbol
        job_fields, clock, spot = await reader.read(
            GetFields(self._keys.job(symbol)), GetValue(self._keys.clock(symbol)), GetValue(self._keys.spot(symbol))
        )
        assert isinstance(job_fields, dict)
        job = decode_job(job_fields)
        if not job.ticket or all(entry.message.ticket != job.ticket for entry in entries):
            return FetchState(symbol, job)
        async with self._progress_told(symbol):
            fetched = await self._fetch(
                symbol,
                decode_windows(job_fields),
                decode_clock(clock if isinstance(clock, bytes) else None),
                _stored_spot(spot),
            )
        return FetchState(symbol, job, fetched, was_partial=job_fields.get(b"failed", NONE_FAILED) != NONE_FAILED)

    async def _fetch(self, symbol: str, windows: Windows, clock: MarketClock, known: Spot | None) -> Fetched:
        clock = await self._clock(clock)
        started = time.monotonic()  # until now we may have waited for our turn: that is no slowness of the provider
        # one moment for the whole fetch: what settles while it lasts is the next one's to say, and makes one change
        market_ts = clock.market_time(time.time())
        expirations = await self._expirations(symbol, market_ts)
        spot = _newer_spot(await self._spot(symbol, clock), known)
        windows = await self._planned(symbol, expirations, windows, spot, market_ts)
        chains = await self._chains(symbol, expirations, windows, market_ts)
        surfaces = {one.expiration: one for one, _ in chains if isinstance(one, Surface)}
        failures = {
            expiration: one
            for expiration, (one, _) in zip(expirations, chains, strict=True)
            if isinstance(one, Failure)
        }
        _require_something(symbol, surfaces, failures)
        return Fetched(
            requested=tuple(expirations),
            surfaces=surfaces,
            failures=failures,
            pages=sum(pages for _, pages in chains),
            spot=spot,
            windows=_with_volatilities(windows, surfaces, spot, market_ts),
            clock=clock,
            market_ts=market_ts,
            ended_ts=time.time(),
            latency_s=time.monotonic() - started,
        )

    async def _clock(self, known: MarketClock) -> MarketClock:
        """The market clock; a status endpoint that is away does not keep the chain away, one that is throttled does."""
        try:
            return steadied(known, await self._client.clock())
        except ThrottledError:
            raise
        except TransientError as error:
            log.warning("market_clock_unknown", reason=str(error))
            return known

    async def _expirations(self, symbol: str, market_ts: float) -> list[str]:
        try:
            return await self._client.expirations(symbol, self._settings.expirations, market_ts)
        except DataError as error:  # the provider is at fault, not the job
            raise TransientError(f"no listing of {symbol}: {error}") from error

    async def _spot(self, symbol: str, clock: MarketClock) -> Spot | None:
        try:
            spot = await self._client.spot(symbol)
        except TransientError as error:
            log.warning("spot_unknown", symbol=symbol, reason=str(error))
            return None
        if spot is None or spot.ts is not None:
            return spot
        return replace(spot, ts=clock.market_time(time.time()))  # without a stamp it is as old as its answer

    async def _planned(
        self, symbol: str, expirations: Sequence[str], previous: Windows, spot: Spot | None, market_ts: float
    ) -> Windows:
        """The windows of this fetch; new ones are snapped outwards to listed strikes."""
        windows = in_session(previous, market_ts)
        if self._settings.window.unlimited or spot is None:
            return windows
        if self._settings.budgeted:  # what a probe and the listed strikes would cost is better spent on the chain
            return plan_windows(windows, symbol, expirations, spot.value, market_ts, self._settings.window)
        if self._settings.window.points is None:
            unknown = [expiration for expiration in expirations if expiration not in windows.sigma]
            found = await _together(self._probed_sigma(symbol, one, spot.value, market_ts) for one in unknown)
            sigmas = {one: sigma for one, sigma in zip(unknown, found, strict=True) if sigma is not None}
            windows = latched(windows, sigmas)
        planned = plan_windows(windows, symbol, expirations, spot.value, market_ts, self._settings.window)
        moved = [one for one in expirations if planned.kept[one] != windows.kept.get(one)]
        for expiration, (low, high) in zip(
            moved, await _together(self._outer_strikes(symbol, one, planned) for one in moved), strict=True
        ):
            planned = snapped(planned, expiration, low, high)
        return planned

    async def _probed_sigma(self, symbol: str, expiration: str, spot: float, market_ts: float) -> float | None:
        """An expiration's volatility at the money, before its first window of the session."""
        try:
            chain = await self._client.chain(symbol, expiration, spot * (1 - PROBE), spot * (1 + PROBE))
        except (TransientError, DataError):
            return None
        return at_the_money_sigma(read_surface(expiration, chain.rows, market_ts).rows, spot)

    async def _outer_strikes(self, symbol: str, expiration: str, windows: Windows) -> tuple[float | None, float | None]:
        low, high = windows.kept[expiration]
        try:
            return (
                await self._client.listed_strike(symbol, expiration, low, above=False),
                await self._client.listed_strike(symbol, expiration, high, above=True),
            )
        except (TransientError, DataError):
            return None, None

    async def _chains(
        self, symbol: str, expirations: Sequence[str], windows: Windows, market_ts: float
    ) -> list[tuple[Surface | Failure, int]]:
        limit = asyncio.Semaphore(self._settings.parallel)

        async def fetched(expiration: str) -> tuple[Surface | Failure, int]:
            async with limit:
                return await self._surface(symbol, expiration, windows, market_ts)

        return await _together(fetched(expiration) for expiration in expirations)

    async def _surface(
        self, symbol: str, expiration: str, windows: Windows, market_ts: float
    ) -> tuple[Surface | Failure, int]:
        """One expiration, whole or not at all, and the pages it took."""
        low, high = (None, None) if self._settings.window.unlimited else windows.kept.get(expiration, (None, None))
        try:
            chain = await self._client.chain(symbol, expiration, low, high)
        except TransientError as error:
            return Failure(UNAVAILABLE, str(error), error.retry_after_s), 0
        except DataError as error:
            return Failure(REFUSED if isinstance(error, PageRefusedError) else MALFORMED, str(error)), 0
        surface = read_surface(expiration, chain.rows, market_ts)
        if surface.missing:
            return Failure(INCOMPLETE, f"{symbol} {expiration}: {surface.missing} among {len(chain.rows)} rows"), 0
        return surface, chain.pages

    @asynccontextmanager
    async def _progress_told(self, symbol: str) -> AsyncIterator[None]:
        """While the body runs, say every few seconds that this fetch is alive."""

        async def tell() -> None:
            while True:
                with suppress(TransientError):
                    await self._progress(symbol)
                await asyncio.sleep(PROGRESS_EVERY_S)

        task = asyncio.create_task(tell())
        try:
            yield
        finally:
            task.cancel()
            # gathered, not awaited: a cancellation of our own must not pass for the task's
            await asyncio.gather(task, return_exceptions=True)

    # --- step

    def step(self, state: FetchState, entries: FetchEntries) -> list[Commit]:
        """One commit: everything the fetch brought, the job's next turn, and the entries that asked for it."""
        done = tuple(entry.id for entry in entries)
        analytics = self._keys.analytics(Stat.CHAIN, state.symbol)
        fetched = state.fetched
        if fetched is None:
            return [Commit(done, writes=(Count(analytics, {"stale_tickets": len(entries)}),))]
        number = state.job.fetch + 1
        valid = FieldIs(self._keys.job(state.symbol), "ticket", state.job.ticket)
        snapshots = self._snapshots(state.symbol, fetched)
        writes: list[Write] = [
            *self._published(state.symbol, snapshots, fetched),
            SetFields(self._keys.job(state.symbol), self._job_fields(number, fetched) | _extra(state, fetched)),
            *self._clock_write(state.symbol, fetched.clock),
            *self._spot_write(state.symbol, fetched.spot),
            Count(analytics, _counts(fetched)),
            Sample(self._keys.latency(Stat.CHAIN, state.symbol), analytics, fetched.latency_s * 1000),
        ]
        if fetched.requested:
            received = {expiration: key for expiration, (key, _) in snapshots.items()}
            message = _completed(state.symbol, number, fetched, received)
            writes.append(Emit(self._keys.chain_stream(state.symbol), encode(message)))
        return [Commit(done, (valid,), tuple(writes))]

    def _snapshots(self, symbol: str, fetched: Fetched) -> dict[str, tuple[str, bytes]]:
        """Expiration -> key and finished JSON of its snapshot; all at the same market time."""
        ts_ms = round(fetched.market_ts * 1000)
        return {
            expiration: (
                self._keys.chain_snapshot(symbol, expiration, ts_ms),
                encode_snapshot(self._snapshot(symbol, surface, fetched, ts_ms)),
            )
            for expiration, surface in fetched.surfaces.items()
        }

    def _snapshot(self, symbol: str, surface: Surface, fetched: Fetched, ts_ms: int) -> ChainSnapshot:
        strikes = sorted({row.strike for row in surface.rows})
        middle = fetched.spot.value if fetched.spot else strikes[len(strikes) // 2]
        window = None if self._settings.window.unlimited else fetched.windows.kept.get(surface.expiration)
        low, high = window or (strikes[0], strikes[-1])
        return ChainSnapshot(
            ts=ts_ms / 1000,
            underlying=symbol,
            expiration=surface.expiration,
            atm=round(middle),
            range_points=round((high - low) / 2),
            contracts=surface.rows,
        )

    def _published(self, symbol: str, snapshots: Mapping[str, tuple[str, bytes]], fetched: Fetched) -> Iterable[Write]:
        # a slow provider or a small budget stretches the time between fetches: what was told must live until the next
        keep = self._settings.snapshot_ttl_ms
        ttl = keep and max(keep, round(2000 * self._period_s(fetched)))
        for key, body in snapshots.values():
            yield SetValue(key, body, ttl)
        for expiration, (key, _) in snapshots.items():
            yield SetValue(self._keys.chain_latest(symbol, expiration), key, ttl)

    def _job_fields(self, number: int, fetched: Fetched) -> dict[str, Scalar]:
        return {
            "ticket": 0,
            "fetch": number,
            "not_before_ts": fetched.ended_ts + self._pause_s(fetched),
            "latency_s": fetched.latency_s,
            "period_s": self._period_s(fetched),
            "failed": msgspec.json.encode({one: failure.reason for one, failure in fetched.failures.items()}),
            **encode_windows(fetched.windows),
        }

    def _pause_s(self, fetched: Fetched) -> float:
        """How long to leave the provider alone: longer when it is slow, closed, or asked for it."""
        settled = not fetched.clock.is_open and not fetched.failures
        interval = self._settings.interval_closed_s if settled else self._settings.interval_s
        asked = [failure.retry_after_s or 0.0 for failure in fetched.failures.values()]
        slow = 0.0 if self._settings.budgeted else 2 * fetched.latency_s
        return max(interval, slow, *asked)

    def _period_s(self, fetched: Fetched) -> float:
        """How long until the next fetch has ended, if it takes as long as this one."""
        return self._pause_s(fetched) + fetched.latency_s

    def _clock_write(self, symbol: str, clock: MarketClock) -> Iterable[Write]:
        if clock != LOCAL:  # else nobody told it yet: by a guess of ours every feed would be late, or delayed
            yield SetValue(self._keys.clock(symbol), encode_clock(clock))

    def _spot_write(self, symbol: str, spot: Spot | None) -> Iterable[Write]:
        if spot is None or spot.ts is None:
            return
        body = {
            "symbol": symbol,
            "value": spot.value,
            "ts": spot.ts,
            "source": "snapshot",
            "timeframe": spot.timeframe,
        }
        yield SetNewest(self._keys.spot(symbol), spot.ts, spot.value, msgspec.json.encode(body))


def massive_source(
    keys: Keys, symbol_of_partition: str, client: Provider, settings: FetchSettings, progress: Progress
) -> Source[ChainFetch, FetchState]:
    """The source of the massive stage for the partition that `symbol_of_partition` belongs to."""
    (row,) = streams_of(StageName.MASSIVE)
    fetching = Fetching(keys, client, settings, progress)
    return Source(
        row,
        row.key(keys, symbol_of_partition),
        JOB_BATCH,
        _decode_fetch,
        lambda message: message.symbol,
        fetching.load,
        fetching.step,
        concurrent=True,
        in_background=lambda message: True,  # a symbol's fetch waits for nobody else's
    )


def steadied(known: MarketClock, measured: MarketClock) -> MarketClock:
    """The clock to go by: the known one for as long as the measured one agrees with it, so that it does not jitter."""
    apart = abs(known.market_time(measured.receive_ts) - measured.market_ts)
    if known.rate == measured.rate and apart <= CLOCK_TOLERANCE_S * max(measured.rate, 1.0):
        return msgspec.structs.replace(known, is_open=measured.is_open)
    return measured


def _decode_fetch(fields: Fields) -> ChainFetch:
    message = decode(fields, (ChainFetch,))
    assert isinstance(message, ChainFetch)
    return message


def _extra(state: FetchState, fetched: Fetched) -> dict[str, Scalar]:
    """An expiration that fails is asked for once more at once, then with every fetch; not before we may come back."""
    waits = any(failure.retry_after_s for failure in fetched.failures.values())
    return {"again": "partial"} if fetched.failures and not state.was_partial and not waits else {}


def _completed(symbol: str, number: int, fetched: Fetched, received: dict[str, str]) -> ChainCompleted:
    return ChainCompleted(
        symbol=symbol,
        fetch=number,
        market_ts=fetched.market_ts,
        requested=fetched.requested,
        received=received,
        failed=tuple(fetched.failures),
        spot=fetched.spot.value if fetched.spot else None,
        spot_ts=fetched.spot.ts if fetched.spot else None,
        ended_ts=fetched.ended_ts,
    )


def _counts(fetched: Fetched) -> dict[str, int]:
    counts = Counter({"fetches": 1, "pages": fetched.pages, "expirations": len(fetched.surfaces)})
    counts["failed_expirations"] = len(fetched.failures)
    counts["empty_listings"] = not fetched.requested
    counts[latency_bucket(fetched.latency_s)] = 1
    for failure in fetched.failures.values():
        counts[f"failed_{failure.kind}"] += 1
    for surface in fetched.surfaces.values():
        counts["rows"] += len(surface.rows)
        counts.update(surface.counts)
    return {name: int(count) for name, count in counts.items() if count}


def latency_bucket(latency_s: float) -> str:
    """The counter of the latency histogram that a fetch falls into: `latency_le_{bound}`, not cumulative."""
    bound = next((bound for bound in LATENCY_BOUNDS_S if latency_s <= bound), float("inf"))
    return f"latency_le_{bound:g}"


def _require_something(symbol: str, surfaces: Mapping[str, Surface], failures: Mapping[str, Failure]) -> None:
    if not surfaces and not failures:
        log.warning("nothing_listed", symbol=symbol, fix="check MASSIVE_SYMBOLS")
    for expiration, failure in failures.items():
        log.warning("expiration_failed", symbol=symbol, expiration=expiration, kind=failure.kind, reason=failure.reason)
    if failures and not surfaces:
        waits = [failure.retry_after_s for failure in failures.values() if failure.retry_after_s is not None]
        first = next(iter(failures.values()))
        raise TransientError(f"no chain of {symbol}: {first.reason}", max(waits, default=None))


def _with_volatilities(
    windows: Windows, surfaces: Mapping[str, Surface], spot: Spot | None, market_ts: float
) -> Windows:
    if spot is None:
        return windows
    found = {one: at_the_money_sigma(surface.rows, spot.value) for one, surface in surfaces.items()}
    return latched(in_session(windows, market_ts), {one: sigma for one, sigma in found.items() if sigma is not None})


def _stored_spot(blob: object) -> Spot | None:
    """The newest spot already known (the indices feed writes it too)."""
    try:
        return msgspec.json.decode(blob, type=Spot) if isinstance(blob, bytes) else None
    except msgspec.DecodeError:
        return None


def _newer_spot(one: Spot | None, other: Spot | None) -> Spot | None:
    known = [spot for spot in (one, other) if spot is not None]
    return max(known, key=lambda spot: spot.ts or 0.0, default=None)


async def _together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Results in order; when one fails the others are cancelled, so that nothing goes on behind our back."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
