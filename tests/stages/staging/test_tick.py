"""The tick: one recorded moment a second by one owner, and the care of the active epoch."""

from __future__ import annotations

import json
from copy import deepcopy
from datetime import datetime
from typing import Any

import pytest

from contracts.clock import MarketClock, decode_clock, encode_clock
from contracts.commit import Applied, Commit, Delete, Renew, SetFields, SetValue, ValueIs
from contracts.job import LOST_AFTER_S
from contracts.keys import Stat
from contracts.messages import ChainFetch, PlaneComputed, PlaneDirty, Tick
from contracts.ports import Backlog
from contracts.symbology import CALL, NEW_YORK, PUT
from contracts.topology import StageName
from tests.leaks import EXPIRING, rows_of
from tests.pipeline import EXPIRATION, LATER, NOW, Pipeline, chain_rows, cid_of, drive, frame, quote
from tests.stages.staging.small_board import FEW, NOW_MS

LEASE = "massive:lease:tick"


def computed() -> Pipeline:
    """A published board of five strikes, with no ticket outstanding and none due."""
    pipeline = Pipeline()
    pipeline.fetch(1, {EXPIRATION: chain_rows(FEW)})
    pipeline.run()
    job(pipeline, not_before_ts=NOW + 1e6)
    return pipeline


def job(pipeline: Pipeline, **fields: str | float) -> None:
    """Write the job of the symbol."""
    pipeline.store.commit(Commit(writes=(SetFields(pipeline.keys.job("SPX"), fields),)))


def ticks(pipeline: Pipeline) -> list[dict[str, Any]]:
    return pipeline.emitted(pipeline.keys.epoch_stream("SPX"), Tick)


def tickets(pipeline: Pipeline) -> list[tuple[int, str]]:
    return [(one["ticket"], one["reason"]) for one in pipeline.emitted(pipeline.keys.jobs_stream("SPX"), ChainFetch)]


# --- the moment


def test_a_tick_records_its_moment_and_the_spot() -> None:
    pipeline = computed()
    pipeline.feed(frame({"ev": "V", "T": "I:SPX", "val": 6901.5, "t": NOW_MS - 250}))
    pipeline.run()
    pipeline.tick(NOW)
    epoch = pipeline.active()
    assert ticks(pipeline) == [
        {"symbol": "SPX", "epoch": epoch, "tick": 1, "market_ts": NOW, "spot": 6901.5, "spot_ts": NOW - 0.25}
    ]


def test_without_a_spot_the_tick_says_so() -> None:
    pipeline = computed()
    pipeline.tick(NOW)
    assert (ticks(pipeline)[0]["spot"], ticks(pipeline)[0]["spot_ts"]) == (None, None)


def test_the_moment_is_on_the_market_clock() -> None:
    pipeline = computed()
    clock = MarketClock(receive_ts=NOW, market_ts=1_700_000_000.0, rate=10.0)
    pipeline.store.commit(Commit(writes=(SetValue(pipeline.keys.clock("SPX"), encode_clock(clock)),)))
    pipeline.tick(NOW + 3)
    assert ticks(pipeline)[0]["market_ts"] == 1_700_000_030.0


def waiting(pipeline: Pipeline, ts: float | None) -> None:
    """The oldest frame that waits for staging was received at `ts`; None: no frame waits."""
    stream = pipeline.keys.ws_stream("SPX")
    pipeline.store.backlogs[stream] = Backlog("1-0", ts) if ts is not None else Backlog()


def test_the_tick_records_the_clock_and_up_to_when_frames_are_processed() -> None:
    """With nothing waiting that is now; else the watermark, and never less than what was said before."""
    pipeline = computed()
    clock = MarketClock(receive_ts=NOW, market_ts=1_700_000_000.0, rate=10.0)
    pipeline.store.commit(Commit(writes=(SetValue(pipeline.keys.clock("SPX"), encode_clock(clock)),)))
    told = []
    for second, oldest in enumerate((None, NOW + 0.5, NOW + 0.5, None)):
        if second == 2:
            pipeline.feed(frame(quote(cid_of(6900), 9.0, 9.5, NOW_MS), ts=NOW + 0.25))
            pipeline.run()
        waiting(pipeline, oldest)
        pipeline.tick(NOW + second)
        told.append(float(pipeline.fields(pipeline.keys.tick("SPX"))["feed_ts"]))
    assert told == [NOW, NOW, NOW + 0.25, NOW + 3]
    assert decode_clock(pipeline.fields(pipeline.keys.tick("SPX"))["clock"].encode()) == clock


