"""Every Redis key, spelled once.

`Keys` spells them; `KEY_TABLE` lists them with type, owner and lifetime (the documentation and the key-leak
fixture of the tests read the table). Two things change a spelling:

* a namespace `ns`: `massive:` becomes `massive:{ns}:` and `epoch:` becomes `{ns}:epoch:`;
* partitioned mode (Redis Cluster): the underlying stands in braces in every name, so that all keys of one
  underlying hash to one slot; the few global keys get one per underlying.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Layer(StrEnum):
    """A packed array of a plane, one row per contract or tile (`contracts/planes.py` has the dtypes)."""

    QUOTES = "quotes"
    TRADES = "trades"
    CHAIN = "chain"
    TILES = "tiles"
    ANALYTICS = "analytics"
    PUBLISHED = "published"


class Stat(StrEnum):
    """The counters of one activity: `massive:{stat}:analytics` and `massive:{stat}:latency`."""

    CHAIN = "chain"
    WS = "ws"
    HYDRATE = "hydrate"
    EPOCH = "epoch"
    STRATEGY = "strategy"
    MODEL = "model"


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One line of the key table. `lifetime` is what a reader may rely on; "none" means permanent."""

    pattern: str
    type: str
    owner: str
    lifetime: str
    content: str


KEY_TABLE: tuple[KeyRow, ...] = (
    KeyRow(
        "massive:chain:snapshot:{U}:{EXP}:{TS_MS}",
        "string",
        "massive",
        "snapshot",
        "one immutable chain snapshot",
    ),
    KeyRow("massive:chain:latest:{U}:{EXP}", "string", "massive", "snapshot", "key of the newest snapshot"),
    KeyRow("massive:ws:stream", "stream", "massive", "none", "raw frames, untouched"),
    KeyRow("massive:jobs:stream", "stream", "staging", "none", "fetch this chain"),
    KeyRow("massive:chain:stream", "stream", "massive", "none", "a fetch was published"),
    KeyRow("massive:spot:{U}", "string", "staging", "none", "newest spot, with source and age"),
    KeyRow("epoch:active", "hash", "staging", "none", "underlying -> epoch id"),
    KeyRow("epoch:meta:{ID}", "hash", "staging", "timeline", "what this epoch is and why"),
    KeyRow("epoch:dirty", "set", "staging, calculate", "none", "epochs with pending recompute"),
    KeyRow("epoch:clean", "set", "calculate", "none", "epochs without pending recompute"),
    KeyRow("epoch:timeline:{U}", "list", "staging", "none", "epoch ids in order, newest first"),
    KeyRow("epoch:{ID}:had_ws_updates", "string", "staging", "epoch", "0 or 1"),
    KeyRow("epoch:{ID}:contract:{CID}", "hash", "staging", "epoch", "one contract, readable"),
    KeyRow("epoch:{ID}:geometry:{EXP}", "zset", "staging", "epoch", "contracts scored by strike"),
    KeyRow("epoch:{ID}:listing", "string", "staging", "epoch", "the frozen geometry, all planes (private)"),
    KeyRow(
        "epoch:{ID}:versions",
        "hash",
        "staging, calculate, models",
        "epoch",
        "monotone versions per plane and layer",
    ),
    KeyRow("epoch:{ID}:plane:{PLANE}:{LAYER}", "string", "staging, calculate, models", "epoch", "packed rows"),
    KeyRow("epoch:stream", "stream", "staging", "none", "promoted, dirty, tick"),
    KeyRow("strategy:stream", "stream", "calculate", "none", "planes and analytics computed"),
    KeyRow("massive:heatmap:snapshot:{U}", "string", "staging", "5 s", "prices of all contracts, once a tick"),
    KeyRow("massive:heatmap:model:{U}", "string", "models", "model", "published heatmap"),
    KeyRow("massive:heatmap:model:{U}:{STRATEGY}", "string", "models", "model", "published heatmap, one strategy"),
    KeyRow("massive:gex:model:{U}", "string", "models", "model", "published gamma exposure"),
    KeyRow(
        "massive:gex:model:{U}:{SIDE}",
        "string",
        "models",
        "model",
        "gamma exposure of calls or puts by strike",
    ),
    KeyRow("massive:liquidity:model:{U}", "string", "models", "model", "published Liquidity Intent, with its trail"),
    KeyRow("massive:mode:model:{U}", "string", "models", "model", "published Market Mode"),
    KeyRow("massive:gravity:model:{U}", "string", "models", "model", "published Dealer Gravity, once a minute"),
    KeyRow("massive:gravity:history:{U}", "stream", "models", "bounded", "gravity minute by minute, never repainted"),
    KeyRow("massive:trail:{U}", "string", "models", "model", "trail of Liquidity Intent: a point per 30 s (private)"),
    KeyRow("massive:profile:{U}", "hash", "models", "model", "session's spot time and volume by strike (private)"),
    KeyRow("massive:model:stream:{U}", "stream", "models", "window", "published events in order"),
    KeyRow("massive:model:state:{U}", "hash", "models", "none", "published epoch, seq, generation, tick"),
    KeyRow("massive:{STAT}:analytics", "hash", "all", "none", "counters and last values"),
    KeyRow("massive:{STAT}:latency", "zset", "all", "bounded", "newest samples, ms"),
    KeyRow(
        "massive:ws:hydrate:geometry_miss",
        "string",
        "staging",
        "none",
        "updates outside the epoch, never applied",
    ),
    KeyRow("massive:alert:stream:{U}", "stream", "gateway", "bounded", "alerts in order"),
    KeyRow("massive:alert:state:{U}", "hash", "gateway", "none", "where each rule of alerts stands (private)"),
    KeyRow("massive:heartbeat", "hash", "all", "pruned", "process -> JSON"),
    KeyRow(
        "massive:health:{U}",
        "string",
        "staging",
        "15 s",
        "status, reasons in words, signals in numbers, how each socket stands",
    ),
    KeyRow("massive:job:{U}", "hash", "massive, staging", "none", "the one valid ticket, fetch number, windows"),
    KeyRow("massive:clock", "string", "massive", "none", "market clock: offset and rate"),
    KeyRow("massive:tick:{U}", "hash", "staging", "none", "the last tick: its moment, the clock, the feed's progress"),
    KeyRow("massive:building:{U}", "hash", "staging", "none", "the promotion in progress, orders answered by it"),
    KeyRow("massive:feed:{U}", "hash", "staging", "none", "receive time of the newest option event"),
    KeyRow("massive:watermark", "hash", "staging", "none", "feed receive time up to which all frames are in"),
    KeyRow("massive:cursor:{GROUP}", "hash", "all", "none", "durable low watermark of a group, per stream"),
    KeyRow("massive:lease:{NAME}", "string", "all", "lease", "the one owner of a tick, a socket, a sweep"),
    KeyRow("massive:gaps:stream", "stream", "massive", "bounded", "interruptions of feeds: which, why, how long"),
    KeyRow(
        "massive:capture:stream", "stream", "massive", "bounded", "raw frames and REST pages on their way to a file"
    ),
    KeyRow("massive:requests", "hash", "massive", "2 min", "when REST requests went: the budget of all consumers"),
    KeyRow("massive:journal:stream", "stream", "all", "none", "order in which entries took effect (journal on)"),
    KeyRow("{STREAM}:parked", "stream", "all", "bounded", "entries nobody can use, with reason and payload"),
)

