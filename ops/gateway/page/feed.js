/**
 * The feed: server-sent events of one symbol into a book, with what a person must know about the connection.
 *
 * The browser reconnects by itself and resumes at the last event id; when the book finds a gap, the connection is
 * opened anew, which begins with a reset. `state` is one of connecting, waiting (for the first reset), live, quiet,
 * disconnected.
 */

import { Book, Gap } from "./book.js";

const KINDS = ["reset", "diff", "tick", "gex", "liquidity", "mode", "gravity", "epoch", "health", "alert"];
const QUIET_MS = 5000; // a tick comes every second: this long without one is worth telling
const RETRY_MS = 1000;

export class Feed extends EventTarget {
  constructor(symbol) {
    super();
    this.symbol = symbol;
    this.book = new Book();
    this.latest = {}; // newest model of each kind
    this.state = "connecting";
    this.lastMs = 0; // when something last arrived, by the page's clock
    this.gaps = 0;
    this.resets = 0;
    this.reason = "";
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
    this.source = new EventSource(`/events/${encodeURIComponent(this.symbol)}`);
    for (const kind of KINDS) this.source.addEventListener(kind, (event) => this.#take(kind, event));
    this.source.addEventListener("open", () => this.#become(this.book.epoch === null ? "waiting" : this.state));
    this.source.addEventListener("error", () => this.#lost());
  }

  #take(kind, event) {
    const data = JSON.parse(event.data);
    this.lastMs = Date.now();
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
    if (this.book.epoch !== null) this.#become("live");
    this.dispatchEvent(new CustomEvent(kind, { detail: change ?? data }));
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
