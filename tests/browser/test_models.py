"""The models beside the heatmap: what they say, and why when they have nothing to say."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from tests.browser.conftest import Screen
from tests.ops.pipeline import EXPIRATION

PLANE = f"SPXW:{EXPIRATION}"
HISTORY = "**/api/models/SPX/gravity/history*"
SPOTS = [6500.0, 6700.0, 6900.0, 7100.0, 7300.0]
FLIP = {"value": 6880.5, "status": "ok", "method": "zero of the profile", "crossings": [6880.5, 7210.0]}
LIQUIDITY = {"bias": -26.4, "lfi": 31.0, "quadrant": "Downside Acceleration", "trail": [[1, -20, 30], [31, -25, 30]]}
GRAVITY = {"ts": 1771513260.0, "minute_ts": 1771513200, "best": 6905, "low": 6890, "high": 6920, "confidence": 0.61}


@pytest.fixture
async def shown(screen: Screen) -> Screen:
    """A page that hears only the test."""
    await screen.page.route(HISTORY, lambda route: route.fulfill(json={"history": [GRAVITY]}))
    await screen.opened()
    await screen.tell("page.feed.source.close()")
    return screen


async def hear_gex(screen: Screen, **changed: Any) -> None:
    """The newest gamma model again, with changes."""
    gex = await screen.tell("page.feed.latest.gex")
    stripped = {name: value for name, value in gex.items() if name not in ("seq", "generation")}
    await screen.hear("gex", {**stripped, "ts": gex["ts"] + 1, **changed})


async def test_the_profile_names_every_crossing(shown: Screen) -> None:
    profile = {"spots": SPOTS, "net": [1e9, 2e9, -1e9, -2e9, 1e9], "status": "ok", "front": {"net": None}}
    await hear_gex(shown, profile=profile, levels={"flip": FLIP}, spot=6900.0)
    assert await shown.text("#profile-note") == "crosses zero at 6880.50, 7210"
    assert await shown.tell("page.panels.profile.crossings") == [6880.5, 7210]
    assert "crossings: 6880.50, 7210" in await shown.text("#levels")


async def test_levels_are_lines_with_names_that_do_not_cover_each_other(shown: Screen) -> None:
    wall = {"value": 6900, "status": "ok", "method": "m"}
    levels = {"flip": {**FLIP, "value": 6900}, "call_wall": wall, "put_wall": wall, "magnet": wall}
    await hear_gex(shown, levels=levels, spot=6900.0)
    labels = await shown.tell("page.exposures.marks.map((mark) => mark.label)")
    assert {"gamma flip 6900", "call wall 6900", "put wall 6900", "magnet 6900", "spot 6900"} <= set(labels)
    places = await shown.tell(
        "import('/page/labels.js').then(({ spread }) => spread([50, 50, 50, 50, 50], 13, 7, 600))"
    )
    assert [round(b - a) for a, b in pairwise(places)] == [13] * 4
    squeezed = await shown.tell("import('/page/labels.js').then(({ spread }) => spread([598, 599], 13, 7, 600))")
    assert squeezed == [587, 600]


async def test_the_expected_move_is_a_band_around_the_forward(shown: Screen) -> None:
    planes = {PLANE: {"forward": 6900.0, "forward_source": "parity", "em_1sigma": 35.0, "coherence": 0.5}}
    await hear_gex(shown, planes=planes)
    assert await shown.tell("page.heatmap.band") == [6865, 6935]
    assert "±35" in await shown.text("#levels")
    await shown.until("document.getElementById('epoch-facts').textContent.includes('coherence 0.50 pt')")


async def test_gamma_of_one_expiration_comes_from_the_gateway(shown: Screen) -> None:
    answers = {"calls": {"6900": 5.0, "6905": 1.0}, "puts": {"6900": -7.0}}

    async def answer(route: Any) -> None:
        side = route.request.url.rpartition("=")[2]
        await route.fulfill(json={"expirations": {EXPIRATION: answers[side]}})

    await shown.page.route("**/api/models/SPX/gex?side=*", answer)
    await shown.page.select_option("#exposure-mode", EXPIRATION)
    await shown.until("page.exposures.byStrike.size === 2")
    assert await shown.tell("page.exposures.byStrike.get(6900)") == [5, -7]
    assert await shown.tell("page.exposures.byStrike.get(6905)") == [1, 0]


async def test_derived_models_are_told_in_words(shown: Screen) -> None:
    await shown.hear("liquidity", LIQUIDITY)
    await shown.hear("mode", {"score": 46.0, "mode": "transition"})
    await shown.hear("gravity", GRAVITY)
    assert await shown.text("#liquidity-note") == "Downside Acceleration · bias -26, lfi 31"
    assert await shown.text("#mode-note") == "transition · 46"
    marks = await shown.tell("['intent', 'mode'].map((id) => document.getElementById(id).getAttribute('d'))")
    assert marks == ["M-26.4,-31h0", "M46,0v1"]
    assert await shown.page.get_attribute("#trail", "points") == "-20,-30 -25,-30"
    assert await shown.text("#gravity-note") == "6905 (6890\u20136920), conf. 0.61"


async def test_the_line_of_gravity_begins_with_its_history(shown: Screen) -> None:
    await shown.hear("gravity", GRAVITY)
    await shown.until("page.panels.gravity.columns[2][0] === 6905")
    assert await shown.tell("page.panels.gravity.columns[0][0]") == GRAVITY["ts"]


async def test_models_that_know_nothing_say_why(shown: Screen) -> None:
    await shown.hear("liquidity", {"bias": None, "reason": "no_volatility", "trail": []})
    await shown.hear("mode", {"score": None, "reason": "no_front_plane"})
    await shown.hear("gravity", {**GRAVITY, "best": None, "reason": "fewer_than_8_strikes"})
    nothing: dict[str, Any] = {"value": None, "status": "insufficient_iv", "method": "m", "crossings": []}
    await hear_gex(shown, profile={"spots": None, "net": None, "status": "insufficient_iv"}, levels={"flip": nothing})
    assert await shown.text("#liquidity-note") == "no volatility at the forward"
    assert await shown.text("#mode-note") == "no front plane"
    assert await shown.page.get_attribute("#mode", "d") == ""
    assert await shown.text("#gravity-note") == "fewer than 8 strikes with a density"
    assert await shown.text("#profile-note") == "too few own volatilities"
    assert "too few own volatilities" in await shown.text("#levels")


async def test_health_is_told_in_words(shown: Screen) -> None:
    await shown.hear("health", {"status": "degraded", "reasons": ["conflating"], "signals": {"lag_s": 6.5}})
    assert await shown.text("#health") == "degraded · conflating"
    assert await shown.page.get_attribute("#health", "title") == "degraded\nconflating\nlag s: 6.5"
