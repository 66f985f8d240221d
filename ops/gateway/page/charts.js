/** The small charts: gamma profile, dealer gravity over spot, liquidity map, mode gauge. */

import { colour, fit } from "./canvas.js";
import { reasonWords } from "./levels.js";
import { formatDollars, formatPoints, marketClock } from "./values.js";

/** A uPlot line chart whose data and size can be replaced; made anew when the theme changes. */
class Lines {
  constructor(root, describe) {
    this.root = root;
    this.describe = describe;
    this.plot = null;
    this.data = null;
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
    const axis = { font: "11px system-ui, sans-serif", stroke: colour("--dim"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
    this.plot = new window.uPlot({ ...size, legend: { show: false }, cursor: { show: false }, padding: [6, 10, 0, 0], ...this.describe(axis) }, this.data, this.root);
  }
}

export class Profile extends Lines {
  constructor(root) {
    super(root, (axis) => ({
      scales: { x: { time: false } },
      axes: [{ ...axis, size: 22 }, { ...axis, size: 58, values: (_, ticks) => ticks.map(formatDollars) }],
      series: [{}, { stroke: colour("--accent"), width: 1.5 }, { stroke: colour("--dim"), width: 1, dash: [3, 3] }],
      hooks: { draw: [(plot) => this.#marks(plot)] },
    }));
    this.crossings = [];
    this.spot = null;
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
    const line = (x, shade) => {
      const at = Math.round(plot.valToPos(x, "x", true));
      ctx.strokeStyle = shade;
      ctx.beginPath();
      ctx.moveTo(at, bbox.top);
      ctx.lineTo(at, bbox.top + bbox.height);
      ctx.stroke();
    };
    ctx.save();
    for (const crossing of this.crossings) line(crossing, colour("--flip"));
    if (this.spot != null) line(this.spot, colour("--spot"));
    const zero = Math.round(plot.valToPos(0, "y", true));
    ctx.strokeStyle = colour("--dim");
    ctx.beginPath();
    ctx.moveTo(bbox.left, zero);
    ctx.lineTo(bbox.left + bbox.width, zero);
    ctx.stroke();
    ctx.restore();
  }
}

const line = { spanGaps: true, points: { show: false } };
const POINTS = 3600; // an hour of ticks: the sparkline keeps no more

/** Spot with the gravity line and its band; a ring of fixed size, so nothing accumulates. */
export class Gravity extends Lines {
  constructor(root) {
    super(root, (axis) => ({
      axes: [{ ...axis, size: 22, space: 70, values: (_, ticks) => ticks.map(marketClock) }, { ...axis, size: 58 }],
      series: [
        {}, { ...line, stroke: colour("--ink"), width: 1.2 }, { ...line, stroke: colour("--gravity"), width: 2 },
        { ...line, stroke: colour("--gravity"), width: 0.5 }, { ...line, stroke: colour("--gravity"), width: 0.5 },
      ],
      bands: [{ series: [3, 4], fill: `${colour("--gravity")}33` }],
    }));
    this.columns = Array.from({ length: 5 }, () => new Float64Array(POINTS));
    this.count = 0;
  }

  clear() {
    this.count = 0;
    this.show(null);
  }

  /** Put the minutes before in front, newest first as the gateway tells them; spot is the one of the model. */
  recall(minutes) {
    const since = this.count ? this.columns[0][0] : Infinity;
    const live = Array.from({ length: this.count }, (_, at) => this.columns.map((column) => column[at]));
    const before = minutes.filter(({ ts }) => ts < since).reverse()
      .map((one) => [one.ts, one.spot ?? NaN, one.best ?? NaN, one.high ?? NaN, one.low ?? NaN]);
    const rows = [...before, ...live].slice(-POINTS);
    rows.forEach((row, at) => row.forEach((value, column) => { this.columns[column][at] = value; }));
    this.count = rows.length;
    if (this.count) this.#draw();
  }

  /** The newest: one row of a tick. */
  add(ts, spot, gravity) {
    if (spot == null || (this.count && ts <= this.columns[0][this.count - 1])) return;
    if (this.count === POINTS) {
      for (const column of this.columns) column.copyWithin(0, POINTS / 10);
      this.count -= POINTS / 10;
    }
    const values = [ts, spot, gravity?.best ?? NaN, gravity?.high ?? NaN, gravity?.low ?? NaN];
    this.columns.forEach((column, at) => { column[this.count] = values[at]; });
    this.count += 1;
    this.#draw();
  }

  #draw() {
    const shown = this.columns.map((column, at) => {
      const part = column.subarray(0, this.count);
      return at === 0 ? part : Array.from(part, (value) => (Number.isNaN(value) ? null : value));
    });
    this.show(shown);
  }
}

function cleared(canvas) {
  const drawing = fit(canvas);
  drawing.context.clearRect(0, 0, drawing.width, drawing.height);
  drawing.context.font = "11px system-ui, sans-serif";
  return drawing;
}

const QUADRANTS = [
  ["False Breakout Risk", "left", "top"], ["Pin / Mean Reversion", "right", "top"],
  ["Downside Acceleration", "left", "bottom"], ["Air-Pocket Expansion", "right", "bottom"],
];

/** bias (x, -100..100) against lfi (y, 0..100) with its trail; `trail` rows are [ts, bias, lfi]. */
export function paintLiquidity(canvas, model) {
  const { context, width, height } = cleared(canvas);
  const x = (bias) => ((bias + 100) / 200) * (width - 12) + 6;
  const y = (lfi) => (1 - lfi / 100) * (height - 12) + 6;
  context.strokeStyle = colour("--line");
  context.strokeRect(0.5, 0.5, width - 1, height - 1);
  context.beginPath();
  context.moveTo(x(0), 0);
  context.lineTo(x(0), height);
  context.moveTo(0, y(50));
  context.lineTo(width, y(50));
  context.stroke();
  context.fillStyle = colour("--dim");
  for (const [words, across, down] of QUADRANTS) {
    context.textAlign = across;
    context.textBaseline = down;
    context.fillText(words, across === "left" ? 6 : width - 6, down === "top" ? 6 : height - 6);
  }
  if (model?.bias == null) return model ? reasonWords(model.reason) : "no model yet";
  const trail = model.trail ?? [];
  trail.forEach(([, bias, lfi], at) => {
    context.globalAlpha = 0.15 + (0.6 * at) / Math.max(1, trail.length);
    context.fillStyle = colour("--accent");
    context.fillRect(x(bias) - 1.5, y(lfi) - 1.5, 3, 3);
  });
  context.globalAlpha = 1;
  context.fillStyle = colour("--flash");
  context.beginPath();
  context.arc(x(model.bias), y(model.lfi), 5, 0, 7);
  context.fill();
  return `${model.quadrant} · bias ${model.bias.toFixed(0)}, lfi ${model.lfi.toFixed(0)}`;
}

export function paintMode(canvas, model) {
  const { context, width, height } = cleared(canvas);
  const parts = [["compression", 0, 34, "--call"], ["transition", 34, 67, "--warn"], ["expansion", 67, 100, "--put"]];
  const x = (score) => 6 + (score / 100) * (width - 12);
  context.textAlign = "center";
  context.textBaseline = "bottom";
  for (const [words, from, to, shade] of parts) {
    context.globalAlpha = 0.55;
    context.fillStyle = colour(shade);
    context.fillRect(x(from), 4, x(to) - x(from) - 2, 14);
    context.globalAlpha = 1;
    context.fillStyle = colour("--dim");
    context.fillText(words, (x(from) + x(to)) / 2, height - 1);
  }
  if (model?.score == null) return model ? reasonWords(model.reason) : "no model yet";
  context.fillStyle = colour("--flash");
  context.fillRect(x(model.score) - 1.5, 0, 3, 22);
  return `${model.mode} · ${model.score.toFixed(0)}`;
}

export function gravityWords(model) {
  if (!model) return "no model yet";
  if (model.best == null) return reasonWords(model.reason);
  return `${formatPoints(model.best)} (${formatPoints(model.low)}–${formatPoints(model.high)}), conf. ${model.confidence?.toFixed(2) ?? "–"}`;
}