PARKED_SUFFIX = ":parked"


class Keys:
    """Spells keys for a namespace, in default or partitioned mode.

    `symbol` is the underlying without prefix. Keys that are global in default mode still take it, because in
    partitioned mode there is one per underlying.
    """

    def __init__(self, namespace: str = "", partitioned: bool = False) -> None:
        self.namespace = namespace
        self.partitioned = partitioned
        self._massive = f"massive:{namespace}:" if namespace else "massive:"
        self._epoch = f"{namespace}:epoch:" if namespace else "epoch:"
        self._strategy = f"{namespace}:strategy:" if namespace else "strategy:"

    def prefixes(self) -> tuple[str, ...]:
        """How every key of ours begins."""
        return self._massive, self._epoch, self._strategy

    def tag(self, symbol: str) -> str:
        """How the underlying is written inside a key: in braces when partitioned."""
        return f"{{{symbol}}}" if self.partitioned else symbol

    def _shared(self, prefix: str, name: str, symbol: str) -> str:
        return f"{prefix}{name}:{{{symbol}}}" if self.partitioned else f"{prefix}{name}"

    def epoch_id(self, symbol: str, second: int, geometry_hash: str) -> str:
        """`{U}:{S}:{H}`; the id carries the hash tag, so every key that contains it does."""
        return f"{self.tag(symbol)}:{second}:{geometry_hash[:4]}"

    # provider data
    def chain_snapshot(self, symbol: str, expiration: str, ts_ms: int) -> str:
        """One immutable snapshot."""
        return f"{self._massive}chain:snapshot:{self.tag(symbol)}:{expiration}:{ts_ms}"

    def chain_latest(self, symbol: str, expiration: str) -> str:
        """Pointer to the newest snapshot."""
        return f"{self._massive}chain:latest:{self.tag(symbol)}:{expiration}"

    def spot(self, symbol: str) -> str:
        """Newest spot."""
        return f"{self._massive}spot:{self.tag(symbol)}"

    # streams
    def jobs_stream(self, symbol: str) -> str:
        """Fetch requests."""
        return self._shared(self._massive, "jobs:stream", symbol)

    def chain_stream(self, symbol: str) -> str:
        """Completed fetches."""
        return self._shared(self._massive, "chain:stream", symbol)

    def ws_stream(self, symbol: str) -> str:
        """Raw frames."""
        return self._shared(self._massive, "ws:stream", symbol)

    def epoch_stream(self, symbol: str) -> str:
        """Promotions, dirty planes and ticks."""
        return self._shared(self._epoch, "stream", symbol)

    def strategy_stream(self, symbol: str) -> str:
        """Computed planes and analytics."""
        return self._shared(self._strategy, "stream", symbol)

    def model_stream(self, symbol: str) -> str:
        """Published events of one underlying."""
        return f"{self._massive}model:stream:{self.tag(symbol)}"

    def journal_stream(self, symbol: str) -> str:
        """Order in which entries took effect."""
        return self._shared(self._massive, "journal:stream", symbol)

    def gaps_stream(self, symbol: str) -> str:
        """Interruptions of feeds."""
        return self._shared(self._massive, "gaps:stream", symbol)

    def capture_stream(self, symbol: str) -> str:
        """Raw frames and REST pages on their way to a capture file."""
        return self._shared(self._massive, "capture:stream", symbol)

    @staticmethod
    def parked(stream: str) -> str:
        """Where unusable entries of a stream go."""
        return stream + PARKED_SUFFIX

    # epochs
    def active(self, symbol: str) -> str:
        """Underlying -> active epoch id."""
        return self._shared(self._epoch, "active", symbol)

    def dirty(self, symbol: str) -> str:
        """Epochs with pending recompute."""
        return self._shared(self._epoch, "dirty", symbol)

    def clean(self, symbol: str) -> str:
        """Epochs without pending recompute."""
        return self._shared(self._epoch, "clean", symbol)

    def timeline(self, symbol: str) -> str:
        """Epoch ids of an underlying, newest first."""
        return f"{self._epoch}timeline:{self.tag(symbol)}"

    def meta(self, epoch: str) -> str:
        """Facts about an epoch."""
        return f"{self._epoch}meta:{epoch}"

    def had_ws_updates(self, epoch: str) -> str:
        """Whether an option event reached the epoch."""
        return f"{self._epoch}{epoch}:had_ws_updates"

    def contract(self, epoch: str, cid: str) -> str:
        """One contract of an epoch, readable."""
        return f"{self._epoch}{epoch}:contract:{cid}"

    def geometry(self, epoch: str, expiration: str) -> str:
        """Contracts of an epoch and expiration, scored by strike."""
        return f"{self._epoch}{epoch}:geometry:{expiration}"

    def listing(self, epoch: str) -> str:
        """The frozen geometry of an epoch, all planes."""
        return f"{self._epoch}{epoch}:listing"

    def versions(self, epoch: str) -> str:
        """Monotone versions per plane and layer."""
        return f"{self._epoch}{epoch}:versions"

    def plane(self, epoch: str, plane: str, layer: Layer) -> str:
        """One packed layer of a plane."""
        return f"{self._epoch}{epoch}:plane:{plane}:{layer}"

    # published
    def heatmap_snapshot(self, symbol: str) -> str:
        """Prices of all contracts of the active epoch."""
        return f"{self._massive}heatmap:snapshot:{self.tag(symbol)}"

    def heatmap_model(self, symbol: str, strategy: str = "") -> str:
        """Published heatmap, whole or of one strategy."""
        return f"{self._massive}heatmap:model:{self.tag(symbol)}" + (f":{strategy}" if strategy else "")

    def gex_model(self, symbol: str, side: str = "") -> str:
        """Published gamma exposure, whole or of one side."""
        return f"{self._massive}gex:model:{self.tag(symbol)}" + (f":{side}" if side else "")

    def model(self, model: str, symbol: str) -> str:
        """A published model by its name: heatmap, gex, liquidity, mode, gravity."""
        return f"{self._massive}{model}:model:{self.tag(symbol)}"

    def gravity_history(self, symbol: str) -> str:
        """Dealer Gravity, minute by minute."""
        return f"{self._massive}gravity:history:{self.tag(symbol)}"

    def trail(self, symbol: str) -> str:
        """The trail of Liquidity Intent."""
        return f"{self._massive}trail:{self.tag(symbol)}"

    def session_profile(self, symbol: str) -> str:
        """Spot time and volume by strike of the session."""
        return f"{self._massive}profile:{self.tag(symbol)}"

    def model_state(self, symbol: str) -> str:
        """What was published last: epoch, seq, generation, tick."""
        return f"{self._massive}model:state:{self.tag(symbol)}"

    # alerts
    def alert_stream(self, symbol: str) -> str:
        """Alerts in order."""
        return f"{self._massive}alert:stream:{self.tag(symbol)}"

    def alert_state(self, symbol: str) -> str:
        """Where each rule of alerts stands."""
        return f"{self._massive}alert:state:{self.tag(symbol)}"

    # bookkeeping
    def analytics(self, stat: Stat, symbol: str) -> str:
        """Counters and last values."""
        return self._shared(self._massive, f"{stat}:analytics", symbol)

    def latency(self, stat: Stat, symbol: str) -> str:
        """Newest latency samples."""
        return self._shared(self._massive, f"{stat}:latency", symbol)

    def geometry_miss(self, symbol: str) -> str:
        """Count of updates outside the epoch."""
        return self._shared(self._massive, "ws:hydrate:geometry_miss", symbol)

    def heartbeat(self) -> str:
        """Process -> JSON. Not part of any commit, hence never partitioned."""
        return f"{self._massive}heartbeat"

    def requests(self) -> str:
        """The request budget of the key. Not part of any commit, hence never partitioned."""
        return f"{self._massive}requests"

    def health(self, symbol: str) -> str:
        """Status and reasons."""
        return f"{self._massive}health:{self.tag(symbol)}"

    def job(self, symbol: str) -> str:
        """The one valid fetch ticket and what the fetch needs to know."""
        return f"{self._massive}job:{self.tag(symbol)}"

    def clock(self, symbol: str) -> str:
        """The market clock: offset and rate."""
        return self._shared(self._massive, "clock", symbol)

    def tick(self, symbol: str) -> str:
        """The last tick."""
        return f"{self._massive}tick:{self.tag(symbol)}"

    def building(self, symbol: str) -> str:
        """The promotion in progress."""
        return f"{self._massive}building:{self.tag(symbol)}"

    def feed(self, symbol: str) -> str:
        """When the feed last told of an option of this underlying."""
        return f"{self._massive}feed:{self.tag(symbol)}"

    def watermark(self, symbol: str) -> str:
        """Receive time up to which every frame is in."""
        return self._shared(self._massive, "watermark", symbol)

    def cursor(self, group: str, symbol: str) -> str:
        """Durable low watermark of a group: stream -> entry id."""
        return self._shared(self._massive, f"cursor:{group}", symbol)

    def lease(self, name: str, symbol: str) -> str:
        """The one owner of something."""
        return self._shared(self._massive, f"lease:{name}", symbol)
