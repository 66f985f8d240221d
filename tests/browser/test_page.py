"""The page as a person meets it, in a real browser: what is painted, what happens to it, and that it never lies."""

from __future__ import annotations

import json
from typing import Any

import pytest

from contracts.keys import Layer
from contracts.planes import TILE_FIELDS, UNKNOWN, decode_tiles
from tests.browser.conftest import Screen
from tests.ops.pipeline import EXPIRATION, SPOT, STRIKES
from tests.waiting import wait_until_async

PLANE = f"SPXW:{EXPIRATION}"
STRIKE = STRIKES[20]

CELLS = """() => [...document.querySelectorAll("#table td[data-cell]")].map(
    (cell) => [Number(cell.dataset.cell.split(" ")[1]), cell.dataset.value, Number(cell.dataset.flags)])"""


async def mid_at(screen: Screen, strike: float = STRIKE) -> Any:
    """The mid of the call at a strike, as the page's book has it."""
    return await screen.tell(
        f"(() => {{ const plane = page.feed.book.planes.get('{PLANE}');"
        f" return plane.mid2[plane.find('single', 'call', {strike}, 0)]; }})()"
    )


async def test_the_first_paint_shows_heatmap_exposures_and_the_epoch(screen: Screen) -> None:
    screen.pipeline.spot(SPOT)
    await screen.pipeline.publish_tick()
    await screen.opened()
    await screen.until("page.spot === 6900")
    assert screen.pipeline.epoch() in await screen.text("#epoch-facts")
    await screen.pipeline.tick()  # five seconds after the last entry it would no longer be live
    await screen.until("document.getElementById('connection').textContent === 'live'")
    assert await screen.text("#spot") == "6900.00"
    await screen.until(
        "(() => { const c = document.getElementById('heatmap');"
        " const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; const seen = new Set();"
        " for (let i = 0; i < d.length; i += 388) seen.add(d[i] << 16 | d[i+1] << 8 | d[i+2]);"
        " return seen.size > 5; })()"
    )


async def test_a_quote_changes_its_cells_and_they_flash(screen: Screen) -> None:
    await screen.opened()
    await screen.tell("page.feed.addEventListener('diff', () => { window.flashing = page.heatmap.fading.size; })")
    screen.pipeline.quote(STRIKE, 8.0, 8.5)
    await screen.until("page.feed.book.diffs === 1")
    assert await mid_at(screen) == 1650
    assert await screen.tell("flashing") > 0
    await screen.until("page.heatmap.fading.size === 0")


async def test_a_promotion_in_mid_view_keeps_the_view(screen: Screen) -> None:
    await screen.opened()
    await screen.page.click("#strategies button[data-name=vertical]")
    before = screen.pipeline.epoch()
    colours = await screen.tell("[page.heatmap.scale.low, page.heatmap.scale.high]")
    await screen.tell("page.axis.zoom(2); page.axis.centreOn(6930)")
    screen.pipeline.chain([*STRIKES, 7005])
    await wait_until_async(lambda: screen.pipeline.epoch() != before, "the promotion")
    await screen.until(f"page.feed.book.epoch === '{screen.pipeline.epoch()}'")
    assert await screen.tell("page.sheet.strategy") == "vertical"
    assert await screen.tell("page.sheet.strikes.at(-1)") == 7005
    assert await screen.tell("[page.heatmap.scale.low, page.heatmap.scale.high]") == colours
    assert await screen.tell("page.axis.priceAt(page.axis.height / 2)") == pytest.approx(6930, abs=5)
    assert await screen.tell("page.feed.gaps") == 0
    await screen.until(f"document.getElementById('epoch-facts').textContent.includes('{screen.pipeline.epoch()}')")
    await screen.until("document.querySelectorAll('#timeline li').length === 2")


@pytest.mark.parametrize("strategy", ["butterfly", "vertical", "single"])
async def test_the_table_equals_what_is_published_cell_by_cell(screen: Screen, strategy: str) -> None:
    await screen.opened()
    await screen.page.click("#table-mode")
    await screen.page.click(f"#strategies button[data-name={strategy}]")
    for number, strike in enumerate(STRIKES[5:25]):
        screen.pipeline.quote(strike, 5.0 + number / 10, 5.3 + number / 10)
    await screen.pipeline.settle()
    await wait_until_async(lambda: _has_all(screen), "the page to have it")
    blob = screen.pipeline.client.get(screen.pipeline.keys.plane(screen.pipeline.epoch(), PLANE, Layer.PUBLISHED))
    cells = decode_tiles(blob).cells
    shown = await screen.tell(CELLS)
    assert len(shown) > 30
    for cell, value, flags in shown:
        mid2, *_ = (int(cells[row, cell]) for row in range(len(TILE_FIELDS)))
        assert (None if value == "" else round(float(value) * 200)) == (None if mid2 == UNKNOWN else mid2)
        assert flags == int(cells[TILE_FIELDS.index("flags"), cell])


