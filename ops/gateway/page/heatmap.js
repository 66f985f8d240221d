/**
 * The heatmap: a sheet (strikes x widths, or strikes x expirations) on a canvas.
 *
 * A full draw happens when the view changes (axis, theme, plane); a diff repaints the cells it changed and those that
 * still fade, and nothing else. That is what holds 60 frames a second at ten diffs a second.
 */

import { colour, fit } from "./canvas.js";
import { Scale, boundsOf } from "./colour.js";
import { formatValue } from "./values.js";

const FADE_MS = 900;
const FLASH = 0.75; // how strong a change begins
const FADE_STEPS = 4; // a fading cell is painted so often, not with every frame
const FONT = "12px system-ui, sans-serif";
const OPAQUE = { alpha: false };
const SOLID = [];
const HATCHED = 0b111111; // the flags of quotes: bits 0 to 5
const RESCALE_SHARE = 0.25; // values outside the scale by so much of its span: a new scale is due

export class Heatmap extends EventTarget {
  constructor(canvas, axis) {
    super();
    this.canvas = canvas;
    this.axis = axis;
    this.sheet = null;
    this.metric = "mid";
    this.spot = null;
    this.theme = "dark";
    this.share = 1; // the part of the bounds that the colours span: with less, small values become distinguishable
    this.bounds = [0, 1];
    this.scale = null;
    this.cursor = -1; // the place under the keyboard
    this.fading = new Map(); // place -> time it changed
    this.steps = new Int8Array(0); // place -> the step of its fading that is painted
    this.marks = []; // [{price, label, colour, dash}], lines across the map, behind the numbers
    this.markedRows = new Map(); // shown row -> [[y, mark]]
    this.band = null; // [low, high]: expected move
    this.fadeSteps = matchMedia("(prefers-reduced-motion: reduce)").matches ? 1 : FADE_STEPS;
    this.paintMs = [];
    this.frame = 0;
    this.whole = true;
    axis.addEventListener("move", () => this.redraw());
  }

  /** Show a sheet by a metric; the scale stays while what is shown stays, also over epochs. */
  show(sheet, metric, spot) {
    const samePlaces = this.sheet?.key === sheet.key;
    const sameView = this.sheet?.view === sheet.view && this.metric === metric;
    Object.assign(this, { sheet, metric, spot });
    if (!samePlaces) {
      this.fading.clear();
      this.cursor = -1;
      this.steps = new Int8Array(sheet.cells.length);
    }
    if (!sameView) this.rescale();
    this.redraw();
  }

  /** Nothing to show. */
  clear() {
    this.sheet = null;
    this.marks = [];
    this.band = null;
    this.fading.clear();
    this.redraw();
  }

  rescale() {
    const { sheet } = this;
    if (!sheet) return;
    const values = Array.from(sheet.cells, (_, place) => sheet.value(this.metric, place, this.spot));
    this.bounds = boundsOf(values);
    const [low, high] = this.bounds;
    this.scale = new Scale(this.theme, low, low + (high - low) * this.share);
    this.dispatchEvent(new Event("scale"));
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
    if (this.fading.size) this.#schedule();
  }

  redraw() {
    this.whole = true;
    this.#schedule();
  }

  resize() {
    Object.assign(this, fit(this.canvas, OPAQUE, this.canvas.parentElement));
    this.redraw();
  }

  /** The place under a point of the canvas, -1 where there is no cell. */
  at(x, y) {
    const shown = this.axis.rowAt(y);
    if (!this.sheet || shown < 0 || x < this.gutter) return -1;
    const column = Math.floor((x - this.gutter) / this.columnWidth);
    if (column >= this.sheet.columns.length) return -1;
    const place = (this.sheet.strikes.length - 1 - shown) * this.sheet.columns.length + column;
    return this.sheet.cells[place] < 0 ? -1 : place;
  }

  get gutter() {
    return 64;
  }

  get columnWidth() {
    return (this.width - this.gutter) / Math.max(1, this.sheet?.columns.length ?? 1);
  }

