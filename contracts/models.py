"""Every published message, defined once: the JSON Schemas are generated from here (`contracts/schemas/`).

Models are the values of `massive:{heatmap,gex,liquidity,mode,gravity}:model:{U}`; `reset`, `diff` and `tick` are the
`data` of entries of `massive:model:stream:{U}`, which also carries the models. Definitions: models.md. No other fields
exist. Null means absent, and a `reason` or `status` beside it says why. A change here needs a new
`contracts/analytics.py::MODEL_VERSION`; a test compares.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from contracts.analytics import MODEL_VERSION
from contracts.planes import UNKNOWN


def _unit(unit: str, description: str = "") -> Meta:
    return Meta(description=description or None, extra_json_schema={"unit": unit})


EpochSeconds = Annotated[float, _unit("s", "epoch seconds")]
Points = Annotated[float, _unit("index points or dollars of the underlying")]
Dollars = Annotated[float, _unit("USD", "at most three decimals")]
UsdPer1Pct = Annotated[float, _unit("usd_per_1pct", "dollars of delta per 1 % move of spot; calls +, puts -")]
GammaOi = Annotated[float, _unit("gamma x contracts x multiplier", "unsigned")]
Share = Annotated[float, Meta(ge=0, le=1, extra_json_schema={"unit": "share"})]
Count = Annotated[int, Meta(ge=0)]
Flags = Annotated[int, Meta(ge=0, lt=512, description="bits of models.md 1")]
Int32 = Annotated[int, Meta(ge=UNKNOWN + 1, le=2**31 - 1)]
Version = Annotated[int, Meta(ge=0, description="plane version the value was computed from")]
Date = Annotated[str, Meta(pattern=r"^\d{4}-\d{2}-\d{2}$")]
PlaneId = Annotated[str, Meta(pattern=r"^[A-Z0-9.]+:\d{4}-\d{2}-\d{2}$", description="ROOT:EXPIRATION")]
ModelVersion = Annotated[int, Meta(ge=MODEL_VERSION, le=MODEL_VERSION)]

Matrix = Annotated[list[list[Dollars | None]], Meta(description="[strike][width]; null: no cell, or no price")]
FlagMatrix = Annotated[list[list[Flags | None]], Meta(description="[strike][width]; null: no cell")]


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all messages: unknown fields are refused.

    `BECAUSE` names a value and the field that says why when it is null: a `reason`, which is null otherwise, or a
    `status`, which then is not "ok".
    """

    BECAUSE: ClassVar[tuple[str, str] | None] = None