async def _has_all(screen: Screen) -> bool:
    return bool(await screen.tell("page.feed.book.seq") == screen.pipeline.state("seq"))


async def test_keys_move_pin_and_unpin_a_tile(screen: Screen) -> None:
    await screen.opened()
    await screen.page.focus("#heatmap")
    await screen.page.keyboard.press("ArrowUp")
    await screen.page.keyboard.press("ArrowRight")
    label = await screen.page.get_attribute("#heatmap", "aria-label")
    assert label is not None and PLANE in label and "width" in label
    await screen.page.keyboard.press("Enter")
    assert "mid" in await screen.text("#tile pre")
    await screen.page.keyboard.press("Escape")
    assert await screen.page.is_hidden("#tile")
    await screen.page.keyboard.press("t")
    assert await screen.page.is_visible("#table")
    await screen.page.keyboard.press("t")
    assert await screen.page.is_visible("#heatmap")


async def test_the_order_line_of_a_pinned_tile_comes_from_the_gateway(screen: Screen) -> None:
    await screen.opened()
    await screen.page.focus("#heatmap")
    await screen.page.keyboard.press("ArrowUp")
    await screen.page.keyboard.press("Enter")
    await screen.page.click("#copy-order")
    await screen.until("document.querySelector('#tile output').value.includes('BUY +1 BUTTERFLY SPX 100')")


async def test_choices_are_remembered(screen: Screen) -> None:
    await screen.opened()
    await screen.page.click("#sides button[data-name=put]")
    await screen.page.select_option("#metrics", "r2r")
    theme = await screen.page.get_attribute("html", "data-theme")
    await screen.page.click("#theme")
    await screen.opened()
    assert await screen.tell("page.sheet.side") == "put" and await screen.tell("page.heatmap.metric") == "r2r"
    assert await screen.page.get_attribute("html", "data-theme") != theme


@pytest.mark.parametrize("theme", ["dark", "light"])
async def test_text_is_readable_in_both_themes(screen: Screen, theme: str) -> None:
    """Contrast of at least 4.5 : 1 between every colour of text and what it stands on (WCAG 2.2, 1.4.3)."""
    await screen.opened()
    if await screen.page.get_attribute("html", "data-theme") != theme:
        await screen.page.click("#theme")
    ratios: dict[str, float] = json.loads(await screen.tell(CONTRASTS))
    assert len(ratios) > 10
    assert {words: ratio for words, ratio in ratios.items() if ratio < 4.5} == {}


CONTRASTS = """(() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = {};
  for (const node of document.querySelectorAll("body *")) {
    const words = [...node.childNodes].filter((n) => n.nodeType === 3).map((n) => n.textContent.trim()).join("");
    if (!words || !node.offsetParent) continue;
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(ground(node))].sort((x, y) => y - x);
    found[node.tagName + " " + words.slice(0, 30)] = (a + 0.05) / (b + 0.05);
  }
  for (const [at, { fill, ink }] of page.heatmap.scale.steps.entries()) {
    const words = light(parse([1, 3, 5].map((n) => parseInt(ink.slice(n, n + 2), 16)).join(",")));
    const [a, b] = [words, light(parse(fill))].sort((x, y) => y - x);
    found["cell " + at] = (a + 0.05) / (b + 0.05);
  }
  return JSON.stringify(found);
})()"""


