/** Levels in words, and as lines across heatmap and exposures. */

import { colour } from "./canvas.js";
import { formatDollars, formatPoints } from "./values.js";

const NAMES = {
  flip: ["gamma flip", "--flip", [], "net gamma changes sign"],
  flip_front: ["flip, front", "--flip", [2, 4], "the same, front expiration"],
  call_wall: ["call wall", "--wall-call", [], "most calls above spot"],
  put_wall: ["put wall", "--wall-put", [], "most puts below spot"],
  abs_gamma: ["most gamma", "--dim", [4, 4], "most calls + |puts|"],
  magnet: ["magnet", "--accent", [6, 3], "largest net gamma"],
  max_pain: ["max pain", "--dim", [2, 3], "options pay least there"],
};
const LINES = ["flip", "call_wall", "put_wall", "magnet"];
const REASONS = {
  no_sign_change: "no change of sign in range", insufficient_iv: "too few own volatilities", no_spot: "no spot",
  no_exposures: "nothing to sum", no_candidate: "none on that side", no_oi: "no open interest",
  no_volatility: "no volatility at the forward", no_front_plane: "no front plane", not_computed: "not computed yet",
  fewer_than_8_strikes: "fewer than 8 strikes with a density", no_acceptance: "spot and volume at none of the strikes",
};

/** Why something is null, for people. */
export function reasonWords(status) {
  return REASONS[status] ?? String(status ?? "unknown").replaceAll("_", " ");
}

/** The lines of the newest models: `[{price, label, colour, dash}]`; `plane` is the plane shown. */
export function marksOf(gex, gravity, plane) {
  const marks = [];
  const add = (price, name, shade, dash) => {
    if (price != null) marks.push({ price, label: `${name} ${formatPoints(price)}`, colour: colour(shade), dash });
  };
  for (const name of LINES) add(gex?.levels?.[name]?.value, ...NAMES[name]);
  const move = bandOf(plane);
  add(move?.[1], "+1σ", "--dim", [1, 4]);
  add(move?.[0], "−1σ", "--dim", [1, 4]);
  add(gravity?.best, "gravity", "--gravity", [8, 4]);
  add(gex?.spot, "spot", "--spot", []);
  return marks;
}

/** The expected move to settlement around the forward, [low, high]; null when it is unknown. */
export function bandOf(plane) {
  if (plane?.em_1sigma == null || plane.forward == null) return null;
  return [plane.forward - plane.em_1sigma, plane.forward + plane.em_1sigma];
}

/** Fill the table: name, value, and how it was found. */
export function fillLevels(table, gex, planeId) {
  const rows = [
    ["net gamma", formatDollars(gex?.net), gex?.net == null ? reasonWords(gex?.reason) : "calls + puts, $ per 1 %"],
    ["unsigned", formatDollars(gex?.abs), "calls + |puts|"],
  ];
  for (const [name, level] of Object.entries(gex?.levels ?? {})) {
    const [label, , , words] = NAMES[name] ?? [name.replaceAll("_", " ")];
    const others = level.crossings?.length > 1 ? level.crossings.map(formatPoints).join(", ") : "";
    const how = others ? `crossings: ${others}` : words ?? level.method;
    rows.push([label, formatPoints(level.value), level.value == null ? reasonWords(level.status) : how, level.method]);
  }
  const plane = gex?.planes?.[planeId];
  if (plane) {
    const move = plane.em_1sigma;
    rows.push(["forward", formatPoints(plane.forward), `${planeId}, ${plane.forward_source ?? "unknown"}`]);
    rows.push(["exp. move", move == null ? "–" : `±${formatPoints(move)}`, move == null ? reasonWords(plane.reason) : "1σ to settlement"]);
    rows.push(["coherence", formatPoints(plane.coherence), "of parity forwards, pt"]);
  }
  replaceRows(table, rows);
}

/** Fill the table of expirations: net and unsigned exposure of each. */
export function fillExpirations(table, gex) {
  const rows = Object.entries(gex?.by_expiration ?? {}).sort().map(([date, sum]) =>
    [`${date.slice(5)} · ${sum.dte}d`, formatDollars(sum.net), `of ${formatDollars(sum.abs)}`]);
  replaceRows(table, rows);
}

/** Rows of three texts, and the title of the third, into a table; only what changed is touched. */
export function replaceRows(table, rows) {
  while (table.rows.length > rows.length) table.deleteRow(-1);
  rows.forEach((row, at) => {
    const line = table.rows[at] ?? table.insertRow();
    row.slice(0, 3).forEach((text, column) => {
      const cell = line.cells[column] ?? line.insertCell();
      if (cell.textContent === text) return;
      cell.textContent = text;
      cell.title = column === 2 && row[3] ? `${text}: ${row[3]}` : text;
    });
  });
}
