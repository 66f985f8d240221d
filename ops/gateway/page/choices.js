/** What the user chose, remembered in this browser. A choice that no longer exists falls back to the first one. */

const NAME = "marketswarm";
const DEFAULTS = {
  symbol: null, strategy: "butterfly", side: "call", plane: {}, metric: "mid", theme: null, table: false,
  rowHeight: 22, exposure: "sides", range: 100,
};

export class Choices {
  constructor() {
    this.values = { ...DEFAULTS, ...read() };
  }

  get(name) {
    return this.values[name];
  }

  set(name, value) {
    this.values[name] = value;
    try {
      localStorage.setItem(NAME, JSON.stringify(this.values));
    } catch {
      // a private window may forbid storage: the choice then lives as long as the page
    }
  }

  among(name, offered) {
    return offered.includes(this.values[name]) ? this.values[name] : offered[0];
  }
}

function read() {
  try {
    return JSON.parse(localStorage.getItem(NAME));
  } catch {
    return null; // spoilt or forbidden
  }
}
