"""Keys: each spelled once, listed in the table, separable by namespace, and of one slot when partitioned."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest
from redis.crc import key_slot

from contracts.keys import KEY_TABLE, Keys, Layer, Stat
from tests.leaks import EXPIRING, NAMESPACE, PERMANENT, leaks, pattern_of, rows_of

HASH = "1f3a" * 16
EXAMPLES: dict[str, list[object]] = {
    "symbol": ["SPX"],
    "expiration": ["2026-01-16"],
    "ts_ms": [1_768_500_000_123],
    "cid": ["O:SPXW260116C06900000", "O:SDS1260116P00020500"],
    "plane": ["SPXW:2026-01-16"],
    "layer": list(Layer),
    "stat": list(Stat),
    "model": ["liquidity", "mode", "gravity"],  # heatmap and gex have methods of their own
    "strategy": ["", "butterfly", "vertical", "single"],
    "side": ["", "calls", "puts"],
    "group": ["massive", "staging", "calculate", "models"],
    "name": ["tick", "sweep:staging", "feed:options:0"],
    "second": [1_768_500_000],
    "geometry_hash": [HASH],
}
NO_KEYS = {"tag", "epoch_id", "prefixes"}


def spelled(keys: Keys) -> Iterator[tuple[str, str]]:
    """(method, key) of every key that can be spelled for one symbol, with every example of its arguments."""
    epoch = keys.epoch_id("SPX", 1_768_500_000, HASH)
    streams = []
    for name, method in inspect.getmembers(keys, inspect.ismethod):
        if name.startswith("_") or name in NO_KEYS:
            continue
        wanted = list(inspect.signature(method).parameters)
        choices: list[dict[str, object]] = [{}]
        for argument in wanted:
            told = [epoch] if argument == "epoch" else EXAMPLES[argument]
            choices = [{**one, argument: value} for one in choices for value in told]
        for arguments in choices:
            key = method(**arguments)
            yield name, key
            if name.endswith("_stream"):
                streams.append(key)
    yield from (("parked", Keys.parked(stream)) for stream in streams)


MODES = [Keys(), Keys(partitioned=True), Keys(NAMESPACE), Keys(NAMESPACE, partitioned=True)]
NAMES = ["default", "partitioned", "namespace", "both"]


@pytest.mark.parametrize("keys", MODES, ids=NAMES)
def test_every_key_that_can_be_spelled_is_in_the_table(keys: Keys) -> None:
    unknown = {(method, key) for method, key in spelled(keys) if not rows_of(key)}
    assert unknown == set()


@pytest.mark.parametrize("keys", MODES, ids=NAMES)
def test_every_line_of_the_table_is_a_key_that_can_be_spelled(keys: Keys) -> None:
    names = [key for _, key in spelled(keys)]
    unused = [row.pattern for row in KEY_TABLE if not any(pattern_of(row).fullmatch(key) for key in names)]
    assert unused == []


def test_every_lifetime_of_the_table_is_one_the_leak_check_knows() -> None:
    assert {row.lifetime for row in KEY_TABLE} <= PERMANENT | EXPIRING


def test_the_lifetimes_of_a_key_agree_when_several_lines_speak_of_it() -> None:
    for _, key in spelled(Keys()):
        assert len({row.lifetime in PERMANENT for row in rows_of(key)}) == 1, key


def test_different_things_have_different_keys() -> None:
    keys = [key for _, key in spelled(Keys())]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("key", "spelled_as"),
    [
        (Keys().chain_snapshot("SPX", "2026-01-16", 5), "massive:chain:snapshot:SPX:2026-01-16:5"),
        (Keys().chain_latest("SPX", "2026-01-16"), "massive:chain:latest:SPX:2026-01-16"),
        (Keys().ws_stream("SPX"), "massive:ws:stream"),
        (Keys().spot("SPX"), "massive:spot:SPX"),
        (Keys().active("SPX"), "epoch:active"),
        (Keys().meta("SPX:5:1f3a"), "epoch:meta:SPX:5:1f3a"),
        (Keys().dirty("SPX"), "epoch:dirty"),
        (Keys().clean("SPX"), "epoch:clean"),
        (Keys().timeline("SPX"), "epoch:timeline:SPX"),
        (Keys().had_ws_updates("SPX:5:1f3a"), "epoch:SPX:5:1f3a:had_ws_updates"),
        (Keys().contract("SPX:5:1f3a", "O:X"), "epoch:SPX:5:1f3a:contract:O:X"),
        (Keys().geometry("SPX:5:1f3a", "2026-01-16"), "epoch:SPX:5:1f3a:geometry:2026-01-16"),
        (Keys().heatmap_snapshot("SPX"), "massive:heatmap:snapshot:SPX"),
        (Keys().heatmap_model("SPX", "butterfly"), "massive:heatmap:model:SPX:butterfly"),
        (Keys().gex_model("SPX", "calls"), "massive:gex:model:SPX:calls"),
        (Keys().model_stream("SPX"), "massive:model:stream:SPX"),
        (Keys().analytics(Stat.HYDRATE, "SPX"), "massive:hydrate:analytics"),
        (Keys().latency(Stat.WS, "SPX"), "massive:ws:latency"),
        (Keys().geometry_miss("SPX"), "massive:ws:hydrate:geometry_miss"),
        (Keys().heartbeat(), "massive:heartbeat"),
        (Keys().health("SPX"), "massive:health:SPX"),
        (Keys().epoch_stream("SPX"), "epoch:stream"),
        (Keys().strategy_stream("SPX"), "strategy:stream"),
        (Keys("replay").ws_stream("SPX"), "massive:replay:ws:stream"),
        (Keys("replay").chain_snapshot("SPX", "2026-01-16", 5), "massive:replay:chain:snapshot:SPX:2026-01-16:5"),
        (Keys("replay").active("SPX"), "replay:epoch:active"),
        (Keys(partitioned=True).active("SPX"), "epoch:active:{SPX}"),
        (Keys(partitioned=True).epoch_id("SPX", 5, "1f3a00"), "{SPX}:5:1f3a"),
        (Keys().epoch_id("SPX", 5, "1f3a00"), "SPX:5:1f3a"),
        (Keys.parked("massive:ws:stream"), "massive:ws:stream:parked"),
    ],
)
def test_public_keys_are_spelled_as_other_programs_expect(key: str, spelled_as: str) -> None:
    assert key == spelled_as


@pytest.mark.parametrize("partitioned", [False, True])
def test_a_namespace_shares_no_key_with_any_other(*, partitioned: bool) -> None:
    spaces = [{key for _, key in spelled(Keys(name, partitioned))} for name in ("", "test", "replay")]
    assert not spaces[0] & spaces[1] and not spaces[1] & spaces[2] and not spaces[0] & spaces[2]


@pytest.mark.parametrize("keys", [MODES[1], MODES[3]], ids=["partitioned", "both"])
def test_all_keys_of_one_underlying_hash_to_one_slot_when_partitioned(keys: Keys) -> None:
    slots = {key_slot(key.encode()) for method, key in spelled(keys) if method not in ("heartbeat", "requests")}
    assert slots == {key_slot(b"{SPX}")}


def test_underlyings_have_different_slots() -> None:
    keys = Keys(partitioned=True)
    assert key_slot(keys.active("SPX").encode()) != key_slot(keys.active("NDX").encode())


# --- the leak check of the tests themselves


@pytest.mark.parametrize(
    ("key", "ttl_ms", "complaint"),
    [
        ("epoch:active", -1, ""),
        ("epoch:SPX:5:1f3a:versions", 1000, ""),
        ("epoch:SPX:5:1f3a:versions", -1, "no time to live"),
        ("epoch:SPX:5:1f3a:contract:O:SPXW260116C06900000", -1, "no time to live"),
        ("epoch:meta:SPX:5:1f3a", -1, ""),
        ("massive:lease:tick", -1, "no time to live"),
        ("massive:heatmap:model:SPX", -1, "no time to live"),
        ("massive:ws:stream:parked", -1, ""),
        ("massive:secret:stash", 1000, "not in the key table"),
        ("whatever", -1, "not in the key table"),
    ],
)
def test_the_leak_check_knows_what_may_stay(key: str, ttl_ms: int, complaint: str) -> None:
    found = leaks([(key, ttl_ms)])
    assert bool(found) == bool(complaint)
    assert all(complaint in one for one in found)
