"""A person's order promotes over the same contracts: exactly one epoch per order, whatever dies in between."""

from __future__ import annotations

import pytest

from contracts.clock import MarketClock, encode_clock
from contracts.commit import Applied, Commit, Refused, SetValue
from contracts.keys import Layer, Stat
from contracts.messages import EpochForce, EpochPromoted, encode
from contracts.symbology import PUT
from contracts.topology import StageName
from tests.pipeline import (
    EXPIRATION,
    LATER,
    NOW,
    Pipeline,
    ProcessDiedError,
    chain_rows,
    cid_of,
    frame,
    quote,
)
from tests.stages.staging.small_board import CID, FEW, NOW_MS


def live() -> Pipeline:
    """A computed board of two expirations with something from the feed in both."""
    pipeline = Pipeline()
    pipeline.fetch(3, {EXPIRATION: chain_rows(FEW), LATER: chain_rows(FEW, LATER)})
    pipeline.feed(
        frame(quote(CID, 9.0, 9.5, NOW_MS, 7), {"ev": "FMV", "sym": CID, "fmv": 9.125, "t": NOW_MS * 1_000_000}),
        frame(quote(cid_of(6900, PUT, LATER), 8.0, 8.5, NOW_MS)),
    )
    pipeline.run()
    return pipeline


def values(pipeline: Pipeline) -> dict[str, object]:
    """All values of the active board, readable and packed."""
    geometry = pipeline.geometry()
    found: dict[str, object] = {row.cid: pipeline.contract(row.cid) for plane in geometry.planes for row in plane.rows}
    for plane in geometry.planes:
        found[f"{plane.id} quotes"] = pipeline.rows(Layer.QUOTES, plane.id)["quote"].tobytes()
        found[f"{plane.id} trades"] = pipeline.rows(Layer.TRADES, plane.id).tobytes()
        found[f"{plane.id} chain"] = pipeline.rows(Layer.CHAIN, plane.id).tobytes()
    return found


def counts(pipeline: Pipeline) -> dict[str, int]:
    return pipeline.counts(pipeline.keys.analytics(Stat.EPOCH, "SPX"))


def timeline(pipeline: Pipeline) -> list[str]:
    return list(pipeline.store.lists[pipeline.keys.timeline("SPX")])


def promoted(pipeline: Pipeline) -> list[str]:
    return [one["epoch"] for one in pipeline.emitted(pipeline.keys.epoch_stream("SPX"), EpochPromoted)]


def test_an_order_promotes_over_the_same_contracts_with_every_value() -> None:
    pipeline = live()
    before, known, meta = pipeline.active(), values(pipeline), pipeline.meta()
    pipeline.order("why-not", ts=NOW + 5)
    pipeline.run(StageName.STAGING)
    after = pipeline.active()
    assert (after != before, timeline(pipeline)) == (True, [after, before])
    assert pipeline.geometry(after).encode() == pipeline.geometry(before).encode()
    assert values(pipeline) == known
    expected = {"reason": "operator", "forced_dirty": "1", "prev": before, "fetch": "3", "request": "why-not"}
    expected |= {"created_ts": repr(NOW + 5), "had_ws_updates": "0", "last_ws_ts": "", "superseded_ts": ""}
    expected |= {name: meta[name] for name in ("snapshot_ts", "contract_count", "geometry_hash", "excluded_count")}
    assert {name: pipeline.meta()[name] for name in expected} == expected
    assert (promoted(pipeline), counts(pipeline)["promotions_operator"]) == ([before, after], 1)


def test_everything_is_dirty_and_computed_anew() -> None:
    pipeline = live()
    pipeline.order()
    pipeline.run(StageName.STAGING)
    epoch = pipeline.active()
    assert pipeline.store.sets[pipeline.keys.dirty("SPX")] == {epoch}
    assert pipeline.fields(pipeline.keys.versions(epoch))["lagging"] == "2"
    pipeline.run()
    assert epoch in pipeline.store.sets[pipeline.keys.clean("SPX")]


