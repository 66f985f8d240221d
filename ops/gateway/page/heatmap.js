/**
 * The heatmap: a sheet on a canvas. All of it is painted when the view changes; a diff repaints the cells it changed and
 * those that still fade, and nothing else. That is what holds 60 frames a second at ten diffs a second.
 */

import { Drawing, colour, line, write } from "./canvas.js";
import { Scale, boundsOf } from "./colour.js";
import { formatValue } from "./values.js";

const FADE_MS = 900;
const FLASH = 0.75; // how strong a change begins
const FADE_STEPS = 4; // a fading cell is painted so often, not with every frame
const GUTTER = 64; // for strikes
const TINT = 0.16; // of the band and of the row of the money: strikes stay readable on it
const HATCHED = 0b111111; // the flags of quotes: bits 0 to 5
const RESCALE_SHARE = 0.25; // values outside the scale by so much of its span: a new scale is due

export class Heatmap extends Drawing {
  sheet = null;
  metric = "mid";
  spot = null;
  theme = "dark";
  scale = null;
  share = 1; // the part of the bounds that the colours span: with less, small values can be told apart
  bounds = [0, 1];
  cursor = -1; // the place under the keyboard
  fading = new Map(); // place -> time it changed
  steps = new Int8Array(0); // place -> the step of its fading that is painted
  marks = []; // [{price, label, colour, dash}], lines across the map, behind the numbers
  markedRows = new Map(); // shown row -> [[y, mark]]
  band = null; // [low, high]: expected move
  fadeSteps = matchMedia("(prefers-reduced-motion: reduce)").matches ? 1 : FADE_STEPS;
  whole = true;

  /** Show a sheet by a metric; the scale stays while what is shown stays, also over epochs. */
  show(sheet, metric, spot) {
    const samePlaces = this.sheet?.key === sheet.key;
    const sameView = this.sheet?.words === sheet.words && this.metric === metric;
    Object.assign(this, { sheet, metric, spot });
    if (!samePlaces) {
      this.fading.clear();
      this.cursor = -1;
      this.steps = new Int8Array(sheet.cells.length);
    }
    if (!sameView) this.#rescale();
    this.redraw();
  }

  clear() {
    Object.assign(this, { sheet: null, marks: [], band: null });
    this.fading.clear();
    this.redraw();
  }

  useTheme(theme) {
    this.theme = theme;
    this.#shade();
  }

  useShare(share) {
    this.share = share;
    this.#shade();
  }

