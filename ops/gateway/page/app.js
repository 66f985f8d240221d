/** The page: choices, the feed of one symbol, and what shows it, put together. */

import { SIDES, STRATEGIES } from "./book.js";
import { Alerts } from "./alerts.js";
import { StrikeAxis } from "./axis.js";
import { epochWords, showConnection, showHealth, showTimeline } from "./banner.js";
import { Choices } from "./choices.js";
import { Controls } from "./controls.js";
import { find, make } from "./elements.js";
import { Exposures } from "./exposures.js";
import { Feed } from "./feed.js";
import { Gamma } from "./gamma.js";
import { ask } from "./gateway.js";
import { Heatmap } from "./heatmap.js";
import { Keyboard } from "./keyboard.js";
import { Legend } from "./legend.js";
import { askLast } from "./last.js";
import { bandOf, marksOf } from "./levels.js";
import { Panels } from "./panels.js";
import { Pointer } from "./pointer.js";
import { sheetOf } from "./sheet.js";
import { CellTable } from "./table.js";
import { Pin } from "./tile.js";
import { METRICS } from "./values.js";

const AGAIN_MS = 2000;

class Page {
  feed = null;
  sheet = null;
  centred = false;
  choices = new Choices();
  axis = new StrikeAxis(this.choices.get("rowHeight"));
  heatmap = new Heatmap(find("heatmap"), this.axis);
  exposures = new Exposures(find("exposures"), this.axis);
  table = new CellTable(find("table"));
  legend = new Legend(this.heatmap, this.choices);
  gamma = new Gamma(this.exposures, this.choices);
  panels = new Panels();
  pin = new Pin(find("tile"));
  alerts = new Alerts(find("notes"), find("alerts"), find("alerts-button"));
  controls = new Controls(this);
  pointer = new Pointer(this);
  keyboard = new Keyboard(this);

  constructor(symbols) {
    this.symbols = symbols;
  }

