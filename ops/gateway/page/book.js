/**
 * The book: the published surface of one symbol as typed arrays, sized by the geometry of its epoch. Messages in, arrays
 * changed; a message that does not continue what is here raises `Gap`, and nothing of it is applied.
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

/** One plane: its axes, its cells, and its four columns in one buffer, in the order the checksum wants. */
export class Plane {
  grids = new Map(); // strategy and side -> width -> cell numbers by row, -1 where there is none

  constructor({ id, root, expiration, dte, version, strikes, cells, ...columns }) {
    Object.assign(this, { id, root, expiration, dte, version, strikes, labels: cells, count: cells.length });
    this.buffer = new Int32Array(4 * this.count);
    FIELDS.forEach((field, at) => {
      this[field] = this.buffer.subarray(at * this.count, (at + 1) * this.count);
      columns[field].forEach((value, cell) => { this[field][cell] = value ?? NONE; });
    });
    this.rowOf = new Map(strikes.map((strike, row) => [strike, row]));
    cells.forEach((label, cell) => this.#seat(label, cell));
  }

  #seat([strategy, side, strike, width], cell) {
    const name = `${strategy}/${side}`;
    if (!this.grids.has(name)) this.grids.set(name, new Map());
    const columns = this.grids.get(name);
    if (!columns.has(width ?? 0)) columns.set(width ?? 0, new Int32Array(this.strikes.length).fill(-1));
    columns.get(width ?? 0)[this.rowOf.get(strike)] = cell;
  }

  /** The widths of a strategy and side, ascending; a single has the width 0. */
  widths(strategy, side) {
    return [...(this.grids.get(`${strategy}/${side}`)?.keys() ?? [])].sort((a, b) => a - b);
  }

  /** The cell of a strategy, side, strike and width, -1 if there is none. */
  find(strategy, side, strike, width) {
    return this.grids.get(`${strategy}/${side}`)?.get(width)?.[this.rowOf.get(strike)] ?? -1;
  }

  /** CRC-32 of the columns as the stream announces it. */
  checksum() {
    return crc32(new Uint8Array(this.buffer.buffer));
  }
}

export class Book {
  epoch = null;
  planes = new Map();
  completeTo = null;
  generation = null;
  seq = null;
  diffs = 0;
  checked = 0; // checksums that agreed

  /** Apply one event; returns the cells it changed: `{plane, cells}` for a diff, null for anything else. */
  apply(type, data) {
    if (type === "reset") return this.#reset(data);
    if (data.generation === undefined) return null; // told by the gateway itself, not part of the stream
    if (this.epoch === null) throw new Gap(`${type} before the first reset`);
    this.#follow(type, data);
    if ("complete_to" in data) this.completeTo = data.complete_to;
    return type === "diff" ? this.#diff(data) : null;
  }

  #reset(data) {
    this.epoch = data.epoch;
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
    this.diffs += 1;
    if (data.crc !== undefined) {
      if (plane.checksum() !== data.crc) throw new Gap(`${plane.id}: checksum of version ${plane.version} disagrees`);
      this.checked += 1;
    }
    return { plane, cells: changed };
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
