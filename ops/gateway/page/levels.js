/** Levels in words, and as lines across heatmap and exposures. */

import { formatDollars, formatPoints } from "./values.js";

const NAMES = {
  flip: ["gamma flip", "--flip", []],
  flip_front: ["flip, front plane", "--flip", [2, 4]],
  call_wall: ["call wall", "--wall-call", []],
  put_wall: ["put wall", "--wall-put", []],
  abs_gamma: ["most gamma", "--dim", [4, 4]],
  magnet: ["magnet", "--accent", [6, 3]],
  max_pain: ["max pain", "--dim", [2, 3]],
};
const LINES = ["flip", "call_wall", "put_wall", "magnet"];
const REASONS = {
  no_sign_change: "no sign change in range", insufficient_iv: "too few own volatilities", no_spot: "no spot",
  no_exposures: "nothing to sum", no_candidate: "none on that side", no_oi: "no open interest",
};

export function reasonWords(status) {
  return REASONS[status] ?? String(status ?? "unknown").replaceAll("_", " ");
}

/** The lines of the newest models: `[{price, label, colour, dash}]`. */
export function marksOf(gex, gravity) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const marks = [];
  for (const name of LINES) {
    const level = gex?.levels?.[name];
    if (level?.value == null) continue;
    const [label, shade, dash] = NAMES[name];
    marks.push({ price: level.value, label: `${label} ${formatPoints(level.value)}`, colour: colour(shade), dash });
  }
  if (gravity?.best != null) {
    marks.push({ price: gravity.best, label: `gravity ${formatPoints(gravity.best)}`, colour: colour("--gravity"), dash: [8, 4] });
  }
  if (gex?.spot != null) {
    marks.push({ price: gex.spot, label: `spot ${formatPoints(gex.spot)}`, colour: colour("--spot"), dash: [1, 3] });
  }
  return marks;
}

/** Fill the table: name, value, and how it was found. */
export function fillLevels(table, gex, planeId) {
  const rows = [
    ["net gamma", formatDollars(gex?.net), gex ? "calls + puts, $ per 1 % move" : "no model yet"],
    ["unsigned", formatDollars(gex?.abs), "calls + |puts|"],
  ];
  for (const [name, level] of Object.entries(gex?.levels ?? {})) {
    const label = NAMES[name]?.[0] ?? name.replaceAll("_", " ");
    const value = level.value == null ? "–" : formatPoints(level.value);
    const more = level.crossings?.length > 1 ? ` (${level.crossings.length} crossings)` : "";
    rows.push([label, value, level.value == null ? reasonWords(level.status) : `${level.method}${more}`]);
  }
  const plane = gex?.planes?.[planeId];
  if (plane) {
    rows.push(["forward", formatPoints(plane.forward), `${planeId}, ${plane.forward_source ?? "unknown"}`]);
    rows.push(["expected move", plane.em_1sigma == null ? "–" : `±${formatPoints(plane.em_1sigma)}`, "one sigma to settlement"]);
    rows.push(["coherence", formatPoints(plane.coherence), "points between parity forwards"]);
  }
  replaceRows(table, rows);
}

/** Rows of text into a table, touching only what changed: nothing shifts while it updates. */
export function replaceRows(table, rows) {
  while (table.rows.length > rows.length) table.deleteRow(-1);
  rows.forEach((row, at) => {
    const line = table.rows[at] ?? table.insertRow();
    row.forEach((text, column) => {
      const cell = line.cells[column] ?? line.insertCell();
      if (cell.textContent !== text) cell.textContent = text;
    });
  });
}