  start() {
    this.useTheme(this.choices.get("theme") ?? (matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark"));
    this.useTable(this.choices.get("table"));
    new ResizeObserver(() => this.resize()).observe(find("surface"));
    setInterval(() => this.#tellTime(), 1000);
    const asked = decodeURIComponent(location.hash.slice(1));
    if (asked && !this.symbols.includes(asked)) this.alerts.note(`no symbol ${asked} here; there are ${this.symbols.join(", ")}`);
    this.follow(this.symbols.includes(asked) ? asked : this.choices.among("symbol", this.symbols));
  }

  choose(name, value) {
    this.choices.set(name, value);
    if (this.feed) this.#show();
  }

  useTheme(theme) {
    document.documentElement.dataset.theme = theme;
    this.choices.set("theme", theme);
    this.legend.useTheme(theme);
    this.panels.restyle();
    if (this.feed) this.#showModels(); // its lines have colours
  }

  useTable(on) {
    find("table").hidden = !on;
    find("surface").hidden = on;
    find("table-mode").setAttribute("aria-pressed", String(on));
    this.choose("table", on);
    if (on) this.table.reveal();
  }

  /** On a narrow screen heatmap and exposures take turns. */
  turn() {
    const on = document.body.classList.toggle("turned");
    find("turn").setAttribute("aria-pressed", String(on));
    this.exposures.withStrikes = on;
    this.resize();
  }

  zoom(factor, y) {
    this.axis.zoom(factor, y);
    this.choices.set("rowHeight", this.axis.rowHeight);
  }

  centre() {
    if (this.spot !== null) this.axis.centreOn(this.spot);
  }

  pinPlace(place) {
    if (place < 0 || !this.sheet || this.sheet.cells[place] < 0) return;
    this.pin.set(this.feed.symbol, this.sheet.tile(place));
    this.pin.show(this.feed);
  }

  get spot() {
    return this.feed?.latest.gex?.spot ?? null;
  }

  get plane() {
    const { book, symbol, latest } = this.feed;
    const chosen = this.choices.get("plane")[symbol];
    return book.planes.get(chosen) ?? book.planes.get(latest.gex?.front) ?? [...book.planes.values()][0] ?? null;
  }

  follow(symbol) {
    this.choices.set("symbol", symbol);
    this.feed?.close();
    this.#forget();
    const feed = new Feed(symbol);
    this.feed = feed;
    this.panels.follow(feed);
    this.controls.show();
    const on = (kind, act) => feed.addEventListener(kind, (event) => feed === this.feed && act(event.detail));
    on("reset", () => this.#show());
    on("diff", (change) => this.#change(change));
    for (const kind of ["gex", "gravity"]) on(kind, () => this.#showModels());
    for (const kind of ["liquidity", "mode"]) on(kind, () => this.panels.showDerived());
    on("epoch", (epoch) => { showTimeline(find("timeline"), epoch.timeline); this.#tellTime(); });
    on("health", (health) => showHealth(find("health"), health));
    on("alert", (alert) => this.alerts.add(alert));
    on("state", () => {
      this.#tellTime();
      if (feed.state === "live") this.#recallAlerts(feed); // none is told again
      if (feed.state === "waiting") setTimeout(() => this.#recallLast(feed), AGAIN_MS);
    });
    on("refused", () => ask("/api/symbols").catch(() => {})); // leads to the login if that is why
    this.#tellTime();
  }

  #forget() {
    this.centred = false;
    this.sheet = null;
    this.pointer.tip.hide();
    for (const one of [this.pin, this.heatmap, this.table, this.gamma]) one.clear();
    for (const id of ["timeline", "widths", "health"]) find(id).replaceChildren();
    find("spot").textContent = "–";
  }

  /** The alerts of before this page came. */
  async #recallAlerts(feed) {
    const { heard } = this.alerts;
    const told = await ask(`/api/alerts/${feed.symbol}?count=50`).catch(() => null);
    if (!told || feed !== this.feed) return;
    if (heard === this.alerts.heard) this.alerts.fill(told.alerts);
    else this.#recallAlerts(feed); // it may lack the newest
  }

  /** Without an epoch nothing is streamed: what was published last stays, and why there is nothing new. */
  async #recallLast(feed) {
    const isOver = () => feed !== this.feed || feed.state !== "waiting";
    if (isOver()) return;
    const health = await ask(`/api/health/${feed.symbol}`).catch(() => null);
    const last = await askLast(feed.symbol).catch(() => ({}));
    if (isOver()) return;
    showHealth(find("health"), health);
    if (last.reset) feed.recall(last);
    else setTimeout(() => this.#recallLast(feed), AGAIN_MS);
  }

  #show() {
    const { choices, plane } = this;
    this.controls.show();
    if (!plane) return;
    const metric = choices.among("metric", Object.keys(METRICS));
    const sheet = sheetOf(this.feed.book, choices.among("strategy", STRATEGIES), choices.among("side", SIDES), plane);
    this.sheet = sheet;
    this.axis.setStrikes(sheet.strikes);
    this.heatmap.show(sheet, metric, this.spot);
    if (!find("table").hidden) this.table.show(sheet, metric, this.spot);
    find("widths").replaceChildren(...sheet.columns.map(({ label }) => make("span", { textContent: label })));
    this.#showModels();
    this.#tellTime();
  }

  #change({ plane, cells }) {
    this.heatmap.touch(plane, cells);
    if (!find("table").hidden) this.table.touch(plane, cells);
    this.#refreshTiles();
  }

  #refreshTiles() {
    this.pin.show(this.feed);
    this.pointer.tip.refresh();
  }

  #showModels() {
    const { gex, gravity } = this.feed.latest;
    if (!gex) return;
    const plane = gex.planes?.[this.plane?.id];
    this.panels.show(plane);
    const { spot, heatmap } = this;
    find("spot").textContent = spot === null ? "no spot" : spot.toFixed(2);
    document.title = `${this.feed.symbol} ${find("spot").textContent}`;
    const marks = marksOf(gex, gravity, plane);
    Object.assign(heatmap, { spot, marks, band: bandOf(plane) });
    heatmap.redraw();
    this.exposures.marks = marks;
    this.table.useSpot(spot);
    this.gamma.show(this.feed);
    if (!this.centred && this.axis.strikes.length && spot !== null) {
      this.centred = true;
      this.centre();
    }
  }

  /** What ages: the state of the connection, the age of the data, the age of the epoch. */
  #tellTime() {
    const { feed } = this;
    const nowMs = Date.now();
    showConnection(find("connection"), feed, nowMs);
    const words = epochWords(feed, this.plane?.id, nowMs);
    Object.assign(find("epoch-facts"), { textContent: words, title: words });
    this.#refreshTiles();
  }

  resize() {
    if (find("surface").hidden) return;
    this.heatmap.resize();
    this.exposures.resize();
    this.axis.resize(Math.max(this.heatmap.height, this.exposures.height));
    this.panels.restyle();
  }
}

async function begin() {
  try {
    const page = new Page((await ask("/api/symbols")).symbols);
    window.page = page; // what tests and the curious look at
    page.start();
  } catch (error) {
    document.body.dataset.state = "disconnected";
    find("connection").textContent = `${error.message}; trying again`;
    setTimeout(begin, AGAIN_MS);
  }
}

begin();
