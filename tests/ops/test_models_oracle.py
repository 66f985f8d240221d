"""Flip, profile, expected move and pin mass of whole chains, against a re-pricing that shares nothing with the program.

The oracle starts from bids, asks and open interest alone: forward by parity, volatility of the out-of-the-money mid
and gamma by QuantLib, one contract at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import QuantLib

from contracts.geometry import Plane
from contracts.planes import Array
from contracts.settings import load_settings
from contracts.symbology import CALL
from ops.chain_board import ChainBoard, make_board
from ops.chain_file import ChainFile, ChainFileContract, read_chain_file
from ops.mock.market import Market
from ops.sample_chain import FILE as SHIPPED
from stages.models.gravity import gravity_inputs, pin_density
from stages.models.liquidity import view_of
from stages.models.session import SessionProfile

CHAINS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "chains"
RECORDED = (
    "spx_2026-07-12_optionsdesk.json",
    "ndx_gflows.csv",
    "rut_2023-09-20_delayed_quotes.json",
    "spy_2025-09-25_2105EDT.csv",
)
RATE = load_settings({}).massive_rate


@cache
def board_of(file: Path) -> ChainBoard:
    if not file.exists():
        pytest.skip(f"the recorded chain {file.name} is not on this machine")
    return make_board(read_chain_file(file), load_settings({}), "own")


@cache
def gex_of(file: Path) -> dict[str, Any]:
    return board_of(file).models().by_name["gex"]


def spot_of(file: Path) -> float:
    spot = board_of(file).moment.spot
    assert spot is not None
    return spot


# --- the oracle


@dataclass(frozen=True)
class Priced:
    """A contract as its market prices it: enough to price its gamma anywhere."""

    plane: str
    side: int
    strike: float
    weight: float  # sign times contracts times multiplier
    forward: float
    discount: float
    deviation: float  # sigma sqrt(T)

    def gex(self, spot: float, at: float) -> float:
        """Its gamma exposure at another spot, US dollars per 1 % move."""
        payoff = QuantLib.PlainVanillaPayoff(self.side, self.strike)
        moved = QuantLib.BlackCalculator(payoff, self.forward * at / spot, self.deviation, self.discount)
        return float(self.weight * moved.gamma(at) * at * at * 0.01)


def priced_plane(plane: Plane, quotes: Array, interest: Any, spot: float, ts: float) -> Iterator[Priced]:
    """The contracts of a live plane that have open interest and a volatility of their own."""
    minutes = (plane.settlement_ts - ts) / 60
    if minutes <= 0:
        return
    years = max(minutes, 1.0) / 525_600
    discount = math.exp(-RATE * years)
    mids: dict[tuple[bool, float], float] = {}
    for n, row in enumerate(plane.rows):
        bid, ask = int(quotes["quote"]["bid"][n]), int(quotes["quote"]["ask"][n])
        if 0 < bid <= ask and row.eligible != "adjusted":
            mids[row.type == CALL, row.strike_milli / 1000] = (bid + ask) / 200
    implied = {
        strike: strike + (mids[True, strike] - mids[False, strike]) / discount
        for is_call, strike in mids
        if is_call and (False, strike) in mids
    }
    near = [forward for strike, forward in implied.items() if abs(strike - spot) <= 0.005 * spot]
    if len(near) < 3:
        least = sorted(implied, key=lambda one: (abs(mids[True, one] - mids[False, one]), abs(one - spot)))[:1]
        near = [implied[one] for one in least] or [spot / discount]
    forward = median(near)
    for n, row in enumerate(plane.rows):
        strike = row.strike_milli / 1000
        mid, contracts = mids.get((strike >= forward, strike)), float(interest[n])
        if mid is None or row.eligible or not contracts > 0:
            continue
        side = QuantLib.Option.Call if strike >= forward else QuantLib.Option.Put
        try:
            deviation = QuantLib.blackFormulaImpliedStdDev(side, strike, forward, mid, discount, 0.0, 0.1, 1e-12, 1000)
        except RuntimeError:
            continue  # a price outside its bounds has no volatility
        if deviation > 0:
            sign = 1 if row.type == CALL else -1
            yield Priced(plane.id, side, strike, sign * contracts * row.multiplier, forward, discount, deviation)


@cache
def priced(file: Path) -> tuple[Priced, ...]:
    board = board_of(file)
    return tuple(
        one
        for plane, cut in zip(board.compiled.geometry.planes, board.cuts, strict=True)
        for one in priced_plane(plane, cut.quotes, cut.chain["interest"]["oi"], spot_of(file), board.moment.ts)
    )


def net_at(contracts: list[Priced], spot: float, at: float) -> float:
    return sum(one.gex(spot, at) for one in contracts)


def check_flip(flip: dict[str, Any], contracts: list[Priced], spot: float) -> None:
    """The oracle changes sign between the same two spots of the grid, and there its line is zero at the flip."""
    left = math.floor((flip["value"] / spot - 0.9) / 0.0005 + 1e-9)
    below, above = (spot * (0.9 + 0.0005 * n) for n in (left, left + 1))
    u, v = net_at(contracts, spot, below), net_at(contracts, spot, above)
    assert (u > 0) != (v > 0)
    assert flip["value"] == pytest.approx(below + (above - below) * u / (u - v), abs=0.05)


# --- flip and profile

FILES = (SHIPPED, *(CHAINS / name for name in RECORDED))
each_file = pytest.mark.parametrize("file", FILES, ids=[file.name for file in FILES])


@each_file
def test_the_flip_is_that_of_an_independent_repricing(file: Path) -> None:
    flip = gex_of(file)["levels"]["flip"]
    assert flip["status"] == "ok"
    check_flip(flip, list(priced(file)), spot_of(file))


@each_file
def test_the_flip_of_the_front_plane_is_too_where_enough_of_it_is_quoted(file: Path) -> None:
    gex = gex_of(file)
    flip, contracts = gex["levels"]["flip_front"], [one for one in priced(file) if one.plane == gex["front"]]
    assert flip["status"] == ("ok" if flip["oi_share"] >= 0.8 else "insufficient_iv")
    if flip["status"] == "ok":
        check_flip(flip, contracts, spot_of(file))


@each_file
def test_the_share_of_open_interest_behind_the_flip_is_the_oracles(file: Path) -> None:
    board = board_of(file)
    known = sum(abs(one.weight) for one in priced(file)) / 100
    everything = sum(
        float(interest)
        for plane, cut in zip(board.compiled.geometry.planes, board.cuts, strict=True)
        for row, interest in zip(plane.rows, cut.chain["interest"]["oi"], strict=True)
        if not row.eligible and interest > 0
    )
    assert gex_of(file)["levels"]["flip"]["oi_share"] == pytest.approx(known / everything, abs=1e-9)


@each_file
def test_the_profile_is_that_of_an_independent_repricing(file: Path) -> None:
    spot, profile = spot_of(file), gex_of(file)["profile"]
    contracts = list(priced(file))
    largest = max(abs(net) for net in profile["net"])
    for n in range(0, 401, 40):
        assert profile["net"][n] == pytest.approx(net_at(contracts, spot, profile["spots"][n]), abs=1e-6 * largest)


@each_file
def test_the_flip_lies_between_neighbours_of_the_published_profile(file: Path) -> None:
    gex = gex_of(file)
    points = list(zip(gex["profile"]["spots"], gex["profile"]["net"], strict=True))
    changes = [a + (b - a) * u / (u - v) for (a, u), (b, v) in pairwise(points) if u * v < 0]
    assert gex["levels"]["flip"]["crossings"] == pytest.approx(changes, rel=1e-9)


# --- pin mass of the synthetic market


def quoted_both_sides(seed: int) -> ChainFile:
    """The synthetic SPX market, a cent around fair value: no bid is ever 0, so every leg quotes both sides."""
    market = Market.synthetic(("SPX",), seed)
    contracts = []
    for contract, fair in zip(market.listing.contracts, market.valuation.price.tolist(), strict=True):
        bid = max(round(fair - 0.01, 2), 0.01)
        told: dict[str, Any] = dict.fromkeys(field.name for field in fields(ChainFileContract))
        told |= {name: getattr(contract, name) for name in ("cid", "root", "expiration", "type", "strike_milli")}
        contracts.append(ChainFileContract(**(told | {"bid": bid, "ask": round(bid + 0.02, 2), "oi": 100})))
    return ChainFile(SHIPPED, "SPX", market.spot("SPX"), market.start_ts, tuple(contracts))


def pin_masses(board: ChainBoard) -> dict[str, float]:
    """The mass of each plane whose flies of legs within 4 sigma all have a price, computed as for the front plane."""
    gex = board.models().by_name["gex"]
    masses = {}
    for plane, cut in zip(board.compiled.geometry.planes, board.cuts, strict=True):
        # as many calls as puts everywhere: without this there would be no net to pull anywhere, hence no inputs
        view = replace(view_of({**gex, "front": plane.id}), reason=None, net=np.ones(1), strikes=np.ones(1))
        plan = board.compiled.plans[plane.id]
        inputs = gravity_inputs(view, plane, plan, cut, RATE, SessionProfile(), board.moment.ts)
        reach = 4 * inputs["sigma"] - inputs["width"]
        within = [
            mid
            for strike, mid in zip(inputs["strikes"], inputs["mid"], strict=True)
            if abs(strike - inputs["forward"]) <= reach
        ]
        if None not in within:
            masses[plane.id] = float(pin_density(inputs).sum())
    return masses


def test_pin_mass_is_near_one_where_legs_within_four_sigma_quote_both_sides() -> None:
    masses = [
        mass
        for seed in (3, 4, 5, 8)
        for mass in pin_masses(make_board(quoted_both_sides(seed), load_settings({}), "own", all_strikes=True)).values()
    ]
    assert len(masses) >= 3
    assert masses == pytest.approx([1.0] * len(masses), abs=0.02)
