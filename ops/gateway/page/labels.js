/** Labels that may not cover each other. Pure. */

/** Places as near to the wanted ones (ascending) as a gap between neighbours allows, within `low` to `high`. */
export function spread(wanted, gap, low, high) {
  const places = [...wanted];
  let least = low;
  for (let at = 0; at < places.length; at += 1) {
    places[at] = Math.max(places[at], least);
    least = places[at] + gap;
  }
  let most = high;
  for (let at = places.length - 1; at >= 0; at -= 1) {
    places[at] = Math.min(places[at], most);
    most = places[at] - gap;
  }
  return places;
}
