/**
 * The book: the published surface of one symbol as typed arrays, sized by the geometry of its epoch.
 *
 * Pure: messages in, arrays changed; no network, no page. A message that does not continue what is here raises `Gap`,
 * and nothing of it is applied: the follower then asks for a reset. Runs in a browser and in Node.
 */

export const NONE = -2147483648; // "no price" in mid2, buy and sell
export const FIELDS = ["mid2", "buy", "sell", "flags"];
export const FLAGS = [
  "no bid", "no ask", "crossed", "wide", "arbitrage", "leg without quotes", "stale", "near expiry", "incoherent",
];
export const STRATEGIES = ["butterfly", "vertical", "single"];
export const SIDES = ["call", "put"];

/** The stream broke off: what came next does not follow what is here. */
export class Gap extends Error {}

/** One strategy and side of a plane: a grid of strikes x widths whose entries are cell numbers, -1 where there is none. */
export class Grid {
  constructor(strikes, widths) {
    this.strikes = strikes;
    this.widths = widths;
    this.cells = new Int32Array(strikes.length * widths.length).fill(-1);
  }

  /** The cell at a strike's and a width's number. */
  cell(strike, width) {
    return this.cells[strike * this.widths.length + width];
  }
}

/** One plane: its axes, its cells, and its four columns in one buffer, in the order the checksum wants. */
export class Plane {
  constructor(data) {
    this.id = data.id;
    this.root = data.root;
    this.expiration = data.expiration;
    this.dte = data.dte;
    this.version = data.version;
    this.strikes = data.strikes;
    this.count = data.cells.length;
    this.labels = data.cells;
    this.buffer = new Int32Array(4 * this.count);
    FIELDS.forEach((field, at) => {
      this[field] = this.buffer.subarray(at * this.count, (at + 1) * this.count);
      data[field].forEach((value, cell) => {
        this[field][cell] = value ?? NONE;
      });
    });
    this.grids = gridsOf(data);
    this.rowOf = new Map(data.strikes.map((strike, row) => [strike, row]));
  }

  grid(strategy, side) {
    return this.grids.get(`${strategy}/${side}`);
  }

  /** The cell of a strategy, side, strike and width, -1 if there is none. */
  find(strategy, side, strike, width) {
    const grid = this.grid(strategy, side);
    const row = this.rowOf.get(strike);
    const column = grid ? grid.widths.indexOf(width) : -1;
    return row === undefined || column < 0 ? -1 : grid.cell(row, column);
  }

  /** CRC-32 of the columns as the stream announces it. */
  checksum() {
    return crc32(new Uint8Array(this.buffer.buffer));
  }
}

function gridsOf(data) {
  const widths = new Map();
  for (const [strategy, side, , width] of data.cells) {
    const name = `${strategy}/${side}`;
    if (!widths.has(name)) widths.set(name, new Set());
    widths.get(name).add(width ?? 0);
  }
  const row = new Map(data.strikes.map((strike, at) => [strike, at]));
  const grids = new Map();
  for (const [name, found] of widths) {
    grids.set(name, new Grid(data.strikes, [...found].sort((a, b) => a - b)));
  }
  data.cells.forEach(([strategy, side, strike, width], cell) => {
    const grid = grids.get(`${strategy}/${side}`);
    grid.cells[row.get(strike) * grid.widths.length + grid.widths.indexOf(width ?? 0)] = cell;
  });
  return grids;
}

export class Book {
  constructor() {
    this.epoch = null;
    this.planes = new Map();
    this.widths = [];
    this.completeTo = null;
    this.generation = null;
    this.seq = null;
    this.diffs = 0;
    this.checked = 0; // checksums that agreed
  }

  /** Apply one event; returns the cells it changed: `{plane, cells}` for a diff, null for anything else. */
  apply(type, data) {
    if (type === "reset") return this.#reset(data);
    if (data.generation === undefined) return null; // told by the gateway itself, not part of the stream
    if (this.epoch === null) throw new Gap(`${type} before the first reset`);
    this.#follow(type, data);
    if (type === "diff") return this.#diff(data);
    if (type === "tick") this.#tick(data);
    return null;
  }

  #reset(data) {
    this.epoch = data.epoch;
    this.widths = data.widths;
    this.completeTo = data.complete_to;
    this.planes = new Map(data.planes.map((plane) => [plane.id, new Plane(plane)]));
    this.generation = data.generation;
    this.seq = data.seq;
    return null;
  }

  #follow(type, data) {
    if (data.generation !== this.generation) throw new Gap(`${type} of another generation`);
    // what waited for a slow client comes merged: it says itself which number it continues
    if ((data.since_seq ?? data.seq - 1) !== this.seq) throw new Gap(`${type} number ${data.seq} after ${this.seq}`);
    if (type === "diff") this.#checkDiff(data);
    if (type === "tick") this.#checkTick(data);
    this.seq = data.seq;
  }

  #checkDiff(data) {
    const plane = this.planes.get(data.plane);
    if (data.epoch !== this.epoch || !plane) throw new Gap(`diff of ${data.plane} in ${data.epoch}`);
    if (data.from !== plane.version) throw new Gap(`${data.plane}: diff from ${data.from}, here is ${plane.version}`);
  }

  #checkTick(data) {
    if (data.epoch !== this.epoch) throw new Gap(`tick of ${data.epoch}`);
    for (const [id, version] of Object.entries(data.versions)) {
      const plane = this.planes.get(id);
      // diffs published while the tick was being built are ahead of it; behind it means that one was lost
      if (!plane || plane.version < version) throw new Gap(`${id}: published ${version}, here is ${plane?.version}`);
    }
  }

  #diff(data) {
    const plane = this.planes.get(data.plane);
    const changed = new Int32Array(data.cells.length);
    let cell = 0;
    data.cells.forEach((gap, at) => {
      cell += gap;
      changed[at] = cell;
      for (const field of FIELDS) plane[field][cell] = data[field][at] ?? NONE;
    });
    plane.version = data.to;
    this.completeTo = data.complete_to;
    this.diffs += 1;
    if (data.crc !== undefined) this.#verify(plane, data.crc);
    return { plane, cells: changed };
  }

  #verify(plane, announced) {
    if (plane.checksum() !== announced) throw new Gap(`${plane.id}: checksum of version ${plane.version} disagrees`);
    this.checked += 1;
  }

  #tick(data) {
    this.completeTo = data.complete_to;
  }

  /** The legs of a cell: `[{strike, ratio, cell}]`, where `cell` is the single at that strike (its prices). */
  legs(plane, cell) {
    const [strategy, side, strike, width] = plane.labels[cell];
    const step = side === "call" ? width : -width;
    const legs = {
      single: [[strike, 1]],
      vertical: [[strike, 1], [strike + step, -1]],
      butterfly: [[strike - width, 1], [strike, -2], [strike + width, 1]],
    }[strategy];
    return legs.map(([at, ratio]) => ({ strike: at, ratio, cell: plane.find("single", side, at, 0) }));
  }
}

/** The words of a cell's flags. */
export function flagWords(bits) {
  return FLAGS.filter((_, at) => bits & (1 << at));
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit += 1) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  return crc;
});

export function crc32(bytes) {
  let crc = 0xffffffff;
  for (let at = 0; at < bytes.length; at += 1) crc = (crc >>> 8) ^ CRC_TABLE[(crc ^ bytes[at]) & 255];
  return (crc ^ 0xffffffff) >>> 0;
}
