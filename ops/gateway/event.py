"""An event for clients, rendered once for every way in which somebody listens.

An entry of `massive:model:stream:{U}` has an id, `seq` and `generation`; what the gateway tells by itself (`epoch`,
`health`, and the models a client is greeted with) has none of them and is not part of the order.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from contracts.errors import DataError
from contracts.plan import STRATEGIES
from contracts.planes import TILE_FIELDS
from ops.gateway.stream import FIRST, StreamId, format_id

Json = dict[str, Any]
Layout = Mapping[str, Mapping[str, tuple[int, int]]]  # plane -> strategy -> its cells, first and one past the last

Form = tuple[object, ...]  # of a view, what decides how an event looks in it

KINDS = ("reset", "diff", "tick", "gex", "liquidity", "mode", "gravity", "epoch", "health", "alert")
ALWAYS = frozenset({"reset", "tick"})  # without them nobody can follow
_PLANE = re.compile(r"[A-Z0-9.]{1,10}:[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")
MOST_FORMS = 64  # kept of one event: clients choose their views, and an event may be shown for hours


@dataclass(frozen=True, slots=True)
class View:
    """How a client listens. A view narrower than everything numbers cells in its own list, that of its `reset`."""

    framing: Literal["sse", "websocket"] = "sse"
    patches: bool = False  # JSON patches (RFC 6902) of one document instead of our messages
    gzip: bool = False
    kinds: frozenset[str] | None = None
    strategies: frozenset[str] | None = None
    planes: frozenset[str] | None = None

    @property
    def is_narrow(self) -> bool:
        """Whether cells are left out."""
        return self.strategies is not None or self.planes is not None

    def shows(self, kind: str) -> bool:
        """Whether events of a kind are told at all."""
        return self.kinds is None or kind in self.kinds or kind in ALWAYS

    def form(self, kind: str) -> Form:
        """What decides how an event of a kind looks: views with the same form share its bytes."""
        form = (self.framing, self.patches, self.gzip)
        return (*form, self.strategies, self.planes) if kind in _NARROWED else form


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """One event; `body` is its JSON object. An entry of the stream has an id and its `seq`."""

    id: StreamId | None
    kind: str
    body: bytes
    seq: int = 0
    rendered: dict[Form, bytes | None] = field(default_factory=dict)

    def is_rendered(self, view: View) -> bool:
        """Whether the bytes for a view are there already."""
        return not view.shows(self.kind) or view.form(self.kind) in self.rendered

    def render(self, view: View, layout: Layout | None = None) -> bytes | None:
        """The bytes for a view, made once; None when the view leaves the event out.

        A diff in a view of some strategies needs the layout of its epoch.
        """
        if not view.shows(self.kind):
            return None
        form = view.form(self.kind)
        if form in self.rendered:
            return self.rendered[form]
        chunk = self._render(view, layout or {})
        if len(self.rendered) < MOST_FORMS:
            self.rendered[form] = chunk
        return chunk

    def _render(self, view: View, layout: Layout) -> bytes | None:
        body = self.body
        if view.is_narrow and self.kind in _NARROWED:
            narrowed = _NARROWED[self.kind](orjson.loads(body), view, layout)
            if narrowed is None:
                return None
            body = orjson.dumps(narrowed)
        if view.patches:
            body = orjson.dumps(patches_of(self.kind, orjson.loads(body)))
        framed = _FRAMES[view.framing](self.id, "patch" if view.patches else self.kind, body)
        return deflated(framed) if view.gzip else framed


def parse_view(query: Mapping[str, str], framing: Literal["sse", "websocket"], gzip: bool) -> View:
    """The view a query asks for: `models`, `strategy`, `planes` (comma separated) and `format`; `DataError` if it
    asks for what does not exist."""
    form = query.get("format", "")
    if form not in ("", "json-patch"):
        raise DataError(f"format: no {form!r}; there is json-patch")
    planes = _listed(query, "planes")
    for plane in sorted(planes or ()):
        if not _PLANE.match(plane):
            raise DataError(f"planes: {plane!r} is none; a root and an expiration are expected: SPXW:2026-01-16")
    kinds, strategies = _chosen(query, "models", KINDS), _chosen(query, "strategy", STRATEGIES)
    return View(framing, form == "json-patch", gzip, kinds, strategies, planes)


def _chosen(query: Mapping[str, str], name: str, offered: tuple[str, ...]) -> frozenset[str] | None:
    parts = _listed(query, name)
    unknown = sorted((parts or frozenset()) - frozenset(offered))
    if unknown:
        raise DataError(f"{name}: no {unknown[0]!r}; there are {', '.join(offered)}")
    return parts


def _listed(query: Mapping[str, str], name: str) -> frozenset[str] | None:
    return frozenset(part.strip() for part in query.get(name, "").split(",") if part.strip()) or None


# --- narrowing


def _narrow_reset(data: Json, view: View, _layout: Layout) -> Json | None:
    planes = [_narrow_plane(plane, view) for plane in data["planes"] if _has(view, plane["id"])]
    return {**data, "planes": planes}


def _narrow_plane(plane: Json, view: View) -> Json:
    if view.strategies is None:
        return plane
    kept = [n for n, label in enumerate(plane["cells"]) if label[0] in view.strategies]
    return {**plane, **{name: [plane[name][n] for n in kept] for name in ("cells", *TILE_FIELDS)}}


def _narrow_diff(data: Json, view: View, layout: Layout) -> Json | None:
    """The cells of a diff that the view has; a diff without any of them is told all the same: versions go on."""
    if not _has(view, data["plane"]):
        return None
    if view.strategies is None:
        return data
    numbers = _renumbered(layout.get(data["plane"], {}), view.strategies)
    cell, before = 0, 0
    cells: list[int] = []
    kept: list[int] = []
    for at, gap in enumerate(data["cells"]):
        cell += gap
        number = numbers(cell)
        if number is not None:
            cells.append(number - before)
            before = number
            kept.append(at)
    narrowed = {**data, "cells": cells, **{name: [data[name][at] for at in kept] for name in TILE_FIELDS}}
    narrowed.pop("crc", None)  # it is over all cells
    return narrowed


def _narrow_tick(data: Json, view: View, _layout: Layout) -> Json | None:
    return {**data, "versions": {plane: number for plane, number in data["versions"].items() if _has(view, plane)}}


_NARROWED: dict[str, Callable[[Json, View, Layout], Json | None]] = {
    "reset": _narrow_reset,
    "diff": _narrow_diff,
    "tick": _narrow_tick,
}


def _has(view: View, plane: str) -> bool:
    return view.planes is None or plane in view.planes


def _renumbered(blocks: Mapping[str, tuple[int, int]], strategies: frozenset[str]) -> Callable[[int], int | None]:
    """Cell number -> number in the list of these strategies alone."""
    kept: list[tuple[int, int, int]] = []
    count = 0
    for strategy in STRATEGIES:
        if strategy in strategies and strategy in blocks:
            first, stop = blocks[strategy]
            kept.append((first, stop, first - count))
            count += stop - first

    def number(cell: int) -> int | None:
        return next((cell - offset for first, stop, offset in kept if first <= cell < stop), None)

    return number


# --- framing


def _as_sse(entry: StreamId | None, kind: str, body: bytes) -> bytes:
    head = b"" if entry is None or entry == FIRST else b"id: %b\n" % format_id(entry).encode()
    return b"%bevent: %b\ndata: %b\n\n" % (head, kind.encode(), body)


def _as_websocket(entry: StreamId | None, kind: str, body: bytes) -> bytes:
    told = None if entry is None else format_id(entry)
    return orjson.dumps({"id": told, "type": kind, "data": orjson.Fragment(body)})


_FRAMES: dict[str, Callable[[StreamId | None, str, bytes], bytes]] = {"sse": _as_sse, "websocket": _as_websocket}

# A gzip member that never ends: this header, then blocks that each stand for themselves, so all clients share them.
GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"


def deflated(chunk: bytes) -> bytes:
    """A chunk as whole deflate blocks that refer to nothing before them."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(chunk) + packer.flush(zlib.Z_FULL_FLUSH)


# --- JSON patches


def patches_of(kind: str, data: Json) -> list[Json]:
    """The event as RFC 6902 operations on one document that begins as `{}`.

    Its members: `board` (the `reset` with its planes by id, kept current), and the newest of every other kind by name.
    """
    if kind == "reset":
        planes = {plane["id"]: plane for plane in data["planes"]}
        return [{"op": "add", "path": "/board", "value": {**data, "planes": planes}}]
    if kind == "diff":
        return _cell_patches(data)
    return [{"op": "add", "path": f"/{kind}", "value": data}]


def _cell_patches(data: Json) -> list[Json]:
    plane = f"/board/planes/{data['plane']}"
    patches = [_replaced(f"{plane}/version", data["to"])]
    cell = 0
    for at, gap in enumerate(data["cells"]):
        cell += gap
        patches += [_replaced(f"{plane}/{name}/{cell}", data[name][at]) for name in TILE_FIELDS]
    return [*patches, _replaced("/board/complete_to", data["complete_to"]), _replaced("/board/seq", data["seq"])]


def _replaced(path: str, value: object) -> Json:
    return {"op": "replace", "path": path, "value": value}
