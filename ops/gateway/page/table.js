/** The table mode: the same cells as text, for screen readers, for copying, and for tests. */

import { flagWords } from "./book.js";
import { make } from "./elements.js";
import { METRICS, formatValue } from "./values.js";

export class CellTable {
  sheet = null;
  found = new Map(); // place -> td
  money = null; // the row nearest spot

  constructor(root) {
    this.root = root;
  }

  show(sheet, metric, spot) {
    const same = this.sheet?.key === sheet.key;
    Object.assign(this, { sheet, metric });
    if (!same) this.#build();
    this.caption.textContent = `${sheet.words}: ${METRICS[metric]}`;
    this.useSpot(spot);
    this.#write(this.found.keys());
    if (!same) this.reveal();
  }

  /** Mark the row of the money. */
  useSpot(spot) {
    this.spot = spot;
    this.money?.classList.remove("money");
    if (!this.sheet || spot === null) return;
    this.money = this.body.rows[this.sheet.rowNearest(spot)];
    this.money.classList.add("money");
    if (this.metric === "change") this.#write(this.found.keys());
  }

  reveal() {
    if (this.money) this.root.scrollTop = this.money.offsetTop - this.root.clientHeight / 2;
  }

  clear() {
    this.sheet = null;
    this.money = null;
    this.found.clear();
    this.root.replaceChildren();
  }

  touch(plane, cells) {
    if (!this.sheet) return;
    if (this.metric === "change") this.#write(this.found.keys());
    else this.#write(Array.from(cells, (cell) => this.sheet.placeOf(plane, cell)));
  }

  #build() {
    const { sheet } = this;
    this.found.clear();
    const table = make("table");
    this.caption = table.createCaption();
    const head = table.createTHead().insertRow();
    head.append(...["strike", ...sheet.columns.map(({ label }) => label)].map((words) => header("col", words)));
    this.body = table.createTBody();
    for (let row = 0; row < sheet.strikes.length; row += 1) {
      const line = this.body.insertRow();
      const first = sheet.placeAt(row, 0);
      line.append(header("row", sheet.strike(first)));
      for (let place = first; place < first + sheet.columns.length; place += 1) {
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
      found.ariaLabel = `${METRICS[metric]} ${value === null ? "unknown" : text}${flags && `, ${flags}`}`;
    }
  }
}

function header(scope, textContent) {
  return make("th", { scope, textContent });
}
