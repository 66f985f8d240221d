/** Tabs: buttons of which one is chosen; arrow keys move between them. */

import { make } from "./elements.js";

export class Tabs {
  told = "";

  constructor(root, pick) {
    this.root = root;
    this.pick = pick;
    root.addEventListener("click", (event) => this.#take(event.target.closest("button")));
    root.addEventListener("keydown", (event) => this.#press(event));
  }

  /** Show these `[value, words, title]`, one of them chosen; what is already there is not built again. */
  show(entries, chosen) {
    const told = JSON.stringify(entries);
    if (told !== this.told) {
      this.told = told;
      this.root.replaceChildren(...entries.map(([value, words, title]) => tabOf(value, words, title)));
    }
    for (const button of this.root.children) {
      const isChosen = button.dataset.name === chosen;
      button.setAttribute("aria-selected", String(isChosen));
      button.tabIndex = isChosen ? 0 : -1;
    }
  }

  #take(button) {
    if (!button) return;
    this.pick(button.dataset.name);
    this.root.querySelector("[aria-selected=true]")?.focus();
  }

  #press(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const buttons = [...this.root.children];
    const at = buttons.findIndex((one) => one.getAttribute("aria-selected") === "true");
    this.#take(buttons[(at + step + buttons.length) % buttons.length]);
    event.preventDefault();
  }
}

function tabOf(value, words, title) {
  const button = make("button", { role: "tab", textContent: words ?? value, title: title ?? "" });
  button.dataset.name = value;
  return button;
}
