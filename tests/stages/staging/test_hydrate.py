"""Frames become rows: newest wins, whatever the order, the cuts and redeliveries; every event is counted once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.clock import MarketClock, encode_clock
from contracts.commit import Applied, Commit, Refused, SetValue
from contracts.errors import DataError, TransientError
from contracts.keys import Layer, Stat
from contracts.messages import PlaneDirty
from contracts.planes import UNKNOWN
from contracts.symbology import CALL, PUT
from contracts.topology import StageName
from stages.staging.frames import decode_entry
from stages.staging.hydrate import milliseconds
from tests.pipeline import EXPIRATION, NOW, Pipeline, chain_row, chain_rows, cid_of, frame, quote
from tests.stages.staging.small_board import CID, NOW_MS

COUNTED = ("applied", "older", "geometry_miss", "rejected", "unknown", "malformed", "status", "index")

_BOARD = Pipeline()
_BOARD.fetch(1, {EXPIRATION: chain_rows(range(6890, 6915, 5))})
_BOARD.run()


def board() -> Pipeline:
    """A computed board of five strikes around 6900, and nothing from the feed yet."""
    return _BOARD.fork(deepcopy(_BOARD.store))


def hydrated(*frames: Mapping[str, bytes], batch: int = 0) -> Pipeline:
    """The board after some frames."""
    pipeline = board()
    pipeline.feed(*frames)
    pipeline.run(StageName.STAGING, batch=batch)
    return pipeline


def counts_of(pipeline: Pipeline) -> dict[str, int]:
    return pipeline.counts(pipeline.keys.analytics(Stat.HYDRATE, "SPX"))


def trade(cid: str, price: float, t: int, q: int = 1, size: float = 2) -> dict[str, object]:
    return {"ev": "T", "sym": cid, "p": price, "s": size, "t": t, "q": q}


def aggregate(cid: str, close: float, volume: float | None, e: int, kind: str = "A") -> dict[str, object]:
    return {"ev": kind, "sym": cid, "c": close, "e": e} | ({} if volume is None else {"av": volume})


def fair_value(cid: str, value: float, t_ns: int) -> dict[str, object]:
    return {"ev": "FMV", "sym": cid, "fmv": value, "t": t_ns}


def index(value: float, t: int, ticker: str = "I:SPX") -> dict[str, object]:
    return {"ev": "V", "T": ticker, "val": value, "t": t}


# --- what each event writes


def test_a_quote_writes_bid_ask_sizes_and_mid() -> None:
    found = hydrated(frame(quote(CID, 9.9, 10.15, NOW_MS, 7))).contract(CID)
    expected = {"bid": "9.90", "ask": "10.15", "mid": "10.025", "bid_size": "3", "ask_size": "4", "seq": "7"}
    assert {name: found[name] for name in expected} == expected
    assert found["ts"] == "1768500000.000"


def test_a_quote_writes_cents_into_the_packed_row() -> None:
    pipeline = hydrated(frame(quote(CID, 9.9, 10.15, NOW_MS, 7)))
    row = pipeline.geometry().row_of[CID][1]
    stored = pipeline.rows(Layer.QUOTES)["quote"][row]
    assert [int(stored[name]) for name in ("ms", "seq", "bid", "ask", "bid_size", "ask_size")] == [
        NOW_MS, 7, 990, 1015, 3, 4,
    ]  # fmt: skip


def test_a_side_that_is_gone_is_unknown_and_has_no_mid() -> None:
    pipeline = hydrated(frame(quote(CID, None, 10.15, NOW_MS)))
    found = pipeline.contract(CID)
    assert (found["bid"], found["ask"], found["mid"]) == ("", "10.15", "")
    assert pipeline.rows(Layer.QUOTES)["quote"]["bid"][pipeline.geometry().row_of[CID][1]] == UNKNOWN


def test_a_trade_writes_last_and_leaves_the_volume_alone() -> None:
    found = hydrated(frame(trade(CID, 10.3, NOW_MS, 9))).contract(CID)
    assert (found["last"], found["last_size"], found["last_seq"], found["volume"]) == ("10.30", "2", "9", "100")


@pytest.mark.parametrize("kind", ["A", "AM"])
def test_an_aggregate_writes_last_and_the_accumulated_volume(kind: str) -> None:
    found = hydrated(frame(aggregate(CID, 10.4, 150, NOW_MS, kind), aggregate(CID, 10.4, 150, NOW_MS, kind))).contract(
        CID
    )
    assert (found["last"], found["volume"]) == ("10.40", "150")


def test_an_aggregate_without_volume_leaves_the_volume() -> None:
    assert hydrated(frame(aggregate(CID, 10.4, None, NOW_MS))).contract(CID)["volume"] == "100"


def test_a_fair_value_may_be_below_a_cent() -> None:
    found = hydrated(frame(fair_value(CID, 10.12345, NOW_MS * 1_000_000))).contract(CID)
    assert (found["fmv"], found["fmv_ts"]) == ("10.12345", "1768500000.000")


def test_an_index_value_is_the_spot() -> None:
    pipeline = hydrated(frame(index(6901.25, NOW_MS), index(6900.5, NOW_MS - 5)))
    spot = json.loads(bytes(pipeline.store.strings[pipeline.keys.spot("SPX")]))
    expected = {"symbol": "SPX", "value": 6901.25, "ts": NOW, "source": "indices", "timeframe": "REAL-TIME"}
    assert spot == expected


def test_an_older_index_value_never_replaces_the_spot() -> None:
    pipeline = hydrated(frame(index(6901.25, NOW_MS)), frame(index(6800.0, NOW_MS - 1)), batch=1)
    assert json.loads(bytes(pipeline.store.strings[pipeline.keys.spot("SPX")]))["value"] == 6901.25


def test_a_group_that_an_event_does_not_have_is_not_erased() -> None:
    before, after = board().contract(CID), hydrated(frame(quote(CID, 9.9, 10.1, NOW_MS))).contract(CID)
    kept = ("last", "last_ts", "volume", "iv", "delta", "gamma", "theta", "vega", "oi", "chain_ts", "strike", "type")
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}


# --- which of two wins


def test_an_older_quote_than_the_chain_s_is_counted_and_changes_nothing() -> None:
    pipeline = hydrated(frame(quote(CID, 1.0, 2.0, NOW_MS - 11_000)))
    assert pipeline.contract(CID)["bid"] == "10.00"
    assert (counts_of(pipeline)["applied"], counts_of(pipeline)["older"]) == (0, 1)


def test_at_equal_time_the_feed_beats_the_chain() -> None:
    assert hydrated(frame(quote(CID, 1.0, 2.0, NOW_MS - 10_000, q=-1))).contract(CID)["bid"] == "1.00"


def test_of_quotes_at_one_time_the_larger_sequence_wins() -> None:
    frames = [frame(quote(CID, 1.0, 2.0, NOW_MS, 5)), frame(quote(CID, 3.0, 4.0, NOW_MS, 4))]
    assert hydrated(*frames).contract(CID)["bid"] == "1.00"
    assert hydrated(*reversed(frames)).contract(CID)["bid"] == "1.00"


@pytest.mark.parametrize(
    ("told", "ms"),
    [
        (1_768_500_000, 1_768_500_000_000),
        (1_768_500_000_123, 1_768_500_000_123),
        (1_768_500_000_123_456, 1_768_500_000_123),
        (1_768_500_000_123_456_789, 1_768_500_000_123),
        (-5, 0),
        (0, 0),
    ],
    ids=["seconds", "milliseconds", "microseconds", "nanoseconds", "negative", "none"],
)
def test_the_size_of_an_event_time_tells_its_unit(told: int, ms: int) -> None:
    assert milliseconds(told) == ms


def test_quotes_in_different_units_of_time_compare_as_times() -> None:
    """Nanoseconds are larger numbers, not later times."""
    frames = frame(quote(CID, 1.0, 2.0, (NOW_MS - 1) * 1_000_000), quote(CID, 3.0, 4.0, NOW_MS))
    assert hydrated(frames).contract(CID)["bid"] == "3.00"
    later = frame(quote(CID, 1.0, 2.0, (NOW_MS - 1) * 1_000_000), quote(CID, 3.0, 4.0, NOW_MS - 2))
    assert hydrated(later).contract(CID)["bid"] == "1.00"


# --- clocks


def test_a_time_in_the_future_is_held_to_the_tolerance() -> None:
    pipeline = hydrated(frame(quote(CID, 9.9, 10.1, NOW_MS + 3_600_000)))
    assert pipeline.contract(CID)["ts"] == "1768500030.000"
    assert counts_of(pipeline)["clamped"] == 1


def test_a_time_from_the_far_future_freezes_a_contract_for_the_tolerance_only() -> None:
    pipeline = hydrated(
        frame(quote(CID, 1.0, 2.0, NOW_MS * 2)), frame(quote(CID, 3.0, 4.0, NOW_MS + 31_000), ts=NOW + 31)
    )
    assert pipeline.contract(CID)["bid"] == "3.00"


@pytest.mark.parametrize(
    "event",
    [trade(CID, 10.3, NOW_MS * 2), aggregate(CID, 10.3, None, NOW_MS * 2)],
    ids=["trade", "aggregate"],
)
def test_times_of_trades_are_held_to_the_tolerance_too(event: dict[str, object]) -> None:
    assert hydrated(frame(event)).contract(CID)["last_ts"] == "1768500030.000"


def test_the_future_begins_at_the_recorded_market_clock_not_at_ours() -> None:
    """A recorded day from years ago: receive times are today's, event times the file's."""
    pipeline = board()
    clock = MarketClock(receive_ts=NOW + 1e6, market_ts=NOW, rate=10.0)
    pipeline.store.commit(Commit(writes=(SetValue(pipeline.keys.clock("SPX"), encode_clock(clock)),)))
    pipeline.tick(NOW + 1e6)
    pipeline.feed(frame(quote(CID, 9.9, 10.1, NOW_MS + 100_000), ts=NOW + 1e6 + 2))
    pipeline.run(StageName.STAGING)
    assert pipeline.contract(CID)["ts"] == "1768500050.000"  # 2 s at ten times the rate, and 30 s of tolerance


def test_a_batch_whose_clock_was_corrected_meanwhile_is_resolved_by_the_new_one() -> None:
    """What a batch was computed from is what its commits are guarded by: the epochs, and the recorded clock."""
    pipeline = board()
    pipeline.tick(NOW)
    pipeline.feed(frame(quote(CID, 9.9, 10.1, NOW_MS + 500_000)))
    corrected = MarketClock(receive_ts=NOW, market_ts=NOW + 100)
    done: list[bool] = []

    def correct_first(commit: Commit) -> None:
        if commit.acknowledges and not done:
            done.append(True)
            clock = SetValue(pipeline.keys.clock("SPX"), encode_clock(corrected))
            pipeline.store.commit(Commit(writes=(clock,)))
            pipeline.fork().tick(NOW + 1)

    pipeline.before_commit = correct_first
    pipeline.run(StageName.STAGING)
    assert pipeline.contract(CID)["ts"] == "1768500130.000"
    assert (counts_of(pipeline)["clamped"], counts_of(pipeline)["frames"]) == (1, 1)


@pytest.mark.parametrize("many", [False, True], ids=["an index alone", "more rows than one commit takes"])
def test_every_commit_of_a_batch_needs_the_clock_it_was_computed_by(*, many: bool) -> None:
    pipeline = Pipeline()
    strikes = range(4000, 6000, 5)
    pipeline.fetch(1, {EXPIRATION: chain_rows(strikes)})
    pipeline.tick(NOW)
    quotes = [quote(cid_of(strike, kind), 9.0, 9.5, NOW_MS) for strike in strikes for kind in (CALL, PUT)]
    pipeline.feed(frame(*(quotes if many else [index(6901.0, NOW_MS)])))
    before = len(pipeline.commits)
    tick = pipeline.keys.tick("SPX")

    def corrected(_: Commit) -> None:
        pipeline.store.hashes[tick]["clock"] = encode_clock(MarketClock(NOW, NOW))

    pipeline.before_commit = corrected
    pipeline.run(StageName.STAGING)
    first, *others = [outcome for _, _, outcome in pipeline.commits[before:]]
    assert (type(first), {type(one) for one in others}) == (Refused, {Applied})


def test_batches_read_no_state_as_long_as_no_commit_is_refused() -> None:
    pipeline = board()
    reads: list[object] = []
    plain = pipeline.store.read

    async def counted(*asked: Any) -> list[object]:
        reads.append(asked)
        return await plain(*asked)

    pipeline.store.read = counted  # type: ignore[method-assign]
    pipeline.feed(*(frame(quote(CID, 9.0, 9.5, NOW_MS + n)) for n in range(100)))
    pipeline.run(StageName.STAGING, batch=1)
    assert (len(reads), counts_of(pipeline)["applied"]) == (1, 100)


# --- what is not applied is counted


def test_a_contract_outside_the_epoch_is_a_miss_never_invented() -> None:
    stranger = cid_of(9999)
    pipeline = hydrated(frame(quote(stranger, 1.0, 2.0, NOW_MS), trade(stranger, 1.0, NOW_MS)))
    assert counts_of(pipeline)["geometry_miss"] == 2
    assert bytes(pipeline.store.strings[pipeline.keys.geometry_miss("SPX")]) == b"2"
    assert pipeline.contract(stranger) == {}
    assert not pipeline.meta()["last_ws_ts"]


def test_a_frame_may_mix_underlyings(settings_for: Callable[..., Any]) -> None:
    """As a foreign writer sends it: receive time and payload, nothing else."""
    pipeline = Pipeline(settings=settings_for(MASSIVE_SYMBOLS="SPX,NDX"))
    pipeline.fetch(1, {EXPIRATION: chain_rows()})
    pipeline.fetch(1, {EXPIRATION: chain_rows(root="NDXP")}, symbol="NDX")
    ndx, rut = cid_of(6900, root="NDXP"), cid_of(6900, root="RUTW")
    pipeline.feed(
        frame(
            quote(CID, 1.0, 1.5, NOW_MS), quote(ndx, 2.0, 2.5, NOW_MS), quote(rut, 3.0, 3.5, NOW_MS),
            index(25_000.0, NOW_MS, "I:NDX"),
            ts=NOW + 2,
        )
    )  # fmt: skip
    pipeline.run(StageName.STAGING)
    assert (pipeline.contract(CID)["bid"], pipeline.contract(ndx, pipeline.active("NDX"))["bid"]) == ("1.00", "2.00")
    assert (counts_of(pipeline)["applied"], counts_of(pipeline)["geometry_miss"]) == (2, 1)
    for symbol in ("SPX", "NDX"):
        assert pipeline.meta(pipeline.active(symbol))["last_ws_ts"] == repr(NOW + 2)
        assert pipeline.fields(pipeline.keys.feed(symbol)) == {"event_ts": repr(NOW + 2)}
    assert pipeline.fields(pipeline.keys.feed("RUT")) == {}


def test_a_frame_with_fields_of_its_writer_s_own_is_as_good() -> None:
    told = frame(quote(CID, 9.9, 10.1, NOW_MS)) | {"symbol": b"SPX", "host": b"elsewhere"}
    assert hydrated(told).contract(CID)["bid"] == "9.90"


def test_an_index_nobody_configured_is_counted_and_makes_no_key() -> None:
    pipeline = hydrated(frame(index(15.0, NOW_MS, "I:VIX"), index(1.0, NOW_MS, "I:anything at all")))
    assert counts_of(pipeline)["index"] == 2
    assert not [key for key in pipeline.store.strings if key.startswith("massive:spot:")]


def test_a_crossed_quote_is_kept_as_it_is() -> None:
    found = hydrated(frame(quote(CID, 10.5, 10.1, NOW_MS))).contract(CID)
    assert (found["bid"], found["ask"], found["mid"]) == ("10.50", "10.10", "10.300")


def test_without_an_epoch_every_update_is_a_miss() -> None:
    pipeline = Pipeline()
    pipeline.feed(frame(quote(CID, 1.0, 2.0, NOW_MS)))
    pipeline.run(StageName.STAGING)
    assert counts_of(pipeline)["geometry_miss"] == 1


def test_a_sub_cent_quote_falls_back_to_the_newest_usable_one() -> None:
    frames = (
        frame(quote(CID, 9.7, 9.8, NOW_MS)),
        frame(quote(CID, 9.9, 10.1, NOW_MS + 1)),
        frame(quote(CID, 10.001, 10.2, NOW_MS + 2)),
    )
    for batch in (1, 3):
        pipeline = hydrated(*frames, batch=batch)
        assert pipeline.contract(CID)["bid"] == "9.90"
        assert counts_of(pipeline)["rejected"] == 1


IMPOSSIBLE = [
    quote(CID, -1.0, 2.0, NOW_MS),
    quote(CID, 1e9, 2.0, NOW_MS),
    quote(CID, 1.0, 2.0, NOW_MS, bs=-1),
    quote(CID, 1.0, 2.0, NOW_MS, bs=1e300),
    quote(CID, 1.0, 2.0, NOW_MS, 2**53),  # versions are integers below 2**53: scripts compare them as floats
    quote(CID, 1.0, 2.0, NOW_MS, 2**63),
    quote(CID, 1.0, 2.0, NOW_MS, -(2**70)),
    trade(CID, -0.5, NOW_MS),
    trade(CID, 1.005, NOW_MS),
    trade(CID, 1.0, NOW_MS, 2**63),
    aggregate(CID, 1.0, -1, NOW_MS),
    aggregate(CID, 1.0, 1e300, NOW_MS),
    fair_value(CID, -1.0, NOW_MS),
    index(-1.0, NOW_MS),
    index(0.0, NOW_MS),
    index(1e300, NOW_MS),
]


@pytest.mark.parametrize("bad", IMPOSSIBLE, ids=json.dumps)
def test_an_event_with_an_impossible_value_is_refused_alone(bad: dict[str, object]) -> None:
    """Neither the frame nor the consumer falls with it."""
    pipeline = hydrated(frame(bad, quote(cid_of(6905), 5.0, 5.1, NOW_MS)))
    counts = counts_of(pipeline)
    assert counts.get("rejected", 0) + counts.get("malformed", 0) == 1
    assert pipeline.contract(cid_of(6905))["bid"] == "5.00"
    assert pipeline.contract(CID) == board().contract(CID)


def test_an_event_of_an_unknown_type_is_counted_and_the_rest_of_the_frame_used() -> None:
    pipeline = hydrated(frame({"ev": "LULD", "sym": CID}, quote(CID, 9.9, 10.1, NOW_MS)))
    assert (counts_of(pipeline)["unknown"], pipeline.contract(CID)["bid"]) == (1, "9.90")


@pytest.mark.parametrize(
    "bad",
    [
        {"ev": "Q"}, {"ev": "Q", "sym": CID, "t": "now"}, {"sym": CID}, {"ev": 5}, {"ev": None}, 7, None, "text", [],
        {"ev": "Q", "sym": None, "t": 1}, {"ev": "Q", "sym": CID, "t": 1.5}, {"ev": "Q", "sym": CID, "t": True},
        {"ev": "Q", "sym": CID, "t": 1, "bp": "ten"}, {"ev": "Q", "sym": CID, "t": 1, "bs": [1]},
        {"ev": "T", "sym": CID, "t": 1, "p": None}, {"ev": "AM", "sym": CID, "e": 1}, {"ev": "FMV", "sym": CID, "t": 1},
        {"ev": "V", "T": "I:SPX", "val": "6900", "t": 1}, {"ev": "status", "status": 7},
    ],
    ids=json.dumps,
)  # fmt: skip
def test_a_malformed_event_inside_a_good_frame_is_counted_alone(bad: object) -> None:
    told = {"ts": repr(NOW).encode(), "payload": json.dumps([bad, quote(CID, 9.9, 10.1, NOW_MS)]).encode()}
    pipeline = hydrated(told)
    assert (counts_of(pipeline)["malformed"], pipeline.contract(CID)["bid"]) == (1, "9.90")


@pytest.mark.parametrize(
    "bad",
    [
        b'{"ev":"Q","sym":"\xff\xfe","t":1}', b'{"ev":"Q","sym":"X","t":1,"bp":1e400}',
        b'{"ev":"Q","ev":"T","sym":"X","t":1,"p":1}', b'{"ev":"\xff"}',
    ],
    ids=["no text", "beyond every number", "two types", "a type that is no text"],
)  # fmt: skip
def test_bytes_nobody_can_read_spoil_their_event_alone(bad: bytes) -> None:
    good = json.dumps(quote(CID, 9.9, 10.1, NOW_MS)).encode()
    pipeline = hydrated({"ts": repr(NOW).encode(), "payload": b"[" + bad + b"," + good + b"]"})
    assert (counts_of(pipeline)["malformed"], pipeline.contract(CID)["bid"]) == (1, "9.90")


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_a_frame_is_decoded_or_refused_by_name_whatever_its_bytes(payload: bytes) -> None:
    """Anything else would stop every consumer that takes up the entry, one after the other."""
    with suppress(DataError):
        decode_entry({b"ts": b"1768500000", b"payload": payload})


def test_an_event_time_as_long_as_a_frame_is_held_to_the_tolerance() -> None:
    told = {"ts": repr(NOW).encode(), "payload": b'[{"ev":"Q","sym":"%s","bp":1,"ap":2,"t":%s}]' % (
        CID.encode(), b"9" * 4000,
    )}  # fmt: skip
    pipeline = hydrated(told)
    assert (pipeline.contract(CID)["ts"], counts_of(pipeline)["clamped"]) == ("1768500030.000", 1)


def test_protocol_messages_are_counted_and_change_nothing() -> None:
    pipeline = hydrated(frame({"ev": "status", "status": "connected", "message": "hello"}))
    assert counts_of(pipeline)["status"] == 1
    assert pipeline.contract(CID) == board().contract(CID)


@pytest.mark.parametrize(
    "payload",
    [b"{}", b'{"ev":"Q"}', b"[", b"", b"null", b"\xff\xfe", b"[1,", b'"text"', b"[" * 100_000, b"[{}]x"],
    ids=["object", "one event", "cut off", "empty", "null", "no text", "cut list", "string", "endless", "more behind"],
)
def test_a_frame_that_is_no_json_array_is_poison(payload: bytes) -> None:
    with pytest.raises(DataError, match="frame"):
        decode_entry({b"ts": b"1768500000", b"payload": payload})


@pytest.mark.parametrize(
    "fields",
    [
        {b"ts": b"1768500000"}, {b"payload": b"[]"}, {b"ts": b"soon", b"payload": b"[]"},
        {b"ts": b"nan", b"payload": b"[]"}, {b"ts": b"inf", b"payload": b"[]"}, {b"ts": b"-1", b"payload": b"[]"},
        {b"ts": b"1768500000000", b"payload": b"[]"},
    ],
    ids=["no payload", "no time", "time in words", "no number", "infinite", "negative", "milliseconds"],
)  # fmt: skip
def test_a_frame_without_a_usable_receive_time_is_poison(fields: dict[bytes, bytes]) -> None:
    with pytest.raises(DataError, match="frame"):
        decode_entry(fields)


# --- bookkeeping


def test_the_first_option_event_marks_the_epoch() -> None:
    pipeline = hydrated(frame(quote(CID, 9.9, 10.1, NOW_MS), ts=NOW + 2))
    assert (pipeline.meta()["had_ws_updates"], pipeline.meta()["last_ws_ts"]) == ("1", repr(NOW + 2))
    assert bytes(pipeline.store.strings[pipeline.keys.had_ws_updates(pipeline.active())]) == b"1"


def test_index_and_status_events_do_not_break_the_silence() -> None:
    pipeline = hydrated(frame(index(6900.0, NOW_MS), {"ev": "status", "status": "connected"}, ts=NOW + 2))
    assert (pipeline.meta()["had_ws_updates"], pipeline.meta()["last_ws_ts"]) == ("0", "")


def test_a_changed_price_flags_its_plane() -> None:
    pipeline = hydrated(frame(quote(CID, 9.9, 10.1, NOW_MS)))
    assert pipeline.emitted(pipeline.keys.epoch_stream("SPX"), PlaneDirty) == [
        {"symbol": "SPX", "epoch": pipeline.active(), "plane": f"SPXW:{EXPIRATION}"}
    ]
    assert pipeline.store.sets[pipeline.keys.dirty("SPX")] == {pipeline.active()}


def test_a_quote_with_the_same_prices_flags_nothing() -> None:
    pipeline = hydrated(frame(quote(CID, 10.0, 10.5, NOW_MS)))
    assert pipeline.contract(CID)["ts"] == "1768500000.000"
    assert pipeline.emitted(pipeline.keys.epoch_stream("SPX"), PlaneDirty) == []


def test_an_update_of_a_contract_that_takes_no_part_in_models_passes_through() -> None:
    """It changes no tile, and the plane is level again all the same."""
    pipeline = Pipeline()
    adjusted = chain_row(6950, eligible="adjusted", multiplier=10)
    pipeline.fetch(1, {EXPIRATION: [*chain_rows(range(6890, 6915, 5)), adjusted]})
    pipeline.run()
    pipeline.feed(frame(quote(adjusted.id, 9.9, 10.1, NOW_MS)))
    pipeline.run()
    versions = pipeline.fields(pipeline.keys.versions(pipeline.active()))
    plane = f"SPXW:{EXPIRATION}"
    assert (versions[f"{plane}|quotes"], versions[f"{plane}|tiles"], versions[f"{plane}|published"]) == ("2", "2", "2")
    assert pipeline.store.sets[pipeline.keys.clean("SPX")] == {pipeline.active()}


def test_large_batches_are_cut_into_commits_of_bounded_size() -> None:
    pipeline = Pipeline()
    pipeline.fetch(1, {EXPIRATION: chain_rows(range(4000, 6000, 5))})
    tried = len(pipeline.commits)
    events = [quote(cid_of(strike, kind), 9.0, 9.5, NOW_MS) for strike in range(4000, 6000, 5) for kind in (CALL, PUT)]
    pipeline.feed(*(frame(one) for one in events))
    pipeline.run(StageName.STAGING)
    commits = [commit for _, commit, _ in pipeline.commits[tried:]]
    assert max(len(commit.acknowledges) for commit in commits) <= 200
    rows = [sum(len(getattr(write, "rows", ())) for write in commit.writes) for commit in commits]
    assert sum(rows) == 800
    assert max(rows) <= 400
    assert counts_of(pipeline)["applied"] == 800


def test_a_batch_whose_epoch_was_replaced_meanwhile_is_resolved_again() -> None:
    pipeline = board()
    gone, kept = cid_of(6910), cid_of(6900)
    pipeline.feed(frame(quote(gone, 1.0, 1.1, NOW_MS), quote(kept, 2.0, 2.1, NOW_MS)))
    other = pipeline.fork()
    other.skip(pipeline.keys.ws_stream("SPX"))
    promoted: list[str] = []

    def promote_first(_: Commit) -> None:
        if not promoted:
            promoted.append(other.fetch(2, {EXPIRATION: chain_rows(range(6890, 6910, 5))}))
            pipeline.skip(pipeline.keys.chain_stream("SPX"))

    pipeline.before_commit = promote_first
    pipeline.run(StageName.STAGING)
    assert [pipeline.active()] == promoted
    assert pipeline.contract(kept)["bid"] == "2.00"
    assert (counts_of(pipeline)["geometry_miss"], counts_of(pipeline)["applied"]) == (1, 1)


def key_of(pipeline: Pipeline, kind: str) -> str:
    """A key of the active epoch."""
    keys, epoch, plane = pipeline.keys, pipeline.active(), f"SPXW:{EXPIRATION}"
    return {
        "versions": keys.versions(epoch),
        "quotes": keys.plane(epoch, plane, Layer.QUOTES),
        "chain": keys.plane(epoch, plane, Layer.CHAIN),
        "listing": keys.listing(epoch),
        "contract": keys.contract(epoch, CID),
        "geometry": keys.geometry(epoch, EXPIRATION),
    }[kind]


def forget(pipeline: Pipeline, key: str) -> None:
    for kind in (pipeline.store.strings, pipeline.store.hashes, pipeline.store.scores):
        kind.pop(key, None)


@pytest.mark.parametrize("kind", ["versions", "quotes", "listing", "contract"])
def test_a_board_that_lost_a_key_is_not_written_to_but_rebuilt(kind: str) -> None:
    pipeline = board()
    pipeline.restart()
    before = pipeline.active()
    forget(pipeline, key_of(pipeline, kind))
    frozen = deepcopy((pipeline.store.strings, pipeline.store.hashes))
    pipeline.feed(frame(quote(CID, 9.9, 10.1, NOW_MS)))
    for _ in range(2):
        with pytest.raises(TransientError, match="waiting for the chain to rebuild it"):
            pipeline.run(StageName.STAGING)
    job, analytics = pipeline.keys.job("SPX"), pipeline.keys.analytics(Stat.EPOCH, "SPX")
    assert pipeline.fields(job)["again"] == "rebuild"
    assert pipeline.counts(analytics)["rebuilds_asked"] == 1
    written = {name for name, now in pipeline.store.hashes.items() if now != frozen[1].get(name)}
    assert (pipeline.store.strings, written) == (frozen[0], {job, analytics})
    pipeline.tick(NOW + 1)
    rebuilder = pipeline.fork()
    rebuilder.skip(pipeline.keys.ws_stream("SPX"))
    rebuilder.fetch(2, {EXPIRATION: chain_rows(range(6890, 6915, 5))}, ts=NOW + 1)
    assert (pipeline.meta()["reason"], pipeline.meta()["prev"]) == ("bootstrap", before)
    pipeline.skip(pipeline.keys.chain_stream("SPX"))
    pipeline.run(StageName.STAGING)
    assert pipeline.contract(CID)["bid"] == "9.90"


@pytest.mark.parametrize("kind", ["versions", "quotes", "chain", "listing", "contract", "geometry"])
def test_a_chain_that_finds_a_key_gone_rebuilds_the_board_with_what_is_left(kind: str) -> None:
    pipeline = board()
    pipeline.feed(frame(quote(cid_of(6905), 9.9, 10.1, NOW_MS)))
    pipeline.run()
    forget(pipeline, key_of(pipeline, kind))
    pipeline.restart()
    pipeline.fetch(2, {EXPIRATION: chain_rows(range(6890, 6915, 5))}, ts=NOW + 1)
    assert pipeline.meta()["reason"] == "bootstrap"
    kept = kind not in ("quotes", "listing")
    assert pipeline.contract(cid_of(6905))["bid"] == ("9.90" if kept else "10.00")


def test_a_layer_of_another_length_is_a_broken_board() -> None:
    """What an older program left behind, or half a restore."""
    pipeline = board()
    key = key_of(pipeline, "chain")
    pipeline.store.strings[key] = pipeline.store.strings[key][:-8]
    pipeline.fetch(2, {EXPIRATION: chain_rows(range(6890, 6915, 5))}, ts=NOW + 1)
    assert pipeline.meta()["reason"] == "bootstrap"


def test_a_batch_resolved_again_after_a_promotion_is_counted_as_fenced() -> None:
    pipeline = board()
    pipeline.feed(frame(quote(CID, 2.0, 2.1, NOW_MS)))
    other = pipeline.fork()
    other.skip(pipeline.keys.ws_stream("SPX"))
    done: list[bool] = []

    def promote_first(_: Commit) -> None:
        if not done:
            done.append(True)
            other.fetch(2, {EXPIRATION: chain_rows(range(6890, 6910, 5))})
            pipeline.skip(pipeline.keys.chain_stream("SPX"))

    pipeline.before_commit = promote_first
    pipeline.run(StageName.STAGING)
    assert pipeline.counts(pipeline.keys.analytics(Stat.EPOCH, "SPX"))["fences"] == 1


# --- any cut, any order, any redelivery

CIDS = (cid_of(6900), cid_of(6905, PUT), cid_of(9999))
TIMES = (NOW_MS - 20_000, NOW_MS - 10_000, NOW_MS, NOW_MS + 1, NOW_MS + 86_400_000, NOW_MS // 1000, NOW_MS * 1_000_000)
PRICES = (None, 0.0, 9.9, 10.0, 10.001, 10.5, -1.0)

events = st.one_of(
    st.builds(
        quote,
        st.sampled_from(CIDS),
        st.sampled_from(PRICES),
        st.sampled_from(PRICES),
        st.sampled_from(TIMES),
        st.integers(-1, 2),
    ),
    st.builds(
        trade,
        st.sampled_from(CIDS),
        st.sampled_from([9.9, 10.0, 10.001]),
        st.sampled_from(TIMES),
        st.integers(-1, 1),
    ),
    st.builds(
        aggregate,
        st.sampled_from(CIDS),
        st.sampled_from([9.9, 10.0, 10.001]),
        st.sampled_from([None, 101, 150]),
        st.sampled_from(TIMES),
        st.sampled_from(["A", "AM"]),
    ),
    st.builds(fair_value, st.sampled_from(CIDS), st.sampled_from([9.91234, 10.0, -1.0]), st.sampled_from(TIMES)),
    st.builds(index, st.sampled_from([6900.0, 6901.0, -1.0]), st.sampled_from(TIMES)),
    st.sampled_from([{"ev": "status", "status": "x"}, {"ev": "LULD"}, {"ev": "Q"}]),
)  # fmt: skip
frames = st.lists(
    st.tuples(st.lists(events, max_size=4), st.sampled_from([NOW, NOW + 1, NOW + 40])), min_size=1, max_size=5
)


def state_of(pipeline: Pipeline) -> dict[str, object]:
    """All values of the board, without versions and counters."""
    geometry = pipeline.geometry()
    state: dict[str, object] = {row.cid: pipeline.contract(row.cid) for plane in geometry.planes for row in plane.rows}
    state["quotes"] = pipeline.rows(Layer.QUOTES)["quote"].tobytes()
    state["trades"] = pipeline.rows(Layer.TRADES).tobytes()
    state["spot"] = bytes(pipeline.store.strings.get(pipeline.keys.spot("SPX"), b""))
    state["last_ws_ts"] = pipeline.meta()["last_ws_ts"]
    return state


def balance(pipeline: Pipeline) -> tuple[int, int]:
    """What became of events, and how many there were."""
    counts = counts_of(pipeline)
    return sum(counts.get(name, 0) for name in COUNTED), counts.get("events", 0) + counts.get("extra_groups", 0)


@settings(max_examples=150)
@given(frames, st.data())
def test_order_cuts_and_redelivery_make_no_difference(
    told: Sequence[tuple[list[dict[str, object]], float]], data: st.DataObject
) -> None:
    entries = [frame(*found, ts=ts) for found, ts in told]
    expected = hydrated(*entries)
    again = data.draw(st.lists(st.sampled_from(entries), max_size=2))
    other = hydrated(*data.draw(st.permutations([*entries, *again])), batch=data.draw(st.integers(1, 3)))
    assert state_of(other) == state_of(expected)


@settings(max_examples=100)
@given(frames, st.integers(1, 3))
def test_every_event_is_counted_exactly_once(told: Sequence[tuple[list[dict[str, object]], float]], batch: int) -> None:
    pipeline = hydrated(*(frame(*found, ts=ts) for found, ts in told), batch=batch)
    accounted, events_seen = balance(pipeline)
    assert accounted == events_seen
    assert counts_of(pipeline).get("events", 0) == sum(len(found) for found, _ in told)
    assert counts_of(pipeline)["frames"] == len(told)


def test_the_counters_add_up_over_many_entries_and_chunks() -> None:
    pipeline = Pipeline()
    pipeline.fetch(1, {EXPIRATION: chain_rows(range(4000, 6000, 5))})
    for part in range(2):
        pipeline.feed(
            *(
                frame(
                    quote(cid_of(strike, kind), 9.0 + part, 9.5 + part, NOW_MS + part),
                    aggregate(cid_of(strike, kind), 9.0, 7, NOW_MS - part),
                )
                for strike in range(4000, 6000, 5)
                for kind in (CALL, PUT)
            ),
            frame(quote(cid_of(1), 1.0, 2.0, NOW_MS), {"ev": "LULD"}, {"ev": "Q"}, index(1.0, 5), index(-1.0, 5)),
        )
    pipeline.run(StageName.STAGING)
    assert all(isinstance(outcome, Applied) for _, _, outcome in pipeline.commits)
    accounted, events_seen = balance(pipeline)
    assert accounted == events_seen == 2 * (800 * 3 + 5)
