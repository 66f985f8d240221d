/** Colours of prices: one scale for all cells of a view, kept while the user looks (a scale that breathes misleads). */

const RAMPS = {
  dark: ["#1b2a4a", "#1f4e79", "#1c7c8c", "#2ba37a", "#86c25a", "#e3c04a", "#ef8a3c", "#e2543b"],
  light: ["#e8eef8", "#c3d9ef", "#94c6da", "#7cc4a8", "#b4d488", "#f2dc83", "#f5b36b", "#ec8a66"],
};
const STEPS = 256;

/** A scale from `low` to `high`; `shade(value)` is a css colour, or null for what has no value. */
export class Scale {
  constructor(theme, low, high) {
    this.low = low;
    this.high = high;
    this.steps = rampOf(RAMPS[theme]);
  }

  /** `{fill, ink}` of a value: the colour of its cell and of text that can be read on it; null without a value. */
  shade(value) {
    if (value === null) return null;
    const span = this.high - this.low || 1;
    const at = Math.max(0, Math.min(1, (value - this.low) / span));
    return this.steps[Math.round(at * (STEPS - 1))];
  }

  /** The css gradient of the legend. */
  static stops(theme) {
    return RAMPS[theme];
  }
}

const ramps = new Map();

function rampOf(stops) {
  if (!ramps.has(stops)) ramps.set(stops, Array.from({ length: STEPS }, (_, step) => mix(stops, step / (STEPS - 1))));
  return ramps.get(stops);
}

function mix(stops, share) {
  const at = share * (stops.length - 1);
  const low = Math.min(Math.floor(at), stops.length - 2);
  const [from, to] = [channels(stops[low]), channels(stops[low + 1])];
  const mixed = from.map((value, n) => Math.round(value + (to[n] - value) * (at - low)));
  return { fill: `rgb(${mixed.join(",")})`, ink: luminance(mixed) > INK_TURNS ? "#000000" : "#ffffff" };
}

const INK_TURNS = 0.179; // where black and white text contrast alike with their ground (WCAG 2.2, 1.4.3)

function luminance(rgb) {
  const [r, g, b] = rgb.map((value) => value / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function channels(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

/** The bounds of a scale: 2nd and 98th percentile, so that one absurd cell does not wash out the rest. */
export function boundsOf(values) {
  const known = values.filter((value) => value !== null).sort((a, b) => a - b);
  if (!known.length) return [0, 1];
  const pick = (share) => known[Math.round(share * (known.length - 1))];
  const [low, high] = [pick(0.02), pick(0.98)];
  return low === high ? [low - 1, high + 1] : [low, high];
}