def test_ticks_are_numbered_over_epochs() -> None:
    pipeline = computed()
    pipeline.tick(NOW)
    pipeline.fetch(2, {EXPIRATION: chain_rows(range(6890, 6910, 5))}, ts=NOW + 1)
    pipeline.tick(NOW + 1)
    assert [(one["tick"], one["epoch"]) for one in ticks(pipeline)] == [
        (1, pipeline.meta()["prev"]), (2, pipeline.active()),
    ]  # fmt: skip


def test_before_the_first_epoch_there_is_no_tick_but_a_fetch_is_asked_for() -> None:
    pipeline = Pipeline()
    pipeline.tick(NOW)
    assert (ticks(pipeline), tickets(pipeline)) == ([], [(1, "interval")])
    health = json.loads(bytes(pipeline.store.strings[pipeline.keys.health("SPX")]))
    assert health["status"] == "down"


def test_every_commit_of_a_tick_is_guarded_by_the_lease() -> None:
    pipeline = computed()
    ticker = pipeline.tickers["SPX"]
    commits = ticker.step(drive(ticker.load(pipeline.store)), NOW, LEASE, "me")
    assert len(commits) > 1
    assert all(ValueIs(LEASE, "me") in commit.guards for commit in commits)


def test_a_ticker_that_lost_its_lease_changes_nothing() -> None:
    pipeline = computed()
    ticker = pipeline.tickers["SPX"]
    commits = ticker.step(drive(ticker.load(pipeline.store)), NOW, LEASE, "me")
    pipeline.store.commit(Commit(writes=(SetValue(LEASE, "another"),)))
    before = deepcopy((pipeline.store.hashes, pipeline.store.streams, pipeline.store.strings))
    assert not any(isinstance(pipeline.store.commit(one), Applied) for one in commits)
    assert (pipeline.store.hashes, pipeline.store.streams, pipeline.store.strings) == before


@pytest.mark.parametrize("ever_computed", [True, False], ids=["after some ticks", "from the start"])
def test_ticks_that_nobody_computes_do_not_flood_their_stream(*, ever_computed: bool) -> None:
    """Calculate is away: one tick in ten is enough for its return."""
    pipeline = computed()
    if ever_computed:
        pipeline.tick(NOW)
        pipeline.run()
    for second in range(1, 301):
        pipeline.tick(NOW + second)
    assert 60 <= len(ticks(pipeline)) <= 60 + 30


# --- the fetch


def test_a_ticket_is_issued_when_the_interval_is_over() -> None:
    pipeline = computed()
    job(pipeline, not_before_ts=NOW + 5)
    pipeline.tick(NOW + 4)
    assert tickets(pipeline) == []
    pipeline.tick(NOW + 5)
    assert tickets(pipeline) == [(1, "interval")]
    found = pipeline.fields(pipeline.keys.job("SPX"))
    assert (found["ticket"], found["last_ticket"], found["issued_ts"]) == ("1", "1", repr(NOW + 5))


def test_only_one_ticket_is_outstanding() -> None:
    pipeline = computed()
    job(pipeline, not_before_ts=0)
    for second in range(5):
        pipeline.tick(NOW + second)
    assert tickets(pipeline) == [(1, "interval")]


def test_a_request_for_an_earlier_fetch_is_granted_by_the_next_tick_and_forgotten() -> None:
    pipeline = computed()
    job(pipeline, again="expired", last_ticket=7)
    pipeline.tick(NOW)
    assert tickets(pipeline) == [(8, "expired")]
    assert pipeline.fields(pipeline.keys.job("SPX"))["again"] == ""


def test_a_lost_ticket_is_replaced() -> None:
    pipeline = computed()
    job(pipeline, ticket=3, last_ticket=3, issued_ts=NOW)
    pipeline.tick(NOW + LOST_AFTER_S)
    assert tickets(pipeline) == []
    pipeline.tick(NOW + LOST_AFTER_S + 1)
    assert tickets(pipeline) == [(4, "lost")]


