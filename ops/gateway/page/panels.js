/** The panels beside the map: levels, expirations, gamma profile, gravity over spot, liquidity, market mode. */

import { Gravity, Profile } from "./charts.js";
import { showLiquidity, showMode, tellGravity } from "./derived.js";
import { find } from "./elements.js";
import { askModel } from "./gateway.js";
import { fillExpirations, fillLevels } from "./levels.js";

export class Panels {
  profile = new Profile(find("profile"));
  gravity = new Gravity(find("gravity"));
  feed = null;
  recalled = null; // the feed whose minutes of gravity were asked for

  follow(feed) {
    this.feed = feed;
    this.gravity.clear();
    this.profile.show(null);
    for (const id of ["levels", "expirations", "profile-note"]) find(id).replaceChildren();
    this.showDerived();
  }

  /** Show the newest models; `plane` is what the gamma model says of the plane shown. */
  show(plane) {
    this.showDerived();
    const { gex, gravity } = this.feed.latest;
    if (!gex) return;
    fillLevels(find("levels"), gex, plane);
    fillExpirations(find("expirations"), gex);
    find("profile-note").textContent = this.profile.take(gex);
    this.gravity.add(gex.ts, gex.spot, gravity);
    if (gravity) this.#recall(this.feed);
  }

  showDerived() {
    const { gravity, liquidity, mode } = this.feed.latest;
    showLiquidity(liquidity);
    showMode(mode);
    tellGravity(gravity);
  }

  restyle() {
    this.profile.rebuild();
    this.gravity.rebuild();
  }

  /** The minutes of gravity before this page came. */
  async #recall(feed) {
    if (this.recalled === feed) return;
    this.recalled = feed;
    const told = await askModel(feed.symbol, "gravity/history?count=400").catch(() => null);
    if (told && feed === this.feed) this.gravity.recall(told.history);
  }
}
