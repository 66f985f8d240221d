"""What a file of rules may say, and when its rules speak."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import DataError
from ops.alerts.judgement import Facts, Judgement, judge, tile_key
from ops.alerts.rule_file import MOST_BYTES, RuleFile
from ops.alerts.rules import (
    AnyRule,
    FlipCrossed,
    ModeChanged,
    PromotionStorm,
    Stale,
    TileBelow,
    WallMoved,
    parse_rules,
)
from ops.alerts.vigil import alert_of, standing_of, stored_as

EXAMPLE = Path(__file__).parents[2] / "ops/docs/alerts.toml"

FLIP = FlipCrossed(name="flip")
WALL = WallMoved(name="wall", wall="call_wall", points=25)
TILE = TileBelow(name="tile", strategy="butterfly", side="call", strike=6900, width=20, debit=2.5)
MODE = ModeChanged(name="mode")
STALE = Stale(name="stale", seconds=10)
STORM = PromotionStorm(name="storm", promotions=2, seconds=60)
RULES: tuple[AnyRule, ...] = (FLIP, WALL, TILE, MODE, STALE, STORM)

KNOWN = st.none() | st.sampled_from([6880.0, 6899.0, 6900.0, 6901.0, 6930.0, 6960.0])


@st.composite
def facts(draw: st.DrawFn) -> Facts:
    """Any published values; anything may be unknown."""
    ts = draw(st.integers(0, 1000)) * 1.0
    return Facts(
        "SPX",
        ts,
        model_ts=draw(st.none() | st.floats(ts - 30, ts)),
        spot=draw(KNOWN),
        flip=draw(KNOWN),
        walls={"call_wall": draw(KNOWN)},
        mode=draw(st.sampled_from([None, "compression", "transition", "expansion"])),
        tiles={tile_key(TILE): draw(st.none() | st.sampled_from([2.0, 2.49, 2.5, 3.0, -0.1]))},
        promotions=tuple(draw(st.lists(st.floats(ts - 100, ts), max_size=5))),
    )


def spoken(rule: AnyRule, moments: Sequence[Facts]) -> list[Judgement]:
    """The judgements that were alerts, what is remembered passing through storage each time."""
    stored: bytes | None = None
    found = []
    for moment in moments:
        judgement = judge(rule, moment, standing_of(rule, stored))
        stored = stored_as(rule, judgement.standing)
        found += [judgement] if judgement.is_alert else []
    return found


# --- laws


@given(st.sampled_from(RULES), facts(), facts())
def test_the_same_values_judged_twice_never_alert_twice(rule: AnyRule, before: Facts, now: Facts) -> None:
    standing = judge(rule, before, None).standing
    first = judge(rule, now, standing)
    again = judge(rule, now, first.standing)
    assert not again.is_alert and again.standing == first.standing


@given(st.sampled_from(RULES[:5]), facts(), st.floats(0, 1000))
def test_what_is_unknown_neither_alerts_nor_is_remembered(rule: AnyRule, before: Facts, ts: float) -> None:
    standing = judge(rule, before, None).standing
    unknown = judge(rule, Facts("SPX", ts), standing)
    assert not unknown.is_alert and unknown.standing == standing


@given(st.sampled_from(RULES), st.lists(facts(), max_size=20), st.integers(0, 20))
def test_a_restart_changes_nothing(rule: AnyRule, moments: list[Facts], at: int) -> None:
    """Judged again after a restart, the values of the moment before do not alert a second time."""
    again = [*moments[:at], *moments[:at][-1:], *moments[at:]]
    assert spoken(rule, again) == spoken(rule, moments)


@given(st.lists(facts(), max_size=30))
def test_the_flip_is_crossed_as_often_as_spot_changes_sides(moments: list[Facts]) -> None:
    sides = [one.spot > one.flip for one in moments if one.spot and one.flip and one.spot != one.flip]
    changes = sum(a != b for a, b in pairwise(sides))
    assert len(spoken(FLIP, moments)) == changes


@given(st.lists(facts(), max_size=30))
def test_alerts_of_a_wall_join_up_and_are_far_enough_apart(moments: list[Facts]) -> None:
    alerts = [one.values for one in spoken(WALL, moments)]
    for one in alerts:
        assert abs(float(str(one["to"])) - float(str(one["from"]))) >= WALL.points
    assert [one["to"] for one in alerts[:-1]] == [one["from"] for one in alerts[1:]]


@given(st.lists(facts(), max_size=30))
def test_a_tile_is_told_once_for_each_time_it_falls_below(moments: list[Facts]) -> None:
    below = [mid < TILE.debit for one in moments if (mid := one.tiles[tile_key(TILE)]) is not None]
    assert len(spoken(TILE, moments)) == sum(now and not was for was, now in zip([False, *below], below, strict=False))


@given(st.lists(facts(), max_size=30))
def test_a_mode_is_told_when_it_becomes_another(moments: list[Facts]) -> None:
    modes = [one.mode for one in moments if one.mode]
    assert [one.values["to"] for one in spoken(MODE, moments)] == [now for was, now in pairwise(modes) if was != now]


# --- examples


def test_the_flip_with_room_around_it() -> None:
    rule = FlipCrossed(name="flip", beyond=5)
    moments = [Facts("SPX", 0.0, spot=spot, flip=6900) for spot in (6910, 6896, 6904, 6890, 6905, 6906)]
    assert [one.values["spot"] for one in spoken(rule, moments)] == [6890, 6906]


def test_what_a_rule_says() -> None:
    (alert,) = spoken(FLIP, [Facts("SPX", 0.0, spot=6890.0, flip=6900.0), Facts("SPX", 1.0, spot=6905.5, flip=6900.0)])
    assert alert.text == "SPX spot 6905.5 crossed above the flip 6900"
    assert alert.values == {"spot": 6905.5, "flip": 6900.0, "from": "below", "to": "above"}
    (alert,) = spoken(TILE, [Facts("SPX", 0.0, tiles={tile_key(TILE): 2.4})])
    assert alert.text == "SPX 6900 call butterfly 20 wide costs 2.40, below 2.50"


def test_models_become_stale_once_and_may_again() -> None:
    moments = [
        Facts("SPX", ts, model_ts=model_ts) for ts, model_ts in ((20, 15), (26, 15), (30, 15), (31, 31), (50, 31))
    ]
    assert [one.values["age_s"] for one in spoken(STALE, moments)] == [11, 19]


def test_a_storm_of_promotions() -> None:
    calm, storm = Facts("SPX", 100.0, promotions=(90.0, 95.0, 10.0)), Facts("SPX", 100.0, promotions=(90.0, 95.0, 99.0))
    assert [one.values["promotions"] for one in spoken(STORM, [calm, storm, storm, calm, storm])] == [3, 3]


def test_an_alert_carries_epoch_tick_and_values() -> None:
    moment = Facts("SPX", 5.0, epoch="SPX:1:abcd", tick=7, spot=1.0)
    alert = alert_of(MODE, moment, Judgement({}, "said", {"from": "a", "to": "b"}))
    assert alert == {
        "rule": "mode", "when": "mode_changed", "symbol": "SPX", "epoch": "SPX:1:abcd", "tick": 7, "ts": 5.0,
        "text": "said", "values": {"from": "a", "to": "b"},
    }  # fmt: skip


def test_a_rule_that_was_rewritten_begins_anew() -> None:
    stored = stored_as(TILE, {"below": True})
    assert standing_of(TILE, stored) == {"below": True}
    rewritten = TileBelow(name="tile", strategy="butterfly", side="call", strike=6900, width=20, debit=2.0)
    assert standing_of(rewritten, stored) is None
    elsewhere = msgspec.structs.replace(TILE, webhook="https://example.org/x")
    assert standing_of(elsewhere, stored) == {"below": True}  # where it is posted is no part of what it says


# --- the file


def test_the_example_of_the_documentation_is_good() -> None:
    assert {type(rule) for rule in parse_rules(EXAMPLE.read_text())} == {type(rule) for rule in RULES}


def test_a_rule_is_read_with_its_defaults() -> None:
    (rule,) = parse_rules('[[rule]]\nname = "a"\nwhen = "promotion_storm"\n')
    assert rule == PromotionStorm(name="a", promotions=6, seconds=60.0)
    assert parse_rules("") == ()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[[rule]", "not TOML"),
        ("[[rules]]\n", "unknown field `rules`"),
        ('[[rule]]\nname = "a"\n', "rule 'a': .*missing required field `when`"),
        ('[[rule]]\nname = "a"\nwhen = "full_moon"\n', "rule 'a': when: Invalid value 'full_moon'"),
        ('[[rule]]\nname = "a"\nwhen = "stale"\n', "rule 'a': .*missing required field `seconds`"),
        ('[[rule]]\nname = "a"\nwhen = "stale"\nseconds = -1\n', "rule 'a': seconds: Expected `float` > 0"),
        ('[[rule]]\nname = "a"\nwhen = "stale"\nseconds = inf\n', "rule 'a': seconds: "),
        ('[[rule]]\nname = "a"\nwhen = "stale"\nsecs = 1\n', "rule 'a': "),
        ('[[rule]]\nwhen = "mode_changed"\n', "rule 1: .*missing required field `name`"),
        ('[[rule]]\nname = ""\nwhen = "mode_changed"\n', "rule '': name: "),
        ('[[rule]]\nname = "a"\nwhen = "mode_changed"\nwebhook = "file:///etc/passwd"\n', "rule 'a': webhook: "),
        ('[[rule]]\nname = "a"\nwhen = "mode_changed"\nsymbol = "spx"\n', "rule 'a': symbol: "),
        ('[[rule]]\nname = "a"\nwhen = "mode_changed"\n' * 2, "rule 'a': the name is given twice"),
        (
            '[[rule]]\nname = "a"\nwhen = "tile_below"\nstrategy = "butterfly"\nside = "call"\nstrike = 1\ndebit = 2\n',
            "rule 'a': width: a single has none, a butterfly and a vertical have one",
        ),
        (
            '[[rule]]\nname = "a"\nwhen = "tile_below"\nstrategy = "single"\nside = "call"\nstrike = 2e6\ndebit = 2\n',
            "rule 'a': strike: Expected `float` <= 1000000.0",
        ),
        ('[[rule]]\nname = "a"\nwhen = "wall_moved"\nwall = "call_wall"\npoints = nan\n', "rule 'a': points: "),
        ('[[rule]]\nname = "a"\nwhen = "mode_changed"\nwebhook = "http://["\n', "rule 'a': webhook: no address"),
        ('[[rule]]\nname = "a"\nwhen = "mode_changed"\nwebhook = "http://a:x/"\n', "rule 'a': webhook: no address"),
        ("rule = " + 5000 * "[", "not TOML"),
        ("rule = " + 5000 * "9", "not TOML"),
        ("rule = 3", "Expected `array`"),
        ("rule = [1]", "rule 1: "),
    ],
)
def test_what_is_wrong_is_said(text: str, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        parse_rules(text)


def test_rules_change_with_their_file_and_survive_a_broken_one(tmp_path: Path) -> None:
    path = tmp_path / "alerts.toml"
    file = RuleFile(path)
    assert _read(file) == ([], "cannot be read: No such file or directory")
    path.write_text('[[rule]]\nname = "a"\nwhen = "mode_changed"\n')
    assert _read(file) == (["a"], None)
    path.write_text('[[rule]]\nname = "b"\nwhen = "mode"\n')
    names, problem = _read(file)
    assert names == ["a"] and "rule 'b'" in str(problem)
    path.unlink()
    assert _read(file) == (["a"], "cannot be read: No such file or directory")
    path.write_text('[[rule]]\nname = "b"\nwhen = "mode_changed"\n')
    assert _read(file) == (["b"], None)


def _read(file: RuleFile) -> tuple[list[str], str | None]:
    """Names of the rules in force, and what is wrong with the file."""
    file.refresh()
    return [rule.name for rule in file.rules], file.problem


def test_where_alerts_are_posted_is_not_told(tmp_path: Path) -> None:
    path = tmp_path / "alerts.toml"
    path.write_text('[[rule]]\nname = "b"\nwhen = "mode_changed"\nwebhook = "https://example.org/secret"\n')
    file = RuleFile(path)
    file.refresh()
    assert file.summary() == {"rules": [{"when": "mode_changed", "name": "b", "symbol": None}], "problem": None}


def test_a_file_that_cannot_be_one_of_rules(tmp_path: Path) -> None:
    path = tmp_path / "alerts.toml"
    for data, complaint in ((b"#" * (MOST_BYTES + 1), "larger than"), (b"\xff", "not UTF-8")):
        path.write_bytes(data)
        file = RuleFile(path)
        file.refresh()
        assert file.problem is not None and complaint in file.problem
