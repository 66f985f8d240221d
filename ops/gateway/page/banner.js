/** What a person must know before believing a number: the connection, the epoch, the age of the data, the health. */

import { flagWords } from "./book.js";
import { make } from "./elements.js";
import { formatAge, formatPoints, marketClock, marketMoment } from "./values.js";

const BEHIND_S = 15;
const OLD_S = 30; // without live quotes a chain comes every ten seconds
const REASONS = {
  bootstrap: "first epoch", geometry: "the chain changed", dormancy: "quotes went dormant", operator: "by an operator",
};

const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB");

/** The connection in words; the page is live when what it tells of the market is. */
export function showConnection(root, feed, nowMs) {
  const { gex } = feed.latest;
  const old = feed.state === "live" ? oldWords(gex) : "";
  const last = gex ? `the state of ${marketMoment(gex.ts)} New York` : "";
  document.body.dataset.state = old ? "quiet" : feed.state;
  root.textContent = old || {
    connecting: "connecting",
    waiting: last ? `no epoch is active: ${last}` : "connected; waiting for the first epoch",
    live: "live",
    quiet: `nothing new for ${formatAge((nowMs - feed.lastMs) / 1000)}: ${last}`,
    disconnected: feed.lastMs ? `disconnected since ${clock(feed.lastMs)}` : "no connection to the gateway; trying again",
  }[feed.state];
}

/** Quotes and spot that are older than the model made of them, on the market's own clock; empty when none is. */
function oldWords(gex) {
  return Object.entries({ quotes: gex?.asof_quote, spot: gex?.asof_spot })
    .filter(([, ts]) => ts != null && gex.ts - ts > OLD_S)
    .map(([what, ts]) => `${what} of ${marketMoment(ts)}, ${formatAge(gex.ts - ts)} old`).join("; ");
}

/** The epoch and the data in words; empty before the first epoch. */
export function epochWords(feed, planeId, nowMs) {
  const { book } = feed;
  const { epoch, gex } = feed.latest;
  if (!book.epoch) return "waiting for the first epoch";
  const words = [`epoch ${book.epoch}`];
  if (epoch && epoch.epoch === book.epoch) {
    words.push(REASONS[epoch.reason] ?? epoch.reason);
    if (epoch.created_ts && gex) words.push(`age ${formatAge(gex.ts - epoch.created_ts)}`);
    words.push(epoch.ws ? "live quotes" : "chain only");
    if (epoch.dormant) words.push(`dormant ${epoch.dormant}×`);
    if (epoch.forced) words.push("recomputed in full");
    if (epoch.failed_expirations?.length) words.push(`without ${epoch.failed_expirations.join(", ")}`);
  }
  const plane = gex?.planes?.[planeId];
  if (plane?.coherence != null) words.push(`coherence ${formatPoints(plane.coherence)} pt`);
  words.push(...flagWords(plane?.flags));
  if (gex) words.push(`New York ${marketMoment(gex.ts)}`);
  words.push(dataWords(book.completeTo, nowMs));
  return words.filter(Boolean).join(" · ");
}

function dataWords(completeTo, nowMs) {
  if (completeTo == null) return "no quotes yet";
  const age = Math.max(0, nowMs / 1000 - completeTo);
  return age < BEHIND_S ? `data ${age.toFixed(1)} s behind` : `data complete to ${clock(completeTo * 1000)}, ${formatAge(age)} ago`;
}

export function showHealth(root, health) {
  const { status = "", reasons = [], signals = {} } = health ?? {};
  const words = [status, ...reasons];
  const numbers = Object.entries(signals).map(([name, value]) => `${name.replaceAll("_", " ")}: ${value}`);
  root.dataset.status = status;
  Object.assign(root, { textContent: words.join(" · "), title: [...words, ...numbers].join("\n") });
}

export function showTimeline(root, timeline) {
  root.replaceChildren(...timeline.map(({ id, reason, created_ts: created }) => {
    const mark = make("li", { title: `${created ? marketClock(created) : ""} ${REASONS[reason] ?? reason}: ${id}` });
    mark.dataset.reason = reason;
    return mark;
  }));
}
