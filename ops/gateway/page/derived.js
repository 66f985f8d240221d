/** The models derived of gamma: their marks on maps that the style draws, and their words. */

import { find } from "./elements.js";
import { reasonWords } from "./levels.js";
import { formatPoints } from "./values.js";

/** bias (across, -100 to 100) against lfi (up, 0 to 100) with its trail, rows of [ts, bias, lfi]. */
export function showLiquidity(model) {
  const known = model?.bias != null;
  find("trail").setAttribute("points", (model?.trail ?? []).map(([, bias, lfi]) => `${bias},${-lfi}`).join(" "));
  find("intent").setAttribute("d", known ? `M${model.bias},${-model.lfi}h0` : ""); // a line without length is a dot
  tell("liquidity", model, known && `${model.quadrant} · bias ${model.bias.toFixed(0)}, lfi ${model.lfi.toFixed(0)}`);
}

export function showMode(model) {
  const known = model?.score != null;
  find("mode").setAttribute("d", known ? `M${model.score},0v1` : "");
  tell("mode", model, known && `${model.mode} · ${model.score.toFixed(0)}`);
}

export function tellGravity(model) {
  const [best, low, high] = [model?.best, model?.low, model?.high].map(formatPoints);
  tell("gravity", model, model?.best != null && `${best} (${low}–${high}), conf. ${model.confidence?.toFixed(2) ?? "–"}`);
}

/** What is known of a model, or why nothing is. */
function tell(name, model, words) {
  find(`${name}-note`).textContent = words || (model ? reasonWords(model.reason) : "no model yet");
}
