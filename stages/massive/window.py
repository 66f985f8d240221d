"""Which strikes to fetch: a window per expiration that follows the spot without twitching. Pure.

*wanted* is spot +- sigma_mult * sigma * sqrt(T) * spot; *kept* is what is fetched: 1.5 times the wanted half width,
snapped outwards to listed strikes. Kept windows change only when the wanted one leaves them, and within a session
(a New York date) they only grow: drift and noise in sigma must not change the geometry, since that promotes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import Literal, TypeAlias
from zlib import crc32

import msgspec

from contracts.geometry import Listing
from contracts.snapshot import ChainRow
from contracts.symbology import new_york_date
from stages.massive.rows import last_settlement_ts

Range: TypeAlias = tuple[float, float]  # lowest and highest strike, points or dollars

KEPT_FACTOR = 1.5
YEAR_S = 365.0 * 86_400.0
SHORTEST_S = 60.0
NARROWEST = 0.01  # of the spot: in its last minutes an expiration still shows a surface, not a strike or two

LOWEST_SIGMA, HIGHEST_SIGMA = 0.01, 5.0  # outside: a solver's sentinel, not a volatility

_Windows = msgspec.json.Decoder(dict[str, Range])
_Sigmas = msgspec.json.Decoder(dict[str, float])


@dataclass(frozen=True, slots=True)
class WindowSettings:
    """`sigma_mult` as MASSIVE_CHAIN_SIGMA; `points`: half width instead, "all": no window.

    `unknown_sigma`: per square root of a year, until an expiration tells its own.
    """

    sigma_mult: float = 2.0
    points: float | Literal["all"] | None = None
    unknown_sigma: float = 0.20

    @property
    def unlimited(self) -> bool:
        """The whole chain is fetched."""
        return self.points == "all"


@dataclass(frozen=True, slots=True)
class Windows:
    """What a symbol's job remembers: the session, and per expiration the latched sigma and the kept window."""

    session: str = ""  # New York date
    sigma: Mapping[str, float] = field(default_factory=dict)
    kept: Mapping[str, Range] = field(default_factory=dict)


def encode_windows(windows: Windows) -> dict[str, bytes | str]:
    """The fields of the job HASH that hold them."""
    return {
        "session": windows.session,
        "sigma": msgspec.json.encode(windows.sigma),
        "windows": msgspec.json.encode(windows.kept),
    }


def decode_windows(fields: Mapping[bytes, bytes]) -> Windows:
    """Read them back. What cannot be read is forgotten: that costs one re-centring, never a fetch."""
    try:
        sigma = _Sigmas.decode(fields.get(b"sigma") or b"{}")
        kept = _Windows.decode(fields.get(b"windows") or b"{}")
    except msgspec.DecodeError:  # also ValidationError
        return Windows()
    return Windows(fields.get(b"session", b"").decode("utf-8", "replace"), sigma, kept)


def in_session(windows: Windows, market_ts: float) -> Windows:
    """These windows if they belong to the session of `market_ts` (epoch seconds), else none: each starts afresh."""
    session = new_york_date(market_ts).isoformat()
    return windows if windows.session == session else Windows(session)


def latched(windows: Windows, sigma: Mapping[str, float]) -> Windows:
    """With newer at-the-money volatilities (per square root of a year, by expiration); a latch only widens."""
    wider = {expiration: max(value, windows.sigma.get(expiration, 0.0)) for expiration, value in sigma.items()}
    return replace(windows, sigma={**windows.sigma, **wider})


def plan_windows(
    previous: Windows,
    symbol: str,
    expirations: Iterable[str],
    spot: float,
    market_ts: float,
    settings: WindowSettings,
) -> Windows:
    """The windows to fetch now. A kept window that still holds the wanted one stays as it is, to the last bit."""
    windows = in_session(previous, market_ts)
    kept = dict(windows.kept)
    for expiration in expirations:
        sigma = windows.sigma.get(expiration, settings.unknown_sigma)
        half = half_width(symbol, expiration, spot, market_ts, sigma, settings)
        now = kept.get(expiration)
        if now is None or spot - half < now[0] or spot + half > now[1]:
            kept[expiration] = _joined(now, (max(0.0, spot - KEPT_FACTOR * half), spot + KEPT_FACTOR * half))
    return replace(windows, kept=kept)


def half_width(
    symbol: str, expiration: str, spot: float, market_ts: float, sigma: float, settings: WindowSettings
) -> float:
    """Half of the wanted window, in points or dollars: at least NARROWEST of the spot, at most all of it."""
    if isinstance(settings.points, int | float):
        return min(float(settings.points), spot)
    years = max(last_settlement_ts(symbol, expiration) - market_ts, SHORTEST_S) / YEAR_S
    return min(max(settings.sigma_mult * sigma * sqrt(years), NARROWEST), 1.0) * spot


def snapped(windows: Windows, expiration: str, low: float | None, high: float | None) -> Windows:
    """With a kept window widened to listed strikes below and above it; None: nothing is listed further out."""
    before = windows.kept[expiration]
    outer = (before[0] if low is None else low, before[1] if high is None else high)
    return replace(windows, kept={**windows.kept, expiration: _joined(before, outer)})


def at_the_money_sigma(rows: Iterable[ChainRow], spot: float) -> float | None:
    """The volatility nearest the money: the mean of call and put at the eligible strike next to the spot."""
    usable = [row for row in rows if row.eligible == 1 and row.iv is not None and LOWEST_SIGMA < row.iv < HIGHEST_SIGMA]
    if not usable:
        return None
    strike = min((row.strike for row in usable), key=lambda one: (abs(one - spot), one))
    found = [row.iv for row in usable if row.strike == strike and row.iv is not None]
    return sum(found) / len(found)


def nearest_first(listings: Iterable[Listing], spot: float | None, limit: int) -> list[str]:
    """The tickers to subscribe: eligible contracts by distance of their strike from the spot, `limit` of them.

    Ties go to the earlier expiration. Without a spot the earliest expirations come first.
    """
    eligible = (listing for listing in listings if not listing.eligible)
    order = sorted(
        eligible,
        key=lambda one: (0.0 if spot is None else abs(one.strike_milli / 1000 - spot), one.expiration, one.cid),
    )
    return [listing.cid for listing in order[:limit]]


def steady_selection(ranked: Sequence[str], held: Collection[str], limit: int, border: int) -> list[str]:
    """The tickers one connection carries: the `limit` most wanted, but none at the border changes for little.

    `ranked`: most wanted first. What is held stays while its rank is below limit + border; what is not held enters
    with a rank below limit - border, or where there is room.
    """
    border = min(border, limit)
    core = ranked[: limit - border]
    edge = ranked[limit - border : limit + border]
    staying = [ticker for ticker in edge if ticker in held]
    entering = [ticker for ticker in edge if ticker not in held]
    chosen = {*core, *[*staying, *entering][: limit - len(core)]}
    return [ticker for ticker in ranked[: limit + border] if ticker in chosen]


def shard_of(ticker: str, shards: int) -> int:
    """Which of so many connections carries a contract: the same one for as long as their number is the same."""
    return crc32(ticker.encode()) % shards


def _joined(before: Range | None, now: Range) -> Range:
    return now if before is None else (min(before[0], now[0]), max(before[1], now[1]))
