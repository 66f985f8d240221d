"""THE table of streams holds together: every message has a way, every stream a bound."""

from __future__ import annotations

from contracts.keys import KEY_TABLE, Keys
from contracts.topology import STREAMS, Retention, StageName, streams_of


def test_every_stream_has_a_name_and_a_key_of_its_own() -> None:
    keys = [row.key(Keys(), "SPX") for row in STREAMS]
    assert len(set(keys)) == len({row.name for row in STREAMS}) == len(STREAMS)


def test_every_stream_is_in_the_key_table_as_a_stream() -> None:
    table = {row.pattern: row.type for row in KEY_TABLE}
    for row in STREAMS:
        pattern = row.key(Keys(), "SPX").replace("SPX", "{U}")
        assert table[pattern] == "stream", row.name


def test_every_stage_reads_something() -> None:
    assert {row.group for row in STREAMS} == {*StageName, None}


def test_the_stages_are_a_chain_from_the_provider_to_the_models() -> None:
    reads = {stage: [row.name for row in streams_of(stage)] for stage in StageName}
    assert reads == {
        StageName.MASSIVE: ["jobs"],
        StageName.STAGING: ["chain", "ws"],
        StageName.CALCULATE: ["epoch"],
        StageName.MODELS: ["strategy"],
    }


def test_what_a_group_reads_is_trimmed_to_what_it_acknowledged_and_the_rest_to_a_window() -> None:
    for row in STREAMS:
        expected = Retention.WINDOW if row.group is None else Retention.ACKNOWLEDGED
        assert row.retention is expected, row.name


def test_a_message_type_travels_on_one_stream_only() -> None:
    kinds = [kind for row in STREAMS for kind in row.messages]
    assert len(set(kinds)) == len(kinds)
