/** The controls: tabs, lists and buttons, and what of it is chosen. */

import { SIDES, STRATEGIES } from "./book.js";
import { find, offer } from "./elements.js";
import { Tabs } from "./tabs.js";
import { METRICS } from "./values.js";

export const CLOSER = 1.2; // a step of the zoom

const named = (names) => names.map((name) => [name]);

export class Controls {
  constructor(page) {
    this.page = page;
    this.symbols = new Tabs(find("symbols"), (symbol) => page.follow(symbol));
    this.strategies = new Tabs(find("strategies"), (strategy) => page.choose("strategy", strategy));
    this.sides = new Tabs(find("sides"), (side) => page.choose("side", side));
    this.planes = new Tabs(find("planes"), (id) => this.#choosePlane(id));
    offer(find("metrics"), Object.entries(METRICS), page.choices.among("metric", Object.keys(METRICS)));
    find("metrics").addEventListener("change", (event) => page.choose("metric", event.target.value));
    find("exposure-mode").addEventListener("change", (event) => page.choose("exposure", event.target.value));
    const press = (id, act) => find(id).addEventListener("click", act);
    press("centre", () => page.centre());
    press("closer", () => page.zoom(CLOSER));
    press("further", () => page.zoom(1 / CLOSER));
    press("theme", () => page.useTheme(page.heatmap.theme === "dark" ? "light" : "dark"));
    press("table-mode", () => page.useTable(find("table").hidden));
    press("turn", () => page.turn());
  }

  show() {
    const { choices, feed, plane } = this.page;
    this.symbols.show(named(this.page.symbols), feed.symbol);
    this.strategies.show(named(STRATEGIES), choices.among("strategy", STRATEGIES));
    this.sides.show(named(SIDES), choices.among("side", SIDES));
    this.planes.show(planeEntries([...feed.book.planes.values()]), plane?.id);
  }

  #choosePlane(id) {
    const { page } = this;
    page.choose("plane", { ...page.choices.get("plane"), [page.feed.symbol]: id });
  }
}

/** Planes as tabs by days to expiration; the root is told where two planes share the day. */
function planeEntries(planes) {
  return planes.map(({ id, root, expiration, dte }) => {
    const isShared = planes.filter((one) => one.expiration === expiration).length > 1;
    return [id, isShared ? `${dte}d ${root}` : `${dte}d`, `${id}, ${dte} days to expiration`];
  });
}
