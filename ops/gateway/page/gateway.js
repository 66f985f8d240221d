/** Questions to the gateway. */

/** The JSON at a path. Raises with the gateway's own words; a caller it does not know is led to the login. */
export async function ask(path) {
  const answer = await fetch(path);
  if (answer.status === 401) {
    location.assign("/login");
    throw new Error("a token is needed");
  }
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(told.error ?? `the gateway answers ${answer.status}`);
  return told;
}

/** One tile in full: legs with the times of their quotes, and its order line. */
export function askTile(symbol, { plane, strategy, side, strike, width }) {
  return ask(`/api/tiles/${encodeURIComponent(symbol)}?${new URLSearchParams({ plane, strategy, side, strike, width })}`);
}
