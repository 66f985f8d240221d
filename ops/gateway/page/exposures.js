/** Gamma exposure beside the heatmap, on the same strikes: bars, and the levels with their names in a gutter. */

import { Drawing, colour, line, write } from "./canvas.js";
import { spread } from "./labels.js";
import { formatDollars } from "./values.js";

const NAMES_WIDTH = 148;
const STRIKES_WIDTH = 44;
const LINE_HEIGHT = 13;

export class Exposures extends Drawing {
  net = false; // one bar for calls + puts
  byStrike = new Map(); // strike -> [calls, puts]
  marks = [];
  withStrikes = false; // alone on a narrow screen
  greatest = 1;

  /** Take rows of [strike, calls, puts] in dollars per 1 %, null if there are none; returns the words for them. */
  show(rows, reason) {
    this.byStrike = new Map((rows ?? []).map(([strike, calls, puts]) => [strike, [calls ?? 0, puts ?? 0]]));
    const sizes = [...this.byStrike.values()].flatMap(([calls, puts]) =>
      this.net ? [Math.abs(calls + puts)] : [calls, -puts]);
    this.greatest = Math.max(1, ...sizes);
    this.redraw();
    return this.byStrike.size ? `up to ${formatDollars(this.greatest)} $/1 %` : reason;
  }

  /** The strike at a height, null where nothing is shown. */
  strikeAt(y) {
    const strike = this.axis.strikes[this.axis.rowAt(y)];
    return this.byStrike.has(strike) ? strike : null;
  }

  wordsOf(strike) {
    const [calls, puts] = this.byStrike.get(strike) ?? [];
    return `${strike}\ncalls ${formatDollars(calls)}\nputs ${formatDollars(puts)}\nnet ${formatDollars(calls + puts)}`;
  }

  paint() {
    const { context } = this;
    const bars = this.width - NAMES_WIDTH;
    const left = this.withStrikes ? STRIKES_WIDTH : 0;
    const middle = (left + bars) / 2;
    context.fillStyle = colour("panel");
    context.fillRect(0, 0, this.width, this.height);
    this.#paintMarks(left, bars);
    this.#paintBars(middle, middle - left - 4, colour("call"), colour("put"));
    context.fillStyle = colour("line");
    context.fillRect(middle - 0.5, 0, 1, this.height);
    if (this.withStrikes) this.#paintStrikes();
  }

  #paintStrikes() {
    const { context, axis } = this;
    context.fillStyle = colour("dim");
    const [from, to] = axis.visible;
    for (let row = from; row < to; row += 1) write(context, axis.strikes[row], 4, axis.middle(row), "left", "11");
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
  #paintMarks(left, bars) {
    const { context, height } = this;
    const placed = this.marks.map((mark) => ({ ...mark, y: this.#placeOf(mark.price) }));
    placed.sort((a, b) => a.y - b.y || b.price - a.price);
    const half = LINE_HEIGHT / 2 + 1;
    const named = spread(placed.map(({ y }) => y), LINE_HEIGHT, half, height - half);
    placed.forEach((mark, at) => {
      const { y } = mark;
      Object.assign(context, { strokeStyle: mark.colour, fillStyle: mark.colour, lineWidth: 1.5 });
      const arrow = y <= 0 ? "↑ " : y >= height ? "↓ " : "";
      write(context, arrow + mark.label, bars + 14, named[at], "left", "11");
      if (arrow) return;
      line(context, bars, y, bars + 11, named[at]);
      context.setLineDash(mark.dash);
      line(context, left, y, bars, y);
      context.setLineDash([]);
    });
  }

  /** Where a price lies, also beyond the strikes listed: far above or far below. */
  #placeOf(price) {
    const y = this.axis.place(price);
    if (y !== null) return y;
    return price > (this.axis.strikes[0] ?? 0) ? -Infinity : Infinity;
  }
}