def test_a_fetch_that_makes_progress_is_not_lost() -> None:
    pipeline = computed()
    job(pipeline, ticket=3, last_ticket=3, issued_ts=NOW, progress_ts=NOW + LOST_AFTER_S)
    pipeline.tick(NOW + LOST_AFTER_S + 1)
    assert tickets(pipeline) == []


def silent_since(pipeline: Pipeline, ts: float) -> None:
    """The newest option event was received at `ts`."""
    pipeline.store.commit(Commit(writes=(SetFields(pipeline.keys.feed("SPX"), {"event_ts": ts}),)))


def test_a_silence_asks_for_a_chain_once_as_soon_as_it_passes_the_threshold() -> None:
    pipeline = computed()
    silent_since(pipeline, NOW)
    for second in (1, 5, 6, 7, 8):
        pipeline.tick(NOW + second)
        assert tickets(pipeline) == ([(1, "dormancy")] if second > 5 else [])
        job(pipeline, ticket=0)  # it was fetched


def test_the_next_silence_asks_again() -> None:
    pipeline = computed()
    silent_since(pipeline, NOW)
    pipeline.tick(NOW + 6)
    job(pipeline, ticket=0)
    silent_since(pipeline, NOW + 7)
    pipeline.tick(NOW + 8)
    pipeline.tick(NOW + 13)
    assert tickets(pipeline) == [(1, "dormancy"), (2, "dormancy")]


def test_frames_that_wait_are_no_silence() -> None:
    pipeline = computed()
    silent_since(pipeline, NOW)
    waiting(pipeline, None)
    pipeline.tick(NOW + 1)
    waiting(pipeline, NOW + 2)
    pipeline.tick(NOW + 60)
    assert tickets(pipeline) == []


def test_a_silence_during_a_fetch_asks_for_another_after_it() -> None:
    pipeline = computed()
    silent_since(pipeline, NOW)
    job(pipeline, ticket=3, last_ticket=3, issued_ts=NOW)
    pipeline.tick(NOW + 6)
    assert (tickets(pipeline), pipeline.fields(pipeline.keys.job("SPX"))["again"]) == ([], "dormancy")
    job(pipeline, ticket=0)
    pipeline.tick(NOW + 7)
    assert tickets(pipeline) == [(4, "dormancy")]


@pytest.mark.parametrize(
    ("root", "hour", "minute"), [("SPX", 9, 30), ("SPXW", 16, 0)], ids=["at the open", "at the close"]
)
def test_the_first_tick_after_a_settlement_asks_for_a_chain_once(root: str, hour: int, minute: int) -> None:
    settled = datetime.fromisoformat(EXPIRATION).replace(hour=hour, minute=minute, tzinfo=NEW_YORK).timestamp()
    pipeline = Pipeline()
    pipeline.fetch(1, {EXPIRATION: chain_rows(FEW, root=root), LATER: chain_rows(FEW, LATER)}, ts=settled - 60)
    pipeline.run()
    job(pipeline, not_before_ts=settled + 1e6)
    silent_since(pipeline, settled - 2)
    asked = []
    for second in (-1.0, -0.1, 0.0, 1.0, 2.0):
        pipeline.tick(settled + second)
        asked.append(tickets(pipeline))
        job(pipeline, ticket=0)
    assert asked == [[], [], [(1, "settlement")], [(1, "settlement")], [(1, "settlement")]]


def test_a_ticket_that_replaces_a_lost_one_keeps_the_time_of_the_question() -> None:
    pipeline = computed()
    job(pipeline, again="gap")
    pipeline.tick(NOW)
    pipeline.tick(NOW + LOST_AFTER_S + 1)
    found = pipeline.fields(pipeline.keys.job("SPX"))
    assert (float(found["issued_ts"]), float(found["asked_ts"])) == (NOW + LOST_AFTER_S + 1, NOW)


@pytest.mark.parametrize("lost", ["listing", "versions", "quotes"])
def test_an_epoch_whose_keys_are_gone_is_rebuilt_at_once(lost: str) -> None:
    pipeline = computed()
    epoch = pipeline.active()
    key = {
        "listing": pipeline.keys.listing(epoch),
        "versions": pipeline.keys.versions(epoch),
        "quotes": f"epoch:{epoch}:plane:SPXW:{EXPIRATION}:quotes",
    }[lost]
    for kind in (pipeline.store.strings, pipeline.store.hashes):
        kind.pop(key, None)
    pipeline.tick(NOW)
    assert (tickets(pipeline), ticks(pipeline)) == ([(1, "rebuild")], [])
    rebuilt = pipeline.fetch(2, {EXPIRATION: chain_rows(FEW)}, ts=NOW + 1)
    assert rebuilt != epoch
    pipeline.tick(NOW + 1)
    assert [one["epoch"] for one in ticks(pipeline)] == [rebuilt]


