"""What markets and providers leave out: null with a reason and a count in every model, never 0, NaN or an error."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from contracts.analytics import AnalyticsCut, Moment
from contracts.compiled import compiled_epoch
from contracts.geometry import Listing, build_geometry
from contracts.keys import Keys
from contracts.planes import UNKNOWN, Array
from contracts.symbology import settlement_ts
from stages.models.build import Memory, build_documents, build_models
from stages.models.gex import gex_model
from stages.models.gravity import gravity_inputs, gravity_model
from stages.models.heatmap import heatmap_model
from stages.models.liquidity import liquidity_model, view_of
from stages.models.mode import mode_model
from tests.stages.boards import both_sides, cut_of, moment_of
from tests.stages.surfaces import Market, priced_cut

STRIKES = tuple(range(6850, 6955, 5))
EXPIRATION = "2026-01-16"
FRONT = f"SPXW:{EXPIRATION}"
SETTLED = settlement_ts("SPXW", EXPIRATION)
NOON = SETTLED - 4 * 3600
WIDTHS = (5.0, 10.0)

Change = Callable[[Array, Array], None]


def nothing(quotes: Array, chain: Array) -> None:
    """As it should be."""


def set_quotes(bid: int | None, ask: int | None, every: int = 1) -> Change:
    """Bid and ask in cents of every so-manieth contract; None leaves it."""

    def change(quotes: Array, chain: Array) -> None:
        for name, cents in (("bid", bid), ("ask", ask)):
            if cents is not None:
                quotes["quote"][name][::every] = cents

    return change


def set_interest(contracts: float) -> Change:
    def change(quotes: Array, chain: Array) -> None:
        chain["interest"]["oi"] = contracts

    return change


@dataclass(frozen=True)
class Case:
    """A board with something missing, and what the models must say."""

    change: Change = nothing
    ts: float = NOON
    spot: float | None = 6900.0
    strikes: tuple[int, ...] = STRIKES
    eligible: str = ""
    has_cut: bool = True
    gex: str | None = None  # reasons
    flip: str = "ok"
    derived: str | None = None
    gravity: str | None = None
    max_pain: str = "ok"
    dropped: dict[str, int] = field(default_factory=dict)


ALL = 2 * len(STRIKES)
CASES = {
    "nothing is missing": Case(),
    "no quotes at all": Case(
        set_quotes(UNKNOWN, UNKNOWN), gex="no_exposures", flip="insufficient_iv", derived="no_volatility",
        dropped={"no_iv": ALL},
    ),
    "one-sided books: no asks": Case(
        set_quotes(None, UNKNOWN), gex="no_exposures", flip="insufficient_iv", derived="no_volatility",
        dropped={"no_iv": ALL},
    ),
    "one-sided books: bids of zero": Case(
        set_quotes(0, None), gex="no_exposures", flip="insufficient_iv", derived="no_volatility",
        dropped={"no_iv": ALL},
    ),
    "crossed quotes": Case(
        set_quotes(9_000_00, None), gex="no_exposures", flip="insufficient_iv", derived="no_volatility",
        dropped={"no_iv": ALL},
    ),
    "zero quotes": Case(
        set_quotes(0, 0), gex="no_exposures", flip="insufficient_iv", derived="no_volatility",
        dropped={"no_iv": ALL},
    ),
    "unknown open interest": Case(
        set_interest(np.nan), gex="no_exposures", flip="no_open_interest", derived="no_exposures",
        max_pain="no_open_interest", dropped={"no_oi": ALL},
    ),
    "open interest of zero": Case(
        set_interest(0.0), flip="no_open_interest", derived="no_exposures", max_pain="no_open_interest",
    ),
    "no planes": Case(
        strikes=(), gex="no_exposures", flip="no_open_interest", derived="no_front_plane", max_pain="no_front_plane",
    ),
    "a plane of adjusted contracts only": Case(
        eligible="adjusted", gex="no_exposures", flip="no_open_interest", derived="no_front_plane",
        max_pain="no_front_plane", dropped={"adjusted": ALL},
    ),
    "a single strike": Case(
        strikes=(6900,), flip="no_sign_change", derived="no_net_beside_spot", gravity="fewer_than_8_strikes",
    ),
    # strikes away from spot are worth nothing then: they quote no bid, and have no volatility
    "less than a minute left": Case(
        ts=SETTLED - 20, flip="insufficient_iv", derived="no_net_beside_spot", gravity="fewer_than_8_strikes",
        dropped={"no_iv": ALL - 2},
    ),
    "everything settled": Case(
        ts=SETTLED + 1, gex="no_exposures", flip="no_open_interest", derived="no_front_plane",
        max_pain="no_front_plane", dropped={"expired": ALL},
    ),
    "no spot": Case(spot=None, gex="no_spot", flip="no_spot", derived="no_spot", dropped={"no_iv": ALL}),
    "no cut of the plane": Case(
        has_cut=False, gex="no_exposures", flip="no_open_interest", derived="no_volatility", max_pain="not_computed",
    ),
}  # fmt: skip


def moment_at(case: Case) -> Moment:
    return replace(moment_of(case.spot), ts=case.ts)


def board_of(case: Case) -> tuple[bytes, Moment, list[AnalyticsCut]]:
    """The listing, the tick, and the cuts that calculate's tick makes of the changed rows."""
    rows = [replace_eligible(row, case.eligible) for row in both_sides(case.strikes)]
    geometry = build_geometry("SPX", rows, WIDTHS)
    cuts = []
    for plane in geometry.planes:
        market = Market(spot=6900.0, sigma=lambda strike: 0.15, interest=interest, moment=moment_at(Case(ts=case.ts)))
        priced = priced_cut(plane, market, WIDTHS)
        quotes, chain = priced.quotes.copy(), priced.chain.copy()
        case.change(quotes, chain)
        cuts.append(cut_of(plane, WIDTHS, quotes, chain, moment_at(case), "auto"))
    return geometry.encode(), moment_at(case), cuts


