/** The page: choices, feeds and views put together. */

import { SIDES, STRATEGIES, flagWords } from "./book.js";
import { StrikeAxis } from "./axis.js";
import { Gravity, Profile, gravityWords, paintLiquidity, paintMode } from "./charts.js";
import { Choices } from "./choices.js";
import { Scale } from "./colour.js";
import { Exposures } from "./exposures.js";
import { Feed } from "./feed.js";
import { Heatmap } from "./heatmap.js";
import { fillLevels, marksOf } from "./levels.js";
import { sheetOf } from "./sheet.js";
import { CellTable } from "./table.js";
import { METRICS, buyOf, formatAge, formatDollars, formatPoints, midOf, rewardToRisk, sellOf } from "./values.js";

const find = (id) => document.getElementById(id);

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
    this.feed = null;
    this.pinned = null;
    this.centred = false;
  }

  start() {
    this.#useTheme(this.choices.get("theme") ?? (matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark"));
    this.#tabs("symbols", this.symbols, () => this.choices.among("symbol", this.symbols), (symbol) => this.#follow(symbol));
    this.#tabs("strategies", STRATEGIES, () => this.choices.among("strategy", STRATEGIES), (one) => this.#choose("strategy", one));
    this.#tabs("sides", SIDES, () => this.choices.among("side", SIDES), (one) => this.#choose("side", one));
    this.#options("metrics", Object.entries(METRICS), this.choices.among("metric", Object.keys(METRICS)));
    find("metrics").addEventListener("change", (event) => this.#choose("metric", event.target.value));
    find("planes").addEventListener("change", (event) => this.#choosePlane(event.target.value));
    find("centre").addEventListener("click", () => this.#centre());
    find("closer").addEventListener("click", () => this.#zoom(1.2));
    find("further").addEventListener("click", () => this.#zoom(1 / 1.2));
    find("theme").addEventListener("click", () => this.#useTheme(this.heatmap.theme === "dark" ? "light" : "dark"));
    find("table-mode").addEventListener("click", () => this.#useTable(find("table").hidden));
    find("exposure-mode").value = this.choices.get("exposure");
    find("exposure-mode").addEventListener("change", (event) => this.#useExposure(event.target.value));
    find("scale-range").addEventListener("input", (event) => this.#useRange(Number(event.target.value)));
    this.heatmap.addEventListener("scale", () => this.#showScale());
    this.#listenToMap();
    this.#useExposure(this.choices.get("exposure"));
    this.#useTable(this.choices.get("table"));
    new ResizeObserver(() => this.#resize()).observe(find("surface"));
    setInterval(() => this.#tellTime(), 1000);
    this.#follow(this.choices.among("symbol", this.symbols));
  }

  // --- choices

  #tabs(id, names, current, pick) {
    const root = find(id);
    root.replaceChildren(...names.map((name) => {
      const button = document.createElement("button");
      Object.assign(button, { type: "button", textContent: name });
      button.setAttribute("role", "tab");
      button.dataset.name = name;
      button.addEventListener("click", () => {
        pick(name);
        mark();
      });
      return button;
    }));
    const mark = () => {
      for (const button of root.children) button.setAttribute("aria-selected", String(button.dataset.name === current()));
    };
    mark();
  }

  #options(id, entries, chosen) {
    find(id).replaceChildren(...entries.map(([value, words]) => new Option(words, value, false, value === chosen)));
  }

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

  #useExposure(mode) {
    this.choices.set("exposure", mode);
    this.exposures.mode = mode;
    this.exposures.show(this.feed?.latest.gex ?? null);
  }

  /** The slider narrows the scale from above: small debits become distinguishable. */
  #useRange(percent) {
    this.heatmap.range = null;
    this.heatmap.rescale();
    const { scale } = this.heatmap;
    if (percent < 100 && scale) {
      this.heatmap.range = [scale.low, scale.low + ((scale.high - scale.low) * percent) / 100];
      this.heatmap.rescale();
    }
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
    const spot = this.spot;
    if (spot !== null) this.axis.centreOn(spot);
  }

  // --- feed

  get spot() {
    return this.feed?.latest.gex?.spot ?? null;
  }

  #follow(symbol) {
    this.choices.set("symbol", symbol);
    this.feed?.close();
    this.gravity.clear();
    this.centred = false;
    this.#unpin();
    const feed = new Feed(symbol);
    this.feed = feed;
    const on = (kind, act) => feed.addEventListener(kind, (event) => feed === this.feed && act(event.detail));
    on("reset", () => this.#show());
    on("diff", (change) => this.#change(change));
    on("gex", () => this.#showModels());
    for (const kind of ["liquidity", "mode", "gravity"]) on(kind, () => this.#showDerived());
    on("epoch", () => this.#showEpoch());
    on("health", () => this.#showHealth());
    on("state", () => this.#tellTime());
    this.#tellTime();
  }

  #plane() {
    const { book, symbol } = this.feed;
    const ids = [...book.planes.keys()];
    const chosen = this.choices.get("plane")[symbol];
    const front = this.feed.latest.gex?.front;
    return book.planes.get(chosen) ?? book.planes.get(front) ?? book.planes.get(ids[0]) ?? null;
  }

  #show() {
    const plane = this.#plane();
    const options = [...this.feed.book.planes.values()].map((one) => [one.id, `${one.id} · ${one.dte} dte`]);
    this.#options("planes", options, plane?.id);
    if (!plane) return;
    const metric = this.choices.among("metric", Object.keys(METRICS));
    const sheet = sheetOf(
      this.feed.book, this.choices.among("strategy", STRATEGIES), this.choices.among("side", SIDES), plane,
    );
    this.sheet = sheet;
    this.axis.setStrikes(sheet.strikes);
    this.heatmap.show(sheet, metric, this.spot);
    if (!find("table").hidden) this.table.show(sheet, metric, this.spot);
    find("widths").replaceChildren(...sheet.columns.map(({ label }) => {
      const span = document.createElement("span");
      span.textContent = label;
      return span;
    }));
    if (!this.centred && this.spot !== null) {
      this.centred = true;
      this.#centre();
    }
    this.#showModels();
    this.#showEpoch();
    if (this.pinned) this.#pin(this.pinned.strike, this.pinned.column);
  }

  #change({ plane, cells }) {
    this.heatmap.touch(plane, cells);
    if (!find("table").hidden) this.table.touch(plane, cells);
    if (this.pinned) this.#showTile();
  }

  #showModels() {
    const { gex } = this.feed.latest;
    if (!gex) return;
    const plane = this.#plane();
    const spot = gex.spot ?? null;
    find("spot").textContent = spot === null ? "no spot" : spot.toFixed(2);
    this.heatmap.spot = spot;
    const em = gex.planes?.[plane?.id];
    this.heatmap.band = em?.em_1sigma != null && em.forward != null ? [em.forward - em.em_1sigma, em.forward + em.em_1sigma] : null;
    const marks = marksOf(gex, this.feed.latest.gravity);
    this.heatmap.marks = marks;
    this.exposures.marks = marks;
    this.heatmap.redraw();
    this.exposures.show(gex);
    fillLevels(find("levels"), gex, plane?.id);
    find("profile-note").textContent = this.profile.take(gex);
    this.gravity.add(gex.ts, spot, this.feed.latest.gravity);
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

  #showEpoch() {
    const { epoch } = this.feed.latest;
    const { book } = this.feed;
    if (!book.epoch) return;
    this.epochFacts = epoch;
    const items = (epoch?.timeline ?? []).map(({ id, reason }) => {
      const item = document.createElement("li");
      item.dataset.reason = reason;
      item.title = `${id} · ${reason}`;
      return item;
    });
    find("timeline").replaceChildren(...items);
    this.#tellTime();
  }

  #showHealth() {
    const { health } = this.feed.latest;
    find("health").dataset.status = health?.status ?? "";
    find("health").textContent = health ? [health.status, ...(health.reasons ?? [])].join(" · ") : "";
  }

  /** What ages: the state of the connection, the age of the data, the age of the epoch. */
  #tellTime() {
    const { feed } = this;
    const quiet = feed.lastMs ? (Date.now() - feed.lastMs) / 1000 : null;
    const since = feed.lastMs ? new Date(feed.lastMs).toLocaleTimeString() : null;
    const words = {
      connecting: "connecting", live: "live",
      quiet: `nothing new for ${formatAge(quiet ?? 0)}: last at ${since}`,
      disconnected: since ? `disconnected since ${since}` : "no connection to the gateway",
    };
    find("connection").dataset.state = feed.state;
    find("connection").textContent = words[feed.state];
    document.body.classList.toggle("stale", feed.state !== "live");
    const { book } = feed;
    if (!book.epoch) return;
    const facts = [`epoch ${book.epoch}`];
    const { epoch, gex } = feed.latest;
    if (epoch) {
      facts.push(epoch.reason, epoch.ws ? "quotes live" : "chain only");
      if (epoch.dormant) facts.push(`dormant ${epoch.dormant}`);
      if (epoch.forced) facts.push("forced");
      if (epoch.created_ts && gex) facts.push(`age ${formatAge(gex.ts - epoch.created_ts)}`);
    }
    if (book.completeTo) facts.push(`complete to ${new Date(book.completeTo * 1000).toLocaleTimeString()}`);
    find("epoch-facts").textContent = facts.filter(Boolean).join(" · ");
  }

  // --- the map under pointer and keys

  #listenToMap() {
    const canvas = find("heatmap");
    canvas.addEventListener("pointermove", (event) => this.#hover(event));
    canvas.addEventListener("pointerleave", () => { find("hover").hidden = true; });
    canvas.addEventListener("click", (event) => this.#pinPlace(this.heatmap.at(event.offsetX, event.offsetY)));
    canvas.addEventListener("keydown", (event) => this.#press(event));
    for (const id of ["heatmap", "exposures"]) {
      find(id).addEventListener("wheel", (event) => {
        event.preventDefault();
        if (event.ctrlKey) this.#zoom(event.deltaY < 0 ? 1.1 : 1 / 1.1, event.offsetY);
        else this.axis.scroll(event.deltaY);
      }, { passive: false });
      this.#drag(find(id));
    }
    find("exposures").addEventListener("pointermove", (event) => this.#hoverExposure(event));
    find("exposures").addEventListener("pointerleave", () => { find("hover").hidden = true; });
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
    if (!columns) return;
    const { heatmap } = this;
    const steps = { ArrowUp: columns, ArrowDown: -columns, ArrowLeft: -1, ArrowRight: 1, PageUp: 10 * columns, PageDown: -10 * columns };
    if (event.key in steps) this.#moveCursor(steps[event.key], columns);
    else if (event.key === "Enter") this.#pinPlace(heatmap.cursor);
    else if (event.key === "Escape") this.#unpin();
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
    find("heatmap").setAttribute("aria-label", this.#words(heatmap.cursor).replaceAll("\n", ", "));
    heatmap.redraw();
  }

  #hover(event) {
    const place = this.heatmap.at(event.offsetX, event.offsetY);
    this.#tip(event, place < 0 ? null : this.#words(place));
  }

  #hoverExposure(event) {
    const found = this.exposures.at(event.offsetY);
    this.#tip(event, found && `${found.strike}\ncalls ${formatDollars(found.calls)}\nputs ${formatDollars(found.puts)}\nnet ${formatDollars(found.calls + found.puts)}`);
  }

  #tip(event, words) {
    const hover = find("hover");
    hover.hidden = !words;
    if (!words) return;
    hover.textContent = words;
    hover.style.left = `${Math.min(event.clientX + 14, innerWidth - 310)}px`;
    hover.style.top = `${Math.min(event.clientY + 14, innerHeight - 160)}px`;
  }

  /** A cell in words: what it is, its legs with their prices, its flags. */
  #words(place) {
    const { sheet } = this;
    const cell = sheet.cells[place];
    const plane = sheet.plane(place);
    if (cell < 0) return `${sheet.strike(place)}: not listed`;
    const width = sheet.width(place);
    const price = (value) => (value === null ? "–" : value.toFixed(2));
    const legs = this.feed.book.legs(plane, cell).map(({ strike, ratio, cell: single }) =>
      `${ratio > 0 ? "+" : ""}${ratio} ${strike} ${sheet.side}  ${price(sellOf(plane, single))} / ${price(buyOf(plane, single))}`);
    const mid = midOf(plane, cell);
    const lines = [
      `${plane.id} ${sheet.strategy} ${sheet.strike(place)}${width ? ` width ${width}` : ""}`,
      ...legs,
      `mid ${price(mid)}, buy ${price(buyOf(plane, cell))}, sell ${price(sellOf(plane, cell))}`,
    ];
    const ratio = rewardToRisk(mid, width);
    if (ratio !== null) lines.push(`reward to risk ${ratio.toFixed(1)}`);
    const flags = flagWords(plane.flags[cell]);
    if (flags.length) lines.push(flags.join(", "));
    return lines.join("\n");
  }

  // --- the pinned tile

  #pinPlace(place) {
    if (place < 0 || !this.sheet || this.sheet.cells[place] < 0) return;
    this.#pin(this.sheet.strike(place), place % this.sheet.columns.length);
  }

  #pin(strike, column) {
    this.pinned = { strike, column };
    this.#showTile();
  }

  #unpin() {
    this.pinned = null;
    find("tile").hidden = true;
  }

  #showTile() {
    const { sheet, pinned } = this;
    const row = sheet.strikes.indexOf(pinned.strike);
    const place = row * sheet.columns.length + pinned.column;
    const root = find("tile");
    root.hidden = row < 0 || !(sheet.cells[place] >= 0);
    if (root.hidden) return;
    if (!root.firstChild) root.append(...this.#tileParts());
    root.children[1].textContent = this.#words(place);
  }

  #tileParts() {
    const head = document.createElement("h2");
    head.textContent = "tile";
    const text = document.createElement("pre");
    const copy = document.createElement("button");
    Object.assign(copy, { type: "button", textContent: "copy order", id: "copy-order" });
    copy.addEventListener("click", () => this.#copyOrder(copy));
    const close = document.createElement("button");
    Object.assign(close, { type: "button", textContent: "close" });
    close.addEventListener("click", () => this.#unpin());
    return [head, text, copy, close];
  }

  /** The order line comes from the gateway, which spells it for every program. */
  async #copyOrder(button) {
    const { sheet, pinned, feed } = this;
    const { plane, width } = sheet.columns[pinned.column];
    const query = new URLSearchParams({
      plane: plane.id, strategy: sheet.strategy, side: sheet.side, strike: pinned.strike, width,
    });
    const answer = await fetch(`/api/tiles/${feed.symbol}?${query}`);
    const told = await answer.json();
    const line = answer.ok ? told.order : told.error;
    find("tile").children[1].textContent += `\n\n${line}`;
    if (!answer.ok) return;
    await navigator.clipboard?.writeText(line).catch(() => {});
    button.textContent = "copied";
    setTimeout(() => { button.textContent = "copy order"; }, 1500);
  }

  #resize() {
    if (find("surface").hidden) return;
    this.heatmap.resize();
    this.exposures.resize();
    this.axis.resize(this.heatmap.height);
    this.profile.rebuild();
    this.gravity.rebuild();
  }
}

async function begin() {
  try {
    const answer = await fetch("/api/symbols");
    if (!answer.ok) throw new Error(`the gateway answers ${answer.status}`);
    const page = new Page((await answer.json()).symbols);
    window.page = page; // what tests and the curious look at
    page.start();
  } catch (error) {
    find("connection").dataset.state = "disconnected";
    find("connection").textContent = `${error.message}; trying again`;
    setTimeout(begin, 2000);
  }
}

begin();
