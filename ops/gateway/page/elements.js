/** Elements of the page: found by their id, or made. */

export const find = (id) => document.getElementById(id);

export const make = (tag, properties) => Object.assign(document.createElement(tag), properties);

/** Let a select offer `[value, words]`, one of them chosen; what is already there is not built again. */
export function offer(select, entries, chosen) {
  const told = String(entries);
  if (select.dataset.told !== told) select.replaceChildren(...entries.map(([value, words]) => new Option(words, value)));
  select.dataset.told = told;
  select.value = chosen;
}
