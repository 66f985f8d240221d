/** What a person must know before believing a number: the connection, the epoch, the age of the data, the health. */

import { formatAge, formatPoints, marketClock } from "./values.js";

const OLD_S = 15;
const REASONS = {
  bootstrap: "first epoch", geometry: "the chain changed", dormancy: "quotes went dormant", operator: "by an operator",
};
const MARKET_DAY = new Intl.DateTimeFormat("en-GB", { timeZone: "America/New_York", day: "numeric", month: "short" });

const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB");

/** The connection in words. */
export function connectionWords(feed, nowMs) {
  const since = feed.lastMs ? clock(feed.lastMs) : null;
  return {
    connecting: "connecting",
    waiting: "connected; waiting for the first epoch",
    live: "live",
    quiet: `nothing new for ${formatAge((nowMs - feed.lastMs) / 1000)}: the state of ${since}`,
    disconnected: since ? `disconnected since ${since}` : "no connection to the gateway; trying again",
  }[feed.state];
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
  const coherence = gex?.planes?.[planeId]?.coherence;
  if (coherence != null) words.push(`coherence ${formatPoints(coherence)} pt`);
  if (gex) words.push(`market ${MARKET_DAY.format(gex.ts * 1000)} ${marketClock(gex.ts)}`);
  words.push(dataWords(book.completeTo, nowMs));
  return words.filter(Boolean).join(" · ");
}

/** How far behind the receiving of quotes the page is. */
function dataWords(completeTo, nowMs) {
  if (completeTo == null) return "no quotes yet";
  const age = Math.max(0, nowMs / 1000 - completeTo);
  return age < OLD_S ? `data ${age.toFixed(1)} s behind` : `data complete to ${clock(completeTo * 1000)}, ${formatAge(age)} ago`;
}

/** The health in words, and the signals behind it as a title. */
export function showHealth(root, health) {
  root.dataset.status = health?.status ?? "";
  root.textContent = health ? [health.status, ...(health.reasons ?? [])].join(" · ") : "";
  root.title = Object.entries(health?.signals ?? {}).map(([name, value]) => `${name.replaceAll("_", " ")}: ${value}`).join("\n");
}

/** The recent promotions, newest first, as a row of marks. */
export function showTimeline(root, timeline) {
  const marks = (timeline ?? []).map(({ id, reason, created_ts: created }) => {
    const mark = document.createElement("li");
    mark.dataset.reason = reason;
    mark.title = `${created ? `${marketClock(created)} ` : ""}${REASONS[reason] ?? reason}: ${id}`;
    mark.setAttribute("aria-label", mark.title);
    return mark;
  });
  root.replaceChildren(...marks);
}
