/**
 * A sheet: what a view lays out as strikes x columns. Columns are the widths of one plane, or, for singles, the
 * expirations of one root. A place is `row * columns + column`; rows ascend with the strike.
 */

import { buyOf, changeBetween, midOf, rewardToRisk, sellOf } from "./values.js";

export class Sheet {
  /** `columns`: [{label, plane, width}]. */
  constructor(strategy, side, strikes, columns, source, epoch) {
    Object.assign(this, { strategy, side, strikes, columns });
    this.words = `${source} ${side} ${strategy}`; // what is shown, whatever the epoch
    this.key = `${epoch} ${this.words}`; // sheets with the same key have the same places
    this.cells = new Int32Array(strikes.length * columns.length).fill(-1);
    this.places = new Map(columns.map(({ plane }) => [plane, new Int32Array(plane.count).fill(-1)]));
    columns.forEach(({ plane, width }, column) => {
      strikes.forEach((strike, row) => this.#seat(plane, width, strike, row, column));
    });
  }

  #seat(plane, width, strike, row, column) {
    const cell = plane.find(this.strategy, this.side, strike, width);
    if (cell < 0) return;
    const place = row * this.columns.length + column;
    this.cells[place] = cell;
    this.places.get(plane)[cell] = place;
  }

  /** The place in a row as it is shown, from the highest strike down. */
  placeAt(shown, column) {
    return (this.strikes.length - 1 - shown) * this.columns.length + column;
  }

  /** The row in which a place is shown. */
  rowOf(place) {
    return this.strikes.length - 1 - Math.floor(place / this.columns.length);
  }

  /** The row whose strike is nearest a price. */
  rowNearest(price) {
    const away = this.strikes.map((strike) => Math.abs(strike - price)).reverse();
    return away.indexOf(Math.min(...away));
  }

  plane(place) {
    return this.columns[place % this.columns.length].plane;
  }

  width(place) {
    return this.columns[place % this.columns.length].width;
  }

  strike(place) {
    return this.strikes[Math.floor(place / this.columns.length)];
  }

  tile(place) {
    const { plane, width } = this.columns[place % this.columns.length];
    return { plane: plane.id, strategy: this.strategy, side: this.side, strike: this.strike(place), width };
  }

  /** Where a cell of a plane lies, -1 if not on this sheet. */
  placeOf(plane, cell) {
    return this.places.get(plane)?.[cell] ?? -1;
  }

  flags(place) {
    return this.cells[place] < 0 ? 0 : this.plane(place).flags[this.cells[place]];
  }

  /** The value of a metric at a place; null where there is none. */
  value(metric, place, spot) {
    const cell = this.cells[place];
    if (cell < 0) return null;
    const plane = this.plane(place);
    if (metric === "mid") return midOf(plane, cell);
    if (metric === "natural") return buyOf(plane, cell);
    if (metric === "sell") return sellOf(plane, cell);
    if (metric === "r2r") return rewardToRisk(midOf(plane, cell), this.width(place));
    return this.#change(place, plane, cell, spot);
  }

  #change(place, plane, cell, spot) {
    if (spot === null || spot === this.strike(place)) return null;
    const next = place + (this.strike(place) < spot ? 1 : -1) * this.columns.length;
    const there = this.cells[next] ?? -1;
    return there < 0 ? null : changeBetween(midOf(plane, cell), midOf(plane, there));
  }
}

/** The sheet of a choice; `plane` names the plane, for singles its root. */
export function sheetOf(book, strategy, side, plane) {
  if (strategy !== "single") {
    const columns = plane.widths(strategy, side).map((width) => ({ label: String(width), plane, width }));
    return new Sheet(strategy, side, plane.strikes, columns, plane.id, book.epoch);
  }
  const planes = [...book.planes.values()].filter((one) => one.root === plane.root);
  planes.sort((a, b) => a.expiration.localeCompare(b.expiration));
  const strikes = [...new Set(planes.flatMap((one) => one.strikes))].sort((a, b) => a - b);
  const columns = planes.map((one) => ({ label: `${one.expiration.slice(5)} ${one.dte}d`, plane: one, width: 0 }));
  return new Sheet(strategy, side, strikes, columns, plane.root, book.epoch);
}
