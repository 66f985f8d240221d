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
  return ask(`/api/tiles/${symbol}?${new URLSearchParams({ plane, strategy, side, strike, width })}`);
}

export function askModel(symbol, model) {
  return ask(`/api/models/${symbol}/${model}`);
}

/** The gamma exposures of one expiration: rows of [strike, calls, puts]. */
export async function askExposures(symbol, date) {
  const [calls, puts] = await Promise.all(["calls", "puts"].map((side) => askModel(symbol, `gex?side=${side}`)));
  const [up, down] = [calls.expirations[date] ?? {}, puts.expirations[date] ?? {}];
  return Object.keys({ ...up, ...down }).map((strike) => [Number(strike), up[strike], down[strike]]);
}