# --- lifetimes


def renewed(pipeline: Pipeline, since: int) -> list[str]:
    """Keys that were renewed by commits after the first `since`."""
    writes = [write for _, commit, _ in pipeline.commits[since:] for write in commit.writes]
    return [key for write in writes if isinstance(write, Renew) for key in write.keys]


def test_a_tick_renews_every_key_of_the_active_epoch() -> None:
    pipeline = Pipeline()
    epoch = pipeline.fetch(1, {EXPIRATION: chain_rows(FEW), LATER: chain_rows(FEW, LATER)})
    pipeline.run()
    pipeline.tick(NOW)
    pipeline.run()
    since = len(pipeline.commits)
    pipeline.tick(NOW + 1000)
    stored = {key for kind in (pipeline.store.strings, pipeline.store.hashes, pipeline.store.scores) for key in kind}
    mortal = {key for key in stored if epoch in key and all(row.lifetime in EXPIRING for row in rows_of(key))}
    assert len(mortal) > 20
    assert mortal <= set(renewed(pipeline, since))


def test_renewal_comes_at_a_third_of_the_lifetime() -> None:
    pipeline = computed()
    pipeline.tick(NOW)
    since = len(pipeline.commits)
    pipeline.tick(NOW + 99)
    assert renewed(pipeline, since) == []
    pipeline.tick(NOW + 100)
    assert renewed(pipeline, since) != []


def test_a_new_epoch_is_renewed_by_its_first_tick() -> None:
    pipeline = computed()
    pipeline.tick(NOW)
    pipeline.fetch(2, {EXPIRATION: chain_rows(range(6890, 6910, 5))}, ts=NOW + 1)
    since = len(pipeline.commits)
    pipeline.tick(NOW + 1)
    assert pipeline.keys.listing(pipeline.active()) in renewed(pipeline, since)


def test_many_keys_are_renewed_in_chunks() -> None:
    pipeline = Pipeline()
    pipeline.fetch(1, {EXPIRATION: chain_rows(range(2000, 8000, 5))})
    pipeline.tick(NOW)
    chunks = [write for _, commit, _ in pipeline.commits for write in commit.writes if isinstance(write, Renew)]
    assert [len(chunk.keys) for chunk in chunks[:-1]] == [1000] * (len(chunks) - 1)
    assert len({key for chunk in chunks for key in chunk.keys}) == sum(len(chunk.keys) for chunk in chunks) > 2400


def test_a_ticker_killed_before_it_renewed_everything_does_so_again() -> None:
    """What is written down as renewed was renewed."""
    pipeline = computed()
    ticker = pipeline.tickers["SPX"]
    lease = pipeline.keys.lease("tick", "SPX")
    pipeline.store.commit(Commit(writes=(SetValue(lease, "ticker"),)))
    first, *_ = ticker.step(drive(ticker.load(pipeline.store)), NOW, lease, "ticker")
    assert isinstance(pipeline.store.commit(first), Applied)
    since = len(pipeline.commits)
    pipeline.tick(NOW + 1)
    assert pipeline.keys.listing(pipeline.active()) in renewed(pipeline, since)


