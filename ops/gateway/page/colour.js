/** Colours of prices: one scale for all cells of a view, kept while the user looks (a scale that breathes misleads). */

export const RAMPS = {
  dark: ["#1b2a4a", "#1f4e79", "#1c7c8c", "#2ba37a", "#86c25a", "#e3c04a", "#ef8a3c", "#e2543b"],
  light: ["#e8eef8", "#c3d9ef", "#94c6da", "#7cc4a8", "#b4d488", "#f2dc83", "#f5b36b", "#ec8a66"],
};
const STEPS = 256;
const SHADES = Object.fromEntries(Object.entries(RAMPS).map(([theme, stops]) =>
  [theme, Array.from({ length: STEPS }, (_, step) => mix(stops, step / (STEPS - 1)))]));

/** A scale from `low` to `high`. */
export class Scale {
  constructor(theme, low, high) {
    Object.assign(this, { low, high, steps: SHADES[theme] });
  }

  /** `{fill, ink}` of a value: the colour of its cell and of text that can be read on it; null without a value. */
  shade(value) {
    if (value === null) return null;
    const at = (value - this.low) / (this.high - this.low || 1);
    return this.steps[Math.round(Math.max(0, Math.min(1, at)) * (STEPS - 1))];
  }
}

function mix(stops, share) {
  const at = share * (stops.length - 1);
  const low = Math.min(Math.floor(at), stops.length - 2);
  const [from, to] = [stops[low], stops[low + 1]].map((hex) => [1, 3, 5].map((n) => parseInt(hex.slice(n, n + 2), 16)));
  const mixed = from.map((value, n) => Math.round(value + (to[n] - value) * (at - low)));
  // black and white text contrast alike with a ground of this luminance (WCAG 2.2, 1.4.3)
  return { fill: `rgb(${mixed.join(",")})`, ink: luminance(mixed) > 0.179 ? "#000000" : "#ffffff" };
}

function luminance(rgb) {
  const [r, g, b] = rgb.map((value) => value / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

/** The bounds of a scale: 2nd and 98th percentile, so that one absurd cell does not wash out the rest. */
export function boundsOf(values) {
  const known = values.filter((value) => value !== null).sort((a, b) => a - b);
  if (!known.length) return [0, 1];
  const pick = (share) => known[Math.round(share * (known.length - 1))];
  const [low, high] = [pick(0.02), pick(0.98)];
  return low === high ? [low - 1, high + 1] : [low, high];
}
