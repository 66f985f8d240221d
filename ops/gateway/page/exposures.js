/** Gamma exposure beside the heatmap, on the same strikes: bars, and the levels with their names in a gutter. */

import { colour, fit } from "./canvas.js";
import { spread } from "./labels.js";
import { formatDollars } from "./values.js";

const FONT = "11px system-ui, sans-serif";
const OPAQUE = { alpha: false };
const NAMES_WIDTH = 130;
const STRIKES_WIDTH = 44;
const LINE_HEIGHT = 13;

export class Exposures {
  constructor(canvas, axis) {
    this.canvas = canvas;
    this.axis = axis;
    this.net = false; // one bar for calls + puts
    this.byStrike = new Map(); // strike -> [calls, puts]
    this.marks = [];
    this.withStrikes = false; // alone on a narrow screen
    this.greatest = 1;
    this.reason = "no model yet";
    this.frame = 0;
    axis.addEventListener("move", () => this.redraw());
  }

  /** Take rows of [strike, calls, puts] in dollars per 1 %; null with a reason: none. */
  show(rows, reason) {
    this.byStrike = new Map((rows ?? []).map(([strike, calls, puts]) => [strike, [calls ?? 0, puts ?? 0]]));
    this.reason = this.byStrike.size ? "" : reason ?? "nothing to sum";
    const sizes = [...this.byStrike.values()].flatMap(([calls, puts]) =>
      this.net ? [Math.abs(calls + puts)] : [calls, -puts]);
    this.greatest = Math.max(1, ...sizes);
    this.redraw();
  }

  resize() {
    Object.assign(this, fit(this.canvas, OPAQUE, this.canvas.parentElement));
    this.redraw();
  }

  redraw() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      if (this.width) this.#paint();
    });
  }

  /** The exposures at a height, for the hover. */
  at(y) {
    const row = this.axis.rowAt(y);
    const strike = this.axis.strikes[row];
    const found = row < 0 ? undefined : this.byStrike.get(strike);
    return found ? { strike, calls: found[0], puts: found[1] } : null;
  }

  #paint() {
    const { context } = this;
    const bars = this.width - NAMES_WIDTH;
    const left = this.withStrikes ? STRIKES_WIDTH : 0;
    const middle = (left + bars) / 2;
    context.fillStyle = colour("--panel");
    context.fillRect(0, 0, this.width, this.height);
    this.#paintMarks(bars);
    this.#paintBars(middle, middle - left - 4, colour("--call"), colour("--put"));
    context.fillStyle = colour("--line");
    context.fillRect(middle - 0.5, 0, 1, this.height);
    context.fillStyle = colour("--dim");
    context.font = FONT;
    context.textAlign = "left";
    context.textBaseline = "top";
    context.fillText(this.reason || `${formatDollars(this.greatest)} $/1 %`, left + 4, 4);
    if (this.withStrikes) this.#paintStrikes();
  }

  #paintStrikes() {
    const { context, axis } = this;
    context.textBaseline = "middle";
    const [from, to] = axis.visible;
    for (let row = from; row < to; row += 1) context.fillText(String(axis.strikes[row]), 4, axis.middle(row));
  }

  #paintBars(middle, greatest, green, red) {
    const { context, axis } = this;
    const [from, to] = axis.visible;
    const height = axis.rowHeight * (this.net ? 0.6 : 0.72);
    for (let row = from; row < to; row += 1) {
      const found = this.byStrike.get(axis.strikes[row]);
      if (!found) continue;
      for (const value of this.net ? [found[0] + found[1]] : found) {
        const length = (value / this.greatest) * greatest;
        context.fillStyle = value >= 0 ? green : red;
        context.fillRect(Math.min(middle, middle + length), axis.middle(row) - height / 2, Math.abs(length), height);
      }
    }
  }

  /** A line for each level in sight, its name beside it; levels out of sight are named at the edge they lie beyond. */
  #paintMarks(bars) {
    const { context, height } = this;
    const placed = this.marks.map((mark) => ({ mark, y: this.#placeOf(mark.price), seen: false }));
    for (const one of placed) one.seen = one.y > 0 && one.y < height;
    placed.sort((a, b) => a.y - b.y || b.mark.price - a.mark.price);
    const half = LINE_HEIGHT / 2 + 1;
    const named = spread(placed.map(({ y }) => Math.max(half, Math.min(height - half, y))), LINE_HEIGHT, half, height - half);
    context.font = FONT;
    context.textAlign = "left";
    context.textBaseline = "middle";
    placed.forEach(({ mark, y, seen }, at) => {
      context.strokeStyle = mark.colour;
      context.fillStyle = mark.colour;
      context.lineWidth = 1.5;
      if (seen) this.#paintLine(mark, y, bars, named[at]);
      const arrow = seen ? "" : y <= 0 ? "↑ " : "↓ ";
      context.fillText(arrow + mark.label, bars + 14, named[at]);
    });
    context.setLineDash([]);
  }

  #paintLine(mark, y, bars, named) {
    const { context } = this;
    context.setLineDash(mark.dash);
    context.beginPath();
    context.moveTo(0, y);
    context.lineTo(bars, y);
    context.stroke();
    context.setLineDash([]);
    context.beginPath();
    context.moveTo(bars, y);
    context.lineTo(bars + 11, named);
    context.stroke();
  }

  /** Where a price lies, also beyond the strikes listed: far above or far below. */
  #placeOf(price) {
    const y = this.axis.place(price);
    if (y !== null) return y;
    return price > (this.axis.strikes[0] ?? 0) ? -Infinity : Infinity;
  }
}