class Lifetimes:
    """The lifetimes of the keys of a store that knows none, by a clock that the test drives."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.now = NOW
        self._pipeline = pipeline
        self._ends: dict[str, float] = {}
        self._seen = 0

    def move_to(self, now: float) -> None:
        """Note what was written since, and drop what has run out by then."""
        for _, commit, outcome in self._pipeline.commits[self._seen :]:
            for write in commit.writes if isinstance(outcome, Applied) else ():
                ttl_ms = getattr(write, "ttl_ms", 0)
                names = write.keys if isinstance(write, Renew) else (getattr(write, "key", ""),) if ttl_ms else ()
                for key in names:
                    if not isinstance(write, Renew) or self._pipeline.store.exists(key):
                        self._ends[key] = self.now + ttl_ms / 1000
        self._seen = len(self._pipeline.commits)
        self.now = now
        ended = tuple(key for key, end in self._ends.items() if end <= now)
        for key in ended:
            del self._ends[key]
        self._pipeline.store.commit(Commit(writes=(Delete(ended),)))


def keys_with(pipeline: Pipeline, epoch: str) -> set[str]:
    """Keys of an epoch that have a lifetime."""
    store = pipeline.store
    stored = {key for kind in (store.strings, store.hashes, store.scores) for key in kind if epoch in key}
    return {key for key in stored if store.exists(key) and any(row.lifetime in EXPIRING for row in rows_of(key))}


def test_an_epoch_that_lives_an_hour_keeps_all_its_keys_without_any_chain() -> None:
    pipeline = Pipeline()
    lifetimes = Lifetimes(pipeline)
    epoch = pipeline.fetch(1, {EXPIRATION: chain_rows(FEW), LATER: chain_rows(FEW, LATER)})
    pipeline.run()
    before = keys_with(pipeline, epoch)
    for second in range(0, 3601, 5):
        lifetimes.move_to(NOW + second)
        pipeline.tick(NOW + second)
    pipeline.run()
    assert keys_with(pipeline, epoch) >= before > {pipeline.keys.contract(epoch, row.id) for row in chain_rows(FEW)}


def test_a_superseded_epoch_is_gone_after_its_lifetime() -> None:
    pipeline = Pipeline()
    lifetimes = Lifetimes(pipeline)
    first = pipeline.fetch(1, {EXPIRATION: chain_rows(FEW)})
    pipeline.run()
    pipeline.tick(NOW)
    second = pipeline.fetch(2, {EXPIRATION: chain_rows(range(6890, 6910, 5))}, ts=NOW + 10)
    pipeline.run()
    left = []
    for later in (200, 299, 301):
        for step in range(3):
            lifetimes.move_to(NOW + later + step / 10)
            pipeline.tick(NOW + later + step / 10)
        left.append(bool(keys_with(pipeline, first)))
    assert left == [True, True, False]
    assert keys_with(pipeline, second)


# --- healing


def flags(pipeline: Pipeline) -> tuple[int, int]:
    """Dirty and computed flags of all time."""
    keys = pipeline.keys
    return (
        len(pipeline.emitted(keys.epoch_stream("SPX"), PlaneDirty)),
        len(pipeline.emitted(keys.strategy_stream("SPX"), PlaneComputed)),
    )


def test_a_plane_that_lags_and_does_not_move_for_two_ticks_is_flagged_again() -> None:
    pipeline = computed()
    pipeline.feed(frame(quote(cid_of(6900), 9.0, 9.5, NOW_MS)))
    pipeline.run(StageName.STAGING)
    pipeline.skip(pipeline.keys.epoch_stream("SPX"))  # the flag is lost
    counts = []
    for second in range(5):
        pipeline.tick(NOW + second)
        counts.append(flags(pipeline)[0])
    assert counts == [1, 1, 2, 2, 3]
    pipeline.run()
    versions = pipeline.fields(pipeline.keys.versions(pipeline.active()))
    assert versions[f"SPXW:{EXPIRATION}|tiles"] == versions[f"SPXW:{EXPIRATION}|quotes"] == "2"


def test_a_publication_that_lags_is_flagged_again_too() -> None:
    pipeline = computed()
    pipeline.feed(frame(quote(cid_of(6900), 9.0, 9.5, NOW_MS)))
    pipeline.run(StageName.STAGING, StageName.CALCULATE)
    pipeline.skip(pipeline.keys.strategy_stream("SPX"))
    for second in range(3):
        pipeline.tick(NOW + second)
    assert flags(pipeline) == (1, 2)
    pipeline.run()
    versions = pipeline.fields(pipeline.keys.versions(pipeline.active()))
    assert versions[f"SPXW:{EXPIRATION}|published"] == "2"


def test_a_plane_that_lags_but_moves_is_not_flagged_by_the_tick() -> None:
    pipeline = computed()
    for second in range(5):
        for part in range(2):
            bid = 1.0 + second + part / 10
            pipeline.feed(frame(quote(cid_of(6900), bid, 9.5, NOW_MS + second * 10 + part), ts=NOW + second))
            pipeline.run(StageName.STAGING)
            if part == 0:
                pipeline.run(StageName.CALCULATE)
        pipeline.tick(NOW + second)
        pipeline.skip(pipeline.keys.strategy_stream("SPX"))
    # each round: flagged by the first update, computed, flagged by the second
    assert flags(pipeline)[0] == 6


def test_a_quiet_board_is_not_flagged() -> None:
    pipeline = computed()
    for second in range(10):
        pipeline.tick(NOW + second)
    assert flags(pipeline) == (0, 0)


# --- figures


def test_promotions_of_the_last_minute_are_counted() -> None:
    pipeline = computed()
    for number, strike in enumerate((6870, 6875, 6880), 2):
        pipeline.fetch(number, {EXPIRATION: chain_rows(range(strike, 6915, 5))}, ts=NOW + 20 * number)
    told = []
    for second in (81, 101, 141):
        pipeline.tick(NOW + second)
        told.append(pipeline.fields(pipeline.keys.analytics(Stat.EPOCH, "SPX"))["promotion_rate_per_min:SPX"])
    assert told == ["3", "2", "0"]


# --- the prices of the board


def test_the_heatmap_snapshot_has_the_prices_of_all_contracts() -> None:
    pipeline = Pipeline()
    pipeline.fetch(1, {EXPIRATION: chain_rows([6900, 6905], bid=None, ask=None)})
    pipeline.run()
    pipeline.feed(
        frame(quote(cid_of(6900), 9.0, 9.25, NOW_MS), quote(cid_of(6900, PUT), None, 8.0, NOW_MS), ts=NOW + 0.5)
    )
    pipeline.run()
    pipeline.tick(NOW + 1)
    found = json.loads(bytes(pipeline.store.strings[pipeline.keys.heatmap_snapshot("SPX")]))
    plane = found["planes"].pop(f"SPXW:{EXPIRATION}")
    assert found == {
        "symbol": "SPX", "epoch": pipeline.active(), "tick": 1, "ts": NOW + 1, "complete_to": NOW + 0.5, "spot": None,
        "planes": {},
    }  # fmt: skip
    assert plane == {
        "version": 2,
        "ids": [cid_of(strike, kind) for strike in (6900, 6905) for kind in (CALL, PUT)],
        "strikes": [6900.0, 6900.0, 6905.0, 6905.0],
        "types": ["call", "put", "call", "put"],
        "bid": [9.0, None, None, None],
        "ask": [9.25, 8.0, None, None],
        "mid": [9.125, None, None, None],
        "ts": [NOW, NOW, None, None],
    }


def test_a_quiet_plane_that_moves_does_not_set_back_up_to_when_the_snapshot_is_complete() -> None:
    """Until just before it moved, everything of it was published."""
    pipeline = Pipeline()
    pipeline.fetch(1, {EXPIRATION: chain_rows(FEW), LATER: chain_rows(FEW, LATER)})
    pipeline.run()
    quiet, busy = cid_of(6900), cid_of(6900, CALL, LATER)
    told = []
    for second, cid in ((1, quiet), (50, busy), (51, quiet)):
        pipeline.feed(frame(quote(cid, 9.0 + second / 100, 9.9, NOW_MS + 1000 * second), ts=NOW + second))
        pipeline.run(*((StageName.STAGING,) if second == 51 else ()))
        pipeline.tick(NOW + second)
        snapshot = json.loads(bytes(pipeline.store.strings[pipeline.keys.heatmap_snapshot("SPX")]))
        told.append(snapshot["complete_to"] - NOW)
    assert told == [1.0, 50.0, 50.0]


def test_the_heatmap_snapshot_is_complete_to_the_oldest_plane_that_lags() -> None:
    pipeline = computed()
    pipeline.feed(frame(quote(cid_of(6900), 9.0, 9.5, NOW_MS), ts=NOW + 1))
    pipeline.run()
    pipeline.feed(frame(quote(cid_of(6900), 9.1, 9.5, NOW_MS + 1), ts=NOW + 2))
    pipeline.run(StageName.STAGING)
    pipeline.tick(NOW + 2)
    found = json.loads(bytes(pipeline.store.strings[pipeline.keys.heatmap_snapshot("SPX")]))
    assert found["complete_to"] == NOW + 1
