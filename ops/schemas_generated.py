"""The JSON Schemas (2020-12) in `contracts/schemas/`, from `contracts/models.py`; `python -m ops.schemas_generated`.

The digests of a model version are written once: what consumers were told about it does not change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import orjson

from contracts.analytics import MODEL_VERSION
from contracts.errors import FatalError
from contracts.models import MESSAGES, Strict
from contracts.schemas import DIGESTS

FOLDER = Path(__file__).parents[1] / "contracts" / "schemas"
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def make_schemas() -> dict[str, dict[str, Any]]:
    """Every message's schema, by name."""
    return {name: _schema(name, message) for name, message in MESSAGES.items()}


def encode_schema(schema: Mapping[str, Any]) -> bytes:
    """A schema as it is shipped."""
    return orjson.dumps(schema, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def digest(schemas: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Per schema what identifies it: SHA-256 of its JSON with sorted keys; words that explain do not count."""
    return {
        name: hashlib.sha256(orjson.dumps(_without_words(schema), option=orjson.OPT_SORT_KEYS)).hexdigest()
        for name, schema in schemas.items()
    }


def read_digests() -> dict[str, dict[str, str]]:
    """Model version -> digests."""
    return dict(orjson.loads((FOLDER / DIGESTS).read_bytes())) if (FOLDER / DIGESTS).exists() else {}


def write_schemas() -> None:
    """Write schemas and digests; FatalError when the schemas of this model version are known and were others."""
    schemas = make_schemas()
    known = read_digests()
    found = digest(schemas)
    if known.get(str(MODEL_VERSION), found) != found:
        changed = sorted(name for name in found if known[str(MODEL_VERSION)].get(name) != found[name])
        raise FatalError(f"{', '.join(changed)} changed: raise MODEL_VERSION in contracts/analytics.py first")
    for name, schema in schemas.items():
        (FOLDER / f"{name}.json").write_bytes(encode_schema(schema))
    known[str(MODEL_VERSION)] = found
    (FOLDER / DIGESTS).write_bytes(encode_schema(known))


def _schema(name: str, message: type[Strict]) -> dict[str, Any]:
    (reference,), parts = msgspec.json.schema_components([message], ref_template="#/$defs/{name}")
    for part in _parts(message):
        if part.BECAUSE is not None and part.__name__ in parts:
            parts[part.__name__] |= _because(*part.BECAUSE)
    return {
        "$schema": DIALECT,
        "$id": f"urn:marketswarm:{name}:{MODEL_VERSION}",
        "title": name,
        "model_version": MODEL_VERSION,
        **reference,
        "$defs": _simplified(parts),
    }


def _simplified(schema: Any) -> Any:
    """ "A number or null" as one type of two names: it reads better, and checks twice as fast."""
    if isinstance(schema, list):
        return [_simplified(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _simplified(part) for name, part in schema.items()}
    match found.get("anyOf"):
        case [{"type": str() as kind, **rest}, {"type": "null"}] if "enum" not in rest:
            return {**rest, **{name: part for name, part in found.items() if name != "anyOf"}, "type": [kind, "null"]}
    return found


def _parts(kind: type[Strict]) -> list[type[Strict]]:
    found = [kind, *Strict.__subclasses__()]
    for part in found:
        found += [below for below in part.__subclasses__() if below not in found]
    return found


def _because(value: str, why: str) -> dict[str, Any]:
    """A null has its reason; and what has a reason is null."""
    is_null = {"properties": {value: {"type": "null"}}}
    if why == "status":
        return {"if": is_null, "then": {"properties": {why: {"not": {"const": "ok"}}}}}
    return {
        "if": is_null,
        "then": {"properties": {why: {"type": "string"}}},
        "else": {"properties": {why: {"type": "null"}}},
    }


def _without_words(schema: Any) -> Any:
    if isinstance(schema, dict):
        named = {"properties", "$defs"}  # below these, keys are names and not keywords
        return {
            key: {name: _without_words(value) for name, value in part.items()} if key in named else _without_words(part)
            for key, part in schema.items()
            if key not in ("title", "description")
        }
    return [_without_words(one) for one in schema] if isinstance(schema, list) else schema


if __name__ == "__main__":
    write_schemas()
    print(f"{len(MESSAGES)} schemas of model version {MODEL_VERSION}")
