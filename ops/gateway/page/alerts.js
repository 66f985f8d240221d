/** Alerts: the newest as a note that goes by itself, the last of them in a list. */

import { make } from "./elements.js";
import { marketClock } from "./values.js";

const KEPT = 50;
const NOTES = 3;
const NOTE_MS = 8000;

export class Alerts {
  heard = 0;

  constructor(notes, list, button) {
    Object.assign(this, { notes, list, button });
    button.addEventListener("click", () => this.#open(list.hidden));
    this.#count();
  }

  /** What was there before, newest first. */
  fill(alerts) {
    this.list.replaceChildren(...alerts.slice(0, KEPT).map(itemOf));
    this.#count();
  }

  add(alert) {
    this.heard += 1;
    this.list.prepend(itemOf(alert));
    while (this.list.children.length > KEPT) this.list.lastChild.remove();
    this.#count();
    this.note(alert.text);
  }

  note(words) {
    const note = make("p", { textContent: words });
    this.notes.append(note);
    while (this.notes.children.length > NOTES) this.notes.firstChild.remove();
    setTimeout(() => note.remove(), NOTE_MS);
  }

  #count() {
    const count = this.list.children.length;
    this.button.textContent = `alerts ${count}`;
    this.button.disabled = count === 0;
    if (count === 0) this.#open(false);
  }

  #open(on) {
    this.list.hidden = !on;
    this.button.setAttribute("aria-expanded", String(on));
  }
}

function itemOf({ ts, text, epoch }) {
  return make("li", { textContent: `${marketClock(ts)} ${text}`, title: epoch ?? "" });
}