  #rescale() {
    this.bounds = boundsOf(Array.from(this.sheet.cells, (_, place) => this.sheet.value(this.metric, place, this.spot)));
    this.#shade();
  }

  /** Colours for the bounds as they are. */
  #shade() {
    const [low, high] = this.bounds;
    this.scale = new Scale(this.theme, low, low + (high - low) * this.share);
    if (this.sheet) this.dispatchEvent(new Event("scale"));
    this.redraw();
  }

  /** Cells of a plane changed: repaint those in sight, and let them fade. */
  touch(plane, cells) {
    if (!this.sheet) return;
    const now = performance.now();
    for (const cell of cells) {
      const place = this.sheet.placeOf(plane, cell);
      if (place < 0) continue;
      this.fading.set(place, now);
      this.steps[place] = -1;
    }
    if (this.metric === "change") this.whole = true; // a neighbour's price is part of it
    if (this.fading.size) super.redraw();
  }

  redraw() {
    this.whole = true;
    super.redraw();
  }

  /** The place under a point of the canvas, -1 where there is no cell. */
  at(x, y) {
    const shown = this.axis.rowAt(y);
    if (!this.sheet || shown < 0 || x < GUTTER) return -1;
    const place = this.sheet.placeAt(shown, Math.floor((x - GUTTER) / this.columnWidth));
    return (this.sheet.cells[place] ?? -1) < 0 ? -1 : place;
  }

  get columnWidth() {
    return (this.width - GUTTER) / Math.max(1, this.sheet?.columns.length ?? 1);
  }

  paint() {
    const now = performance.now();
    if (this.whole || !this.sheet || this.#isOffScale()) this.#paintAll(now);
    else this.#paintFading(now);
    for (const [place, since] of this.fading) if (now - since > FADE_MS) this.fading.delete(place);
    if (this.fading.size) super.redraw();
  }

  /** A scale stays until values leave it for good; only cells that just changed need be looked at. */
  #isOffScale() {
    const { sheet } = this;
    const [low, high] = this.bounds;
    const slack = (high - low) * RESCALE_SHARE;
    let outside = 0;
    for (const place of this.fading.keys()) {
      const value = sheet.value(this.metric, place, this.spot);
      if (value !== null && (value < low - slack || value > high + slack)) outside += 1;
    }
    if (outside <= sheet.cells.length * 0.04) return false;
    this.#rescale();
    return true;
  }

  #paintAll(now) {
    this.whole = false;
    const { context, sheet } = this;
    for (const name of ["panel", "blank", "dim", "flash", "accent"]) this[name] = colour(name);
    context.fillStyle = this.panel;
    context.fillRect(0, 0, this.width, this.height);
    if (!sheet) return this.#say("waiting for the first epoch");
    if (!sheet.columns.length) return this.#say("no cells of this strategy on this plane");
    this.#paintBand();
    this.#placeMarks();
    const [from, to] = this.axis.visible;
    for (let shown = from; shown < to; shown += 1) {
      this.#paintStrike(shown);
      const first = sheet.placeAt(shown, 0);
      for (let place = first; place < first + sheet.columns.length; place += 1) this.#paintCell(place, now);
    }
    return undefined;
  }

  #say(words) {
    this.context.fillStyle = this.dim;
    write(this.context, words, GUTTER, 24, "left", "12");
  }

  #paintFading(now) {
    const [from, to] = this.axis.visible;
    const { sheet, steps } = this;
    for (const [place, since] of this.fading) {
      const shown = sheet.rowOf(place);
      const step = Math.min(this.fadeSteps, Math.floor(((now - since) / FADE_MS) * this.fadeSteps));
      if (shown < from || shown >= to || step === steps[place]) continue;
      steps[place] = step;
      this.#paintCell(place, now);
    }
  }

  /** The strike in the gutter; the one nearest spot stands out. */
  #paintStrike(shown) {
    const { context, axis } = this;
    const strike = axis.strikes[shown];
    const atMoney = shown === this.moneyRow;
    context.fillStyle = atMoney ? this.flash : this.dim;
    const words = atMoney ? `▸ ${strike}` : strike;
    write(context, words, GUTTER - 8, axis.middle(shown) + 0.5, "right", atMoney ? "bold 12" : "12");
  }

  /** The expected move as a band behind the strikes, and the row of the money behind everything. */
  #paintBand() {
    const { context, axis, sheet, spot, band } = this;
    this.moneyRow = spot === null ? -1 : sheet.rowNearest(spot);
    if (band) {
      const [top, bottom] = [axis.place(band[1]) ?? 0, axis.place(band[0]) ?? this.height];
      this.#tint(this.accent, top, GUTTER - 3, bottom - top);
      context.fillRect(GUTTER - 5, top, 2, bottom - top);
    }
    const { rowHeight } = axis;
    if (this.moneyRow >= 0) this.#tint(this.flash, axis.middle(this.moneyRow) - rowHeight / 2, this.width, rowHeight);
  }

  #tint(shade, y, width, height) {
    const { context } = this;
    Object.assign(context, { fillStyle: shade, globalAlpha: TINT });
    context.fillRect(0, y, width, height);
    context.globalAlpha = 1;
  }

  #placeMarks() {
    this.markedRows.clear();
    for (const mark of this.marks) {
      const y = this.axis.place(mark.price);
      const row = y === null ? -1 : this.axis.rowAt(y);
      if (row < 0) continue;
      if (!this.markedRows.has(row)) this.markedRows.set(row, []);
      this.markedRows.get(row).push([y, mark]);
    }
  }

  #paintCell(place, now) {
    const { context, axis, sheet, columnWidth } = this;
    const height = axis.rowHeight;
    const shown = sheet.rowOf(place);
    const x = GUTTER + (place % sheet.columns.length) * columnWidth;
    const y = axis.middle(shown) - height / 2;
    const marks = this.markedRows.get(shown);
    if (sheet.cells[place] < 0) {
      if (marks) this.#paintMarks(marks, x, 0);
      return;
    }
    const value = sheet.value(this.metric, place, this.spot);
    const shade = this.scale.shade(value);
    context.fillStyle = this.panel;
    context.fillRect(x, y, columnWidth, height);
    context.fillStyle = shade?.fill ?? this.blank;
    context.fillRect(x + 0.5, y + 0.5, columnWidth - 1, height - 1);
    if (sheet.flags(place) & HATCHED) this.#hatch(x, y, height, shade?.ink ?? this.dim);
    const text = shade ? formatValue(this.metric, value) : "·";
    if (marks) this.#paintMarks(marks, x, height >= 14 ? 7 * text.length + 8 : 0);
    const since = this.fading.get(place);
    if (shade && since !== undefined && now - since < FADE_MS) {
      this.#paintFrame(x, y, height, 1, FLASH * (1 - (now - since) / FADE_MS));
    }
    context.fillStyle = shade?.ink ?? this.dim;
    if (height >= 14) write(context, text, x + columnWidth / 2, y + height / 2 + 0.5, "center", "12");
    if (place === this.cursor) this.#paintFrame(x, y, height, 2.5, 1);
  }

  #paintFrame(x, y, height, width, strength) {
    const { context } = this;
    Object.assign(context, { globalAlpha: strength, strokeStyle: this.flash, lineWidth: width });
    context.strokeRect(x + 1.5, y + 1.5, this.columnWidth - 3, height - 3);
    context.globalAlpha = 1;
  }

  /** Doubtful quotes are hatched, thinly enough to read the number. */
  #hatch(x, y, height, ink) {
    const { context } = this;
    context.save();
    context.beginPath();
    context.rect(x + 1, y + 1, this.columnWidth - 2, height - 2);
    context.clip();
    context.beginPath();
    for (let at = -height; at < this.columnWidth; at += 9) {
      context.moveTo(x + at, y + height);
      context.lineTo(x + at + height, y);
    }
    Object.assign(context, { globalAlpha: 0.3, strokeStyle: ink, lineWidth: 1 });
    context.stroke();
    context.restore();
  }

  /** The lines of a row through one of its cells, leaving `gap` in the middle to the number. */
  #paintMarks(marks, x, gap) {
    const { context, columnWidth } = this;
    const side = (columnWidth - gap) / 2;
    for (const [y, mark] of marks) {
      Object.assign(context, { strokeStyle: mark.colour, lineWidth: 2 });
      context.setLineDash(mark.dash);
      line(context, x, y, x + (gap ? side : columnWidth), y);
      if (gap) line(context, x + columnWidth - side, y, x + columnWidth, y);
    }
    context.setLineDash([]);
  }
}
