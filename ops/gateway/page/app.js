/** The page: choices, feed and views put together. */

import { SIDES, STRATEGIES } from "./book.js";
import { Alerts } from "./alerts.js";
import { StrikeAxis } from "./axis.js";
import { connectionWords, epochWords, showHealth, showTimeline } from "./banner.js";
import { Gravity, Profile, gravityWords, paintLiquidity, paintMode } from "./charts.js";
import { Choices } from "./choices.js";
import { Scale } from "./colour.js";
import { Exposures } from "./exposures.js";
import { Feed } from "./feed.js";
import { ask, askTile } from "./gateway.js";
import { Heatmap } from "./heatmap.js";
import { bandOf, fillExpirations, fillLevels, marksOf, reasonWords } from "./levels.js";
import { sheetOf } from "./sheet.js";
import { CellTable } from "./table.js";
import { Tabs } from "./tabs.js";
import { Pin, wordsOf } from "./tile.js";
import { METRICS, formatDollars } from "./values.js";

const SIDES_EVERY_MS = 5000; // exposures of one expiration are asked for, not streamed
const HOVER_MS = 150; // a pointer that rests so long wants to know how old the quotes are
const AGAIN_MS = 2000;

const find = (id) => document.getElementById(id);
const named = (names) => names.map((name) => [name]);

