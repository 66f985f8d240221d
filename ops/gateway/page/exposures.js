/** Gamma exposure beside the heatmap, on the same strikes: calls and puts or net as bars, the levels as lines. */

import { formatDollars } from "./values.js";

export class Exposures {
  constructor(canvas, axis) {
    this.canvas = canvas;
    this.axis = axis;
    this.context = canvas.getContext("2d", { alpha: false });
    this.mode = "sides"; // "sides" or "net"
    this.byStrike = new Map();
    this.marks = [];
    this.greatest = 1;
    this.frame = 0;
    axis.addEventListener("move", () => this.redraw());
  }

  /** Take a GEX model (null: none yet). */
  show(model) {
    this.byStrike = new Map((model?.by_strike ?? []).map(([strike, calls, puts]) => [strike, [calls ?? 0, puts ?? 0]]));
    const sizes = [...this.byStrike.values()].flatMap(([calls, puts]) =>
      this.mode === "net" ? [Math.abs(calls + puts)] : [calls, -puts]);
    this.greatest = Math.max(1, ...sizes);
    this.redraw();
  }

  resize() {
    const box = this.canvas.parentElement.getBoundingClientRect();
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(box.width * ratio);
    this.canvas.height = Math.round(box.height * ratio);
    this.width = box.width;
    this.height = box.height;
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
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
    const { context, axis } = this;
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    context.fillStyle = colour("--panel");
    context.fillRect(0, 0, this.width, this.height);
    const middle = this.width / 2;
    const [from, to] = axis.visible;
    const [green, red] = [colour("--call"), colour("--put")];
    for (let row = from; row < to; row += 1) {
      const found = this.byStrike.get(axis.strikes[row]);
      if (!found) continue;
      const y = axis.middle(row) - axis.rowHeight * 0.36;
      const bars = this.mode === "net" ? [found[0] + found[1]] : found;
      for (const value of bars) {
        const length = (value / this.greatest) * (middle - 6);
        context.fillStyle = value >= 0 ? green : red;
        context.fillRect(Math.min(middle, middle + length), y, Math.abs(length), axis.rowHeight * 0.72);
      }
    }
    context.fillStyle = colour("--line");
    context.fillRect(middle - 0.5, 0, 1, this.height);
    this.#paintMarks();
    context.fillStyle = colour("--dim");
    context.font = "11px system-ui, sans-serif";
    context.textAlign = "right";
    context.textBaseline = "top";
    context.fillText(`${formatDollars(this.greatest)} $ per 1 %`, this.width - 6, 4);
  }

  #paintMarks() {
    const { context, axis } = this;
    context.font = "11px system-ui, sans-serif";
    context.textAlign = "left";
    context.textBaseline = "bottom";
    for (const mark of this.marks) {
      const y = axis.place(mark.price);
      if (y === null) continue;
      context.strokeStyle = mark.colour;
      context.fillStyle = mark.colour;
      context.lineWidth = 1.5;
      context.setLineDash(mark.dash ?? []);
      context.beginPath();
      context.moveTo(0, y);
      context.lineTo(this.width, y);
      context.stroke();
      context.fillText(mark.label, 4, y - 1);
    }
    context.setLineDash([]);
  }
}
