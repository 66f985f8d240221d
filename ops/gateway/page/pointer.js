/** The pointer on the map: it tells, pins, scrolls and zooms. */

import { find } from "./elements.js";
import { Tip } from "./tile.js";

const FINER = 1.1; // a step of the wheel

export class Pointer {
  constructor(page) {
    this.page = page;
    this.tip = new Tip(find("hover"));
    const { heatmap, exposures } = page;
    heatmap.canvas.addEventListener("pointermove", (event) => this.#hoverTile(event));
    heatmap.canvas.addEventListener("click", (event) => page.pinPlace(heatmap.at(event.offsetX, event.offsetY)));
    exposures.canvas.addEventListener("pointermove", (event) => this.#hoverExposure(event));
    for (const { canvas } of [heatmap, exposures]) {
      canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
      canvas.addEventListener("pointerleave", () => this.tip.hide());
      this.#drag(canvas);
    }
  }

  #wheel(event) {
    event.preventDefault();
    if (event.ctrlKey) this.page.zoom(event.deltaY < 0 ? FINER : 1 / FINER, event.offsetY);
    else this.page.axis.scroll(event.deltaY);
  }

  /** A finger drags the strikes. */
  #drag(canvas) {
    let last = null;
    canvas.addEventListener("pointerdown", (event) => { if (event.pointerType === "touch") last = event.clientY; });
    canvas.addEventListener("pointermove", (event) => {
      if (last === null) return;
      this.page.axis.scroll(last - event.clientY);
      last = event.clientY;
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { last = null; });
  }

  #hoverTile(event) {
    const { heatmap, feed, sheet } = this.page;
    const place = heatmap.at(event.offsetX, event.offsetY);
    if (place < 0) this.tip.hide();
    else this.tip.showTile(event, feed, sheet.tile(place));
  }

  #hoverExposure(event) {
    const { exposures } = this.page;
    const strike = exposures.strikeAt(event.offsetY);
    if (strike === null) this.tip.hide();
    else this.tip.show(event, () => exposures.wordsOf(strike));
  }
}
