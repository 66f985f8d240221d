/**
 * The feed: server-sent events of one symbol into a book. The browser reconnects by itself and resumes at the last id;
 * after a gap the connection is opened anew and begins with a reset. `state`: connecting, waiting (for the first reset),
 * live, quiet, disconnected.
 */

import { Book, Gap } from "./book.js";

const KINDS = ["reset", "diff", "tick", "gex", "liquidity", "mode", "gravity", "epoch", "health", "alert"];
const QUIET_MS = 5000; // a tick comes every second: this long without one is worth telling
const RETRY_MS = 1000;

export class Feed extends EventTarget {
  book = new Book();
  latest = {}; // newest model of each kind
  state = "connecting";
  lastMs = 0; // when something of the stream last arrived, by the page's clock
  gaps = 0;
  resets = 0;
  reason = "";

  constructor(symbol) {
    super();
    this.symbol = symbol;
    this.watch = setInterval(() => this.#judge(), 1000);
    this.#open();
  }

  close() {
    clearInterval(this.watch);
    clearTimeout(this.retry);
    this.source?.close();
  }

  #open() {
    this.source?.close();
    this.source = new EventSource(`/events/${this.symbol}`);
    for (const kind of KINDS) this.source.addEventListener(kind, (event) => this.#take(kind, event));
    this.source.addEventListener("open", () => this.#become(this.resets ? "quiet" : "waiting"));
    this.source.addEventListener("error", () => this.#lost());
  }

  #take(kind, event) {
    const data = JSON.parse(event.data);
    let change;
    try {
      change = this.book.apply(kind, data);
    } catch (error) {
      if (!(error instanceof Gap)) throw error;
      this.gaps += 1;
      this.reason = error.message;
      this.#open();
      return;
    }
    if (kind === "reset") this.resets += 1;
    else if (kind !== "diff" && kind !== "tick") this.latest[kind] = data;
    if (data.generation !== undefined) this.#live(); // what the gateway tells by itself says nothing of the data
    this.dispatchEvent(new CustomEvent(kind, { detail: change ?? data }));
  }

  /** Show an earlier state while there is no epoch. */
  recall({ reset, ...models }) {
    this.book.apply("reset", reset);
    Object.assign(this.latest, models);
    this.dispatchEvent(new CustomEvent("reset"));
  }

  #live() {
    this.lastMs = Date.now();
    this.#become("live");
  }

  #lost() {
    this.#become("disconnected");
    if (this.source.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
    this.dispatchEvent(new Event("refused"));
    clearTimeout(this.retry);
    this.retry = setTimeout(() => this.#open(), RETRY_MS);
  }

  #judge() {
    if (this.state === "live" && Date.now() - this.lastMs > QUIET_MS) this.#become("quiet");
  }

  #become(state) {
    if (state === this.state) return;
    this.state = state;
    this.dispatchEvent(new CustomEvent("state"));
  }
}
