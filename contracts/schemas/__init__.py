"""The JSON Schemas of every published message, as shipped: `python -m ops.schemas_generated` writes them.

`digests.json` remembers, per model version, what the schemas were: a change without a new
`contracts/analytics.py::MODEL_VERSION` is refused.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import msgspec

from contracts.models import MESSAGES

DIGESTS = "digests.json"


def read_schema(name: str) -> dict[str, Any]:
    """The shipped schema of a message (`MESSAGES` has the names)."""
    if name not in MESSAGES:
        raise KeyError(f"no schema {name!r}; there are {', '.join(MESSAGES)}")
    schema: dict[str, Any] = msgspec.json.decode((files(__name__) / f"{name}.json").read_bytes())
    return schema


def name_of(message: object) -> str | None:
    """Which message a JSON value is, by the fields that only one has; None if it is none of ours."""
    if not isinstance(message, dict):
        return None
    if message.get("model") in MESSAGES:
        return str(message["model"])
    told = {"from": "diff", "versions": "tick", "widths": "reset", "expirations": "gex_side"}
    return next((name for field, name in told.items() if field in message), None)
