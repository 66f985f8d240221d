/** The line charts: gamma profile, and dealer gravity over spot. */

import { FONT, colour, line } from "./canvas.js";
import { reasonWords } from "./levels.js";
import { formatDollars, formatPoints, marketClock } from "./values.js";

/** A uPlot line chart whose data and size can be replaced; made anew when the theme changes. */
class Lines {
  plot = null;
  data = null;

  constructor(root) {
    this.root = root;
  }

  show(data) {
    this.data = data;
    if (!this.plot || !data) this.rebuild();
    else this.plot.setData(data);
  }

  rebuild() {
    this.plot?.destroy();
    this.plot = null;
    if (!this.data) return;
    const box = this.root.getBoundingClientRect();
    const size = { width: Math.max(120, box.width), height: Math.max(80, box.height) };
    const axis = { font: `11${FONT}`, stroke: colour("dim"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false } };
    this.plot = new uPlot({ ...size, legend: { show: false }, cursor: { show: false }, padding: [6, 24, 0, 0], ...this.describe(axis) }, this.data, this.root);
  }
}

export class Profile extends Lines {
  crossings = [];
  spot = null;

  describe(axis) {
    return {
      scales: { x: { time: false } },
      axes: [{ ...axis, size: 22 }, { ...axis, size: 58, values: (_, ticks) => ticks.map(formatDollars) }],
      series: [{}, { stroke: colour("accent"), width: 1.5 }, { stroke: colour("dim"), width: 1, dash: [3, 3] }],
      hooks: { draw: [(plot) => this.#marks(plot)] },
    };
  }

  /** `profile` of a GEX model; returns words when there is none. */
  take(gex) {
    const { profile, levels } = gex;
    if (!profile?.net) {
      this.show(null);
      return profile ? reasonWords(profile.status) : "no profile yet";
    }
    this.crossings = levels?.flip?.crossings ?? [];
    this.spot = gex.spot;
    this.show([profile.spots, profile.net, profile.front?.net ?? profile.spots.map(() => null)]);
    return this.crossings.length ? `crosses zero at ${this.crossings.map(formatPoints).join(", ")}` : "never crosses zero";
  }

  #marks(plot) {
    const { ctx, bbox } = plot;
    const mark = (x, shade) => {
      const at = Math.round(plot.valToPos(x, "x", true));
      ctx.strokeStyle = colour(shade);
      line(ctx, at, bbox.top, at, bbox.top + bbox.height);
    };
    ctx.save();
    for (const crossing of this.crossings) mark(crossing, "flip");
    if (this.spot != null) mark(this.spot, "flash");
    const zero = Math.round(plot.valToPos(0, "y", true));
    ctx.strokeStyle = colour("dim");
    line(ctx, bbox.left, zero, bbox.left + bbox.width, zero);
    ctx.restore();
  }
}

const POINTS = 3600; // an hour of ticks: no more is kept

/** Spot with the gravity line and its band. */
export class Gravity extends Lines {
  columns = [[], [], [], [], []];

  describe(axis) {
    const curve = (shade, width) => ({ spanGaps: true, points: { show: false }, stroke: colour(shade), width });
    return {
      axes: [{ ...axis, size: 22, space: 70, values: (_, ticks) => ticks.map(marketClock) }, { ...axis, size: 58 }],
      series: [{}, curve("ink", 1.2), curve("gravity", 2), curve("gravity", 0.5), curve("gravity", 0.5)],
      bands: [{ series: [3, 4], fill: `${colour("gravity")}33` }],
    };
  }

  clear() {
    this.columns = this.columns.map(() => []);
    this.show(null);
  }

  /** Put the minutes before in front, newest first as the gateway tells them; where spot was then is not known. */
  recall(minutes) {
    const since = this.columns[0][0] ?? Infinity;
    for (const one of minutes) if (one.ts < since) rowOf(one.ts, null, one).forEach((value, at) => this.columns[at].unshift(value));
    if (this.columns[0].length) this.show(this.columns);
  }

  add(ts, spot, gravity) {
    if (spot == null || ts <= this.columns[0].at(-1)) return;
    rowOf(ts, spot, gravity).forEach((value, at) => this.columns[at].push(value));
    if (this.columns[0].length > POINTS) for (const column of this.columns) column.shift();
    this.show(this.columns);
  }
}

function rowOf(ts, spot, gravity) {
  return [ts, spot, ...["best", "high", "low"].map((name) => gravity?.[name] ?? null)];
}
