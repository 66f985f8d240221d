/** Labels that may not cover each other. */

/** Places as near to the wanted ones (ascending) as a gap between neighbours allows, within `low` to `high`. */
export function spread(wanted, gap, low, high) {
  const places = [];
  for (const place of wanted) places.push(Math.max(place, places.length ? places.at(-1) + gap : low));
  for (let at = places.length - 1, most = high; at >= 0; at -= 1) {
    places[at] = Math.min(places[at], most);
    most = places[at] - gap;
  }
  return places;
}