class Page {
  constructor(symbols) {
    this.symbols = symbols;
    this.choices = new Choices();
    this.axis = new StrikeAxis();
    this.axis.rowHeight = this.choices.get("rowHeight");
    this.heatmap = new Heatmap(find("heatmap"), this.axis);
    this.exposures = new Exposures(find("exposures"), this.axis);
    this.table = new CellTable(find("table"));
    this.profile = new Profile(find("profile"));
    this.gravity = new Gravity(find("gravity"));
    this.pin = new Pin(find("tile"));
    this.alerts = new Alerts(find("notes"), find("alerts"), find("alerts-button"));
    this.symbolTabs = new Tabs(find("symbols"), (symbol) => this.#follow(symbol));
    this.strategyTabs = new Tabs(find("strategies"), (strategy) => this.#choose("strategy", strategy));
    this.sideTabs = new Tabs(find("sides"), (side) => this.#choose("side", side));
    this.planeTabs = new Tabs(find("planes"), (id) => this.#choosePlane(id));
    this.feed = null;
    this.sheet = null;
    this.centred = false;
    this.sides = { date: null, feed: null, askedMs: 0 }; // what was asked for
    this.recalled = null;
  }

  start() {
    find("scale-range").value = this.choices.get("range");
    this.#useRange(this.choices.get("range"));
    this.#useTheme(this.choices.get("theme") ?? (matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark"));
    find("metrics").replaceChildren(...Object.entries(METRICS).map(([value, words]) => new Option(words, value)));
    find("metrics").value = this.choices.among("metric", Object.keys(METRICS));
    find("metrics").addEventListener("change", (event) => this.#choose("metric", event.target.value));
    find("exposure-mode").addEventListener("change", (event) => this.#choose("exposure", event.target.value));
    find("centre").addEventListener("click", () => this.#centre());
    find("closer").addEventListener("click", () => this.#zoom(1.2));
    find("further").addEventListener("click", () => this.#zoom(1 / 1.2));
    find("theme").addEventListener("click", () => this.#useTheme(this.heatmap.theme === "dark" ? "light" : "dark"));
    find("table-mode").addEventListener("click", () => this.#useTable(find("table").hidden));
    find("turn").addEventListener("click", () => this.#turn());
    find("scale-range").addEventListener("input", (event) => this.#useRange(Number(event.target.value)));
    this.heatmap.addEventListener("scale", () => this.#showScale());
    this.#listenToMap();
    this.#useTable(this.choices.get("table"));
    new ResizeObserver(() => this.#resize()).observe(find("surface"));
    setInterval(() => this.#tellTime(), 1000);
    const asked = decodeURIComponent(location.hash.slice(1));
    if (asked && !this.symbols.includes(asked)) this.alerts.note(`no symbol ${asked} here; there are ${this.symbols.join(", ")}`);
    this.#follow(this.symbols.includes(asked) ? asked : this.choices.among("symbol", this.symbols));
  }

  // --- choices

  #choose(name, value) {
    this.choices.set(name, value);
    this.#show();
  }

  #choosePlane(id) {
    this.choices.set("plane", { ...this.choices.get("plane"), [this.feed.symbol]: id });
    this.#show();
  }

  #useTheme(theme) {
    document.documentElement.dataset.theme = theme;
    this.choices.set("theme", theme);
    this.heatmap.theme = theme;
    find("ramp").style.background = `linear-gradient(90deg, ${Scale.stops(theme).join(", ")})`;
    this.heatmap.rescale();
    this.heatmap.redraw();
    this.exposures.redraw();
    this.profile.rebuild();
    this.gravity.rebuild();
    if (this.feed) this.#showModels();
  }

  #useTable(on) {
    find("table").hidden = !on;
    find("surface").hidden = on;
    find("table-mode").setAttribute("aria-pressed", String(on));
    this.choices.set("table", on);
    if (this.feed) this.#show();
  }

  /** On a narrow screen heatmap and exposures take turns. */
  #turn() {
    const on = document.body.classList.toggle("turned");
    find("turn").setAttribute("aria-pressed", String(on));
    this.exposures.withStrikes = on;
    this.#resize();
  }

  #useRange(percent) {
    this.choices.set("range", percent);
    this.heatmap.share = percent / 100;
    this.heatmap.rescale();
    this.heatmap.redraw();
  }

  #showScale() {
    const { scale } = this.heatmap;
    find("scale-low").value = scale.low.toFixed(2);
    find("scale-high").value = scale.high.toFixed(2);
  }

  #zoom(factor, y) {
    this.axis.zoom(factor, y);
    this.choices.set("rowHeight", this.axis.rowHeight);
  }

  #centre() {
    if (this.spot !== null) this.axis.centreOn(this.spot);
  }

  // --- the feed

  get spot() {
    return this.feed?.latest.gex?.spot ?? null;
  }

  #follow(symbol) {
    this.choices.set("symbol", symbol);
    this.symbolTabs.show(named(this.symbols), symbol);
    this.feed?.close();
    this.#forget();
    const feed = new Feed(symbol);
    this.feed = feed;
    this.#showDerived();
    const on = (kind, act) => feed.addEventListener(kind, (event) => feed === this.feed && act(event.detail));
    on("reset", () => this.#show());
    on("diff", (change) => this.#change(change));
    on("gex", () => this.#showModels());
    for (const kind of ["liquidity", "mode", "gravity"]) on(kind, () => this.#showDerived());
    on("gravity", () => this.#recallGravity(feed));
    on("epoch", (epoch) => { showTimeline(find("timeline"), epoch.timeline); this.#tellTime(); });
    on("health", (health) => showHealth(find("health"), health));
    on("alert", (alert) => this.alerts.add(alert));
    on("state", () => {
      this.#tellTime();
      if (feed.state === "live") this.#recallAlerts(feed); // none is told again, so those of a break would be missed
    });
    on("refused", () => ask("/api/symbols").catch(() => {})); // leads to the login if that is why
    this.#tellTime();
  }

  /** Nothing of another symbol stays on the page. */
  #forget() {
    this.centred = false;
    this.sheet = null;
    this.pin.clear();
    this.heatmap.clear();
    this.table.clear();
    this.gravity.clear();
    this.profile.show(null);
    this.exposures.marks = [];
    this.exposures.show(null, "no model yet");
    for (const id of ["levels", "expirations", "timeline", "planes", "widths", "profile-note", "health"]) find(id).replaceChildren();
    find("spot").textContent = "–";
  }

  /** The alerts of before this page came. */
  async #recallAlerts(feed) {
    const told = await ask(`/api/alerts/${encodeURIComponent(feed.symbol)}?count=50`).catch(() => null);
    if (told && feed === this.feed) this.alerts.fill(told.alerts);
  }

  /** The minutes of gravity before this page came; there are some once there is a model. */
  async #recallGravity(feed) {
    if (this.recalled === feed) return;
    this.recalled = feed;
    const told = await ask(`/api/models/${encodeURIComponent(feed.symbol)}/gravity/history?count=400`).catch(() => null);
    if (told && feed === this.feed) this.gravity.recall(told.history);
  }

  #plane() {
    const { book, symbol, latest } = this.feed;
    const chosen = this.choices.get("plane")[symbol];
    return book.planes.get(chosen) ?? book.planes.get(latest.gex?.front) ?? [...book.planes.values()][0] ?? null;
  }

  #show() {
    const { book } = this.feed;
    const plane = this.#plane();
    const strategy = this.choices.among("strategy", STRATEGIES);
    const side = this.choices.among("side", SIDES);
    this.strategyTabs.show(named(STRATEGIES), strategy);
    this.sideTabs.show(named(SIDES), side);
    this.planeTabs.show(planeEntries([...book.planes.values()]), plane?.id);
    if (!plane) return;
    const metric = this.choices.among("metric", Object.keys(METRICS));
    const sheet = sheetOf(book, strategy, side, plane);
    this.sheet = sheet;
    this.axis.setStrikes(sheet.strikes);
    this.heatmap.show(sheet, metric, this.spot);
    if (!find("table").hidden) this.table.show(sheet, metric, this.spot);
    find("widths").replaceChildren(...sheet.columns.map(({ label }) => {
      const span = document.createElement("span");
      span.textContent = label;
      return span;
    }));
    this.#showModels();
    this.pin.show(book, this.marketS);
    this.#tellTime();
  }

  #change({ plane, cells }) {
    this.heatmap.touch(plane, cells);
    if (!find("table").hidden) this.table.touch(plane, cells);
    this.pin.show(this.feed.book, this.marketS);
  }

  get marketS() {
    return this.feed.latest.gex?.ts ?? null;
  }

  #showModels() {
    const { gex, gravity } = this.feed.latest;
    if (!gex) return;
    const id = this.#plane()?.id;
    const { spot } = this;
    find("spot").textContent = spot === null ? "no spot" : spot.toFixed(2);
    document.title = `${this.feed.symbol} ${find("spot").textContent}`;
    this.heatmap.spot = spot;
    this.heatmap.band = bandOf(gex.planes?.[id]);
    this.heatmap.marks = marksOf(gex, gravity, gex.planes?.[id]);
    this.exposures.marks = this.heatmap.marks;
    this.heatmap.redraw();
    this.#showExposures(gex);
    fillLevels(find("levels"), gex, id);
    fillExpirations(find("expirations"), gex);
    find("profile-note").textContent = this.profile.take(gex);
    this.gravity.add(gex.ts, spot, gravity);
    if (!this.centred && this.axis.strikes.length && spot !== null) {
      this.centred = true;
      this.#centre();
    }
    this.#showDerived();
  }

  #showDerived() {
    const { liquidity, mode, gravity } = this.feed.latest;
    find("liquidity-note").textContent = paintLiquidity(find("liquidity"), liquidity);
    find("mode-note").textContent = paintMode(find("mode"), mode);
    find("gravity-note").textContent = gravityWords(gravity);
  }

  // --- exposures

  #showExposures(gex) {
    const dates = gex.scope?.expirations ?? [];
    const mode = this.choices.among("exposure", ["sides", "net", ...dates]);
    const options = [["sides", "calls and puts"], ["net", "net"], ...dates.map((date) => [date, `only ${date.slice(5)}`])];
    const select = find("exposure-mode");
    if (select.options.length !== options.length || select.options[select.options.length - 1].value !== options.at(-1)[0]) {
      select.replaceChildren(...options.map(([value, words]) => new Option(words, value)));
    }
    select.value = mode;
    this.exposures.net = mode === "net";
    if (mode === "sides" || mode === "net") this.exposures.show(gex.by_strike, reasonWords(gex.reason));
    else this.#showExpiration(mode);
  }

  /** The exposures of one expiration: models of their own that the gateway is asked for. */
  async #showExpiration(date) {
    const { sides, feed } = this;
    const isSame = sides.date === date && sides.feed === feed;
    if (isSame && Date.now() - sides.askedMs < SIDES_EVERY_MS) return;
    if (!isSame) this.exposures.show(null, "loading");
    Object.assign(sides, { date, feed, askedMs: Date.now() });
    try {
      const path = `/api/models/${encodeURIComponent(feed.symbol)}/gex`;
      const [calls, puts] = await Promise.all([ask(`${path}?side=calls`), ask(`${path}?side=puts`)]);
      const [up, down] = [calls.expirations[date] ?? {}, puts.expirations[date] ?? {}];
      const rows = Object.keys({ ...up, ...down }).map((strike) => [Number(strike), up[strike], down[strike]]);
      if (sides.date === date && feed === this.feed) this.exposures.show(rows);
    } catch (error) {
      if (sides.date === date && feed === this.feed) this.exposures.show(null, error.message);
    }
  }

  /** What ages: the state of the connection, the age of the data, the age of the epoch. */
  #tellTime() {
    const { feed } = this;
    const nowMs = Date.now();
    find("connection").dataset.state = feed.state;
    find("connection").textContent = connectionWords(feed, nowMs);
    document.body.classList.toggle("stale", feed.state === "disconnected");
    document.body.classList.toggle("quiet", feed.state === "quiet");
    find("epoch-facts").textContent = epochWords(feed, this.#plane()?.id, nowMs);
    this.pin.show(feed.book, this.marketS);
  }

  // --- the map under pointer and keys

  #listenToMap() {
    const canvas = find("heatmap");
    canvas.addEventListener("pointermove", (event) => this.#hover(event));
    canvas.addEventListener("click", (event) => this.#pinPlace(this.heatmap.at(event.offsetX, event.offsetY)));
    canvas.addEventListener("keydown", (event) => this.#press(event));
    find("exposures").addEventListener("pointermove", (event) => this.#hoverExposure(event));
    for (const id of ["heatmap", "exposures"]) {
      find(id).addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
      find(id).addEventListener("pointerleave", () => this.#tip(null, null));
      this.#drag(find(id));
    }
  }

  #wheel(event) {
    event.preventDefault();
    if (event.ctrlKey) this.#zoom(event.deltaY < 0 ? 1.1 : 1 / 1.1, event.offsetY);
    else this.axis.scroll(event.deltaY);
  }

  /** A finger drags the strikes. */
  #drag(canvas) {
    let last = null;
    canvas.addEventListener("pointerdown", (event) => { if (event.pointerType === "touch") last = event.clientY; });
    canvas.addEventListener("pointermove", (event) => {
      if (last === null) return;
      this.axis.scroll(last - event.clientY);
      last = event.clientY;
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { last = null; });
  }

  #press(event) {
    const columns = this.sheet?.columns.length ?? 0;
    if (!columns || event.ctrlKey || event.metaKey || event.altKey) return;
    const { heatmap } = this;
    const steps = { ArrowUp: columns, ArrowDown: -columns, ArrowLeft: -1, ArrowRight: 1, PageUp: 10 * columns, PageDown: -10 * columns };
    if (event.key in steps) this.#moveCursor(steps[event.key], columns);
    else if (event.key === "Enter") this.#pinPlace(heatmap.cursor);
    else if (event.key === "Escape") this.pin.clear();
    else if (event.key === "c") this.#centre();
    else if (event.key === "t") this.#useTable(find("table").hidden);
    else if (event.key === "+") this.#zoom(1.2);
    else if (event.key === "-") this.#zoom(1 / 1.2);
    else return;
    event.preventDefault();
  }

  #moveCursor(step, columns) {
    const { heatmap, axis, sheet } = this;
    if (heatmap.cursor < 0) {
      const row = sheet.strikes.length - 1 - Math.max(0, axis.rowAt(axis.height / 2));
      heatmap.cursor = row * columns;
    } else {
      const next = heatmap.cursor + step;
      const sameRow = Math.floor(next / columns) === Math.floor(heatmap.cursor / columns);
      if (next < 0 || next >= sheet.cells.length || (Math.abs(step) === 1 && !sameRow)) return;
      heatmap.cursor = next;
    }
    axis.reveal(sheet.strikes.length - 1 - Math.floor(heatmap.cursor / columns));
    const words = wordsOf(this.feed.book, sheet.tile(heatmap.cursor), null, null);
    find("heatmap").setAttribute("aria-label", words.replaceAll("\n", ", "));
    heatmap.redraw();
  }

  /** The tile under the pointer in words; when the pointer rests, with the ages of its quotes. */
  #hover(event) {
    const place = this.heatmap.at(event.offsetX, event.offsetY);
    if (place < 0) return this.#tip(event, null);
    const tile = this.sheet.tile(place);
    this.#tip(event, wordsOf(this.feed.book, tile, null, null));
    this.resting = setTimeout(() => this.#tellAges(event, tile), HOVER_MS);
    return undefined;
  }

  async #tellAges(event, tile) {
    const { feed, resting } = this;
    const told = await askTile(feed.symbol, tile).catch(() => null);
    if (told && resting === this.resting && feed === this.feed) this.#tip(event, wordsOf(feed.book, tile, told, this.marketS));
  }

  #hoverExposure(event) {
    const found = this.exposures.at(event.offsetY);
    this.#tip(event, found && `${found.strike}\ncalls ${formatDollars(found.calls)}\nputs ${formatDollars(found.puts)}\nnet ${formatDollars(found.calls + found.puts)}`);
  }

  #tip(event, words) {
    clearTimeout(this.resting);
    this.resting = 0;
    const hover = find("hover");
    hover.hidden = !words;
    if (!words) return;
    hover.textContent = words;
    hover.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - 310))}px`;
    hover.style.top = `${Math.min(event.clientY + 14, innerHeight - 160)}px`;
  }

  #pinPlace(place) {
    if (place < 0 || !this.sheet || this.sheet.cells[place] < 0) return;
    this.pin.set(this.feed.symbol, this.sheet.tile(place));
    this.pin.show(this.feed.book, this.marketS);
  }

  #resize() {
    if (find("surface").hidden) return;
    this.heatmap.resize();
    this.exposures.resize();
    this.axis.resize(Math.max(this.heatmap.height, this.exposures.height));
    this.profile.rebuild();
    this.gravity.rebuild();
    if (this.feed) this.#showDerived();
  }
}

/** Planes as tabs by days to expiration; the root is told where two planes share the day. */
function planeEntries(planes) {
  return planes.map(({ id, root, expiration, dte }) => {
    const isShared = planes.filter((one) => one.expiration === expiration).length > 1;
    return [id, isShared ? `${dte}d ${root}` : `${dte}d`, `${id}, ${dte} days to expiration`];
  });
}

async function begin() {
  try {
    const page = new Page((await ask("/api/symbols")).symbols);
    window.page = page; // what tests and the curious look at
    page.start();
  } catch (error) {
    find("connection").dataset.state = "disconnected";
    find("connection").textContent = `${error.message}; trying again`;
    setTimeout(begin, AGAIN_MS);
  }
}

begin();
