/** What was published last, for hours in which no epoch is active: the models, and of the heatmap a reset. */

import { SIDES, STRATEGIES } from "./book.js";
import { ask, askModel } from "./gateway.js";

const UNITS = { mid: 200, buy: 100, sell: 100, flags: 1 }; // of a dollar, as in the stream

/** `{heatmap, gex, liquidity, mode, gravity, reset}`, as far as there are any. */
export async function askLast(symbol) {
  const last = {};
  const { models } = await ask(`/api/models/${symbol}`);
  await Promise.all(Object.keys(models).map(async (model) => { last[model] = await askModel(symbol, model); }));
  return { ...last, reset: last.heatmap && resetOf(last.heatmap) };
}

function resetOf({ planes, ...heatmap }) {
  const told = Object.entries(planes).map(([id, plane]) => ({ ...plane, id, ...columnsOf(plane, heatmap.widths) }));
  return { ...heatmap, planes: told };
}

/** The cells of a plane in the order of the stream. */
function columnsOf(plane, widths) {
  const columns = { cells: [], mid: [], buy: [], sell: [], flags: [] };
  for (const strategy of STRATEGIES) {
    for (const side of SIDES) {
      const told = plane[strategy]?.[side];
      if (told) plane.strikes.forEach((strike, row) => addRow(columns, [strategy, side, strike], told, row, widths));
    }
  }
  return { ...columns, mid2: columns.mid };
}

function addRow(columns, label, told, row, widths) {
  const valuesOf = (name) => [told[name][row]].flat(); // a single has no widths
  valuesOf("flags").forEach((bits, column) => {
    if (bits === null) return; // no cell
    columns.cells.push([...label, label[0] === "single" ? 0 : widths[column]]);
    for (const [name, unit] of Object.entries(UNITS)) {
      const value = valuesOf(name)[column];
      columns[name].push(value === null ? null : Math.round(value * unit));
    }
  });
}