@pytest.mark.parametrize("theme", ["dark", "light"])
async def test_what_is_painted_is_readable_in_both_themes(screen: Screen, theme: str) -> None:
    """The same for every text on a canvas, against the pixels it is painted on."""
    await screen.page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
    await screen.page.add_init_script(MEASURE_TEXT)
    screen.pipeline.spot(SPOT)
    await screen.pipeline.publish_tick()
    await screen.opened()
    gex = await screen.tell("page.feed.latest.gex")
    planes = {PLANE: {**gex["planes"][PLANE], "forward": 6900.0, "em_1sigma": 35.0}}
    flip = {**gex["levels"]["flip"], "value": 6880.5}
    levels = {**gex["levels"], "flip": flip, "magnet": {**gex["levels"]["magnet"], "value": 6910}}
    await screen.hear("gravity", {"best": 6905, "low": 6890, "high": 6920, "confidence": 0.6})
    await screen.hear(
        "gex", {**gex, "seq": gex["seq"] + 1, "ts": gex["ts"] + 1, "spot": 6900.0, "planes": planes, "levels": levels}
    )
    await screen.until(
        "['gravity', 'flip', 'magnet', '\u03c3', 'spot', 'wall', '▸'].every("
        "(part) => [...measured.keys()].some((words) => words.includes(part)))"
    )
    ratios: dict[str, float] = dict(await screen.tell("[...measured]"))
    assert len(ratios) > 30
    assert {words: ratio for words, ratio in ratios.items() if ratio < 4.5} == {}
    screen.complaints.clear()  # a browser complains of pixels that are read back


MEASURE_TEXT = """(() => {
  window.measured = new Map(); // text -> the least contrast it was painted with
  const light = (rgb) => rgb.map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  const probe = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const channels = (style) => {
    probe.fillStyle = style;
    probe.fillRect(0, 0, 1, 1);
    return [...probe.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const paint = CanvasRenderingContext2D.prototype.fillText;
  const times = new Map(); // reading pixels back is slow: of the same text a few are enough
  CanvasRenderingContext2D.prototype.fillText = function (words, x, y, ...rest) {
    times.set(words, (times.get(words) ?? 0) + 1);
    if (times.get(words) > 3) return paint.call(this, words, x, y, ...rest);
    const { actualBoundingBoxLeft: left, actualBoundingBoxRight: right } = this.measureText(words);
    const { a, d, e, f } = this.getTransform();
    const { data } = this.getImageData(a * (x - left) + e, d * y + f - 4, Math.max(1, a * (left + right)), 8);
    const counts = new Map();
    for (let at = 0; at < data.length; at += 4) {
      const key = data[at + 3] < 128 ? "" : [data[at], data[at + 1], data[at + 2]].join();
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
    const [ground] = [...counts].sort((one, other) => other[1] - one[1])[0];
    const panel = getComputedStyle(document.documentElement).getPropertyValue("--panel");
    const [low, high] = [channels(this.fillStyle), ground ? ground.split(",").map(Number) : channels(panel)]
      .map(light).sort((one, other) => one - other);
    const ratio = (high + 0.05) / (low + 0.05);
    if (String(words).trim()) measured.set(String(words), Math.min(ratio, measured.get(String(words)) ?? Infinity));
    return paint.call(this, words, x, y, ...rest);
  };
})()"""


async def test_a_narrow_screen_needs_no_sideways_scrolling(screen: Screen) -> None:
    await screen.page.set_viewport_size({"width": 390, "height": 844})
    await screen.opened()
    assert await screen.tell("document.documentElement.scrollWidth") <= 390
    assert await screen.tell("page.heatmap.width") > 300


async def test_on_a_narrow_screen_prices_and_gamma_take_turns(screen: Screen) -> None:
    await screen.page.set_viewport_size({"width": 390, "height": 844})
    await screen.opened()
    assert await screen.page.is_hidden("#exposures")
    await screen.page.click("#turn")
    assert await screen.page.is_hidden("#heatmap") and await screen.page.is_visible("#exposures")
    assert await screen.tell("page.exposures.width") > 300


async def test_a_desk_needs_no_scrolling_for_prices_and_gamma(screen: Screen) -> None:
    await screen.opened()
    assert await screen.tell("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]") == [
        1280,
        900,
    ]
    boxes = [await screen.page.locator(f"#{name}").bounding_box() for name in ("heatmap", "exposures")]
    assert all(box and box["height"] > 500 and box["y"] + box["height"] <= 900 for box in boxes)


async def test_controls_are_on_one_line(screen: Screen) -> None:
    await screen.opened()
    assert await screen.tell("document.querySelector('.controls').getBoundingClientRect().height") < 40


