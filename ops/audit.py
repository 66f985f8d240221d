"""`marketswarm audit U`: is what is published what the substrate says, bit for bit? Also while everything moves.

Each plane's layers are read at one moment. A cell is comparable when no leg of it changed after the version the
layer stands at; the audit repeats until every cell was compared once, in tiles and in what was published. What was
never comparable within the time is listed and fails. Models are compared with the rows their tick stored.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import redis

from consumers.clients import hide_password
from consumers.embedded import find_url
from contracts.analytics import AnalyticsCut, Moment, decode_cut
from contracts.errors import FatalError
from contracts.geometry import Geometry, Plane, decode_geometry
from contracts.keys import Keys, Layer
from contracts.plan import STRATEGIES, Plan, compile_plan
from contracts.planes import CHAIN_ROW, HEADER_BYTES, QUOTE_ROW, TRADE_ROW, Array, Ints, decode_tiles, unpack_header
from contracts.settings import Settings
from contracts.topology import STREAMS
from contracts.versions import Versions
from ops.wiring import conventions_of, keys_of
from stages.calculate.columns import compile_columns
from stages.calculate.exposure import compute_exposures
from stages.calculate.tiles import compute_tiles
from stages.models.build import MODEL_NAMES, Memory, build_documents, decode_memory
from stages.models.gravity import gravity_of, history_point
from stages.staging.records import GROUPS, fields_of

PENDING_LIMIT_S = 10.0
PAUSE_S = 0.05
_ROWS = {Layer.QUOTES: QUOTE_ROW, Layer.TRADES: TRADE_ROW, Layer.CHAIN: CHAIN_ROW}
_MAX_LISTED = 20
HISTORY_COMPARED = 10  # lines of the minute history, of which one is the gravity read just before


@dataclass
class Findings:
    """What was compared, and what was wrong."""

    planes: int = 0
    contracts: int = 0
    tiles: int = 0
    models: int = 0
    problems: list[str] = field(default_factory=list)
    unsettled: list[str] = field(default_factory=list)  # what changed too fast to be compared, or waits for long

    def expect(self, holds: bool, problem: str) -> None:
        """Note a problem unless it holds."""
        if not holds:
            self.problems.append(problem)


def run_audit(symbol: str, settings: Settings, timeout_s: float = 10.0, *, is_loaded: bool = False) -> int:
    """Audit the active epoch of a symbol; prints the result and returns the exit code.

    What could not be compared in time, or waits for long, is a failure, unless the pipeline is loaded on purpose.
    """
    url = find_url(settings.redis_url, settings.marketswarm_data)
    client: Any = redis.Redis.from_url(url, socket_timeout=30)
    try:
        findings = Audit(client, keys_of(settings), symbol, settings, timeout_s).run()
    except redis.ConnectionError as error:
        raise FatalError(f"Redis at {hide_password(url)} is not available: {error}") from None
    print(
        f"audit {symbol}: {findings.planes} planes, {findings.contracts} contracts, {findings.tiles} tiles, "
        f"{findings.models} models compared; {len(findings.problems)} problems"
    )
    for problem in [*findings.problems, *findings.unsettled][:_MAX_LISTED]:
        print(f"  {problem}")
    return 1 if findings.problems or (findings.unsettled and not is_loaded) else 0


class _SupersededError(Exception):
    """The epoch changed while it was audited: start over with the new one."""


class Audit:
    """The audit of one symbol."""

    def __init__(self, client: Any, keys: Keys, symbol: str, settings: Settings, timeout_s: float) -> None:
        self._client = client
        self._keys = keys
        self._symbol = symbol
        self._settings = settings
        self._deadline = time.monotonic() + timeout_s
        self._timeout_s = timeout_s

    def run(self) -> Findings:
        """Audit whatever epoch is active; one that is superseded meanwhile is left for its successor."""
        while True:
            epoch = self._active()
            if epoch is None:
                return Findings(problems=[f"{self._symbol} has no active epoch"])
            try:
                return self._audit(epoch)
            except _SupersededError:
                self._deadline = time.monotonic() + self._timeout_s

    def _active(self) -> str | None:
        found = self._client.hget(self._keys.active(self._symbol), self._symbol)
        return found.decode() if found else None

    def _audit(self, epoch: str) -> Findings:
        findings = Findings()
        listing = self._client.get(self._keys.listing(epoch))
        if listing is None:
            self._check_active(epoch)
            return Findings(problems=[f"epoch {epoch} has lost its keys"])
        geometry = decode_geometry(listing)
        plans = {plane.id: compile_plan(plane, geometry.widths) for plane in geometry.planes}
        self._audit_contracts(epoch, geometry, findings)
        self._audit_planes(epoch, geometry, plans, findings)
        self._audit_marks(epoch, geometry, findings)
        self._audit_models(epoch, geometry, plans, findings)
        self._audit_pending(findings)
        self._check_active(epoch)
        return findings

    def _check_active(self, epoch: str) -> None:
        if self._active() != epoch:
            raise _SupersededError

    # --- geometry

    def _audit_contracts(self, epoch: str, geometry: Geometry, findings: Findings) -> None:
        """The contract keys are exactly the listing: none invented, none lost."""
        pattern = _escaped(self._keys.contract(epoch, "")) + "*"
        listed = {self._keys.contract(epoch, cid) for cid in geometry.row_of}
        found = {key.decode() for key in self._client.scan_iter(pattern, count=1000)}
        findings.expect(found >= listed, f"contracts without a key: {_some(listed - found)}")
        findings.expect(found <= listed, f"contracts outside the geometry: {_some(found - listed)}")
        for expiration in geometry.expirations:
            members = {cid.decode() for cid in self._client.zrange(self._keys.geometry(epoch, expiration), 0, -1)}
            expected = {r.cid for p in geometry.planes if p.expiration == expiration for r in p.rows}
            findings.expect(members == expected, f"geometry of {expiration} differs from the listing")

    # --- planes

    def _audit_planes(self, epoch: str, geometry: Geometry, plans: dict[str, Plan], findings: Findings) -> None:
        waiting = {plane.id: _Coverage(plans[plane.id]) for plane in geometry.planes}
        while waiting and time.monotonic() < self._deadline:
            for plane in geometry.planes:
                if plane.id in waiting:
                    self._compare_plane(epoch, plane, waiting[plane.id], findings)
                    if waiting[plane.id].complete:
                        findings.planes += 1
                        findings.contracts += len(plane.rows)
                        findings.tiles += plans[plane.id].cell_count
                        del waiting[plane.id]
            if waiting:
                self._check_active(epoch)
                time.sleep(PAUSE_S)
        for plane_id, coverage in waiting.items():
            findings.unsettled.append(f"{plane_id}: {coverage.missing} in {self._timeout_s:g} s")

    def _compare_plane(self, epoch: str, plane: Plane, coverage: _Coverage, findings: Findings) -> None:
        state = self._read_plane(epoch, plane, with_rows=not coverage.rows_compared)
        if state is None:
            self._check_active(epoch)
            findings.problems.append(f"{plane.id}: a layer is missing")
            coverage.give_up()
            return
        for layer in (Layer.TILES, Layer.PUBLISHED):
            if state.derived.get(layer) is not None:
                coverage.compare(plane, layer, state, findings)
        if not coverage.rows_compared:
            _compare_hashes(plane, state, findings)
            coverage.rows_compared = True

    def _read_plane(self, epoch: str, plane: Plane, *, with_rows: bool) -> _PlaneState | None:
        layers = (*_ROWS, Layer.TILES, Layer.PUBLISHED)
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.hgetall(self._keys.versions(epoch))
            for layer in layers:
                pipeline.get(self._keys.plane(epoch, plane.id, layer))
            for row in plane.rows if with_rows else ():
                pipeline.hgetall(self._keys.contract(epoch, row.cid))
            versions, *found = pipeline.execute()
        blobs = dict(zip(layers, found, strict=False))
        if not versions or any(blobs[layer] is None for layer in _ROWS):
            return None
        state = _PlaneState(Versions(versions), blobs, found[len(layers) :])
        for layer in (Layer.TILES, Layer.PUBLISHED):
            blob = blobs[layer]
            level = state.versions.level(plane.id, layer).version
            if blob is not None and int(unpack_header(blob)["version"]) == level:
                tiles = decode_tiles(blob)
                state.derived[layer] = (tiles.version, tiles.cells)
        return state

    # --- marks

    def _audit_marks(self, epoch: str, geometry: Geometry, findings: Findings) -> None:
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.hgetall(self._keys.versions(epoch))
            pipeline.sismember(self._keys.dirty(self._symbol), epoch)
            pipeline.sismember(self._keys.clean(self._symbol), epoch)
            pipeline.sinter([self._keys.dirty(self._symbol), self._keys.clean(self._symbol)])
            pipeline.smembers(self._keys.dirty(self._symbol))
            pipeline.lrange(self._keys.timeline(self._symbol), 0, -1)
            pipeline.hgetall(self._keys.active(self._symbol))
            fields, dirty, clean, both, all_dirty, timeline, active = pipeline.execute()
        if active.get(self._symbol.encode()) != epoch.encode():
            raise _SupersededError
        versions = Versions(fields)
        lagging = sum(versions.lags(plane.id, "tiles", "quotes") for plane in geometry.planes)
        counted = int(fields.get(b"lagging", b"0"))
        findings.expect(counted == lagging, f"{counted} planes counted as lagging, {lagging} are")
        findings.expect(
            bool(dirty) == (lagging > 0), f"epoch is marked dirty={bool(dirty)} with {lagging} lagging planes"
        )
        findings.expect(
            bool(clean) == (lagging == 0), f"epoch is marked clean={bool(clean)} with {lagging} lagging planes"
        )
        findings.expect(not both, f"epochs both dirty and clean: {both}")
        findings.expect(
            all_dirty <= set(active.values()), f"superseded epochs still dirty: {all_dirty - set(active.values())}"
        )
        findings.expect(epoch.encode() in timeline, "the active epoch is not on its timeline")

    # --- models

    def _audit_models(self, epoch: str, geometry: Geometry, plans: dict[str, Plan], findings: Findings) -> None:
        while time.monotonic() < self._deadline + PENDING_LIMIT_S:
            tick = self._read_tick(epoch, geometry)
            if tick is not None:
                self._compare_cuts(geometry, plans, tick, findings)
                self._compare_models(geometry, tick, findings)
                return
            self._check_active(epoch)
            time.sleep(PAUSE_S)
        findings.problems.append("no published model could be read together with the rows of its tick")

    def _read_tick(self, epoch: str, geometry: Geometry) -> _PublishedTick | None:
        """The models of a tick, the cuts and memory they were built from, read at one moment; None if they differ."""
        keys, symbol = self._keys, self._symbol
        names = [keys.model(name, symbol) for name in MODEL_NAMES]
        names += [keys.heatmap_model(symbol, strategy) for strategy in STRATEGIES]
        names += [keys.gex_model(symbol, side) for side in ("calls", "puts")]
        cut_names = [keys.plane(epoch, plane.id, Layer.ANALYTICS) for plane in geometry.planes]
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.mget(names + cut_names)
            pipeline.get(keys.trail(symbol))
            pipeline.hgetall(keys.session_profile(symbol))
            blobs, trail, session = pipeline.execute()
        documents = dict(zip(names, blobs, strict=False))
        if any(blob is None for blob in blobs):
            return None
        cuts = [decode_cut(blob) for blob in blobs[len(names) :]]
        gex = orjson.loads(documents[keys.gex_model(symbol)])
        if gex["epoch"] != epoch or any(cut.tick != gex["tick"] for cut in cuts):
            return None
        moment = Moment(
            symbol, epoch, gex["seq"], gex["tick"], gex["ts"], gex["complete_to"], gex["spot"], gex["asof_spot"]
        )
        return _PublishedTick(moment, documents, cuts, decode_memory(trail, session))

    def _compare_cuts(
        self, geometry: Geometry, plans: dict[str, Plan], tick: _PublishedTick, findings: Findings
    ) -> None:
        for plane, cut in zip(geometry.planes, tick.cuts, strict=True):
            same_cells = np.array_equal(cut.cells, compute_tiles(plans[plane.id], cut.quotes))
            findings.expect(same_cells, f"{plane.id}: the tick's tiles are not those of its rows")
            exposures, row = compute_exposures(
                compile_columns(plane),
                cut.quotes,
                cut.chain,
                tick.moment.spot,
                tick.moment.ts,
                conventions_of(self._settings),
            )
            exposures["volume"] = cut.exposures["volume"]  # a row read at the tick, not computed
            same = exposures.tobytes() == cut.exposures.tobytes() and row.tobytes() == cut.plane.tobytes()
            findings.expect(same, f"{plane.id}: the tick's analytics are not those of its rows")

    def _compare_models(self, geometry: Geometry, tick: _PublishedTick, findings: Findings) -> None:
        """The models of the tick once more, from its cuts and memory. The gravity may be that of an earlier tick."""
        keys, rate = self._keys, self._settings.massive_rate
        name = keys.model("gravity", self._symbol)
        gravity = tick.documents[name]
        told = orjson.loads(gravity)
        memory = tick.memory
        if told["tick"] == tick.moment.tick:
            # the tick's own gravity left its minute and best behind: as they were before it
            before = replace(memory.session, minute=memory.session.minute - 1, best=told["inputs"]["previous_best"])
            memory = replace(memory, session=before)
        else:
            again = orjson.dumps({**told, **gravity_of(told["inputs"])})
            findings.expect(again == gravity, f"{name} is not what its inputs give")
            findings.models += 1
        expected = build_documents(keys, geometry.encode(), tick.moment, tick.cuts, rate, memory)
        for key, document in expected.by_key.items():
            findings.expect(document == tick.documents[key], f"{key} is not what its rows give")
        findings.models += len(expected.by_key)
        newest = self._client.xrevrange(keys.gravity_history(self._symbol), count=HISTORY_COMPARED)
        lines = {orjson.loads(fields[b"data"])["tick"]: fields[b"data"] for _, fields in newest}
        same_line = lines.get(told["tick"]) == orjson.dumps(history_point(told))
        findings.expect(same_line, f"{name} is not in its minute history")

    # --- streams

    def _audit_pending(self, findings: Findings) -> None:
        """Nothing waits longer than PENDING_LIMIT_S, delivered or not."""
        for name, age in self._waiting():
            if age > PENDING_LIMIT_S:
                findings.unsettled.append(f"{name}: an entry has been waiting for {age:.1f} s")

    def _waiting(self) -> Iterator[tuple[str, float]]:
        seconds, micros = self._client.time()
        now_ms = seconds * 1000 + micros / 1000
        for row in STREAMS:
            stream = row.key(self._keys, self._symbol)
            if row.group is None or not self._client.exists(stream):
                continue
            groups = {one["name"].decode(): one for one in self._client.xinfo_groups(stream)}
            last = b"-"
            if row.group in groups:
                last = b"(" + groups[row.group]["last-delivered-id"]
                for entry in self._client.xpending_range(stream, row.group, "-", "+", 1):
                    # a fetch may take longer than this; while somebody works on an entry its idle time stays small
                    yield f"{stream} (pending)", entry["time_since_delivered"] / 1000
            unread = self._client.xrange(stream, last, "+", count=1)
            for entry_id, _ in unread:
                yield f"{stream} (unread)", (now_ms - int(entry_id.split(b"-")[0])) / 1000


@dataclass(frozen=True, slots=True)
class _PublishedTick:
    """A published tick: its documents by key, the cuts they were built from, and the memory it left behind."""

    moment: Moment
    documents: dict[str, bytes]
    cuts: list[AnalyticsCut]
    memory: Memory


@dataclass
class _PlaneState:
    """A plane at one moment. `derived` holds layers whose header agrees with `versions`."""

    versions: Versions
    blobs: dict[Layer, bytes | None]
    hashes: list[dict[bytes, bytes]]
    derived: dict[Layer, tuple[int, Ints]] = field(default_factory=dict)

    def rows(self, layer: Layer) -> Array:
        """The rows of a substrate layer."""
        blob = self.blobs[layer]
        assert blob is not None
        return np.frombuffer(blob, _ROWS[layer], offset=HEADER_BYTES)


class _Coverage:
    """Which cells of a plane have been compared, per derived layer."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._compared = {layer: np.zeros(plan.cell_count, bool) for layer in (Layer.TILES, Layer.PUBLISHED)}
        self.rows_compared = False

    @property
    def complete(self) -> bool:
        """Every cell was compared in both layers, and the readable HASHes once."""
        return self.rows_compared and all(bool(done.all()) for done in self._compared.values())

    @property
    def missing(self) -> str:
        """What was never comparable."""
        parts = [f"{int((~done).sum())} cells of {layer}" for layer, done in self._compared.items() if not done.all()]
        return " and ".join(parts) + " never comparable"

    def give_up(self) -> None:
        """Nothing more can be compared (the problem has been noted)."""
        self.rows_compared = True
        for done in self._compared.values():
            done[:] = True

    def compare(self, plane: Plane, layer: Layer, state: _PlaneState, findings: Findings) -> None:
        """Compare the cells none of whose legs changed after the layer's version."""
        version, cells = state.derived[layer]
        quotes = state.rows(Layer.QUOTES)
        comparable = _comparable(self._plan, quotes["row_version"], version)
        expected = compute_tiles(self._plan, quotes)
        wrong = np.flatnonzero(comparable & (cells != expected).any(axis=0))
        if len(wrong):
            findings.problems.append(f"{plane.id}: {len(wrong)} cells of {layer} differ from a full recompute")
        self._compared[layer] |= comparable


def _comparable(plan: Plan, row_version: npt.NDArray[np.int64], version: int) -> Any:
    unchanged = np.append(row_version <= version, True)  # the last stands for "no contract"
    return np.logical_and.reduce(unchanged[plan.legs], axis=0)


def _compare_hashes(plane: Plane, state: _PlaneState, findings: Findings) -> None:
    """The readable HASH says what the packed rows say, group by group."""
    for number, (row, stored) in enumerate(zip(plane.rows, state.hashes, strict=True)):
        for group in GROUPS:
            blob = state.blobs[group.layer]
            assert blob is not None
            packed = blob[group.offset(number) : group.offset(number) + group.size]
            if int.from_bytes(packed[:8], "little", signed=True) < 0:
                continue  # the group was never filled
            said = fields_of(group, packed)
            for name, value in zip(said[::2], said[1::2], strict=True):
                if stored.get(name.encode()) != value.encode():
                    findings.problems.append(
                        f"{row.cid}: {name} is {stored.get(name.encode())!r}, the row says {value!r}"
                    )
                    return


def _escaped(pattern: str) -> str:
    return "".join(f"\\{c}" if c in "*?[]\\" else c for c in pattern)


def _some(names: set[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
