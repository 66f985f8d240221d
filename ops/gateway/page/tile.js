/** One tile in words, under the pointer and pinned: legs, prices, flags, the age of its quotes, its order. */

import { flagWords } from "./book.js";
import { askTile } from "./gateway.js";
import { buyOf, formatAge, midOf, rewardToRisk, sellOf } from "./values.js";

const REFRESH_MS = 2000;
const REST_MS = 150; // a pointer that rests so long wants to know how old the quotes are

const price = (value) => (value === null ? "–" : value.toFixed(2));

/**
 * The words of a tile `{plane, strategy, side, strike, width}`. `told` is what the gateway says of it, null before it
 * did: the stream has no quote times.
 */
export function wordsOf({ book, latest }, tile, told) {
  const nowS = latest.gex?.ts;
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
    ratio === null ? "" : `max profit ${price(tile.width - mid)}, max loss ${price(mid)}, R2R ${ratio.toFixed(1)}`,
    flags.join(", "),
  ].filter(Boolean).join("\n");
}

/** The words beside the pointer; they stay level with what they tell. */
export class Tip {
  tell = null;

  constructor(root) {
    this.root = root;
  }

  hide() {
    clearTimeout(this.rest);
    this.tell = null;
    this.root.hidden = true;
  }

  /** Show what `tell` says. */
  show(event, tell) {
    this.hide();
    this.tell = tell;
    this.root.hidden = false;
    this.root.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - 310))}px`;
    this.root.style.top = `${Math.min(event.clientY + 14, innerHeight - 160)}px`;
    this.refresh();
  }

  refresh() {
    if (this.tell) this.root.textContent = this.tell();
  }

  /** A tile; once the pointer rests, with the ages of its quotes. */
  showTile(event, feed, tile) {
    let told = null;
    this.show(event, () => wordsOf(feed, tile, told));
    this.rest = setTimeout(async () => {
      told = await askTile(feed.symbol, tile).catch(() => null);
      this.refresh();
    }, REST_MS);
  }
}

/** The pinned tile; it stays what it is whatever the map shows. */
export class Pin {
  tile = null;

  constructor(root) {
    this.root = root;
    this.text = root.querySelector("pre");
    this.copy = root.querySelector("#copy-order");
    this.order = root.querySelector("output");
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
  show(feed) {
    if (!this.tile) return;
    this.text.textContent = wordsOf(feed, this.tile, this.told);
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