def test_the_order_is_dated_on_the_market_clock_of_the_last_tick() -> None:
    pipeline = live()
    clock = MarketClock(receive_ts=NOW, market_ts=NOW - 1000, rate=10.0)
    pipeline.store.commit(Commit(writes=(SetValue(pipeline.keys.clock("SPX"), encode_clock(clock)),)))
    pipeline.tick(NOW)
    pipeline.order(ts=NOW + 5)
    pipeline.run(StageName.STAGING)
    assert pipeline.meta()["created_ts"] == repr(NOW - 1000 + 50)


def test_every_order_has_an_epoch_of_its_own_with_an_id_of_its_own() -> None:
    pipeline = live()
    for number in range(3):
        pipeline.order(f"order {number}")
    pipeline.run(StageName.STAGING)
    ids = timeline(pipeline)
    assert len(set(ids)) == 4
    assert [pipeline.meta(one).get("request") for one in reversed(ids)] == ["", "order 0", "order 1", "order 2"]


def test_an_order_without_an_epoch_is_acknowledged_and_counted() -> None:
    pipeline = Pipeline()
    pipeline.order()
    pipeline.run(StageName.STAGING)
    assert (pipeline.active(), counts(pipeline)) == ("", {"orders_without_epoch": 1})


def test_an_order_for_a_board_that_lost_a_key_asks_for_its_rebuild() -> None:
    pipeline = live()
    before = pipeline.active()
    del pipeline.store.hashes[pipeline.keys.contract(before, CID)]
    pipeline.order()
    pipeline.run(StageName.STAGING)
    assert (pipeline.active(), counts(pipeline)["orders_without_epoch"]) == (before, 1)
    assert pipeline.fields(pipeline.keys.job("SPX"))["again"] == "rebuild"


def test_the_next_chain_refreshes_the_ordered_board_in_place() -> None:
    """The order brought no fetch: the number stays, so the next one is newer and the same one is stale."""
    pipeline = live()
    pipeline.order()
    pipeline.run(StageName.STAGING)
    epoch = pipeline.active()
    both = {EXPIRATION: chain_rows(FEW, gamma=0.004), LATER: chain_rows(FEW, LATER)}
    assert pipeline.fetch(3, both, ts=NOW + 10) == epoch
    assert pipeline.contract(CID)["gamma"] == "0.001"
    assert pipeline.fetch(4, both, ts=NOW + 10) == epoch
    assert pipeline.contract(CID)["gamma"] == "0.004"


def test_a_chain_and_an_order_that_wait_together_are_both_answered() -> None:
    pipeline = live()
    pipeline.order("first")
    pipeline.announce(4, {EXPIRATION: chain_rows(FEW[1:])}, ts=NOW + 10)
    pipeline.order("second")
    pipeline.run(StageName.STAGING)
    metas = [pipeline.meta(epoch) for epoch in reversed(timeline(pipeline))]
    assert [meta["reason"] for meta in metas] == ["bootstrap", "geometry", "operator", "operator"]
    assert [meta["fetch"] for meta in metas] == ["3", "4", "4", "4"]


def test_a_failing_expiration_stays_flagged_over_an_order() -> None:
    pipeline = live()
    pipeline.fetch(4, {EXPIRATION: chain_rows(FEW)}, failed=[LATER], ts=NOW + 10)
    since = pipeline.meta()["failing_since"]
    pipeline.order()
    pipeline.run(StageName.STAGING)
    assert (pipeline.meta()["failed_expirations"], pipeline.meta()["failing_since"]) == (LATER, since)


def test_an_order_nobody_can_read_is_poison() -> None:
    pipeline = live()
    pipeline.append(pipeline.keys.chain_stream("SPX"), encode(EpochForce("SPX", "x", 1.0)) | {"data": b'{"symbol":5}'})
    pipeline.run(StageName.STAGING)
    ((_, reason),) = pipeline.parked
    assert "epoch.force" in reason
    assert len(timeline(pipeline)) == 1


# --- exactly once


def ordered() -> Pipeline:
    """A live board and an order nobody has read."""
    pipeline = live()
    pipeline.order("once", ts=NOW + 5)
    return pipeline


