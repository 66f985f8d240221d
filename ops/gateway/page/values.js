/** What a cell shows: prices in dollars from the book's integers, and the figures derived from them. Pure. */

import { NONE } from "./book.js";

export const METRICS = {
  mid: "mid", natural: "natural buy", sell: "natural sell", r2r: "R2R", change: "% to next strike",
};

const dollarsOf = (field, unit) => (plane, cell) =>
  (cell < 0 || plane[field][cell] === NONE ? null : plane[field][cell] / unit);

export const midOf = dollarsOf("mid2", 200);
export const buyOf = dollarsOf("buy", 100);
export const sellOf = dollarsOf("sell", 100);

/** (width - debit) / debit; null when nothing is paid, or for a single, which has no width. */
export function rewardToRisk(debit, width) {
  return debit === null || debit <= 0 || !width ? null : (width - debit) / debit;
}

/** Change from one mid debit to another, in percent; null when the first is not above 0. */
export function changeBetween(here, there) {
  return here === null || here <= 0 || there === null ? null : (100 * (there - here)) / here;
}

export function formatValue(metric, value) {
  if (value === null) return "";
  if (metric === "change") return `${value >= 0.5 ? "+" : ""}${Math.round(value)}%`;
  if (metric === "r2r") return value >= 100 ? value.toFixed(0) : value.toFixed(1);
  return Math.abs(value) >= 100 ? value.toFixed(1) : value.toFixed(2);
}

const DOLLARS = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 2 });

/** US dollars as people write them: 49.24B. */
export function formatDollars(value) {
  return value == null ? "–" : DOLLARS.format(value);
}

export function formatPoints(value) {
  if (value == null) return "–";
  return Number.isInteger(value) ? String(value) : value.toFixed(2);
}

export function formatAge(seconds) {
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

const MARKET_TIME = new Intl.DateTimeFormat("en-GB", {
  timeZone: "America/New_York", hour: "2-digit", minute: "2-digit", second: "2-digit",
});

/** The time of day on the market's clock, of epoch seconds. */
export function marketClock(ts) {
  return MARKET_TIME.format(ts * 1000);
}

const MARKET_DAY = new Intl.DateTimeFormat("en-GB", { timeZone: "America/New_York", day: "numeric", month: "short" });

export function marketMoment(ts) {
  return `${MARKET_DAY.format(ts * 1000)} ${marketClock(ts)}`;
}
