/**
 * The strike axis that heatmap and exposures share. Rows go from the highest strike to the lowest; `first` is the row at
 * the top and may be a fraction, so that scrolling is smooth; `rowHeight` is the zoom.
 */

const MIN_ROW = 12;
const MAX_ROW = 48;

export class StrikeAxis extends EventTarget {
  strikes = []; // descending
  first = 0;
  height = 400;

  constructor(rowHeight) {
    super();
    this.rowHeight = rowHeight;
  }

  /** Take the strikes of a plane (ascending), keeping the strike in the middle where it is. */
  setStrikes(ascending) {
    const middle = this.strikes.length ? this.priceAt(this.height / 2) : null;
    this.strikes = [...ascending].reverse();
    if (middle !== null) this.centreOn(middle);
    this.#moved();
  }

  resize(height) {
    this.height = height;
    this.#moved();
  }

  get visible() {
    const last = Math.min(this.strikes.length, Math.ceil(this.first + this.height / this.rowHeight));
    return [Math.max(0, Math.floor(this.first)), last];
  }

  /** Vertical middle of a row, in pixels. */
  middle(row) {
    return (row - this.first + 0.5) * this.rowHeight;
  }

  /** The row under a pixel, -1 outside. */
  rowAt(y) {
    const row = Math.floor(this.first + y / this.rowHeight);
    return row >= 0 && row < this.strikes.length ? row : -1;
  }

  /** Where a price lies, in pixels, between the strikes around it; null beyond the strikes. */
  place(price) {
    const row = this.#fraction(price);
    return row === null ? null : this.middle(row);
  }

  priceAt(y) {
    const at = this.first + y / this.rowHeight - 0.5;
    const row = Math.max(0, Math.min(this.strikes.length - 1, Math.floor(at)));
    const next = Math.min(this.strikes.length - 1, row + 1);
    return this.strikes[row] + (this.strikes[next] - this.strikes[row]) * Math.max(0, Math.min(1, at - row));
  }

  scroll(pixels) {
    this.first += pixels / this.rowHeight;
    this.#moved();
  }

  zoom(factor, y = this.height / 2) {
    const price = this.priceAt(y);
    this.rowHeight = Math.max(MIN_ROW, Math.min(MAX_ROW, this.rowHeight * factor));
    const row = this.#fraction(price);
    if (row !== null) this.first = row + 0.5 - y / this.rowHeight;
    this.#moved();
  }

  centreOn(price) {
    const row = this.#fraction(Math.max(this.strikes.at(-1), Math.min(this.strikes[0], price)));
    if (row !== null) this.first = row + 0.5 - this.height / this.rowHeight / 2;
    this.#moved();
  }

  reveal(row) {
    const shown = this.height / this.rowHeight;
    if (row < this.first) this.first = row;
    if (row > this.first + shown - 1) this.first = row - shown + 1;
    this.#moved();
  }

  #fraction(price) {
    const { strikes } = this;
    const above = strikes.findLastIndex((strike) => strike >= price);
    if (above < 0 || price < strikes.at(-1)) return null;
    return price === strikes[above] ? above : above + (strikes[above] - price) / (strikes[above] - strikes[above + 1]);
  }

  #moved() {
    const most = Math.max(0, this.strikes.length - this.height / this.rowHeight);
    this.first = Math.max(0, Math.min(most, this.first));
    this.dispatchEvent(new Event("move"));
  }
}
