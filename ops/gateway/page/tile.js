/** One tile in words, under the pointer and pinned: legs, prices, flags, the age of its quotes, its order. */

import { flagWords } from "./book.js";
import { askTile } from "./gateway.js";
import { buyOf, formatAge, midOf, rewardToRisk, sellOf } from "./values.js";

const REFRESH_MS = 2000;

const price = (value) => (value === null ? "–" : value.toFixed(2));

/**
 * The words of a tile `{plane, strategy, side, strike, width}`. `told` is what the gateway says of it, null before it
 * did: the stream has no quote times. `nowS` is the market's time.
 */
export function wordsOf(book, tile, told, nowS) {
  const title = `${tile.plane} ${tile.strategy} ${tile.side} ${tile.strike}${tile.width ? ` width ${tile.width}` : ""}`;
  const plane = book.planes.get(tile.plane);
  const cell = plane?.find(tile.strategy, tile.side, tile.strike, tile.width) ?? -1;
  if (cell < 0) return `${title}\nnot listed`;
  const legs = book.legs(plane, cell).map(({ strike, ratio, cell: single }, at) => {
    const prices = `${price(sellOf(plane, single))} / ${price(buyOf(plane, single))}`;
    const ts = told?.legs?.[at]?.ts;
    const age = ts == null || nowS == null ? "" : `, ${formatAge(nowS - ts)} old`;
    return `${ratio > 0 ? "+" : "−"}${Math.abs(ratio)} ${strike} ${tile.side}  ${prices}${age}`;
  });
  const mid = midOf(plane, cell);
  const ratio = rewardToRisk(mid, tile.width);
  const flags = flagWords(plane.flags[cell]);
  return [
    title, ...legs, `mid ${price(mid)}, buy ${price(buyOf(plane, cell))}, sell ${price(sellOf(plane, cell))}`,
    ratio === null ? "" : `reward to risk ${ratio.toFixed(1)}`, flags.join(", "),
  ].filter(Boolean).join("\n");
}

/** The pinned tile; it stays what it is whatever the map shows. */
export class Pin {
  constructor(root) {
    this.root = root;
    this.text = root.querySelector("pre");
    this.copy = root.querySelector("#copy-order");
    this.order = root.querySelector("output");
    this.tile = null;
    this.copy.addEventListener("click", () => this.#copyOrder());
    root.querySelector("#unpin").addEventListener("click", () => this.clear());
  }

  set(symbol, tile) {
    Object.assign(this, { symbol, tile, told: null, askedMs: 0 });
    this.order.value = "";
    this.root.hidden = false;
  }

  clear() {
    this.tile = null;
    this.root.hidden = true;
  }

  /** Show it as the book has it now; the gateway is asked for the ages now and then. */
  show(book, nowS) {
    if (!this.tile) return;
    this.text.textContent = wordsOf(book, this.tile, this.told, nowS);
    if (Date.now() - this.askedMs > REFRESH_MS) this.#ask().catch(() => {});
  }

  async #ask() {
    this.askedMs = Date.now();
    const { tile } = this;
    const told = await askTile(this.symbol, tile);
    if (tile === this.tile) this.told = told;
    return told;
  }

  /** The order line comes from the gateway, which spells it for every program. */
  async #copyOrder() {
    try {
      const told = await this.#ask();
      this.order.value = told.order ?? told.order_reason;
      if (told.order === null) return;
      await navigator.clipboard?.writeText(told.order).catch(() => {});
      this.copy.textContent = "copied";
      setTimeout(() => { this.copy.textContent = "copy order"; }, 1500);
    } catch (error) {
      this.order.value = error.message;
    }
  }
}
