/** Which gamma exposures are shown: of all expirations together, or of one, for which the gateway is asked. */

import { find, offer } from "./elements.js";
import { askExposures } from "./gateway.js";
import { reasonWords } from "./levels.js";

const EVERY_MS = 5000; // exposures of one expiration are asked for, not streamed
const ALL = [["sides", "calls and puts"], ["net", "net"]];

export class Gamma {
  asked = ""; // whose exposures were asked for

  constructor(exposures, choices) {
    this.exposures = exposures;
    this.choices = choices;
  }

  clear() {
    this.asked = "";
    this.exposures.marks = [];
    this.#show(null, "no model yet");
  }

  show(feed) {
    const { gex } = feed.latest;
    const dates = gex.scope?.expirations ?? [];
    const mode = this.choices.among("exposure", [...ALL.map(([name]) => name), ...dates]);
    offer(find("exposure-mode"), [...ALL, ...dates.map((date) => [date, `only ${date.slice(5)}`])], mode);
    this.exposures.net = mode === "net";
    if (dates.includes(mode)) return this.#showExpiration(feed, mode);
    this.asked = "";
    return this.#show(gex.by_strike, reasonWords(gex.reason ?? "no_exposures"));
  }

  async #showExpiration(feed, date) {
    const asked = `${feed.symbol} ${date}`;
    if (this.asked === asked && Date.now() - this.askedMs < EVERY_MS) return;
    if (this.asked !== asked) this.#show(null, "loading");
    Object.assign(this, { asked, askedMs: Date.now() });
    const answer = await askExposures(feed.symbol, date).then((rows) => [rows, "nothing to sum"], ({ message }) => [null, message]);
    if (this.asked === asked) this.#show(...answer);
  }

  #show(rows, reason) {
    find("exposure-note").textContent = this.exposures.show(rows, reason);
  }
}