  #schedule() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.#paint();
    });
  }

  #paint() {
    if (!this.width) return;
    const began = performance.now();
    if (this.whole || !this.sheet || this.#isOffScale()) this.#paintAll();
    else this.#paintFading(began);
    this.paintMs.push(performance.now() - began);
    if (this.paintMs.length > 600) this.paintMs.shift();
    for (const [place, since] of this.fading) if (began - since > FADE_MS) this.fading.delete(place);
    if (this.fading.size) this.#schedule();
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
    this.rescale();
    return true;
  }

  #paintAll() {
    this.whole = false;
    const { context, axis, sheet } = this;
    Object.assign(this, { paper: colour("--panel"), blank: colour("--blank"), dim: colour("--dim") });
    Object.assign(this, { flash: colour("--flash"), accent: colour("--accent") });
    context.fillStyle = this.paper;
    context.fillRect(0, 0, this.width, this.height);
    if (!sheet) return this.#say("waiting for the first epoch");
    if (!sheet.columns.length) return this.#say("no cells of this strategy on this plane");
    this.#paintBand();
    this.#placeMarks();
    const [from, to] = axis.visible;
    const now = performance.now();
    for (let shown = from; shown < to; shown += 1) {
      const row = sheet.strikes.length - 1 - shown;
      this.#paintStrike(shown, sheet.strikes[row]);
      for (let column = 0; column < sheet.columns.length; column += 1) {
        this.#paintCell(row * sheet.columns.length + column, now);
      }
    }
    return undefined;
  }

  #say(words) {
    this.context.fillStyle = this.dim;
    this.context.textAlign = "left";
    this.context.fillText(words, this.gutter, 24);
  }

  #paintFading(now) {
    const [from, to] = this.axis.visible;
    const { sheet, steps } = this;
    for (const [place, since] of this.fading) {
      const shown = sheet.strikes.length - 1 - Math.floor(place / sheet.columns.length);
      const step = Math.min(this.fadeSteps, Math.floor(((now - since) / FADE_MS) * this.fadeSteps));
      if (shown < from || shown >= to || step === steps[place]) continue;
      steps[place] = step;
      this.#paintCell(place, now);
    }
  }

  /** The strike in the gutter; the one nearest spot stands out. */
  #paintStrike(shown, strike) {
    const { context, axis } = this;
    const atMoney = shown === this.moneyRow;
    context.font = atMoney ? `bold ${FONT}` : FONT;
    context.textBaseline = "middle";
    context.textAlign = "right";
    context.fillStyle = atMoney ? this.flash : this.dim;
    context.fillText(atMoney ? `▸ ${strike}` : String(strike), this.gutter - 8, axis.middle(shown) + 0.5);
  }

  /** The expected move as a band behind the strikes, and the row of the money behind everything. */
  #paintBand() {
    const { context, axis, sheet, spot, band } = this;
    this.moneyRow = spot === null ? -1 : rowNearest(sheet.strikes, spot);
    if (band) {
      const [top, bottom] = [axis.place(band[1]) ?? 0, axis.place(band[0]) ?? this.height];
      context.globalAlpha = 0.22;
      context.fillStyle = this.accent;
      context.fillRect(0, top, this.gutter - 3, bottom - top);
      context.globalAlpha = 1;
      context.fillRect(this.gutter - 5, top, 2, bottom - top);
    }
    if (this.moneyRow < 0) return;
    context.globalAlpha = 0.16;
    context.fillStyle = this.flash;
    context.fillRect(0, axis.middle(this.moneyRow) - axis.rowHeight / 2, this.width, axis.rowHeight);
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
    const shown = sheet.strikes.length - 1 - Math.floor(place / sheet.columns.length);
    const x = this.gutter + (place % sheet.columns.length) * columnWidth;
    const y = axis.middle(shown) - height / 2;
    const marks = this.markedRows.get(shown);
    if (sheet.cells[place] < 0) {
      if (marks) this.#paintMarks(marks, x, 0);
      return;
    }
    const value = sheet.value(this.metric, place, this.spot);
    const shade = this.scale.shade(value);
    context.fillStyle = this.paper;
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
    if (height >= 14) this.#paintText(text, x, y, height, shade?.ink ?? this.dim);
    if (place === this.cursor) this.#paintFrame(x, y, height, 2.5, 1);
  }

  #paintFrame(x, y, height, width, strength) {
    const { context } = this;
    context.globalAlpha = strength;
    context.strokeStyle = this.flash;
    context.lineWidth = width;
    context.strokeRect(x + 1.5, y + 1.5, this.columnWidth - 3, height - 3);
    context.globalAlpha = 1;
  }

  #paintText(text, x, y, height, ink) {
    const { context } = this;
    context.font = FONT;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillStyle = ink;
    context.fillText(text, x + this.columnWidth / 2, y + height / 2 + 0.5);
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
    context.globalAlpha = 0.3;
    context.strokeStyle = ink;
    context.lineWidth = 1;
    context.stroke();
    context.restore();
  }

  /** The lines of a row through one of its cells, leaving `gap` in the middle to the number. */
  #paintMarks(marks, x, gap) {
    const { context, columnWidth } = this;
    const side = (columnWidth - gap) / 2;
    for (const [y, mark] of marks) {
      context.strokeStyle = mark.colour;
      context.lineWidth = 2;
      context.setLineDash(mark.dash);
      context.beginPath();
      context.moveTo(x, y);
      context.lineTo(x + (gap ? side : columnWidth), y);
      if (gap) {
        context.moveTo(x + columnWidth - side, y);
        context.lineTo(x + columnWidth, y);
      }
      context.stroke();
    }
    context.setLineDash(SOLID);
  }
}

/** The shown row (descending) of the strike (ascending) nearest a price. */
function rowNearest(strikes, price) {
  let nearest = 0;
  strikes.forEach((strike, row) => {
    if (Math.abs(strike - price) < Math.abs(strikes[nearest] - price)) nearest = row;
  });
  return strikes.length - 1 - nearest;
}
