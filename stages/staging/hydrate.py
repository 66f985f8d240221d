"""Hydration: frames to rows of the active epochs, newest wins, conflated per contract and field group.

The order of events, how they were cut into batches and whether some come twice make no difference to the result:
each field group keeps the record with the largest stamp, ties decided by the values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TypeAlias

import msgspec

from contracts.clock import MarketClock, decode_clock
from contracts.commit import (
    MAX_ENTRIES,
    MAX_ROWS,
    Commit,
    Count,
    CountMerged,
    CountValue,
    EntryId,
    FeedWatermark,
    FieldIs,
    Guard,
    RaiseField,
    SetFields,
    SetNewest,
    SetValue,
    Write,
)
from contracts.errors import DataError, TransientError
from contracts.job import decode_job
from contracts.keys import Keys, Layer, Stat
from contracts.planes import RANK_WS, UNKNOWN
from contracts.ports import GetFields, Reader
from contracts.stage import Entry
from contracts.symbology import parse_ticker, series_of
from contracts.topology import StageName
from stages.staging.board import Board, BoardCache, Seat, keys_exist
from stages.staging.frames import (
    DecodedFrame,
    Event,
    FairValue,
    IndexValue,
    MinuteAggregate,
    Quote,
    SecondAggregate,
    Status,
    Trade,
)
from stages.staging.records import (
    MAX_DOLLARS,
    Record,
    cents,
    count,
    fmv_record,
    quote_record,
    trade_record,
    volume_record,
)

FrameEntries: TypeAlias = "Sequence[Entry[DecodedFrame]]"
SeatedRecord: TypeAlias = "tuple[Board, Seat, Record]"
ContractEvent: TypeAlias = Trade | SecondAggregate | MinuteAggregate | FairValue

# Event times come in seconds, milliseconds, microseconds or nanoseconds; their size tells which.
_SECONDS_BELOW = 10**11
_MS_BELOW = 10**14
_US_BELOW = 10**17


@dataclass(frozen=True, slots=True)
class HydrateState:
    """The active boards of this partition, by symbol, and the market clock as the last tick recorded it."""

    boards: dict[str, Board]
    clock: MarketClock
    recorded: bytes | None = None  # that clock as it stands in the tick's record; None: no tick yet
    gone: tuple[tuple[str, str], ...] = ()  # (symbol, epoch) of active boards that lost a key
    fences: int = 0  # boards that were superseded while this batch was worked on


@dataclass(frozen=True)
class HydrateSettings:
    """What hydration needs from the settings."""

    symbols: tuple[str, ...]
    future_tolerance_s: float
    epoch_ttl_ms: int


class Hydration:
    """load and step of the frame source of one partition."""

    def __init__(self, keys: Keys, symbol: str, settings: HydrateSettings) -> None:
        self._keys = keys
        self._symbol = symbol
        self._settings = settings
        self._cache = BoardCache(keys)
        self._known: HydrateState | None = None
        self._last_entry: EntryId | None = None

    async def load(self, reader: Reader, entries: FrameEntries) -> HydrateState:
        """Which epochs are active, and the recorded clock.

        What was read last serves as long as no commit is refused, because every commit is guarded by the epochs and
        the clock in it. The same entries again mean that a guard refused: look again, and whether any key is gone.
        """
        retried = entries[0].id == self._last_entry
        self._last_entry = entries[0].id
        if self._known is None:
            self._known = await self._read_state(reader, check=False)
        elif retried:
            before, self._known = self._known, await self._read_state(reader, check=True)
            return replace(self._known, fences=_superseded(before, self._known))
        return self._known

    async def _read_state(self, reader: Reader, *, check: bool) -> HydrateState:
        active, tick = await reader.read(
            GetFields(self._keys.active(self._symbol)), GetFields(self._keys.tick(self._symbol))
        )
        assert isinstance(active, dict) and isinstance(tick, dict)
        boards: dict[str, Board] = {}
        gone: list[tuple[str, str]] = []
        for symbol_bytes, epoch_bytes in active.items():
            symbol, epoch = symbol_bytes.decode(), epoch_bytes.decode()
            board = await self._board(reader, epoch)
            if board is not None:
                boards[symbol] = board
            if board is None or (check and not await keys_exist(reader, board.substrate_keys)):
                gone.append((symbol, epoch))
        for symbol, epoch in gone:
            await self._wait_for_rebuild(reader, symbol, epoch)
        recorded = tick.get(b"clock")
        return HydrateState(boards, decode_clock(recorded), recorded, tuple(gone))

    async def _board(self, reader: Reader, epoch: str) -> Board | None:
        board = self._cache.get(epoch)
        if board is not None:
            return board
        (listing,) = await reader.values(self._keys.listing(epoch))
        return None if listing is None else self._cache.put(epoch, listing)

    async def _wait_for_rebuild(self, reader: Reader, symbol: str, epoch: str) -> None:
        """TransientError while a fetch is on its way that will rebuild the board; nothing is to be written before."""
        job = decode_job(await reader.fields(self._keys.job(symbol)))
        if job.again or job.ticket:
            self._known = None
            raise TransientError(f"keys of epoch {epoch} are gone; waiting for the chain to rebuild it")

    def step(self, state: HydrateState, entries: FrameEntries) -> list[Commit]:
        """Rows in commits of at most MAX_ROWS, then acknowledgements in commits of at most MAX_ENTRIES.

        Rows are newest-wins, so writing them before (or twice) does no harm; every entry is counted by the commit
        that acknowledges it. A small batch is one commit.
        """
        if state.gone:
            return [self._ask_rebuild(symbol, epoch) for symbol, epoch in state.gone]
        batch = Conflation(state, self._settings)
        groups = [entries[first : first + MAX_ENTRIES] for first in range(0, len(entries), MAX_ENTRIES)]
        for group in groups:
            batch.begin_tally()
            for entry in group:
                batch.take(entry.message)
        chunks = [self._commit(state, chunk) for chunk in _chunks(batch.rows())] or [Commit()]
        rows, last = chunks[:-1], chunks[-1]
        # events counted as misses against a board hold only while that board is the active one
        active = (
            *(self._is_active(board) for board in state.boards.values()),
            *(
                FieldIs(self._keys.active(symbol), symbol, None)
                for symbol in self._settings.symbols
                if symbol not in state.boards
            ),
            self._is_recorded(state),
        )
        shared = (*self._spots(batch), *last.writes, *self._receipts(state, batch), *self._fences(state))
        done = []
        for group, tally in zip(groups, batch.tallies, strict=True):
            writes = (self._watermark(group), *shared, *self._facts(tally, len(group)))
            done.append(Commit(tuple(entry.id for entry in group), (*active, *last.guards), writes))
            shared, last = (), Commit()
        return [*rows, *done]

    def _commit(self, state: HydrateState, rows: Sequence[SeatedRecord]) -> Commit:
        """Newest-wins of some rows; refused when their board is no longer active or lost its keys."""
        boards: dict[str, tuple[Board, dict[tuple[int, Layer], list[tuple[int, Record]]]]] = {}
        for board, seat, record in rows:
            _, planes = boards.setdefault(board.epoch, (board, {}))
            planes.setdefault((seat.plane, record.group.layer), []).append((seat.row, record))
        guards: list[Guard] = [self._is_recorded(state)]
        writes: list[Write] = []
        for board, planes in boards.values():
            merges = [board.merge(board.geometry.planes[p], layer, found) for (p, layer), found in planes.items()]
            guards += (self._is_active(board), board.exists(merges))
            writes += merges
        return Commit(guards=tuple(guards), writes=tuple(writes))

    def _is_active(self, board: Board) -> Guard:
        return FieldIs(self._keys.active(board.symbol), board.symbol, board.epoch)

    def _is_recorded(self, state: HydrateState) -> Guard:
        """The clock that event times were held to is still the recorded one."""
        return FieldIs(self._keys.tick(self._symbol), "clock", state.recorded)

    def _ask_rebuild(self, symbol: str, epoch: str) -> Commit:
        """A board lost a key: nothing is written to it, a chain will rebuild it."""
        active = FieldIs(self._keys.active(symbol), symbol, epoch)
        again = SetFields(self._keys.job(symbol), {"again": "rebuild"})
        asked = Count(self._keys.analytics(Stat.EPOCH, symbol), {"rebuilds_asked": 1})
        return Commit(guards=(active,), writes=(again, asked))

    def _fences(self, state: HydrateState) -> Iterator[Write]:
        if state.fences:
            yield Count(self._keys.analytics(Stat.EPOCH, self._symbol), {"fences": state.fences})

    def _watermark(self, entries: FrameEntries) -> Write:
        newest = max(entry.message.ts for entry in entries)
        stream = self._keys.ws_stream(self._symbol)
        return FeedWatermark(self._keys.watermark(self._symbol), stream, StageName.STAGING, newest)

    def _spots(self, batch: Conflation) -> Iterator[Write]:
        for symbol, (ms, value) in batch.spots.items():
            spot = {
                "symbol": symbol,
                "value": value,
                "ts": ms / 1000,
                "source": "indices",
                "timeframe": "REAL-TIME",
            }
            yield SetNewest(self._keys.spot(symbol), ms / 1000, value, msgspec.json.encode(spot))

    def _facts(self, tally: Tally, frames: int) -> Iterator[Write]:
        analytics = self._keys.analytics(Stat.HYDRATE, self._symbol)
        yield Count(analytics, {"frames": frames, **{name: by for name, by in tally.counts.items() if by}})
        yield CountMerged(analytics, tally.updates)
        if tally.counts["geometry_miss"]:
            yield CountValue(self._keys.geometry_miss(self._symbol), tally.counts["geometry_miss"])

    def _receipts(self, state: HydrateState, batch: Conflation) -> Iterator[Write]:
        for symbol, ts in batch.heard.items():
            yield RaiseField(self._keys.feed(symbol), "event_ts", ts)
        for symbol, ts in batch.seated.items():
            epoch = state.boards[symbol].epoch
            meta = self._keys.meta(epoch)
            yield RaiseField(meta, "last_ws_ts", ts)
            yield SetFields(meta, {"had_ws_updates": 1, "dormant_count": 0})
            yield SetValue(self._keys.had_ws_updates(epoch), "1", self._settings.epoch_ttl_ms)


@dataclass
class Tally:
    """What became of the events of some entries.

    `updates` are the records of known contracts (won or not); `counts` has everything else: events, geometry_miss,
    rejected, unknown, malformed, status, index, clamped, and extra_groups (an aggregate updates two groups).
    """

    counts: Counter[str] = field(default_factory=Counter)
    updates: int = 0


class Conflation:
    """A batch of frames, reduced to the newest record per contract and field group, with every event counted once."""

    def __init__(self, state: HydrateState, settings: HydrateSettings) -> None:
        self._state = state
        self._tolerance_s = settings.future_tolerance_s
        self._symbols = frozenset(settings.symbols)
        self._frames: list[tuple[DecodedFrame, int, Tally]] = []
        self._quotes: dict[str, Quote] = {}
        self._others: dict[tuple[str, str], Record] = {}
        self._seats: dict[str, tuple[Board, Seat] | None] = {}
        self.tallies: list[Tally] = []
        self.spots: dict[str, tuple[int, float]] = {}
        self._listening = self._symbols | state.boards.keys()
        self.heard: dict[str, float] = {}  # symbol -> receive time of its newest option event
        self.seated: dict[str, float] = {}  # the same of events for contracts of its board

    def begin_tally(self) -> None:
        """Count the frames from here on together: they are acknowledged together."""
        self.tallies.append(Tally())

    @property
    def counts(self) -> Counter[str]:
        """The counts of the present tally."""
        return self.tallies[-1].counts

    def take(self, frame: DecodedFrame) -> None:
        """Add a frame. The loop over quotes is the hot path: one dictionary look-up per event."""
        limit = round((self._state.clock.market_time(frame.ts) + self._tolerance_s) * 1000)
        tally = self.tallies[-1]
        self._frames.append((frame, limit, tally))
        newest = self._quotes
        missed = others = 0
        for one in frame.events:
            if type(one) is not Quote:
                others += 1
                self._take_other(one, limit)
                continue
            event = one if _SECONDS_BELOW <= one.t <= limit else self._restamped(one, limit)
            best = newest.get(event.sym)
            if best is None:
                if self.seat(event.sym) is None:
                    missed += 1
                    continue
                newest[event.sym] = event
            elif event.t > best.t or (event.t == best.t and _wins_tie(event, best)):
                newest[event.sym] = event
        tally.updates += len(frame.events) - others - missed
        tally.counts["events"] += len(frame.events) + frame.unknown + frame.malformed
        tally.counts["geometry_miss"] += missed
        tally.counts["unknown"] += frame.unknown
        tally.counts["malformed"] += frame.malformed
        self._note_receipt(frame)

    def rows(self) -> list[SeatedRecord]:
        """The surviving records with their places, in a fixed order."""
        found: list[SeatedRecord] = []
        for cid, event in self._quotes.items():
            record = self._usable_quote(cid, event)
            if record is not None:
                found.append((*self._known(cid), record))
        found += [(*self._known(cid), record) for (cid, _), record in self._others.items()]
        found.sort(key=lambda one: (one[0].epoch, one[1].plane, one[2].group.layer, one[1].row, one[2].group.at))
        return found

    def seat(self, cid: str) -> tuple[Board, Seat] | None:
        """Where a contract lives, over all active boards; None is a geometry miss."""
        if cid not in self._seats:
            places = ((board, board.seats.get(cid)) for board in self._state.boards.values())
            self._seats[cid] = next(((board, seat) for board, seat in places if seat is not None), None)
        return self._seats[cid]

    def _known(self, cid: str) -> tuple[Board, Seat]:
        place = self.seat(cid)
        assert place is not None
        return place

    def _note_receipt(self, frame: DecodedFrame) -> None:
        """Remember, per symbol, the receive time of its newest option event, on the board or not."""
        waiting = {symbol for symbol in self._listening if self.seated.get(symbol, 0.0) < frame.ts}
        for event in frame.events:
            if not waiting:
                return
            if isinstance(event, IndexValue | Status):
                continue
            place = self.seat(event.sym)
            symbol = _underlying(event.sym) if place is None else place[0].symbol
            if symbol not in waiting:
                continue
            self.heard[symbol] = max(self.heard.get(symbol, 0.0), frame.ts)
            if place is not None:
                self.seated[symbol] = frame.ts
                waiting.discard(symbol)

    def _restamped(self, event: Quote, limit: int) -> Quote:
        return msgspec.structs.replace(event, t=self._event_ms(event.t, limit))

    def _event_ms(self, t: int, limit: int) -> int:
        ms = milliseconds(t)
        if ms <= limit:
            return ms
        self.counts["clamped"] += 1
        return limit

    def _usable_quote(self, cid: str, newest: Quote) -> Record | None:
        """The newest quote of a contract that is usable at all; the others are rejected and counted."""
        try:
            return _quote_record(newest)
        except DataError:
            pass
        best: Record | None = None
        for frame, limit, tally in self._frames:
            for event in frame.events:
                if type(event) is not Quote or event.sym != cid:
                    continue
                try:
                    record = _quote_record(msgspec.structs.replace(event, t=min(milliseconds(event.t), limit)))
                except DataError:
                    tally.counts["rejected"] += 1
                    tally.updates -= 1
                    continue
                if best is None or record.newer_than(best.packed):
                    best = record
        return best

    def _take_other(self, event: Event, limit: int) -> None:
        if isinstance(event, Status):
            self.counts["status"] += 1
        elif isinstance(event, IndexValue):
            self._take_index(event, limit)
        elif not isinstance(event, Quote):
            self._take_contract_event(event, limit)

    def _take_index(self, event: IndexValue, limit: int) -> None:
        if not 0 < event.val < MAX_DOLLARS * 1000:
            self.counts["rejected"] += 1
            return
        self.counts["index"] += 1
        symbol = event.T.removeprefix("I:")
        if symbol not in self._symbols:
            return
        newest = (self._event_ms(event.t, limit), event.val)
        if newest > self.spots.get(symbol, (-1, 0.0)):
            self.spots[symbol] = newest

    def _take_contract_event(self, event: ContractEvent, limit: int) -> None:
        if self.seat(event.sym) is None:
            self.counts["geometry_miss"] += 1
            return
        stamp = event.t if isinstance(event, Trade | FairValue) else event.e
        try:
            records = _records(event, self._event_ms(stamp, limit))
        except DataError:
            self.counts["rejected"] += 1
            return
        self.tallies[-1].updates += len(records)
        self.counts["extra_groups"] += len(records) - 1
        for record in records:
            place = (event.sym, record.group.name)
            best = self._others.get(place)
            if best is None or record.newer_than(best.packed):
                self._others[place] = record


def _superseded(before: HydrateState, now: HydrateState) -> int:
    """How many boards another epoch took the place of."""
    return sum(
        symbol not in now.boards or now.boards[symbol].epoch != board.epoch for symbol, board in before.boards.items()
    )


@lru_cache(maxsize=4096)
def _underlying(cid: str) -> str:
    """The underlying of a contract that is on no board; empty if the ticker is none."""
    try:
        return series_of(parse_ticker(cid).root).underlying
    except DataError:
        return ""


def milliseconds(t: int) -> int:
    """An event time in milliseconds, whatever unit it came in; negative is 0."""
    if t < _SECONDS_BELOW:
        return max(t, 0) * 1000
    if t < _MS_BELOW:
        return t
    return t // 1000 if t < _US_BELOW else t // 1_000_000


def _wins_tie(event: Quote, best: Quote) -> bool:
    if event.q != best.q:
        return event.q > best.q
    try:
        record = _quote_record(event)
    except DataError:
        return False
    try:
        return record.newer_than(_quote_record(best).packed)
    except DataError:
        return True


def _sequence(number: int) -> int:
    # the server compares sequences as doubles: beyond 2^53 two of them could look alike
    if not -(2**53) < number < 2**53:
        raise DataError(f"sequence {number!r} out of range")
    return number


def _quote_record(event: Quote) -> Record:
    return quote_record(
        event.t, RANK_WS, _sequence(event.q), cents(event.bp), cents(event.ap), count(event.bs), count(event.as_)
    )


def _records(event: ContractEvent, ms: int) -> tuple[Record, ...]:
    if isinstance(event, Trade):
        return (trade_record(ms, RANK_WS, _sequence(event.q), cents(event.p), count(event.s)),)
    if isinstance(event, FairValue):
        if not 0 <= event.fmv < MAX_DOLLARS:
            raise DataError(f"fair value {event.fmv!r} out of range")
        return (fmv_record(ms, RANK_WS, event.fmv),)
    last = trade_record(ms, RANK_WS, -1, cents(event.c), UNKNOWN)
    if event.av is None:
        return (last,)
    if not 0 <= event.av < 2**53:
        raise DataError(f"volume {event.av!r} out of range")
    return (last, volume_record(ms, RANK_WS, int(event.av)))


def _chunks(rows: list[SeatedRecord]) -> list[list[SeatedRecord]]:
    return [rows[first : first + MAX_ROWS] for first in range(0, len(rows), MAX_ROWS)]