def promotion_length() -> int:
    pipeline = ordered()
    before = len(pipeline.commits)
    pipeline.run(StageName.STAGING)
    return len(pipeline.commits) - before


def die_after(pipeline: Pipeline, survived: int) -> None:
    """The process dies after so many commits; another one takes its place."""
    pipeline.commits_before_crash = survived
    with pytest.raises(ProcessDiedError):
        pipeline.run(StageName.STAGING)
    pipeline.commits_before_crash = None
    pipeline.restart()


@pytest.mark.parametrize("survived", range(promotion_length()))
def test_an_order_whose_owner_dies_after_any_commit_makes_one_epoch(survived: int) -> None:
    whole = ordered()
    whole.run(StageName.STAGING)
    killed = ordered()
    die_after(killed, survived)
    killed.run(StageName.STAGING)
    assert (timeline(killed), promoted(killed), values(killed)) == (timeline(whole), promoted(whole), values(whole))
    assert killed.meta() == whole.meta()
    assert counts(killed)["promotions_operator"] == 1
    assert not [name for name in killed.fields(killed.keys.building("SPX")) if name.startswith("answered:")]


@pytest.mark.parametrize("survived", range(promotion_length()))
def test_an_order_that_others_finished_makes_no_second_epoch(survived: int) -> None:
    """Its owner died; before anybody claimed it, the next chain came to somebody else and promoted too."""
    killed = ordered()
    die_after(killed, survived)
    other = killed.fork()
    stream = killed.keys.chain_stream("SPX")
    other.skip(stream)
    other.announce(4, {EXPIRATION: chain_rows(FEW[1:])}, ts=NOW + 10)
    other.run(StageName.STAGING)
    claimer = other.fork()
    claimer._done[stream] = killed._done.get(stream, 0)
    claimer.skip(claimer.keys.ws_stream("SPX"))
    claimer.run(StageName.STAGING)
    assert counts(claimer)["promotions_operator"] == 1
    assert counts(claimer)["promotions_geometry"] == 1
    assert len(set(timeline(claimer))) == 3
    assert claimer.meta()["fetch"] == "4"
    assert sorted(promoted(claimer)) == sorted(timeline(claimer))


@pytest.mark.parametrize("survived", range(promotion_length()))
def test_updates_while_an_order_waits_for_its_next_owner_are_not_lost(survived: int) -> None:
    killed = ordered()
    die_after(killed, survived)
    feeder = killed.fork()
    feeder.skip(feeder.keys.chain_stream("SPX"))
    feeder.feed(frame(quote(CID, 5.0, 5.5, NOW_MS + 1)))
    feeder.run(StageName.STAGING)
    killed.skip(killed.keys.ws_stream("SPX"))
    killed.run(StageName.STAGING)
    assert (killed.contract(CID)["bid"], killed.meta()["reason"]) == ("5.00", "operator")


def test_a_chain_that_refreshed_the_board_while_it_was_copied_is_in_the_copy() -> None:
    """The switch is refused, because the fetch number moved; the order is taken up again with the newer values."""
    pipeline = ordered()
    done: list[bool] = []

    def refresh_before_the_switch(commit: Commit) -> None:
        if commit.decides and not done:
            done.append(True)
            other = pipeline.fork()
            other.skip(other.keys.chain_stream("SPX"))
            other.fetch(4, {EXPIRATION: chain_rows(FEW, gamma=0.004), LATER: chain_rows(FEW, LATER)}, ts=NOW + 10)

    pipeline.before_commit = refresh_before_the_switch
    pipeline.run(StageName.STAGING)
    switches = [type(outcome) for _, commit, outcome in pipeline.commits if commit.decides]
    assert switches[-2:] == [Refused, Applied]
    assert (pipeline.meta()["reason"], pipeline.meta()["fetch"]) == ("operator", "4")
    assert (pipeline.contract(CID)["gamma"], pipeline.meta()["snapshot_ts"]) == ("0.004", repr(NOW + 10))
