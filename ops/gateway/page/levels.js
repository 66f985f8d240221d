/** Levels in words, and as lines across heatmap and exposures. */

import { colour } from "./canvas.js";
import { formatDollars, formatPoints } from "./values.js";

const NAMES = { // with the colour and the dashes of those that are lines
  flip: ["gamma flip", "net gamma changes sign", "flip", []],
  flip_front: ["flip, front", "the same, front expiration"],
  call_wall: ["call wall", "most calls above spot", "wall-call", []],
  put_wall: ["put wall", "most puts below spot", "wall-put", []],
  abs_gamma: ["most gamma", "most calls + |puts|"],
  magnet: ["magnet", "largest net gamma", "accent", [6, 3]],
  max_pain: ["max pain", "options pay least there"],
};
const REASONS = {
  no_sign_change: "no change of sign in range", insufficient_iv: "too few own volatilities",
  no_exposures: "nothing to sum", no_candidate: "none on that side", no_oi: "no open interest",
  no_volatility: "no volatility at the forward", not_computed: "not computed yet",
  fewer_than_8_strikes: "fewer than 8 strikes with a density", no_acceptance: "spot and volume at none of the strikes",
};

export function reasonWords(status) {
  return REASONS[status] ?? String(status ?? "unknown").replaceAll("_", " ");
}

/** The lines of the newest models: `[{price, label, colour, dash}]`; `plane` is the plane shown. */
export function marksOf(gex, gravity, plane) {
  const marks = [];
  const add = (price, name, shade, dash) => {
    if (price != null) marks.push({ price, label: `${name} ${formatPoints(price)}`, colour: colour(shade), dash });
  };
  for (const [name, [label, , shade, dash]] of Object.entries(NAMES)) {
    if (shade) add(gex.levels[name]?.value, label, shade, dash);
  }
  const move = bandOf(plane);
  add(move?.[1], "+1σ", "dim", [1, 4]);
  add(move?.[0], "−1σ", "dim", [1, 4]);
  add(gravity?.best, "gravity", "gravity", [8, 4]);
  add(gex.spot, "spot", "flash", []);
  return marks;
}

/** The expected move to settlement around the forward, [low, high]; null when it is unknown. */
export function bandOf(plane) {
  if (plane?.em_1sigma == null || plane.forward == null) return null;
  return [plane.forward - plane.em_1sigma, plane.forward + plane.em_1sigma];
}

export function fillLevels(table, gex, plane) {
  const rows = [
    ["net gamma", formatDollars(gex.net), gex.net == null ? reasonWords(gex.reason) : "calls + puts, $ per 1 %"],
    ["unsigned", formatDollars(gex.abs), "calls + |puts|"],
  ];
  for (const [name, level] of Object.entries(gex.levels)) {
    const [label, words, shade] = NAMES[name] ?? [name.replaceAll("_", " ")];
    const others = level.crossings?.length > 1 ? level.crossings.map(formatPoints).join(", ") : "";
    const how = others ? `crossings: ${others}` : words ?? level.method;
    rows.push([label, formatPoints(level.value), level.value == null ? reasonWords(level.status) : how, level.method, shade]);
  }
  if (plane) {
    const move = plane.em_1sigma;
    rows.push(["forward", formatPoints(plane.forward), `${plane.root}:${plane.expiration}, ${plane.forward_source ?? "unknown"}`]);
    rows.push(["exp. move", move == null ? "–" : `±${formatPoints(move)}`, move == null ? reasonWords(plane.reason) : "1σ to settlement"]);
  }
  replaceRows(table, rows);
}

export function fillExpirations(table, gex) {
  const rows = Object.entries(gex.by_expiration).sort().map(([date, sum]) =>
    [`${date.slice(5)} · ${sum.dte}d`, formatDollars(sum.net), `of ${formatDollars(sum.abs)}`]);
  replaceRows(table, rows);
}

/** Rows of three texts, the title of the third, and the colour of the first, into a table; only changes are touched. */
export function replaceRows(table, rows) {
  while (table.rows.length > rows.length) table.deleteRow(-1);
  rows.forEach((row, at) => {
    const line = table.rows[at] ?? table.insertRow();
    row.slice(0, 3).forEach((text, column) => {
      const cell = line.cells[column] ?? line.insertCell();
      const title = column === 2 && row[3] ? `${text}: ${row[3]}` : text;
      if (cell.textContent !== text) cell.textContent = text;
      if (cell.title !== title) cell.title = title;
    });
    line.cells[0].style.color = `var(--${row[4] ?? "ink"})`; // that of its line on the map
  });
}
