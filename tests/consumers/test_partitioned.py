"""Partitioned mode (Redis Cluster): all keys of a commit hash to one slot, whatever the pipeline does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis.crc import key_slot

from consumers.encoding import encode_commit
from contracts.commit import Merge, Publish, Renew
from contracts.keys import Keys
from contracts.symbology import CALL
from contracts.topology import StageName
from tests.pipeline import EXPIRATION, LATER, NOW, Pipeline, chain_rows, cid_of, frame, quote
from tests.stages.staging.small_board import FEW, NOW_MS

ROOTS = {"SPX": "SPXW", "NDX": "NDXP"}


def whole_run(settings: Any) -> Pipeline:
    """Two symbols through bootstrap, live quotes, ticks, refresh, a promotion with carry, and a healed flag."""
    pipeline = Pipeline(settings=settings)
    for symbol, root in ROOTS.items():
        both = {day: chain_rows(FEW, day, root) for day in (EXPIRATION, LATER)}
        pipeline.fetch(1, both, symbol=symbol)
        pipeline.run()
        cid = cid_of(6900, CALL, EXPIRATION, root)
        pipeline.feed(
            frame(
                quote(cid, 9.0, 9.5, NOW_MS),
                {"ev": "V", "T": f"I:{symbol}", "val": 6900.5, "t": NOW_MS},
                {"ev": "T", "sym": cid, "p": 9.2, "s": 1, "t": NOW_MS, "q": 1},
                quote("O:AAPL260116C00100000", 1.0, 1.1, NOW_MS),
            ),
            symbol=symbol,
        )
        pipeline.run()
        pipeline.tick(NOW + 1, symbol)
        pipeline.run()
        pipeline.fetch(2, both, symbol=symbol, ts=NOW + 10)
        pipeline.fetch(
            3, {EXPIRATION: chain_rows(FEW[1:], EXPIRATION, root)}, failed=[LATER], symbol=symbol, ts=NOW + 20
        )
        pipeline.fetch(4, {}, failed=[EXPIRATION], symbol=symbol, ts=NOW + 30)
        pipeline.run()
        pipeline.feed(frame(quote(cid, 9.1, 9.6, NOW_MS + 1)), symbol=symbol)
        pipeline.run(StageName.STAGING)
        pipeline.skip(pipeline.keys.epoch_stream(symbol))
        for second in range(3):
            pipeline.tick(NOW + 20 + second, symbol)
        pipeline.run()
    return pipeline


def test_all_keys_of_every_commit_of_a_whole_run_share_one_slot(settings_for: Callable[..., Any]) -> None:
    settings = settings_for(MASSIVE_SYMBOLS="SPX,NDX", MARKETSWARM_PARTITIONED="true")
    pipeline = whole_run(settings)
    slots = {symbol: key_slot(f"{{{symbol}}}".encode()) for symbol in ROOTS}
    used = set()
    for stage, commit, _ in pipeline.commits:
        names = encode_commit(commit, "")[0][1:]
        symbol = "SPX" if "{SPX}" in names[0] else "NDX"
        names = (pipeline.keys.cursor(stage, symbol), *names)
        astray = {name for name in names if key_slot(name.encode()) != slots[symbol]}
        assert astray == set(), f"{stage} mixes slots"
        used.add((stage, symbol))
    assert used == {(stage, symbol) for stage in StageName if stage != StageName.MASSIVE for symbol in ROOTS}


def test_the_run_of_this_test_has_every_kind_of_commit(settings_for: Callable[..., Any]) -> None:
    """So that the test above means something."""
    pipeline = whole_run(settings_for(MASSIVE_SYMBOLS="SPX,NDX", MARKETSWARM_PARTITIONED="true"))
    kinds = {type(write) for _, commit, _ in pipeline.commits for write in commit.writes}
    assert {Merge, Publish, Renew} <= kinds
    assert len(kinds) >= 14
    assert pipeline.active("SPX").startswith("{SPX}:")
    events = [one["type"] for one in pipeline.store.streams[pipeline.keys.model_stream("SPX")]]
    assert {b"reset", b"diff", b"tick", b"gex"} <= set(events)


def test_partitioned_symbols_share_no_key_with_each_other(settings_for: Callable[..., Any]) -> None:
    pipeline = whole_run(settings_for(MASSIVE_SYMBOLS="SPX,NDX", MARKETSWARM_PARTITIONED="true"))
    store = pipeline.store
    names = {key for kind in (store.strings, store.hashes, store.sets, store.streams, store.lists) for key in kind}
    assert {key for key in names if ("{SPX}" in key) == ("{NDX}" in key)} == set()


def test_both_modes_compute_the_same(settings_for: Callable[..., Any]) -> None:
    one = whole_run(settings_for(MASSIVE_SYMBOLS="SPX,NDX", MARKETSWARM_PARTITIONED="true"))
    other = whole_run(settings_for(MASSIVE_SYMBOLS="SPX,NDX"))
    for symbol, root in ROOTS.items():
        for strike in FEW[1:]:
            cid = cid_of(strike, CALL, EXPIRATION, root)
            assert one.contract(cid, one.active(symbol)) == other.contract(cid, other.active(symbol))
        assert one.active(symbol).replace("{", "").replace("}", "") == other.active(symbol)
        versions = [run.fields(run.keys.versions(run.active(symbol))) for run in (one, other)]
        assert versions[0].keys() == versions[1].keys()


def test_the_heartbeat_alone_is_no_part_of_any_partition() -> None:
    assert "{" not in Keys(partitioned=True).heartbeat()
