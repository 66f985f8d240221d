"""The shipped JSON Schemas: current, remembered per model version, strict, and explained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from contracts.analytics import MODEL_VERSION
from contracts.errors import FatalError
from contracts.models import MESSAGES
from contracts.schemas import name_of, read_schema
from ops import schemas_generated
from ops.schemas_generated import digest, make_schemas, read_digests, write_schemas
from ops.validate import problem_of

TICK: dict[str, Any] = {"epoch": "SPX:1:abcd", "tick": 3, "complete_to": None, "versions": {"SPXW:2026-01-16": 4}}


@pytest.mark.parametrize("name", MESSAGES)
def test_the_shipped_schema_is_the_one_of_the_messages(name: str) -> None:
    assert read_schema(name) == make_schemas()[name], "run `python -m ops.schemas_generated`"


def test_a_change_of_a_schema_needs_a_new_model_version() -> None:
    assert digest(make_schemas()) == read_digests()[str(MODEL_VERSION)], (
        "a schema changed: raise MODEL_VERSION in contracts/analytics.py, then run `python -m ops.schemas_generated`"
    )


def test_a_changed_schema_of_a_known_version_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schemas_generated, "FOLDER", tmp_path)
    write_schemas()
    before = sorted((file.name, file.read_bytes()) for file in tmp_path.iterdir())
    made = make_schemas()
    made["tick"]["$defs"]["TickData"]["properties"]["spot"] = {"type": "number"}
    monkeypatch.setattr(schemas_generated, "make_schemas", lambda: made)
    with pytest.raises(FatalError, match="tick changed: raise MODEL_VERSION"):
        write_schemas()
    assert sorted((file.name, file.read_bytes()) for file in tmp_path.iterdir()) == before


def test_explaining_better_is_no_change_and_another_unit_is() -> None:
    made = make_schemas()
    told = made["diff"]["$defs"]["DiffData"]["properties"]["buy"]
    before = digest(made)
    told["description"] = "in other words"
    assert digest(made) == before
    told["unit"] = "dollars"
    assert digest(made) != before


@pytest.mark.parametrize("name", MESSAGES)
def test_a_schema_is_valid_versioned_and_knows_no_other_fields(name: str) -> None:
    schema = read_schema(name)
    Draft202012Validator.check_schema(schema)
    assert schema["$id"] == f"urn:marketswarm:{name}:{MODEL_VERSION}" and schema["model_version"] == MODEL_VERSION
    for part in schema["$defs"].values():
        assert part["additionalProperties"] is False and part["description"]


def test_every_number_of_a_model_says_its_unit_or_meaning() -> None:
    unexplained = [
        f"{name}: {part['title']}.{field}"
        for name in MESSAGES
        for part in read_schema(name)["$defs"].values()
        for field, told in part["properties"].items()
        if "number" in str(told.get("type")) and not {"unit", "description", "maximum"} & told.keys()
    ]
    assert not unexplained


# --- what they refuse


def test_a_message_that_fits_has_no_problem() -> None:
    assert problem_of("tick", TICK) is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"more": 1}, "more"),
        ({"tick": "3"}, "$.tick"),
        ({"versions": {"SPXW:2026-01-16": -1}}, "-1"),
        ({"complete_to": "now"}, "$.complete_to"),
    ],
)
def test_a_message_that_does_not_fit_is_named_by_its_path(change: dict[str, Any], says: str) -> None:
    assert says in str(problem_of("tick", TICK | change))


def test_a_missing_field_is_named() -> None:
    assert "versions" in str(problem_of("tick", {name: TICK[name] for name in TICK if name != "versions"}))


def test_a_null_without_its_reason_is_refused() -> None:
    head = {"symbol": "SPX", "epoch": "e", "seq": 1, "tick": 1, "ts": 1.0, "complete_to": None}
    inputs = dict.fromkeys(("front", "spot", "sigma", "flip", "magnet", "net", "abs", "lfi", "c1")) | {"planes": {}}
    mode = {"model": "mode", "model_version": MODEL_VERSION, **head, "mode": None, "inputs": inputs}
    assert problem_of("mode", mode | {"score": None, "reason": "no_spot"}) is None
    assert problem_of("mode", mode | {"score": None, "reason": None}) is not None
    assert problem_of("mode", mode | {"score": 12.0, "reason": "no_spot"}) is not None


def test_messages_tell_which_they_are() -> None:
    assert name_of({"model": "gex"}) == "gex" and name_of(TICK) == "tick"
    assert name_of({"from": 1, "to": 2}) == "diff" and name_of({"widths": [], "planes": []}) == "reset"
    assert name_of({"model": "horoscope"}) is name_of([1]) is name_of({}) is None
    with pytest.raises(KeyError, match="no schema 'epoch'"):
        read_schema("epoch")
