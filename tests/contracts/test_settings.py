"""Settings: every wrong value is told with its name, itself, and what is allowed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import FatalError
from contracts.settings import Settings, load_settings, parse_widths


def complaint(**environment: str) -> str:
    """What is said about a wrong environment."""
    with pytest.raises(FatalError) as raised:
        load_settings(environment)
    return str(raised.value)


def test_without_an_environment_everything_has_its_default() -> None:
    found = load_settings({})
    assert found.massive_symbols == ("SPX", "NDX")
    assert (found.massive_tick_ms, found.massive_epoch_ttl, found.massive_chain_num_expirations) == (1000, 300, 5)
    assert (found.redis_url, found.massive_chain_window_points, found.marketswarm_partitioned) == (None, None, False)
    assert (found.marketswarm_host, found.marketswarm_port) == ("127.0.0.1", 8080)


def test_the_process_environment_is_not_read_behind_our_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASSIVE_TICK_MS", "77")
    assert load_settings({}).massive_tick_ms == 1000


def test_an_override_wins_over_the_environment() -> None:
    assert load_settings({"MASSIVE_TICK_MS": "200"}, massive_tick_ms=300).massive_tick_ms == 300


def test_an_empty_variable_is_no_variable() -> None:
    assert load_settings({"MASSIVE_TICK_MS": "", "REDIS_URL": " "}) == load_settings({})


@pytest.mark.parametrize(
    ("text", "symbols"),
    [("SPX", ("SPX",)), (" spx , I:NDX,,SPX ", ("SPX", "NDX")), ("SPY,QQQ", ("SPY", "QQQ"))],
)
def test_symbols_are_a_list_without_prefix_or_repeats(text: str, symbols: tuple[str, ...]) -> None:
    assert load_settings({"MASSIVE_SYMBOLS": text}).massive_symbols == symbols


@pytest.mark.parametrize(("text", "count"), [("7", 7), ("all", None), ("ALL", None)])
def test_expirations_are_a_number_or_all(text: str, count: int | None) -> None:
    assert load_settings({"MASSIVE_CHAIN_NUM_EXPIRATIONS": text}).massive_chain_num_expirations == count


@pytest.mark.parametrize(("text", "points"), [("150", 150.0), ("all", "all"), ("", None)])
def test_the_window_is_points_or_all(text: str, points: object) -> None:
    assert load_settings({"MASSIVE_CHAIN_WINDOW_POINTS": text}).massive_chain_window_points == points


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("MASSIVE_TICK_MS", "49", "50"),
        ("MASSIVE_TICK_MS", "soon", "integer"),
        ("MASSIVE_EPOCH_TTL", "4", "5"),
        ("MASSIVE_CHAIN_NUM_EXPIRATIONS", "0", "1"),
        ("MASSIVE_CHAIN_NUM_EXPIRATIONS", "some", "integer"),
        ("MASSIVE_CHAIN_INTERVAL_SEC", "0", "greater than 0"),
        ("MASSIVE_CHAIN_WINDOW_POINTS", "wide", "all"),
        ("MASSIVE_CHAIN_WINDOW_POINTS", "-5", "all"),
        ("MASSIVE_WS_TOPICS", "Q,X", "FMV"),
        ("MASSIVE_FUTURE_TOLERANCE_SEC", "inf", "finite"),
        ("MASSIVE_GAMMA", "theirs", "'auto', 'provider' or 'own'"),
        ("MASSIVE_RATE", "4", "0.5"),
        ("MASSIVE_FUTURE_TOLERANCE_SEC", "-1", "greater than or equal to 0"),
        ("MARKETSWARM_PORT", "70000", "65535"),
        ("MARKETSWARM_NAMESPACE", "Has Space", "a-z0-9_-"),
        ("MARKETSWARM_JOURNAL", "perhaps", "boolean"),
        ("MARKETSWARM_TIMELINE_LENGTH", "0", "1"),
        ("MARKETSWARM_CLAIM_IDLE_MS", "100", "200"),
        ("MARKETSWARM_STREAM_HIGH_WATER", "5", "100"),
        ("MASSIVE_SYMBOLS", ",", "symbol"),
        ("MASSIVE_SYMBOLS", "SP X", "symbol"),
        ("MASSIVE_WIDTHS_SPX", "20,x", "20,25,30"),
        ("MASSIVE_WIDTHS_SPX", "-5", "positive"),
    ],
)
def test_a_wrong_value_is_told_by_name_with_what_is_allowed(name: str, value: str, allowed: str) -> None:
    (line,) = complaint(**{name: value}).splitlines()
    assert line.startswith(f"{name}=")
    assert value in line
    assert allowed in line


LIMITED = [
    (name, limits)
    for name, limits in (
        (name.upper(), {type(one).__name__: one for one in info.metadata})
        for name, info in Settings.model_fields.items()
    )
    if limits.keys() & {"Ge", "Gt", "Le"}
]


@pytest.mark.parametrize(("name", "limits"), LIMITED, ids=[name for name, _ in LIMITED])
def test_every_limit_of_every_setting_is_enforced_and_told(name: str, limits: dict[str, Any]) -> None:
    for kind, attribute, off in (("Ge", "ge", -1), ("Gt", "gt", 0), ("Le", "le", 1)):
        if kind not in limits:
            continue
        limit = getattr(limits[kind], attribute)
        told = complaint(**{name: str(limit + off)})
        assert name in told
        assert str(limit) in told


def test_all_wrong_values_are_told_at_once() -> None:
    told = complaint(MASSIVE_TICK_MS="1", MARKETSWARM_PORT="-1", MASSIVE_TOCK_MS="5").splitlines()
    assert len(told) == 3
    assert {line.split("=")[0] for line in told} == {"MASSIVE_TICK_MS", "MARKETSWARM_PORT", "MASSIVE_TOCK_MS"}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MASSIVE_SYMBOL", "MASSIVE_SYMBOLS"),
        ("MASSIVE_TICKMS", "MASSIVE_TICK_MS"),
        ("MARKETSWARM_PARTITION", "MARKETSWARM_PARTITIONED"),
    ],
)
def test_an_unknown_name_is_told_with_the_one_that_was_meant(name: str, meant: str) -> None:
    assert complaint(**{name: "5"}) == f"{name}='5': no such setting; did you mean {meant}?"


def test_names_of_other_programs_are_left_alone() -> None:
    assert load_settings({"PATH": "/bin", "HOME": "/", "MASSIVELY": "x"}) == load_settings({})


def test_a_key_is_never_shown() -> None:
    settings = load_settings({"MASSIVE_API_KEY": "s3cret"})
    assert "s3cret" not in repr(settings)
    assert "s3cret" not in complaint(MASSIVE_API_KEY="s3cret", MASSIVE_TICK_MS="1")


@pytest.mark.parametrize("name", ["MASSIVE_API_KEYS", "MASSIVE_APIKEY", "MASSIVE_API_KEY_"])
def test_a_key_under_a_misspelled_name_is_not_shown_either(name: str) -> None:
    told = complaint(**{name: "s3cret"})
    assert name in told
    assert "s3cret" not in told


# --- settings that depend on each other


def test_snapshots_must_outlive_two_intervals() -> None:
    told = complaint(MASSIVE_CHAIN_SNAPSHOT_TTL="59")
    assert "MASSIVE_CHAIN_SNAPSHOT_TTL=59" in told
    assert "60 s" in told


@pytest.mark.parametrize(
    "environment",
    [
        {"MASSIVE_CHAIN_INTERVAL_SEC": "40"},
        {"MASSIVE_CHAIN_INTERVAL_CLOSED_SEC": "31"},
        {"MASSIVE_CHAIN_INTERVAL_SEC": "40", "MASSIVE_CHAIN_SNAPSHOT_TTL": "79"},
    ],
)
def test_the_longer_interval_decides(environment: dict[str, str]) -> None:
    assert re.search(r"MASSIVE_CHAIN_SNAPSHOT_TTL=\d+ is too short", complaint(**environment))


def test_two_intervals_exactly_are_enough() -> None:
    found = load_settings({"MASSIVE_CHAIN_INTERVAL_SEC": "40", "MASSIVE_CHAIN_SNAPSHOT_TTL": "80"})
    assert found.massive_chain_snapshot_ttl == 80


# --- widths


def test_widths_are_given_per_symbol() -> None:
    found = load_settings({"MASSIVE_WIDTHS_SPX": "30,20", "MASSIVE_WIDTHS_NDX": "50"})
    assert found.massive_widths == {"SPX": (20.0, 30.0), "NDX": (50.0,)}


@pytest.mark.parametrize(("text", "widths"), [("5", (5.0,)), ("10, 5,10", (5.0, 10.0)), ("2.5", (2.5,))])
def test_widths_are_ascending_without_repeats(text: str, widths: tuple[float, ...]) -> None:
    assert parse_widths(text) == widths


@pytest.mark.parametrize("text", ["", "a", "5,", "0", "-1", "1e7", "nan", "inf"])
def test_impossible_widths_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="positive numbers"):
        parse_widths(text)


def test_settings_do_not_change() -> None:
    settings = load_settings({})
    with pytest.raises(ValueError, match="frozen"):
        settings.massive_tick_ms = 5


def test_paths_are_paths() -> None:
    assert load_settings({"MARKETSWARM_DATA": "here"}).marketswarm_data == Path("here")


def test_every_setting_is_described() -> None:
    bare = [name for name, info in Settings.model_fields.items() if not info.description and name != "massive_widths"]
    assert bare == []
