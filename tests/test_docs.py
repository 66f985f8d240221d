"""The documents say what the code says: generated blocks, names of files and symbols, commands, targets, settings."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer.main

from contracts.settings import Settings
from ops.cli import app, settings_table
from ops.docs_generated import DOCUMENTS, ROOT, rewritten

ADRS = sorted((ROOT / "ops/docs/adr").glob("*.md"))
DOCS = [
    ROOT / name
    for name in (
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "ops/docs/keys.md",
        "ops/docs/validation.md",
        "ops/docs/capture.md",
        "ops/docs/mock.md",
    )
] + ADRS
README = (ROOT / "README.md").read_text(encoding="utf-8")

_SYMBOL = re.compile(r"`([\w./-]+\.(?:py|lua))::([\w.]+)`")
_LINK = re.compile(r"\]\(([^)#\s]+)")
_PATH = re.compile(r"`((?:contracts|consumers|stages|ops|tests|\.ci)/[\w./-]*)(?:::[\w.]+)?`")
_LINE_NUMBER = re.compile(r"\.(?:py|lua):\d")


def _name(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_generated_blocks_are_current(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert rewritten(text, DOCUMENTS[name]) == text, "run `python -m ops.docs_generated`"


def test_a_document_without_its_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="exactly once"):
        rewritten("no block here", ("keys",))


# --- names of files and symbols


@cache
def _symbols(file: str) -> frozenset[str]:
    """What a file defines: `name`, `Class.name`; of a script its functions and table fields."""
    text = (ROOT / file).read_text(encoding="utf-8")
    if file.endswith(".lua"):
        pairs = re.findall(r"function (\w+)|(\w+) = function", text)
        return frozenset(name for pair in pairs for name in pair if name)
    return frozenset(_defined(ast.parse(text).body))


def _defined(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    for node in body:
        match node:
            case ast.ClassDef(name=name):
                yield prefix + name
                yield from _defined(node.body, f"{prefix}{name}.")
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield prefix + name
            case ast.Assign(targets=targets):
                yield from (prefix + target.id for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield prefix + name


@pytest.mark.parametrize("document", DOCS, ids=_name)
def test_every_symbol_named_exists(document: Path) -> None:
    named = _SYMBOL.findall(document.read_text(encoding="utf-8"))
    missing = [
        f"{file}::{symbol}" for file, symbol in named if not (ROOT / file).exists() or symbol not in _symbols(file)
    ]
    assert not missing


def test_the_architecture_names_symbols() -> None:
    assert len(_SYMBOL.findall((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"))) > 20


@pytest.mark.parametrize("document", DOCS, ids=_name)
def test_every_path_and_link_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    links = [document.parent / link for link in _LINK.findall(text) if "://" not in link]
    paths = [ROOT / path for path in _PATH.findall(text)]
    assert not [str(path) for path in (*links, *paths) if not path.exists()]


@pytest.mark.parametrize("document", DOCS, ids=_name)
def test_line_numbers_are_never_cited(document: Path) -> None:
    assert not _LINE_NUMBER.findall(document.read_text(encoding="utf-8"))


# --- decision records


@pytest.mark.parametrize("record", ADRS, ids=_name)
def test_a_decision_record_is_short_and_complete(record: Path) -> None:
    lines = record.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 40
    assert lines[0].startswith(f"# {record.name[:4]} ")
    assert [line for line in lines if line.startswith("## ")] == ["## Context", "## Decision", "## Consequences"]


def test_every_decision_record_is_linked_from_the_architecture() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert not [_name(record) for record in ADRS if f"({_name(record)})" not in text]


# --- README


def test_the_command_table_of_the_readme_is_that_of_the_program() -> None:
    commands = set(getattr(typer.main.get_command(app), "commands", {}))
    assert set(re.findall(r"^\| `marketswarm ([a-z]+)", README, re.MULTILINE)) == commands


def test_every_make_target_the_readme_names_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z][a-z0-9-]*)", README)) <= targets


def test_every_setting_the_readme_names_exists() -> None:
    known = {name.upper() for name in Settings.model_fields}
    named = set(re.findall(r"\b(?:MASSIVE|MARKETSWARM)_[A-Z_]*[A-Z]\b", README))
    assert not {name for name in named - known if not name.startswith("MASSIVE_WIDTHS_")}


def test_every_setting_is_documented() -> None:
    documented = settings_table() + README
    assert not [name.upper() for name in Settings.model_fields if name.upper() not in documented]