class Head(Strict, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every model says about itself: all models of a publication share epoch, tick and plane versions."""

    model_version: ModelVersion
    symbol: str
    epoch: str
    seq: Annotated[int, Meta(description="events published before this tick was computed")]
    tick: Count
    ts: Annotated[EpochSeconds, Meta(description="the moment of the model, market clock")]
    complete_to: Annotated[EpochSeconds | None, Meta(description="receive time up to which every frame is included")]


# --- heatmap


class Cells(Strict, frozen=True, forbid_unknown_fields=True):
    """One strategy and side over strike x width."""

    mid: Matrix
    buy: Annotated[Matrix, Meta(description="natural debit to pay")]
    sell: Annotated[Matrix, Meta(description="natural credit to receive")]
    flags: FlagMatrix


class SingleCells(Strict, frozen=True, forbid_unknown_fields=True):
    """Singles of one side by strike; null: no contract, or no price."""

    mid: list[Dollars | None]
    buy: list[Dollars | None]
    sell: list[Dollars | None]
    flags: list[Flags | None]


class CellSides(Strict, frozen=True, forbid_unknown_fields=True):
    """Calls and puts of one strategy."""

    call: Cells
    put: Cells


class SingleSides(Strict, frozen=True, forbid_unknown_fields=True):
    """Calls and puts themselves."""

    call: SingleCells
    put: SingleCells


class RowFlags(Strict, frozen=True, forbid_unknown_fields=True):
    """Tick path flags of the contracts by strike (bit 6: stale); null: no contract."""

    call: list[Flags | None]
    put: list[Flags | None]


class HeatmapPlane(Strict, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One (root, expiration). Without a cut `reason` stands in place of the prices."""

    root: str
    expiration: Date
    dte: Annotated[int, Meta(description="calendar days from New York's date of ts; negative once past")]
    settlement: Literal["am", "pm"]
    version: Version | None
    strikes: list[Points]
    T: Annotated[float, _unit("years", "time to settlement, at least a minute")] | None = None
    forward: Points | None = None
    forward_source: Literal["parity", "nearest", "spot", "none"] | None = None
    coherence: Points | None = None
    flags: Annotated[Flags, Meta(description="bits 7 near_expiry, 8 incoherent")] | None = None
    row_flags: RowFlags | None = None
    butterfly: CellSides | None = None
    vertical: CellSides | None = None
    single: SingleSides | None = None
    reason: str | None = None


class Heatmap(Head, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Market prices of strategies over strike x width x plane; per-strategy keys hold the same with one strategy."""

    model: Literal["heatmap"]
    spot: Points | None
    widths: list[Points]
    planes: dict[str, HeatmapPlane]


# --- gamma exposure


class StrikeWindow(Strict, frozen=True, forbid_unknown_fields=True):
    """Lowest and highest strike in scope."""

    lo: Points
    hi: Points


class Scope(Strict, frozen=True, forbid_unknown_fields=True):
    """What was summed."""

    roots: list[str]
    expirations: list[Date]
    windows: dict[str, StrikeWindow]
    oi_share: Annotated[Share | None, Meta(description="open interest in scope over that of `oi_share_of`")]
    oi_share_of: str
    oi_used_share: Annotated[Share | None, Meta(description="part of the open interest in scope that has greeks")]


class GreekSources(Strict, frozen=True, forbid_unknown_fields=True):
    """Contracts by where their greeks came from."""

    venue: Count
    own: Count
    interp: Count
    none: Count


class Dropped(Strict, frozen=True, forbid_unknown_fields=True):
    """Contracts left out, by reason."""

    no_iv: Count
    no_oi: Count
    adjusted: Count
    expired: Count


class Level(Strict, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A strike that stands out; null with its reason in `status`."""

    BECAUSE: ClassVar = ("value", "status")

    value: Points | None
    status: str
    strength: Annotated[float, Meta(description="usd_per_1pct at the strike; of max pain the value it leaves")] | None
    method: str = ""
    plane: PlaneId | None = None


class Flip(Strict, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Where the re-priced net changes sign."""

    BECAUSE: ClassVar = ("value", "status")

    value: Points | None
    status: str
    method: str
    crossings: list[Points]
    net_at_spot: Annotated[UsdPer1Pct | None, Meta(description="the profile at S")]
    oi_share: Share | None
    plane: PlaneId | None = None


class Levels(Strict, frozen=True, forbid_unknown_fields=True):
    """Levels with the method that makes them."""

    flip: Flip
    flip_front: Flip
    call_wall: Level
    put_wall: Level
    abs_gamma: Level
    magnet: Level
    max_pain: Level


class MaxPain(Strict, frozen=True, forbid_unknown_fields=True):
    """Strike of least total intrinsic value of open interest."""

    BECAUSE: ClassVar = ("value", "status")

    value: Points | None
    status: str
    strength: Annotated[float, _unit("USD", "total intrinsic value of open interest there")] | None


class GexPlane(Strict, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Conventions and expected move of one plane."""

    BECAUSE: ClassVar = ("em_1sigma", "reason")

    version: Version | None
    T: Annotated[float, _unit("years", "time to settlement, at least a minute")] | None
    root: str
    expiration: Date
    settlement: Literal["am", "pm"]
    exercise: Literal["european", "american"]
    dte: int
    forward: Points | None = None
    forward_source: Literal["parity", "nearest", "spot", "none"] | None = None
    strikes_used: Count | None = None
    coherence: Points | None = None
    flags: Flags | None = None
    sigma_forward: Annotated[float, _unit("per sqrt(year)", "own volatility at the forward")] | None = None
    em_1sigma: Annotated[Points, Meta(description="F sigma_F sqrt(T)")] | None = None
    straddle: Annotated[Points, Meta(description="Black-76 straddle struck at F with sigma_F")] | None = None
    max_pain: MaxPain | None = None
    reason: str | None = None


class ExpirationSum(Strict, frozen=True, forbid_unknown_fields=True):
    """Gamma exposure of one expiration, over its roots."""

    dte: int
    net: UsdPer1Pct | None
    calls: UsdPer1Pct | None
    puts: UsdPer1Pct | None
    abs: UsdPer1Pct | None
    gamma_oi: GammaOi | None


class FrontProfile(Strict, frozen=True, forbid_unknown_fields=True):
    """The profile of the front plane alone, over the same spots."""

    BECAUSE: ClassVar = ("net", "status")

    plane: PlaneId | None
    spots: list[Points] | None
    net: list[UsdPer1Pct] | None
    oi_share: Share | None
    status: str


class Profile(Strict, frozen=True, forbid_unknown_fields=True):
    """Net exposure re-priced over a grid of spots (sticky strike, own volatilities only)."""

    BECAUSE: ClassVar = ("net", "status")

    spots: list[Points] | None
    net: list[UsdPer1Pct] | None
    oi_share: Annotated[Share | None, Meta(description="open interest with own volatility over that in scope")]
    status: str
    front: FrontProfile


class Exposures(Strict, frozen=True, forbid_unknown_fields=True):
    """Delta, vanna and charm exposure; `units` says of what."""

    delta: Annotated[float | None, Meta(description="sign x delta x contracts x multiplier x S")]
    vanna: Annotated[float | None, Meta(description="per volatility point")]
    charm_15m: Annotated[float | None, Meta(description="in 15 minutes of market time")]
    units: dict[str, str]
    missing: Annotated[dict[str, Count], Meta(description="summed contracts without the greek")]
    reason: str | None
    columns: list[str]
    by_strike: Annotated[list[list[float | None]], Meta(description="rows in the order of `columns`")]


class Gex(Head, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Gamma exposure over roots, by strike and by expiration."""

    BECAUSE: ClassVar = ("net", "reason")

    model: Literal["gex"]
    asof_quote: EpochSeconds | None
    asof_spot: EpochSeconds | None
    oi_asof: EpochSeconds | None
    spot: Points | None
    unit: Literal["usd_per_1pct"]
    sign_convention: Literal["calls+ puts-"]
    weight: Literal["oi"]
    t_convention: str
    rate: Annotated[float, _unit("per year")]
    front: PlaneId | None
    scope: Scope
    planes: dict[str, GexPlane]
    greek_src: GreekSources
    american_approx: Count
    dropped: Dropped
    reason: Annotated[str | None, Meta(description="why sums are null")]
    net: UsdPer1Pct | None
    calls: UsdPer1Pct | None
    puts: UsdPer1Pct | None
    abs: UsdPer1Pct | None
    gamma_oi: GammaOi | None
    net_at_spot: Annotated[UsdPer1Pct | None, Meta(description="the profile at S: own volatilities only")]
    by_strike: Annotated[
        list[tuple[Points, UsdPer1Pct | None, UsdPer1Pct | None]],
        Meta(description="[strike, calls, puts]; null: no contract of that side was summed"),
    ]
    by_expiration: dict[str, ExpirationSum]
    profile: Profile
    exposures: Exposures
    levels: Levels


class GexSide(Strict, frozen=True, forbid_unknown_fields=True):
    """The calls or the puts of the gamma exposure: expiration -> strike -> value."""

    ts: EpochSeconds
    symbol: str
    epoch: str
    unit: Literal["usd_per_1pct"]
    expirations: dict[str, dict[str, UsdPer1Pct]]


# --- derived models

Percent = Annotated[float, Meta(ge=0, le=100)]
Ratio = Annotated[float, Meta(ge=-1, le=1)]


class Inputs(Strict, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every derived model was computed from; `sigma` is em_1sigma of the front plane."""

    planes: dict[str, Version | None]
    front: PlaneId | None
    spot: Points | None
    sigma: Points | None
    flip: Points | None
    magnet: Points | None


class LiquidityInputs(Inputs, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The ratios behind bias and index."""

    imbalance: Ratio | None
    centre: Ratio | None
    r1: Annotated[Ratio | None, Meta(description="net over abs within 1 sigma")]
    c1: Annotated[Share | None, Meta(description="share of |net| within 1 sigma")]
    c2: Annotated[Share | None, Meta(description="share of |net| within 2 sigma")]
    flip_closeness: Share | None


class Liquidity(Head, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Liquidity Intent: which way, and how firmly, dealer hedging leans."""

    BECAUSE: ClassVar = ("bias", "reason")

    model: Literal["liquidity"]
    reason: str | None
    bias: Annotated[float, Meta(ge=-100, le=100)] | None
    lfi: Percent | None
    quadrant: (
        Literal["Pin / Mean Reversion", "False Breakout Risk", "Downside Acceleration", "Air-Pocket Expansion"] | None
    )
    trail: Annotated[
        list[tuple[EpochSeconds, float, float]],
        Meta(max_length=120, description="[ts, bias, lfi], one per 30 s, oldest first"),
    ]
    inputs: LiquidityInputs


class ModeInputs(Inputs, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the score weighs."""

    net: UsdPer1Pct | None
    abs: UsdPer1Pct | None
    lfi: Percent | None
    c1: Share | None


class Mode(Head, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Market Mode: do dealers dampen moves or amplify them."""

    BECAUSE: ClassVar = ("score", "reason")

    model: Literal["mode"]
    reason: str | None
    score: Percent | None
    mode: Literal["compression", "transition", "expansion"] | None
    inputs: ModeInputs


class GravityInputs(Inputs, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything the gravity of a minute is computed from; columns have one value per strike of the front plane."""

    reason: str | None
    acceptance: Annotated[str, Meta(description="opening: every strike is accepted; session: by time and volume")]
    previous_best: Points | None
    forward: Points | None
    discount: Annotated[float | None, Meta(description="DF")]
    width: Annotated[Points | None, Meta(description="of the flies")]
    coherence: Points | None
    greatest_net: UsdPer1Pct | None
    strikes: list[Points]
    mid: Annotated[list[Dollars | None], Meta(description="fly of the out-of-the-money side")]
    net: list[UsdPer1Pct | None]
    time: list[Annotated[float, _unit("s", "spot within half a step this session")] | None]
    volume: list[Annotated[float, _unit("contracts", "this session")] | None]


class ConfidenceParts(Strict, frozen=True, forbid_unknown_fields=True):
    """What confidence is the mean of; null: left out."""

    concentration: Share
    magnet: Share | None
    coherence: Share | None
    persistence: Share | None


class Gravity(Head, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Dealer Gravity of the front plane at the last minute's close; its history is never repainted."""

    BECAUSE: ClassVar = ("best", "reason")

    model: Literal["gravity"]
    reason: str | None
    minute_ts: EpochSeconds
    best: Points | None
    high: Annotated[Points, Meta(description="84 % quantile of the field")] | None
    low: Annotated[Points, Meta(description="16 % quantile of the field")] | None
    confidence: Share | None
    confidence_parts: ConfidenceParts | None
    mass: Annotated[float, Meta(ge=0, description="sum of the pin density, near 1 where all legs quote")] | None
    inputs: GravityInputs


# --- the stream

Mid2 = Annotated[list[Int32 | None], _unit("half-cents", "twice the mid in cents; null: no price")]
Cents = Annotated[list[Int32 | None], _unit("cents", "null: no price")]
CellFlags = Annotated[list[Flags], Meta(description="bits of models.md 1")]
Label = tuple[Literal["butterfly", "vertical", "single"], Literal["call", "put"], float, float]


class ResetPlane(Strict, frozen=True, forbid_unknown_fields=True):
    """Geometry and all cells of one plane."""

    id: PlaneId
    version: Version
    root: str
    expiration: Date
    dte: int
    strikes: list[Points]
    cells: Annotated[list[Label], Meta(description="[strategy, side, strike, width] of every cell, in plan order")]
    mid2: Mid2
    buy: Cents
    sell: Cents
    flags: CellFlags


class ResetData(Strict, frozen=True, forbid_unknown_fields=True):
    """Everything anew: the geometry of an epoch and all its cells."""

    epoch: str
    reason: Literal["promoted", "lost", "joined"]
    complete_to: EpochSeconds | None
    widths: list[Points]
    planes: list[ResetPlane]


class DiffData(Strict, frozen=True, forbid_unknown_fields=True, rename={"from_version": "from", "to_version": "to"}):
    """Cells of one plane that changed between two versions."""

    epoch: str
    plane: PlaneId
    from_version: Version
    to_version: Version
    complete_to: EpochSeconds | None
    cells: Annotated[list[int], Meta(description="the first cell number, then the gaps")]
    mid2: Mid2
    buy: Cents
    sell: Cents
    flags: CellFlags
    crc: Annotated[int, Meta(description="CRC-32 of the plane's arrays after it")] | None = None


class TickData(Strict, frozen=True, forbid_unknown_fields=True):
    """A moment: what every plane had reached, so that a lost diff of a quiet plane is noticed."""

    epoch: str
    tick: Count
    complete_to: EpochSeconds | None
    versions: dict[str, Version]


# name of the schema -> its message
MESSAGES: dict[str, type[Strict]] = {
    "heatmap": Heatmap,
    "gex": Gex,
    "gex_side": GexSide,
    "liquidity": Liquidity,
    "mode": Mode,
    "gravity": Gravity,
    "reset": ResetData,
    "diff": DiffData,
    "tick": TickData,
}
