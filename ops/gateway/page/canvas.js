/** What every drawing needs: its canvas in css pixels, and the colours of the theme. */

/** Fit a canvas to a box on the page, sharp on every screen: `{context, width, height}`. */
export function fit(canvas, options, box = canvas) {
  const { width, height } = box.getBoundingClientRect();
  const ratio = window.devicePixelRatio || 1;
  const [across, down] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== across || canvas.height !== down) Object.assign(canvas, { width: across, height: down });
  const context = canvas.getContext("2d", options);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return { context, width, height };
}

/** A colour of the theme: `--panel`. */
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}
