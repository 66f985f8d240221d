/** What every drawing needs: a canvas, one painting a frame, lines, words, and the colours of the theme. */

export const FONT = "px system-ui, sans-serif";

/** A canvas that fills its box and paints at most once a frame; who extends it says how, in `paint`. */
export class Drawing extends EventTarget {
  frame = 0;

  constructor(canvas, axis) {
    super();
    this.canvas = canvas;
    this.axis = axis;
    axis.addEventListener("move", () => this.redraw());
  }

  /** Fit its box, sharp on every screen; it is measured in css pixels. */
  resize() {
    const { width, height } = this.canvas.parentElement.getBoundingClientRect();
    const ratio = devicePixelRatio;
    Object.assign(this.canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
    Object.assign(this, { width, height, context: this.canvas.getContext("2d", { alpha: false }) });
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.redraw();
  }

  redraw() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      if (this.width) this.paint();
    });
  }
}

export function line(context, x, y, toX, toY) {
  context.beginPath();
  context.moveTo(x, y);
  context.lineTo(toX, toY);
  context.stroke();
}

/** Words in the middle of a height, `align`ed at x, in the colour that is set. */
export function write(context, words, x, y, align, font) {
  Object.assign(context, { font: font + FONT, textAlign: align, textBaseline: "middle" });
  context.fillText(words, x, y);
}

/** A colour of the theme: `panel` is `--panel` of the style. */
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}
