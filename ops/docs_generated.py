"""The parts of the documents that are generated from the code; `python -m ops.docs_generated` rewrites them in place.

A block stands between `<!-- name -->` and `<!-- /name -->`. `tests/test_docs.py` fails when one is not current.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from consumers.probes import ActivityCollector
from contracts import analytics, planes
from contracts.keys import KEY_TABLE, Keys
from contracts.messages import SCHEMA_VERSION, Message
from contracts.topology import STREAMS, StreamRow
from ops.gateway.endpoints import endpoint_rows
from stages.massive.rows import CHECKS

ROOT = Path(__file__).parents[1]

# what entries hold that are no messages of ours
_RAW = {
    "ws": ("raw frame", "`ts` (receive time, s), `payload` (the provider's bytes); other fields are the writer's own"),
    "model": ("published event", "`type`, `seq`, `generation`, `data` (JSON)"),
}

_DTYPES: Sequence[tuple[str, str, np.dtype[np.void]]] = (
    ("HEADER", "in front of every layer", planes.HEADER),
    ("QUOTE_ROW", "`quotes`, a row per contract", planes.QUOTE_ROW),
    ("TRADE_ROW", "`trades`, a row per contract", planes.TRADE_ROW),
    ("CHAIN_ROW", "`chain`, a row per contract", planes.CHAIN_ROW),
    ("TILE_FIELDS", "`tiles` and `published`, a row per cell", np.dtype([(n, "<i4") for n in planes.TILE_FIELDS])),
    ("PLANE_ROW", "in `analytics`, one", analytics.PLANE_ROW),
    ("EXPOSURE_ROW", "in `analytics`, a row per contract", analytics.EXPOSURE_ROW),
)


def topology_table() -> str:
    """Streams and messages of `contracts/topology.py`."""
    rows = [line for row in STREAMS for line in _messages(row)]
    note = f"Messages are entries with the fields `type`, `v` (now {SCHEMA_VERSION}) and `data` (JSON of the fields)."
    return _table(("stream", "entry", "fields", "written by", "read by", "kept"), rows) + f"\n\n{note}"


def _messages(row: StreamRow) -> Iterator[tuple[str, ...]]:
    found = [(f"`{one.TYPE}`", _fields(one)) for one in row.messages] or [_RAW[row.name]]
    for number, (name, fields) in enumerate(found):
        place = (row.producer, str(row.group or "anybody, by id"), row.retention.value)
        key = f"`{row.key(Keys(), '{U}')}`"
        yield (key, name, fields, *place) if number == 0 else ("", name, fields, "", "", "")


def _fields(message: type[Message]) -> str:
    return ", ".join(f"`{field.encode_name}`" for field in msgspec.structs.fields(message))


def key_table() -> str:
    """Every key of `contracts/keys.py`."""
    rows = [(f"`{row.pattern}`", row.type, row.owner, row.lifetime, row.content) for row in KEY_TABLE]
    return _table(("key", "type", "written by", "lifetime", "content"), rows)


def dtype_table() -> str:
    """The packed rows of `contracts/planes.py` and `contracts/analytics.py`, with the offset of each value."""
    rows = [(f"`{name}`", where, str(dtype.itemsize), ", ".join(_places(dtype))) for name, where, dtype in _DTYPES]
    return _table(("dtype", "where", "bytes", "values: type at offset"), rows)


def _places(dtype: np.dtype[np.void], prefix: str = "", base: int = 0) -> Iterator[str]:
    assert dtype.fields is not None
    for name, (kind, offset, *_) in dtype.fields.items():
        if kind.fields is None:
            yield f"{prefix}{name} {kind.kind}{kind.itemsize}@{base + offset}"
        else:
            yield from _places(kind, f"{prefix}{name}.", base + offset)


def check_table() -> str:
    """What is checked before a chain is published, of `stages/massive/rows.py`."""
    rows = [(one.found, one.verdict, one.action, f"`{one.counter}`") for one in CHECKS]
    return _table(("found", "verdict", "what happens", "counter"), rows)


def metric_list() -> str:
    """What `/metrics` of a stage process tells, label `stage`."""
    found = ActivityCollector("", ()).collect()
    return "; ".join(f"`{one.name}{'_total' if one.type == 'counter' else ''}` {one.documentation}" for one in found)


def endpoint_table() -> str:
    """What the gateway answers."""
    rows = [(method, f"`{path}`", answers) for method, path, answers in endpoint_rows()]
    return _table(("", "path", "answer"), rows)


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


BLOCKS: Mapping[str, Callable[[], str]] = {
    "topology": topology_table,
    "keys": key_table,
    "dtypes": dtype_table,
    "metrics": metric_list,
    "checks": check_table,
    "endpoints": endpoint_table,
}
DOCUMENTS: Mapping[str, tuple[str, ...]] = {
    "ARCHITECTURE.md": ("topology", "metrics"),
    "ops/docs/keys.md": ("keys", "dtypes"),
    "ops/docs/validation.md": ("checks",),
    "ops/docs/gateway.md": ("endpoints",),
}


def rewritten(text: str, names: Iterable[str]) -> str:
    """A document with these blocks made anew; ValueError when one is not in it exactly once."""
    for name in names:
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if text.count(start) != 1 or text.count(end) != 1:
            raise ValueError(f"{start} ... {end} must stand in the document exactly once")
        head, _, rest = text.partition(start)
        text = f"{head}{start}\n{BLOCKS[name]()}\n{end}{rest.partition(end)[2]}"
    return text


def main() -> None:
    """Rewrite all generated blocks."""
    for name, blocks in DOCUMENTS.items():
        file = ROOT / name
        before = file.read_text(encoding="utf-8")
        after = rewritten(before, blocks)
        file.write_text(after, encoding="utf-8")
        print(f"{name}: {'current' if after == before else 'rewritten'}")


if __name__ == "__main__":
    main()