def interest(side: str, strike: float) -> float:
    """Calls above 6900, puts below."""
    return 900.0 if (side == "call") == (strike >= 6900) else 100.0


def replace_eligible(row: Listing, why: str) -> Listing:
    return Listing(
        row.root, row.expiration, row.strike_milli, row.type, row.cid, row.settlement, row.exercise, 100, why
    )


def models_of(case: Case, memory: Memory | None = None) -> dict[str, Any]:
    listing, moment, cuts = board_of(case)
    if case.has_cut:
        return build_models(listing, moment, cuts, 0.04, memory or Memory()).by_name
    return without_cuts(listing, moment)


def without_cuts(listing: bytes, moment: Moment) -> dict[str, Any]:
    """What the models say of planes that have no cut."""
    compiled = compiled_epoch(moment.epoch, listing)
    gex = gex_model(moment, compiled.geometry, {}, 0.04)
    view = view_of(gex)
    liquidity = liquidity_model(moment, view, ())
    (front,) = compiled.geometry.planes
    inputs = gravity_inputs(view, front, compiled.plans[front.id], None, 0.04, Memory().session, moment.ts)
    return {
        "heatmap": heatmap_model(moment, compiled.geometry, compiled.plans, {}),
        "gex": gex,
        "liquidity": liquidity,
        "mode": mode_model(moment, view, gex, liquidity),
        "gravity": gravity_model(moment, inputs),
    }


def leaves(value: Any) -> Iterator[Any]:
    """Every number, string and null of a message."""
    if isinstance(value, dict):
        for part in value.values():
            yield from leaves(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from leaves(part)
    else:
        yield value


each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@each_case
def test_no_number_is_ever_not_a_number(case: Case) -> None:
    # the encoder would print null for NaN without a word: it must not be there in the first place
    for model in models_of(case).values():
        json.dumps(model, allow_nan=False)
        assert all(isinstance(leaf, (str, int, float, type(None))) for leaf in leaves(model))


@each_case
def test_gamma_exposure_is_null_with_its_reason(case: Case) -> None:
    gex = models_of(case)["gex"]
    assert gex["reason"] == case.gex
    for name in ("net", "calls", "puts", "abs"):
        assert (gex[name] is None) == (case.gex is not None), name
    assert (gex["by_strike"] == []) == (case.gex is not None)
    for name in ("delta", "vanna", "charm_15m"):
        assert (gex["exposures"][name] is None) == (case.gex is not None), name


@each_case
def test_levels_are_null_with_their_status(case: Case) -> None:
    levels = models_of(case)["gex"]["levels"]
    assert levels["flip"]["status"] == case.flip
    assert levels["max_pain"]["status"] == case.max_pain
    for name, level in levels.items():
        assert (level["value"] is None) == (level["status"] != "ok"), name


@each_case
def test_what_was_left_out_is_counted(case: Case) -> None:
    dropped = models_of(case)["gex"]["dropped"]
    assert {reason: count for reason, count in dropped.items() if count} == case.dropped


@each_case
def test_derived_models_are_null_with_the_same_reason(case: Case) -> None:
    models = models_of(case)
    for name, value in (("liquidity", "bias"), ("mode", "score")):
        assert models[name]["reason"] == case.derived, name
        assert (models[name][value] is None) == (case.derived is not None), name


@each_case
def test_gravity_is_null_with_a_reason(case: Case) -> None:
    gravity = models_of(case)["gravity"]
    expected = case.gravity or (case.derived if case.derived != "no_net_beside_spot" else None)
    assert gravity["reason"] == expected
    for name in ("best", "low", "high", "confidence"):
        assert (gravity[name] is None) == (expected is not None), name


@each_case
def test_the_heatmap_has_no_price_without_a_market(case: Case) -> None:
    planes = models_of(case)["heatmap"]["planes"]
    for plane in planes.values():
        mids = [] if "single" not in plane else list(leaves([plane["single"][side]["mid"] for side in ("call", "put")]))
        assert all(mid is None or mid > 0 for mid in mids)
        assert (plane.get("reason") == "not_computed") == (not case.has_cut)


@each_case
def test_planes_say_why_they_have_no_expected_move(case: Case) -> None:
    for plane in models_of(case)["gex"]["planes"].values():
        known = [plane.get(name) for name in ("em_1sigma", "straddle", "sigma_forward")]
        assert (plane["reason"] is None) == all(value is not None for value in known)


@each_case
def test_what_is_encoded_is_what_was_built(case: Case) -> None:
    if not case.has_cut:
        return
    listing, moment, cuts = board_of(case)
    documents = build_documents(Keys(), listing, moment, cuts, 0.04, Memory())
    for name, model in models_of(case).items():
        assert json.loads(documents.by_key[Keys().model(name, "SPX")]) == json.loads(json.dumps(model))


def test_one_side_of_a_strike_that_is_missing_is_null_there_and_counted() -> None:
    def no_market_at_6900(quotes: Array, chain: Array) -> None:
        at = 2 * STRIKES.index(6900)
        chain["interest"]["oi"][at] = np.nan  # of the call

    gex = models_of(Case(no_market_at_6900))["gex"]
    (row,) = [row for row in gex["by_strike"] if row[0] == 6900]
    assert row[1] is None
    assert row[2] < 0
    assert gex["dropped"]["no_oi"] == 1