async def test_a_tile_that_is_pointed_at_tells_its_legs_and_the_age_of_their_quotes(screen: Screen) -> None:
    await screen.opened()
    screen.pipeline.quote(STRIKE, 8.0, 8.5)
    await screen.until("page.feed.book.diffs === 1")
    x, y = await screen.tell(PLACE_OF_THE_MONEY)
    await screen.page.hover("#heatmap", position={"x": x, "y": y})
    await screen.until("document.getElementById('hover').textContent.includes(' old')")
    words = await screen.text("#hover")
    assert PLANE in words and "2 6900 call" in words and "buy" in words and "sell" in words


PLACE_OF_THE_MONEY = """(() => {
  const { heatmap, axis, sheet } = page;
  axis.centreOn(6900);
  return [heatmap.width - heatmap.columnWidth / 2, axis.place(6900)];
})()"""


async def test_a_tile_that_is_pointed_at_follows_its_quotes(screen: Screen) -> None:
    await screen.opened()
    x, y = await screen.tell(PLACE_OF_THE_MONEY)
    await screen.page.hover("#heatmap", position={"x": x, "y": y})
    await screen.until("document.getElementById('hover').textContent.includes(' old')")  # it asks no more
    assert "2 6900 call 10.00 / 10.50" in await screen.text("#hover")
    screen.pipeline.quote(STRIKE, 8.0, 8.5)
    await screen.until("document.getElementById('hover').textContent.includes('2 6900 call  8.00 / 8.50')")


async def test_on_a_narrow_screen_a_tile_is_in_sight_at_once(screen: Screen) -> None:
    await screen.page.set_viewport_size({"width": 390, "height": 844})
    await screen.opened()
    x, y = await screen.tell(PLACE_OF_THE_MONEY)
    await screen.page.click("#heatmap", position={"x": x, "y": y})
    box = await screen.page.locator("#tile").bounding_box()
    assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["y"] + box["height"] <= 844


async def test_the_table_opens_at_the_money_and_names_what_it_shows(screen: Screen) -> None:
    screen.pipeline.spot(SPOT)
    await screen.pipeline.tick()
    await screen.opened()
    await screen.until("page.spot === 6900")
    await screen.page.click("#table-mode")
    assert await screen.text("#table caption") == f"{PLANE} call butterfly: mid"
    assert await screen.text("#table .money th") == "6900"
    row, table = [await screen.page.locator(name).bounding_box() for name in ("#table .money", "#table")]
    assert row and table and table["y"] < row["y"] < table["y"] + table["height"] - row["height"]


async def test_the_legend_speaks_the_unit_of_what_is_shown(screen: Screen) -> None:
    screen.pipeline.spot(SPOT)
    await screen.pipeline.tick()
    await screen.opened()
    await screen.until("page.spot === 6900")
    await screen.page.click("#strategies button[data-name=single]")
    await screen.page.select_option("#metrics", "change")
    assert (await screen.text("#scale-low")).endswith("%") and (await screen.text("#scale-high")).endswith("%")


async def test_a_theme_leaves_the_scale_alone(screen: Screen) -> None:
    await screen.opened()
    await screen.tell("page.heatmap.bounds = [1, 2]")
    await screen.page.click("#theme")
    assert await screen.tell("[page.heatmap.scale.low, page.heatmap.scale.high]") == [1, 2]


async def test_a_pinned_tile_stays_whatever_the_map_shows(screen: Screen) -> None:
    await screen.opened()
    x, y = await screen.tell(PLACE_OF_THE_MONEY)
    await screen.page.click("#heatmap", position={"x": x, "y": y})
    await screen.page.click("#strategies button[data-name=vertical]")
    await screen.page.click("#sides button[data-name=put]")
    assert "butterfly call 6900" in await screen.text("#tile pre")


async def test_singles_of_several_expirations_lie_side_by_side(screen: Screen) -> None:
    await screen.opened()
    await screen.tell("page.feed.source.close()")
    planes = [_singles("2031-01-15", 0, [6890, 6900]), _singles("2031-01-16", 1, [6900, 6910])]
    head = {"epoch": "SPX:2:0000", "generation": "g", "seq": 1, "reason": "joined", "complete_to": None, "widths": []}
    await screen.hear("reset", {**head, "planes": planes})
    await screen.page.click("#strategies button[data-name=single]")
    await screen.page.click("#table-mode")
    heads = await screen.page.locator("#table thead th").all_inner_texts()
    assert heads == ["strike", "01-15 0d", "01-16 1d"]
    rows = [await row.locator("td").all_inner_texts() for row in await screen.page.locator("#table tbody tr").all()]
    assert rows == [["", "2.00"], ["2.00", "2.00"], ["2.00", ""]]


