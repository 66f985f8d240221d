/** The keyboard: arrows move a cursor over the map, letters do what buttons do, wherever the focus is. */

import { CLOSER } from "./controls.js";
import { find } from "./elements.js";
import { wordsOf } from "./tile.js";

const ACTS = {
  Escape: (page) => page.pin.clear(),
  c: (page) => page.centre(),
  t: (page) => page.useTable(find("table").hidden),
  "+": (page) => page.zoom(CLOSER),
  "-": (page) => page.zoom(1 / CLOSER),
};
const STEPS = { // rows of strikes and columns
  ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], PageUp: [10, 0], PageDown: [-10, 0],
};

export class Keyboard {
  constructor(page) {
    document.addEventListener("keydown", (event) => {
      const { target, key } = event;
      if (event.ctrlKey || event.metaKey || event.altKey || target.matches("input, select")) return;
      const onMap = page.sheet && target === page.heatmap.canvas;
      if (key in ACTS) ACTS[key](page);
      else if (onMap && key in STEPS) moveCursor(page, ...STEPS[key]);
      else if (onMap && key === "Enter") page.pinPlace(page.heatmap.cursor);
      else return;
      event.preventDefault();
    });
  }
}

/** Move the cursor; it begins in the middle of what is in sight. */
function moveCursor({ heatmap, axis, sheet, feed }, rows, across) {
  const columns = sheet.columns.length;
  if (!columns) return;
  let [row, column] = [Math.max(0, axis.rowAt(axis.height / 2)), 0];
  if (heatmap.cursor >= 0) {
    row = Math.max(0, Math.min(sheet.strikes.length - 1, sheet.rowOf(heatmap.cursor) - rows));
    column = Math.max(0, Math.min(columns - 1, (heatmap.cursor % columns) + across));
  }
  heatmap.cursor = sheet.placeAt(row, column);
  axis.reveal(row);
  heatmap.canvas.setAttribute("aria-label", wordsOf(feed, sheet.tile(heatmap.cursor), null).replaceAll("\n", ", "));
  heatmap.redraw();
}
