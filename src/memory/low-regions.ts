/*
 * Where an address lies, for regions that end at 2^53 or below: the common path of a DMA, without BigInt and without garbage.
 *
 * Starts and ends stand in two sorted Float64Arrays, which hold every integer up to 2^53 exactly. The region of the last hit is
 * tried first, since a device works on one buffer for a while; else the arrays are searched by halves.
 *
 * Worked example: regions [0x1000, 0x3000) and [0x8000, 0x9000). Address 0x2fff, length 2: the last start at or below is 0x1000,
 * and 2 > 0x3000 - 0x2fff, so the access does not lie within one region: -1. The subtraction is exact, where the sum
 * address + length may round: 2^53 - 1 + 2 is 2^53 in floating point.
 */

/** Rights as bits. */
export const Right = { READ: 1, WRITE: 2 } as const;

/** Sorted intervals of numbers that do not overlap, each with rights. */
export class LowRegions {
  #starts = new Float64Array(16);
  #ends = new Float64Array(16);
  #rights = new Uint8Array(16);
  #count = 0;
  /** A guess, which `find` checks like any other. */
  #lastHit = 0;

  /** The first address of interval `index`. */
  startOf(index: number): number {
    return this.#starts[index]!;
  }

  /** Puts `[start, end)` at position `index`, which keeps the order. */
  insert(index: number, start: number, end: number, rights: number): void {
    if (this.#count === this.#starts.length) this.#grow();
    for (const array of [this.#starts, this.#ends, this.#rights]) array.copyWithin(index + 1, index, this.#count);
    this.#starts[index] = start;
    this.#ends[index] = end;
    this.#rights[index] = rights;
    this.#count++;
  }

  /** Takes away the intervals at positions `[first, past)`, as far as there are any. */
  remove(first: number, past: number): void {
    const end = Math.min(past, this.#count);
    if (first >= end) return;
    for (const array of [this.#starts, this.#ends, this.#rights]) array.copyWithin(first, end, this.#count);
    this.#count -= end - first;
  }

  /** The interval that holds all of `[address, address + length)` with all of `rights`; -1 when none does, or nothing is asked for. */
  find(address: number, length: number, rights: number): number {
    if (length === 0) return -1;
    const last = this.#lastHit;
    const index = last < this.#count && this.#holds(last, address, length) ? last : this.#search(address, length);
    if (index === -1 || (this.#rights[index]! & rights) !== rights) return -1;
    this.#lastHit = index;
    return index;
  }

  #search(address: number, length: number): number {
    let low = 0;
    let high = this.#count;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#starts[middle]! <= address) low = middle + 1;
      else high = middle;
    }
    return low > 0 && this.#holds(low - 1, address, length) ? low - 1 : -1;
  }

  #holds(index: number, address: number, length: number): boolean {
    return address >= this.#starts[index]! && length <= this.#ends[index]! - address;
  }

  #grow(): void {
    const capacity = this.#starts.length * 2;
    const starts = new Float64Array(capacity);
    const ends = new Float64Array(capacity);
    const rights = new Uint8Array(capacity);
    starts.set(this.#starts);
    ends.set(this.#ends);
    rights.set(this.#rights);
    this.#starts = starts;
    this.#ends = ends;
    this.#rights = rights;
  }
}
