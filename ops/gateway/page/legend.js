/** The legend: the colours of the heatmap, what they mean, and how much of the values they span. */

import { RAMPS } from "./colour.js";
import { find } from "./elements.js";
import { formatValue } from "./values.js";

export class Legend {
  constructor(heatmap, choices) {
    this.heatmap = heatmap;
    this.choices = choices;
    const slider = find("scale-range");
    slider.value = choices.get("range");
    slider.addEventListener("input", () => this.#useRange(Number(slider.value)));
    heatmap.addEventListener("scale", () => this.#show());
    this.#useRange(choices.get("range"));
  }

  useTheme(theme) {
    find("ramp").style.background = `linear-gradient(90deg, ${RAMPS[theme].join(", ")})`;
    this.heatmap.useTheme(theme);
  }

  #useRange(percent) {
    this.choices.set("range", percent);
    this.heatmap.useShare(percent / 100);
  }

  #show() {
    const { scale, metric } = this.heatmap;
    find("scale-low").value = formatValue(metric, scale.low);
    find("scale-high").value = formatValue(metric, scale.high);
  }
}
