"""Chains become epochs: bootstrap, refresh in place, promotion with carry; and no crash in between is ever seen."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import msgspec
import pytest

from consumers.memory import MemoryStore
from contracts.commit import Applied, Commit, Refused
from contracts.errors import DataError
from contracts.keys import Layer, Stat
from contracts.messages import EpochPromoted, PlaneDirty
from contracts.planes import UNKNOWN
from contracts.snapshot import ChainRow
from contracts.symbology import CALL, PUT
from contracts.topology import StageName
from stages.massive.rows import eligibility
from tests.pipeline import (
    EXPIRATION,
    LATER,
    NOW,
    STRIKES,
    Pipeline,
    ProcessDiedError,
    chain_row,
    chain_rows,
    cid_of,
    frame,
    quote,
)
from tests.stages.staging.small_board import CID, FEW, NOW_MS

FEWER = range(6890, 6910, 5)


def promotions(pipeline: Pipeline) -> list[str]:
    """The epochs announced downstream, in order."""
    return [body["epoch"] for body in pipeline.emitted(pipeline.keys.epoch_stream("SPX"), EpochPromoted)]


def epoch_counts(pipeline: Pipeline) -> dict[str, int]:
    return pipeline.counts(pipeline.keys.analytics(Stat.EPOCH, "SPX"))


def asked_again(pipeline: Pipeline) -> str:
    """Why a fetch is wanted; empty if none."""
    return pipeline.fields(pipeline.keys.job("SPX")).get("again", "")


def timeline(pipeline: Pipeline) -> list[str]:
    return list(pipeline.store.lists.get(pipeline.keys.timeline("SPX"), []))


# --- bootstrap


def test_the_first_chain_makes_the_first_epoch() -> None:
    pipeline = Pipeline()
    epoch = pipeline.fetch(1, {EXPIRATION: chain_rows(FEW)})
    assert epoch == f"SPX:{NOW:.0f}:{pipeline.geometry().hash[:4]}"
    assert promotions(pipeline) == timeline(pipeline) == [epoch]
    meta = pipeline.meta()
    expected = {"symbol": "SPX", "reason": "bootstrap", "prev": "", "contract_count": "10", "strike_count": "5"}
    expected |= {"expirations": EXPIRATION, "snapshot_ts": repr(NOW), "excluded_count": "0", "superseded_ts": ""}
    assert {name: meta[name] for name in expected} == expected
    assert meta["geometry_hash"] == pipeline.geometry().hash


def test_every_contract_has_its_readable_hash_and_its_place_by_strike() -> None:
    pipeline = Pipeline()
    epoch = pipeline.fetch(1, {EXPIRATION: chain_rows(FEW)})
    found = pipeline.contract(CID)
    expected = {
        "id": CID, "underlying": "SPX", "root": "SPXW", "expiration": EXPIRATION, "strike": "6900", "type": "call",
        "settlement": "pm", "exercise": "european", "multiplier": "100", "eligible": "1", "bid": "10.00",
        "ask": "10.50", "mid": "10.250", "bid_size": "5", "ask_size": "6", "last": "10.20", "volume": "100",
        "iv": "0.2", "gamma": "0.001", "oi": "500.0", "chain_ts": repr(NOW), "seq": "", "fmv": "",
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    scores = pipeline.store.scores[pipeline.keys.geometry(epoch, EXPIRATION)]
    assert scores == {cid_of(strike, kind): float(strike) for strike in FEW for kind in (CALL, PUT)}


def test_a_half_dollar_strike_is_told_exactly() -> None:
    pipeline = Pipeline()
    epoch = pipeline.fetch(1, {EXPIRATION: [chain_row(652.5), chain_row(655)]})
    assert pipeline.contract(cid_of(652.5))["strike"] == "652.5"
    assert pipeline.store.scores[pipeline.keys.geometry(epoch, EXPIRATION)][cid_of(652.5)] == 652.5


@pytest.mark.parametrize("strike", [123456.5, 1234567.0, 10000.001])
def test_a_long_strike_is_told_exactly_too(strike: float) -> None:
    """Six significant digits are not enough for every strike."""
    pipeline = Pipeline()
    row = chain_row(strike, id="O:SPXW260116C00000001")
    pipeline.fetch(1, {EXPIRATION: [row]})
    assert float(pipeline.contract(row.id)["strike"]) == strike


def test_both_roots_of_a_third_friday_are_planes_of_their_own() -> None:
    pipeline = Pipeline()
    pipeline.fetch(1, {EXPIRATION: chain_rows(FEW) + chain_rows(FEW, root="SPX")})
    assert [plane.id for plane in pipeline.geometry().planes] == [f"SPX:{EXPIRATION}", f"SPXW:{EXPIRATION}"]
    assert pipeline.meta()["contract_count"] == "20"


def test_a_new_board_is_dirty_and_flagged_by_its_promotion_alone() -> None:
    pipeline = Pipeline()
    epoch = pipeline.fetch(1, {EXPIRATION: chain_rows(FEW), LATER: chain_rows(FEW, LATER)})
    assert pipeline.store.sets[pipeline.keys.dirty("SPX")] == {epoch}
    assert pipeline.fields(pipeline.keys.versions(epoch))["lagging"] == "2"
    assert pipeline.emitted(pipeline.keys.epoch_stream("SPX"), PlaneDirty) == []
    pipeline.run()
    assert pipeline.store.sets[pipeline.keys.clean("SPX")] == {epoch}
    assert pipeline.store.sets[pipeline.keys.dirty("SPX")] == set()


def test_contracts_that_take_no_part_in_models_are_listed_with_their_reason() -> None:
    pipeline = Pipeline()
    pipeline.fetch(1, {EXPIRATION: [*chain_rows(FEW), chain_row(6950, eligible="adjusted", multiplier=10)]})
    assert pipeline.contract(cid_of(6950))["eligible"] == "adjusted"
    assert (pipeline.meta()["contract_count"], pipeline.meta()["excluded_count"]) == ("11", "1")


def test_a_row_with_an_unusable_price_is_listed_without_values() -> None:
    pipeline = Pipeline()
    pipeline.fetch(1, {EXPIRATION: [*chain_rows(FEW), chain_row(6950, bid=10.001)]})
    assert (pipeline.contract(cid_of(6950))["bid"], pipeline.contract(cid_of(6950))["strike"]) == ("", "6950")


def test_a_snapshot_that_cannot_be_read_is_poison() -> None:
    pipeline = Pipeline()
    message = pipeline.announce(1, {EXPIRATION: chain_rows(FEW)})
    pipeline.store.strings[message.received[EXPIRATION]] = bytearray(b'{"ts":1}')
    with pytest.raises(DataError, match="chain snapshot"):
        pipeline.run(StageName.STAGING)


# --- refresh in place


def test_the_same_contracts_refresh_the_epoch_in_place() -> None:
    pipeline = Pipeline()
    epoch = pipeline.fetch(1, {EXPIRATION: chain_rows(FEW)})
    pipeline.run()
    newer = chain_rows(FEW, bid=11.0, ask=11.5, quote_ts=NOW, gamma=0.002)
    assert pipeline.fetch(2, {EXPIRATION: newer}, ts=NOW + 10) == epoch
    found = pipeline.contract(CID)
    assert (found["bid"], found["gamma"], found["chain_ts"]) == ("11.00", "0.002", repr(NOW + 10))
    assert (pipeline.meta()["fetch"], pipeline.meta()["snapshot_ts"]) == ("2", repr(NOW + 10))
    assert promotions(pipeline) == [epoch]


def test_the_order_of_rows_in_a_snapshot_is_no_geometry() -> None:
    pipeline = Pipeline()
    epoch = pipeline.fetch(1, {EXPIRATION: chain_rows(FEW)})
    assert pipeline.fetch(2, {EXPIRATION: chain_rows(FEW)[::-1]}, ts=NOW + 10) == epoch


def test_a_refresh_that_changes_prices_flags_the_plane_once() -> None:
    pipeline = Pipeline()
    pipeline.fetch(1, {EXPIRATION: chain_rows(FEW)})
    pipeline.run()
    pipeline.fetch(2, {EXPIRATION: chain_rows(FEW, bid=9.0, quote_ts=NOW)}, ts=NOW + 10)
    assert len(pipeline.emitted(pipeline.keys.epoch_stream("SPX"), PlaneDirty)) == 1


def test_a_refresh_with_the_same_prices_flags_nothing() -> None:
    pipeline = Pipeline()
    pipeline.fetch(1, {EXPIRATION: chain_rows(FEW)})
    pipeline.run()
    pipeline.fetch(2, {EXPIRATION: chain_rows(FEW, quote_ts=NOW, gamma=0.003)}, ts=NOW + 10)
    assert pipeline.emitted(pipeline.keys.epoch_stream("SPX"), PlaneDirty) == []
    assert pipeline.contract(CID)["gamma"] == "0.003"


def test_a_refresh_never_replaces_a_newer_live_quote() -> None:
    pipeline = Pipeline()
    pipeline.fetch(1, {EXPIRATION: chain_rows(FEW)})
    pipeline.feed(frame(quote(CID, 9.0, 9.5, NOW_MS)))
    pipeline.fetch(2, {EXPIRATION: chain_rows(FEW, bid=11.0, quote_ts=NOW - 1)}, ts=NOW + 10)
    assert (pipeline.contract(CID)["bid"], pipeline.contract(cid_of(6895))["bid"]) == ("9.00", "11.00")


def test_greeks_go_by_fetch_number_not_by_time() -> None:
    """Host clocks step back; the number of a fetch does not."""
    pipeline = Pipeline()
    pipeline.fetch(1, {EXPIRATION: chain_rows(FEW, gamma=0.001)}, ts=NOW)
    pipeline.fetch(2, {EXPIRATION: chain_rows(FEW, gamma=0.002)}, ts=NOW - 500)
    assert pipeline.contract(CID)["gamma"] == "0.002"


def test_a_value_that_a_later_chain_does_not_tell_stays() -> None:
    pipeline = Pipeline()
    pipeline.fetch(1, {EXPIRATION: chain_rows(FEW)})
    bare: dict[str, Any] = {"bid": None, "ask": None, "last": None, "volume": None, "oi": None}
    pipeline.fetch(2, {EXPIRATION: chain_rows(FEW, **bare)}, ts=NOW + 10)
    found = pipeline.contract(CID)
    assert (found["bid"], found["last"], found["volume"], found["oi"]) == ("10.00", "10.20", "100", "500.0")


def test_fetches_that_wait_are_coalesced_to_the_newest() -> None:
    pipeline = Pipeline()
    pipeline.fetch(1, {EXPIRATION: chain_rows(FEW)})
    for number in (2, 3, 4):
        pipeline.announce(number, {EXPIRATION: chain_rows(FEW, bid=number, quote_ts=NOW + number)}, ts=NOW + number)
    pipeline.run(StageName.STAGING)
    assert pipeline.contract(CID)["bid"] == "4.00"
    assert (epoch_counts(pipeline)["refreshes"], epoch_counts(pipeline)["coalesced_fetches"]) == (1, 2)


def test_an_older_fetch_never_supersedes_a_newer_one() -> None:
    pipeline = Pipeline()
    epoch = pipeline.fetch(5, {EXPIRATION: chain_rows(FEW)})
    before = deepcopy(pipeline.store.hashes[pipeline.keys.contract(epoch, CID)])
    assert pipeline.fetch(4, {EXPIRATION: chain_rows(FEWER, bid=1.0, quote_ts=NOW)}, ts=NOW + 60) == epoch
    assert pipeline.store.hashes[pipeline.keys.contract(epoch, CID)] == before
    assert epoch_counts(pipeline)["stale_fetches"] == 1


def test_the_same_fetch_delivered_again_changes_nothing() -> None:
    pipeline = Pipeline()
    epoch = pipeline.fetch(1, {EXPIRATION: chain_rows(FEW)})
    pipeline.announce(1, {EXPIRATION: chain_rows(FEW)})
    pipeline.run(StageName.STAGING)
    assert (pipeline.active(), promotions(pipeline)) == (epoch, [epoch])


# --- what did not arrive


def test_an_expired_snapshot_asks_for_another_fetch_and_is_no_missing_expiration() -> None:
    pipeline = Pipeline()
    epoch = pipeline.fetch(1, {EXPIRATION: chain_rows(FEW), LATER: chain_rows(FEW, LATER)})
    message = pipeline.announce(2, {EXPIRATION: chain_rows(FEW), LATER: chain_rows(FEW, LATER)}, ts=NOW + 10)
    del pipeline.store.strings[message.received[LATER]]
    pipeline.run(StageName.STAGING)
    assert (pipeline.active(), pipeline.meta()["fetch"]) == (epoch, "1")
    assert asked_again(pipeline) == "expired"
    assert epoch_counts(pipeline)["expired_snapshots"] == 1


def test_a_fetch_that_received_nothing_keeps_the_epoch_and_asks_again() -> None:
    pipeline = Pipeline()
    epoch = pipeline.fetch(1, {EXPIRATION: chain_rows(FEW)})
    assert pipeline.fetch(2, {}, failed=[EXPIRATION], ts=NOW + 10) == epoch
    assert asked_again(pipeline) == "partial"


def test_a_failed_expiration_keeps_its_plane_and_is_told() -> None:
    pipeline = Pipeline()
    epoch = pipeline.fetch(1, {EXPIRATION: chain_rows(FEW), LATER: chain_rows(FEW, LATER)})
    assert pipeline.fetch(2, {EXPIRATION: chain_rows(FEW)}, failed=[LATER], ts=NOW + 10) == epoch
    assert pipeline.meta()["failed_expirations"] == LATER
    assert pipeline.meta()["fetch"] == "2"


def test_a_failed_expiration_is_carried_with_its_values_when_another_one_changes() -> None:
    pipeline = Pipeline()
    pipeline.fetch(1, {EXPIRATION: chain_rows(FEW), LATER: chain_rows(FEW, LATER, bid=7.0)})
    before = pipeline.contract(cid_of(6900, CALL, LATER))
    epoch = pipeline.fetch(2, {EXPIRATION: chain_rows(FEWER)}, failed=[LATER], ts=NOW + 10)
    assert [plane.id for plane in pipeline.geometry(epoch).planes] == [f"SPXW:{EXPIRATION}", f"SPXW:{LATER}"]
    assert pipeline.contract(cid_of(6900, CALL, LATER)) == before
    assert before["bid"] == "7.00"


def test_a_failed_expiration_that_comes_back_refreshes_in_place() -> None:
    pipeline = Pipeline()
    both = {EXPIRATION: chain_rows(FEW), LATER: chain_rows(FEW, LATER)}
    epoch = pipeline.fetch(1, both)
    pipeline.fetch(2, {EXPIRATION: chain_rows(FEW)}, failed=[LATER], ts=NOW + 10)
    assert pipeline.fetch(3, both, ts=NOW + 20) == epoch
    assert pipeline.meta()["failed_expirations"] == ""


def test_an_expiration_that_is_no_longer_requested_leaves() -> None:
    pipeline = Pipeline()
    pipeline.fetch(1, {EXPIRATION: chain_rows(FEW), LATER: chain_rows(FEW, LATER)})
    pipeline.fetch(2, {LATER: chain_rows(FEW, LATER)}, ts=NOW + 10)
    assert [plane.id for plane in pipeline.geometry().planes] == [f"SPXW:{LATER}"]


def test_a_plane_kept_past_its_settlement_becomes_ineligible() -> None:
    pipeline = Pipeline()
    pipeline.fetch(1, {EXPIRATION: chain_rows(FEW), LATER: chain_rows(FEW, LATER)})
    pipeline.fetch(2, {LATER: chain_rows(FEW, LATER)}, failed=[EXPIRATION], ts=NOW + 2 * 86_400)
    assert pipeline.contract(CID)["eligible"] == "expired"
    assert pipeline.meta()["excluded_count"] == "10"


def test_it_is_remembered_since_when_an_expiration_fails() -> None:
    pipeline = Pipeline()
    both = {EXPIRATION: chain_rows(FEW), LATER: chain_rows(FEW, LATER)}
    pipeline.fetch(1, both)
    told = []
    for number in (2, 3, 4):
        chains = both if number == 4 else {EXPIRATION: chain_rows(FEW)}
        pipeline.fetch(number, chains, failed=[] if number == 4 else [LATER], ts=NOW + 10 * number)
        told.append(json.loads(pipeline.meta()["failing_since"]))
    assert told == [{LATER: NOW + 20}, {LATER: NOW + 20}, {}]


def test_since_when_an_expiration_fails_outlives_a_promotion() -> None:
    pipeline = Pipeline()
    pipeline.fetch(1, {EXPIRATION: chain_rows(FEW), LATER: chain_rows(FEW, LATER)})
    pipeline.fetch(2, {EXPIRATION: chain_rows(FEW)}, failed=[LATER], ts=NOW + 10)
    pipeline.fetch(3, {EXPIRATION: chain_rows(FEWER)}, failed=[LATER], ts=NOW + 20)
    assert (pipeline.meta()["reason"], json.loads(pipeline.meta()["failing_since"])) == ("geometry", {LATER: NOW + 10})


def test_an_expiration_that_never_arrived_is_told_and_has_no_plane() -> None:
    pipeline = Pipeline()
    pipeline.fetch(1, {EXPIRATION: chain_rows(FEW)}, failed=[LATER])
    assert (pipeline.meta()["failed_expirations"], pipeline.meta()["expirations"]) == (LATER, EXPIRATION)


def test_a_partial_fetch_does_not_shrink_a_board_that_lost_a_key() -> None:
    """The listing is still there, and with it what the failed expiration lists."""
    pipeline = Pipeline()
    first = pipeline.fetch(1, {EXPIRATION: chain_rows(FEW), LATER: chain_rows(FEW, LATER, bid=7.0)})
    del pipeline.store.hashes[pipeline.keys.contract(first, CID)]
    second = pipeline.fetch(2, {EXPIRATION: chain_rows(FEW)}, failed=[LATER], ts=NOW + 10)
    assert (pipeline.meta(second)["reason"], pipeline.meta(second)["expirations"]) == (
        "bootstrap", f"{EXPIRATION},{LATER}",
    )  # fmt: skip
    assert pipeline.contract(cid_of(6900, CALL, LATER))["bid"] == "7.00"


# --- settlement, through the rows of the provider

AM_SETTLEMENT = 1_768_573_800.0  # 2026-01-16 09:30 in New York, a third Friday
PM_CLOSE = 1_768_597_200.0  # 16:00


def third_friday(market_ts: float) -> dict[str, list[ChainRow]]:
    """Both roots of a third Friday as a fetch that began at `market_ts` tells them."""
    rows = [*chain_rows(FEW, root="SPX"), *chain_rows(FEW), chain_row(6900, root="SPX1", multiplier=10)]
    return {
        EXPIRATION: [
            msgspec.structs.replace(row, eligible=eligibility(row.root, EXPIRATION, row.multiplier, market_ts))
            for row in rows
        ]
    }


def eligible(pipeline: Pipeline) -> dict[str, str]:
    """The first call of each root -> its eligibility."""
    return {root: pipeline.contract(cid_of(6900, root=root))["eligible"] for root in ("SPX", "SPXW", "SPX1")}


def test_am_series_leave_at_half_past_nine_and_pm_series_at_the_close() -> None:
    pipeline = Pipeline()
    instants = (AM_SETTLEMENT - 1, AM_SETTLEMENT, PM_CLOSE - 1, PM_CLOSE)
    told = []
    for number, market_ts in enumerate(instants, 1):
        pipeline.fetch(number, third_friday(market_ts), ts=market_ts)
        told.append((eligible(pipeline), int(pipeline.meta()["excluded_count"])))
    assert told == [
        ({"SPX": "1", "SPXW": "1", "SPX1": "adjusted"}, 1),
        ({"SPX": "expired", "SPXW": "1", "SPX1": "adjusted"}, 11),
        ({"SPX": "expired", "SPXW": "1", "SPX1": "adjusted"}, 11),
        ({"SPX": "expired", "SPXW": "expired", "SPX1": "adjusted"}, 21),
    ]
    reasons = [pipeline.meta(epoch)["reason"] for epoch in reversed(timeline(pipeline))]
    assert reasons == ["bootstrap", "geometry", "geometry"], "each settlement is one promotion"
    assert pipeline.meta()["contract_count"] == "21"


def test_a_kept_plane_settles_on_time_although_its_expiration_fails() -> None:
    pipeline = Pipeline()
    later = {LATER: chain_rows(FEW, LATER)}
    pipeline.fetch(1, third_friday(AM_SETTLEMENT - 60) | later, ts=AM_SETTLEMENT - 60)
    pipeline.fetch(2, later, failed=[EXPIRATION], ts=AM_SETTLEMENT)
    assert eligible(pipeline) == {"SPX": "expired", "SPXW": "1", "SPX1": "adjusted"}


@pytest.mark.parametrize(
    ("changed", "counted"),
    [
        ({EXPIRATION: chain_rows(range(6890, 6920, 5))}, 1),
        ({EXPIRATION: chain_rows(FEWER)}, 1),
        ({EXPIRATION: chain_rows(FEW), LATER: chain_rows(FEW, LATER)}, 1),
        ({EXPIRATION: chain_rows(FEW)[::-1]}, 0),
    ],
    ids=["a new strike", "a dropped strike", "a new expiration", "another order"],
)
def test_a_change_of_what_is_listed_is_counted_as_a_change_of_geometry(
    changed: dict[str, list[ChainRow]], counted: int
) -> None:
    pipeline = Pipeline()
    pipeline.fetch(1, {EXPIRATION: chain_rows(FEW)})
    pipeline.fetch(2, changed, ts=NOW + 10)
    chain_counts = pipeline.counts(pipeline.keys.analytics(Stat.CHAIN, "SPX"))
    assert chain_counts.get("geometry_changes", 0) == epoch_counts(pipeline).get("promotions_geometry", 0) == counted


# --- open interest

SESSION = 1_768_566_600.0  # 2026-01-16 07:30 in New York
FLIPPING = SESSION - 3420  # 06:33


def interest(pipeline: Pipeline) -> tuple[str, float, float]:
    """Open interest of a contract: readable, packed, and the start of its session."""
    row = pipeline.rows(Layer.CHAIN)["interest"][pipeline.geometry().row_of[CID][1]]
    return pipeline.contract(CID)["oi"], float(row["oi"]), float(row["asof"])


def test_open_interest_that_flips_before_the_session_does_not_move() -> None:
    pipeline = Pipeline()
    pipeline.fetch(1, {EXPIRATION: chain_rows(FEW, oi=500.0)})
    for number in range(2, 12):
        told = 700.0 if number % 2 else 500.0
        pipeline.fetch(number, {EXPIRATION: chain_rows(FEW, oi=told)}, ts=FLIPPING + 300 * (number - 2))
        assert interest(pipeline)[0] == "500.0"
    assert len(timeline(pipeline)) == 1


def test_a_session_takes_the_first_open_interest_it_is_told_and_keeps_it() -> None:
    pipeline = Pipeline()
    pipeline.fetch(1, {EXPIRATION: chain_rows(FEW, oi=500.0)})
    told = []
    for number, (at, oi) in enumerate(((-1, 700.0), (0, 700.0), (60, 500.0), (3600, 800.0)), 2):
        pipeline.fetch(number, {EXPIRATION: chain_rows(FEW, oi=oi)}, ts=SESSION + at)
        told.append(interest(pipeline))
    yesterday = SESSION - 86_400
    assert told == [("500.0", 500.0, yesterday), *[("700.0", 700.0, SESSION)] * 3]


def test_a_contract_without_open_interest_yet_takes_it_when_it_is_told() -> None:
    pipeline = Pipeline()
    pipeline.fetch(1, {EXPIRATION: chain_rows(FEW, oi=None)})
    assert interest(pipeline)[0] == ""
    pipeline.fetch(2, {EXPIRATION: chain_rows(FEW, oi=600.0)}, ts=NOW + 10)
    assert interest(pipeline)[0] == "600.0"


@pytest.mark.parametrize("how", ["geometry", "operator", "dormancy"])
def test_the_latch_on_open_interest_is_carried_over_promotions(how: str) -> None:
    pipeline = Pipeline()
    pipeline.fetch(1, {EXPIRATION: chain_rows(FEW, oi=500.0)})
    if how == "operator":
        pipeline.order()
        pipeline.run(StageName.STAGING)
    else:
        pipeline.tick(NOW + 10)
        strikes = FEWER if how == "geometry" else FEW
        pipeline.fetch(2, {EXPIRATION: chain_rows(strikes, oi=700.0)}, ts=NOW + 10)
    assert (pipeline.meta()["reason"], interest(pipeline)[0]) == (how, "500.0")
    pipeline.fetch(3, {EXPIRATION: chain_rows(FEWER, oi=800.0)}, ts=NOW + 20)
    assert interest(pipeline)[0] == "500.0"


def test_what_a_fetch_that_never_finished_told_is_no_latch() -> None:
    """It died between its planes; the result is the same as if it had never begun."""
    pipeline = Pipeline()
    both = {EXPIRATION: chain_rows(FEW, oi=None), LATER: chain_rows(FEW, LATER, oi=None)}
    pipeline.fetch(1, both)
    pipeline.announce(2, {EXPIRATION: chain_rows(FEW, oi=1.0), LATER: chain_rows(FEW, LATER, oi=1.0)}, ts=NOW + 10)
    pipeline.commits_before_crash = 1
    with pytest.raises(ProcessDiedError):
        pipeline.run(StageName.STAGING)
    assert interest(pipeline)[0] == "1.0"
    pipeline.commits_before_crash = None
    pipeline.announce(3, {EXPIRATION: chain_rows(FEW, oi=2.0), LATER: chain_rows(FEW, LATER, oi=2.0)}, ts=NOW + 20)
    pipeline.run(StageName.STAGING)
    assert interest(pipeline)[0] == pipeline.contract(cid_of(6900, CALL, LATER))["oi"] == "2.0"


# --- promotion


def grown(pipeline: Pipeline) -> str:
    """A second board with one strike more."""
    return pipeline.fetch(2, {EXPIRATION: chain_rows(range(6890, 6920, 5))}, ts=NOW + 10)


def test_another_contract_set_makes_a_new_epoch() -> None:
    pipeline = Pipeline()
    first = pipeline.fetch(1, {EXPIRATION: chain_rows(FEW)})
    second = grown(pipeline)
    assert second != first
    assert timeline(pipeline) == [second, first]
    assert promotions(pipeline) == [first, second]
    assert (pipeline.meta(second)["reason"], pipeline.meta(second)["prev"]) == ("geometry", first)
    assert pipeline.meta(first)["superseded_ts"] == repr(NOW + 10)
    assert pipeline.store.sets[pipeline.keys.dirty("SPX")] == {second}


def test_a_change_of_eligibility_alone_is_another_geometry() -> None:
    pipeline = Pipeline()
    first = pipeline.fetch(1, {EXPIRATION: chain_rows(FEW)})
    assert pipeline.fetch(2, {EXPIRATION: chain_rows(FEW, eligible="expired")}, ts=NOW + 10) != first


def test_the_carry_keeps_what_the_feed_knew_better_than_the_chain() -> None:
    pipeline = Pipeline()
    pipeline.fetch(1, {EXPIRATION: chain_rows(FEW)})
    pipeline.feed(
        frame(quote(CID, 9.0, 9.5, NOW_MS, 7), {"ev": "FMV", "sym": CID, "fmv": 9.125, "t": NOW_MS * 1_000_000})
    )
    pipeline.run()
    before = pipeline.contract(CID)
    grown(pipeline)
    assert pipeline.contract(CID) == before | {"chain_ts": repr(NOW + 10)}
    quotes = pipeline.rows(Layer.QUOTES)["quote"][pipeline.geometry().row_of[CID][1]]
    assert (int(quotes["bid"]), int(quotes["seq"])) == (900, 7)


def test_the_carry_takes_the_chain_s_value_where_that_is_newer() -> None:
    pipeline = Pipeline()
    pipeline.fetch(1, {EXPIRATION: chain_rows(FEW)})
    pipeline.feed(frame(quote(CID, 9.0, 9.5, NOW_MS)))
    pipeline.fetch(2, {EXPIRATION: chain_rows(FEWER, bid=11.0, quote_ts=NOW + 5)}, ts=NOW + 10)
    assert pipeline.contract(CID)["bid"] == "11.00"


def test_a_contract_without_any_value_is_listed_as_unknown() -> None:
    pipeline = Pipeline()
    bare: dict[str, Any] = {"bid": None, "ask": None, "last": None, "volume": None, "oi": None, "iv": None}
    pipeline.fetch(1, {EXPIRATION: chain_rows(FEW, **bare, delta=None, gamma=None, theta=None, vega=None)})
    assert (pipeline.contract(CID)["bid"], pipeline.contract(CID)["oi"]) == ("", "")
    assert set(pipeline.rows(Layer.QUOTES)["quote"]["bid"].tolist()) == {UNKNOWN}


def test_updates_after_the_switch_go_to_the_new_epoch_only() -> None:
    pipeline = Pipeline()
    first = pipeline.fetch(1, {EXPIRATION: chain_rows(FEW)})
    second = grown(pipeline)
    pipeline.feed(frame(quote(CID, 9.0, 9.5, NOW_MS + 20_000)))
    pipeline.run()
    assert (pipeline.contract(CID, first)["bid"], pipeline.contract(CID, second)["bid"]) == ("10.00", "9.00")


def test_a_promotion_to_and_fro_within_one_second_uses_no_id_twice() -> None:
    """The geometry comes back, the epoch does not."""
    pipeline = Pipeline()
    ids = [pipeline.fetch(n, {EXPIRATION: chain_rows(FEW if n % 2 else FEWER)}) for n in range(1, 6)]
    assert len(set(ids)) == 5
    assert timeline(pipeline) == ids[::-1]
    seconds = [int(one.split(":")[1]) for one in ids]
    assert seconds == sorted(set(seconds))
    assert ids[0].split(":")[2] == ids[2].split(":")[2]


def test_ids_go_on_after_a_clock_that_stepped_back() -> None:
    pipeline = Pipeline()
    first = pipeline.fetch(1, {EXPIRATION: chain_rows(FEW)})
    second = pipeline.fetch(2, {EXPIRATION: chain_rows(FEWER)}, ts=NOW - 3600)
    assert int(second.split(":")[1]) == int(first.split(":")[1]) + 1


def test_no_id_is_used_twice_even_when_the_pointer_to_the_active_epoch_is_lost() -> None:
    pipeline = Pipeline()
    first = pipeline.fetch(1, {EXPIRATION: chain_rows(FEW)})
    del pipeline.store.hashes[pipeline.keys.active("SPX")]
    second = pipeline.fetch(1, {EXPIRATION: chain_rows(FEW)})
    assert int(second.split(":")[1]) == int(first.split(":")[1]) + 1


def test_an_epoch_whose_keys_are_gone_is_rebuilt_under_a_new_id() -> None:
    """The whole pipeline was off for longer than its keys live."""
    pipeline = Pipeline()
    first = pipeline.fetch(1, {EXPIRATION: chain_rows(FEW)})
    for kind in (pipeline.store.strings, pipeline.store.hashes, pipeline.store.scores):
        for key in [key for key in kind if key.startswith(f"epoch:{first}:")]:
            del kind[key]
    second = pipeline.fetch(2, {EXPIRATION: chain_rows(FEW)}, ts=NOW + 10)
    assert second not in ("", first)
    assert (pipeline.meta(second)["reason"], pipeline.meta(second)["prev"]) == ("bootstrap", first)
    assert promotions(pipeline) == [first, second]


def test_the_timeline_is_pruned_together_with_what_belongs_to_it(settings_for: Callable[..., Any]) -> None:
    pipeline = Pipeline(settings=settings_for(MARKETSWARM_TIMELINE_LENGTH="2"))
    ids = []
    for number in range(1, 5):
        ids.append(pipeline.fetch(number, {EXPIRATION: chain_rows(FEW if number % 2 else FEWER)}))
        pipeline.run()
    assert timeline(pipeline) == [ids[3], ids[2]]
    assert [bool(pipeline.meta(epoch)) for epoch in ids] == [False, False, True, True]
    assert pipeline.store.sets[pipeline.keys.clean("SPX")] <= set(timeline(pipeline))
    assert pipeline.store.sets[pipeline.keys.dirty("SPX")] <= set(timeline(pipeline))


def test_a_timeline_of_one_keeps_the_active_epoch(settings_for: Callable[..., Any]) -> None:
    pipeline = Pipeline(settings=settings_for(MARKETSWARM_TIMELINE_LENGTH="1"))
    first = pipeline.fetch(1, {EXPIRATION: chain_rows(FEW)})
    second = pipeline.fetch(2, {EXPIRATION: chain_rows(FEWER)})
    assert timeline(pipeline) == [second]
    assert (pipeline.meta(first), pipeline.meta(second)["prev"]) == ({}, first)


def test_symbols_are_promoted_independently(settings_for: Callable[..., Any]) -> None:
    pipeline = Pipeline(settings=settings_for(MASSIVE_SYMBOLS="SPX,NDX"))
    spx = pipeline.fetch(1, {EXPIRATION: chain_rows(FEW)})
    ndx = pipeline.fetch(1, {EXPIRATION: chain_rows(FEW, root="NDXP")}, symbol="NDX")
    assert (pipeline.active("SPX"), pipeline.active("NDX")) == (spx, ndx)
    pipeline.fetch(2, {EXPIRATION: chain_rows(FEWER)})
    assert pipeline.active("NDX") == ndx


# --- crashes


def _values(pipeline: Pipeline) -> dict[str, object]:
    """The active board: what is listed, every value, and what was announced."""
    geometry = pipeline.geometry()
    found: dict[str, object] = {row.cid: pipeline.contract(row.cid) for plane in geometry.planes for row in plane.rows}
    found["geometry"] = geometry.encode()
    found["announced"] = promotions(pipeline)
    found["timeline"] = timeline(pipeline)
    for plane in geometry.planes:
        for layer, group in ((Layer.QUOTES, "quote"), (Layer.TRADES, "trade"), (Layer.CHAIN, "greeks")):
            found[f"{plane.id} {layer}"] = pipeline.rows(layer, plane.id)[group].tobytes()
    return found


def _before_promotion() -> Pipeline:
    """A live board of two expirations, and a fetch that waits and changes one of them."""
    pipeline = Pipeline()
    pipeline.fetch(1, {EXPIRATION: chain_rows(STRIKES), LATER: chain_rows(FEW, LATER)})
    pipeline.run()
    pipeline.feed(frame(quote(CID, 9.0, 9.5, NOW_MS), quote(cid_of(6900, PUT, LATER), 8.0, 8.5, NOW_MS)))
    pipeline.run()
    pipeline.announce(2, {EXPIRATION: chain_rows(STRIKES[1:])}, failed=[LATER], ts=NOW + 10)
    return pipeline


def _promotion_length() -> int:
    pipeline = _before_promotion()
    before = len(pipeline.commits)
    pipeline.run(StageName.STAGING)
    return len(pipeline.commits) - before


@pytest.mark.parametrize("survived", range(_promotion_length()))
def test_a_promotion_killed_after_any_commit_is_finished_by_whoever_comes(survived: int) -> None:
    whole = _before_promotion()
    whole.run(StageName.STAGING)
    killed = _before_promotion()
    killed.commits_before_crash = survived
    with pytest.raises(ProcessDiedError):
        killed.run(StageName.STAGING)
    killed.commits_before_crash = None
    killed.restart()
    killed.run(StageName.STAGING)
    assert _values(killed) == _values(whole)
    assert killed.fields(killed.keys.building("SPX"))["phase"] == "done"


@pytest.mark.parametrize("survived", range(_promotion_length()))
def test_updates_while_a_killed_promotion_waits_are_not_lost(survived: int) -> None:
    """Before the switch they go to the old board and are carried; after it they go to the new one."""
    killed = _before_promotion()
    chains = killed.keys.chain_stream("SPX")
    killed.commits_before_crash = survived
    with pytest.raises(ProcessDiedError):
        killed.run(StageName.STAGING)
    feeder = killed.fork()
    feeder.skip(chains)
    feeder.feed(frame(quote(CID, 5.0, 5.5, NOW_MS + 1)))
    feeder.run(StageName.STAGING)
    killed.commits_before_crash = None
    killed.restart()
    killed.skip(killed.keys.ws_stream("SPX"))
    killed.run(StageName.STAGING)
    assert killed.contract(CID)["bid"] == "5.00"


@pytest.mark.parametrize("survived", range(_promotion_length()))
def test_a_killed_promotion_is_superseded_by_the_next_chain(survived: int) -> None:
    killed = _before_promotion()
    killed.commits_before_crash = survived
    with pytest.raises(ProcessDiedError):
        killed.run(StageName.STAGING)
    killed.commits_before_crash = None
    killed.restart()
    killed.announce(3, {EXPIRATION: chain_rows(FEWER), LATER: chain_rows(FEW, LATER)}, ts=NOW + 20)
    killed.run(StageName.STAGING)
    assert killed.meta()["fetch"] == "3"
    assert killed.contract(CID)["bid"] == "9.00"
    assert promotions(killed)[-1] == killed.active()
    assert len(set(timeline(killed))) == len(timeline(killed))


def test_a_new_board_that_lost_a_key_before_everything_was_carried_is_built_again() -> None:
    killed = _before_promotion()
    first = killed.active()
    switched: list[Commit] = []

    def die_after_the_switch(commit: Commit) -> None:
        if switched:
            raise ProcessDiedError
        switched.extend([commit] * _switch(killed, commit))

    killed.before_commit = die_after_the_switch
    with pytest.raises(ProcessDiedError):
        killed.run(StageName.STAGING)
    killed.before_commit = lambda commit: None
    del killed.store.hashes[killed.keys.versions(killed.active())]
    killed.restart()
    killed.announce(3, {EXPIRATION: chain_rows(STRIKES[1:])}, failed=[LATER], ts=NOW + 20)
    killed.run(StageName.STAGING)
    assert (killed.meta()["reason"], killed.meta()["fetch"]) == ("bootstrap", "3")
    assert promotions(killed) == [first, killed.active()]
    assert killed.contract(CID)["bid"] == "9.00"


def _switch(pipeline: Pipeline, commit: Commit) -> bool:
    return any(getattr(write, "key", "") == pipeline.keys.active("SPX") for write in commit.writes)


def test_nothing_is_announced_before_everything_is_carried() -> None:
    pipeline = _before_promotion()
    before = len(promotions(pipeline))
    tried: list[tuple[bool, int]] = []
    pipeline.before_commit = lambda commit: tried.append((_switch(pipeline, commit), len(promotions(pipeline))))
    pipeline.run(StageName.STAGING)
    switched = [switch for switch, _ in tried].index(True)
    assert switched < len(tried) - 1, "the carry follows the switch"
    assert {announced for _, announced in tried} == {before}
    assert len(promotions(pipeline)) == before + 1


def test_a_zombie_builder_writes_nothing() -> None:
    """It stopped in the middle of building; meanwhile a newer fetch was promoted; then it goes on."""
    zombie = _before_promotion()
    reached: list[MemoryStore] = []

    def overtaken(_: Commit) -> None:
        if len(zombie.commits) != begun + 2 or reached:
            return
        other = zombie.fork()
        other.announce(3, {EXPIRATION: chain_rows(FEWER)}, ts=NOW + 20)
        other.run(StageName.STAGING)
        zombie.skip(zombie.keys.chain_stream("SPX"))
        reached.append(deepcopy(zombie.store))

    begun = len(zombie.commits)
    zombie.before_commit = overtaken
    zombie.run(StageName.STAGING)
    (overtaker,) = reached
    refused = [outcome for _, _, outcome in zombie.commits[begun + 2 :]]
    assert isinstance(refused[0], Refused)
    assert (zombie.store.strings, zombie.store.scores) == (overtaker.strings, overtaker.scores)
    assert zombie.meta()["fetch"] == "3"
    assert zombie.store.lists == overtaker.lists


def test_a_builder_is_refused_as_soon_as_another_build_has_begun() -> None:
    """The active epoch is still the one it builds from, but the place is taken; the newest fetch wins in the end."""
    slow = _before_promotion()
    begun = len(slow.commits)
    other = slow.fork()
    other.skip(slow.keys.chain_stream("SPX"))

    def begin_another(_: Commit) -> None:
        if len(slow.commits) == begun + 2 and other.commits_before_crash is None:
            other.commits_before_crash = 2
            with pytest.raises(ProcessDiedError):
                other.fetch(3, {EXPIRATION: chain_rows(FEWER)}, ts=NOW + 20)
            slow.skip(slow.keys.chain_stream("SPX"))

    slow.before_commit = begin_another
    slow.run(StageName.STAGING)
    refused = slow.commits[begun + 2][2]
    assert isinstance(refused, Refused)
    assert getattr(refused.guard, "key", "") == slow.keys.building("SPX")
    other.commits_before_crash = None
    other.restart()
    other.run(StageName.STAGING)
    assert other.meta()["fetch"] == "3"
    assert promotions(other)[-1] == other.active()


def test_two_builders_of_one_fetch_make_one_epoch() -> None:
    """A slow consumer's entry was claimed: both work on it, commit by commit in turn."""
    slow = _before_promotion()
    claimer = slow.fork()
    done: list[bool] = []

    def in_between(_: Commit) -> None:
        if len(slow.commits) == begun + 3 and not done:
            done.append(True)
            claimer.run(StageName.STAGING)

    begun = len(slow.commits)
    slow.before_commit = in_between
    slow.run(StageName.STAGING)
    whole = _before_promotion()
    whole.run(StageName.STAGING)
    assert _values(slow) == _values(whole)


