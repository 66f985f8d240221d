/** The table mode: the same cells as text, for screen readers, for copying, and for tests. */

import { flagWords } from "./book.js";
import { METRICS, formatValue } from "./values.js";

/** Builds the table of a sheet and keeps it level, one cell at a time. */
export class CellTable {
  constructor(root) {
    this.root = root;
    this.sheet = null;
    this.found = new Map(); // place -> td
  }

  show(sheet, metric, spot) {
    const same = this.sheet?.key === sheet.key;
    Object.assign(this, { sheet, metric, spot });
    if (!same) this.#build();
    this.#write(this.found.keys());
  }

  clear() {
    this.sheet = null;
    this.found.clear();
    this.root.replaceChildren();
  }

  /** Cells of a plane changed. */
  touch(plane, cells) {
    if (!this.sheet) return;
    if (this.metric === "change") this.#write(this.found.keys());
    else this.#write(Array.from(cells, (cell) => this.sheet.placeOf(plane, cell)));
  }

  #build() {
    const { sheet } = this;
    this.found.clear();
    const table = document.createElement("table");
    table.createCaption().textContent = `${sheet.key}`;
    const head = table.createTHead().insertRow();
    head.append(header("col", "strike"), ...sheet.columns.map(({ label }) => header("col", label)));
    const body = table.createTBody();
    for (let row = sheet.strikes.length - 1; row >= 0; row -= 1) {
      const line = body.insertRow();
      line.append(header("row", String(sheet.strikes[row])));
      for (let column = 0; column < sheet.columns.length; column += 1) {
        const place = row * sheet.columns.length + column;
        const cell = line.insertCell();
        if (sheet.cells[place] < 0) continue;
        cell.dataset.cell = `${sheet.plane(place).id} ${sheet.cells[place]}`;
        this.found.set(place, cell);
      }
    }
    this.root.replaceChildren(table);
  }

  #write(places) {
    const { sheet, metric, spot } = this;
    for (const place of places) {
      const found = this.found.get(place);
      if (!found) continue;
      const value = sheet.value(metric, place, spot);
      const text = value === null ? "–" : formatValue(metric, value);
      const flags = flagWords(sheet.flags(place)).join(", ");
      if (found.textContent !== text) found.textContent = text;
      found.dataset.value = value ?? "";
      found.dataset.flags = sheet.flags(place);
      found.setAttribute("aria-label", `${METRICS[metric]} ${value === null ? "unknown" : text}${flags && `, ${flags}`}`);
    }
  }
}

function header(scope, words) {
  const cell = document.createElement("th");
  cell.scope = scope;
  cell.textContent = words;
  return cell;
}