def _singles(expiration: str, dte: int, strikes: list[int]) -> dict[str, Any]:
    count = len(strikes)
    return {
        "id": f"SPXW:{expiration}",
        "root": "SPXW",
        "expiration": expiration,
        "dte": dte,
        "version": 1,
        "strikes": strikes,
        "cells": [["single", "call", strike, 0] for strike in strikes],
        "mid2": [400] * count,
        "buy": [210] * count,
        "sell": [190] * count,
        "flags": [0] * count,
    }


async def test_the_slider_narrows_the_colours(screen: Screen) -> None:
    await screen.opened()
    high = await screen.tell("page.heatmap.scale.high")
    low = await screen.tell("page.heatmap.scale.low")
    await screen.page.fill("#scale-range", "50")
    assert await screen.tell("page.heatmap.scale.high") == pytest.approx((low + high) / 2)
    await screen.opened()
    assert await screen.tell("page.heatmap.share") == 0.5


async def test_tabs_follow_the_arrow_keys(screen: Screen) -> None:
    await screen.opened()
    await screen.page.focus("#strategies [aria-selected=true]")
    await screen.page.keyboard.press("ArrowRight")
    assert await screen.tell("[page.sheet.strategy, document.activeElement.dataset.name]") == ["vertical", "vertical"]


async def test_everything_that_can_be_used_has_a_name(screen: Screen) -> None:
    await screen.opened()
    unnamed = await screen.tell(
        "[...document.querySelectorAll('button, select, input, canvas, [role]')].filter((one) =>"
        " !(one.closest('[aria-label]') || one.title || one.textContent.trim() || one.labels?.length"
        " || ['status', 'tooltip'].includes(one.getAttribute('role')))).map((one) => one.outerHTML)"
    )
    assert unnamed == []


async def test_who_wants_no_motion_sees_a_change_without_fading(screen: Screen) -> None:
    await screen.page.emulate_media(reduced_motion="reduce")
    await screen.opened()
    assert await screen.tell("page.heatmap.fadeSteps") == 1


async def test_an_alert_is_a_note_and_stays_in_a_bounded_list(screen: Screen) -> None:
    before = {"rule": "flip", "symbol": "SPX", "epoch": "e", "ts": 1771513215, "text": "SPX crossed before"}
    await screen.page.route("**/api/alerts/SPX?*", lambda route: route.fulfill(json={"alerts": [before]}))
    await screen.opened()
    await screen.until("document.getElementById('alerts-button').textContent === 'alerts 1'")  # it asks no more
    for number in range(1, 61):
        alert = {"rule": "flip", "symbol": "SPX", "epoch": "e", "ts": 1771513215, "text": f"SPX crossed {number}"}
        await screen.hear("alert", alert)
    assert await screen.page.locator("#notes p").all_inner_texts() == [
        "SPX crossed 58",
        "SPX crossed 59",
        "SPX crossed 60",
    ]
    await screen.page.click("#alerts-button")
    items = await screen.page.locator("#alerts li").all_inner_texts()
    assert len(items) == 50 and items[0] == "10:00:15 SPX crossed 60"


@pytest.mark.parametrize("width", [1280, 390])
async def test_nothing_shifts_while_the_page_updates(screen: Screen, width: int) -> None:
    await screen.page.set_viewport_size({"width": width, "height": 900})
    await screen.opened()
    await screen.tell(
        "window.shifted = []; new PerformanceObserver((list) => {"
        " for (const entry of list.getEntries()) for (const { node } of entry.sources)"
        " shifted.push(node?.id || node?.className || node?.textContent); }).observe({type: 'layout-shift'})"
    )
    for number in range(5):
        screen.pipeline.quote(STRIKES[10 + number], 3.0, 3.2)
        await screen.pipeline.publish_tick()
    await screen.hear("health", {"status": "degraded", "reasons": ["conflating", "lag over 5 s"]})
    await screen.pipeline.settle()
    await wait_until_async(lambda: _has_all(screen), "the page to have it")
    assert await screen.tell("page.feed.book.diffs >= 1 && page.feed.latest.gex.tick >= 3")
    await screen.page.wait_for_timeout(500)
    assert await screen.tell("shifted") == []