def test_a_slow_builder_does_not_switch_away_from_a_newer_fetch() -> None:
    """While it built, a newer fetch found the active board unchanged and refreshed it in place."""
    slow = _before_promotion()
    before = slow.active()
    done: list[bool] = []

    def refresh_first(commit: Commit) -> None:
        if _switch(slow, commit) and not done:
            done.append(True)
            other = slow.fork()
            other.skip(slow.keys.chain_stream("SPX"))
            other.fetch(3, {EXPIRATION: chain_rows(STRIKES), LATER: chain_rows(FEW, LATER)}, ts=NOW + 20)

    slow.before_commit = refresh_first
    slow.run(StageName.STAGING)
    assert done
    assert (slow.active(), slow.meta()["fetch"]) == (before, "3")


def test_the_switch_needs_every_key_of_the_new_board() -> None:
    """A build that outlived its own keys is not switched to; it is built again."""
    pipeline = _before_promotion()
    dropped: list[str] = []

    def drop_one(commit: Commit) -> None:
        if _switch(pipeline, commit) and not dropped:
            building = pipeline.fields(pipeline.keys.building("SPX"))["id"]
            dropped.append(pipeline.keys.versions(building))
            del pipeline.store.hashes[dropped[0]]

    pipeline.before_commit = drop_one
    pipeline.run(StageName.STAGING)
    assert dropped[0] in pipeline.store.hashes
    assert isinstance(pipeline.commits[-1][2], Applied)
    assert pipeline.meta()["fetch"] == "2"


def test_no_commit_of_a_promotion_is_larger_than_a_script_may_be() -> None:
    pipeline = Pipeline()
    rows: Sequence[ChainRow] = chain_rows(range(4000, 7000, 5))
    pipeline.fetch(1, {EXPIRATION: rows})
    pipeline.feed(*(frame(quote(row.id, 9.0, 9.5, NOW_MS)) for row in rows))
    pipeline.run(StageName.STAGING)
    pipeline.fetch(2, {EXPIRATION: rows[2:]}, ts=NOW + 10)
    for _, commit, _ in pipeline.commits:
        merged = sum(len(getattr(write, "rows", ())) for write in commit.writes)
        assert merged <= 400
        assert len(commit.writes) <= 401
