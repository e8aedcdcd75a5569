/*
 * The oracle: a DMA log that thinks in single bytes. It knows which bytes were asked for and which pages are dirty, and
 * answers every question by looking at each byte in turn. Addresses are plain numbers near 0; `origin` says where byte
 * 0 lies on the page grid.
 */

export interface NaiveRange {
  start: number;
  length: number;
}

export class NaiveLog {
  readonly #pageSize: number;
  readonly #origin: number;
  readonly #requested: ReadonlySet<number> | 'everything';
  readonly #dirtyPages = new Set<number>();

  constructor(pageSize: number, origin: number, ranges: readonly NaiveRange[] | 'everything', maxRanges: number) {
    this.#pageSize = pageSize;
    this.#origin = origin;
    this.#requested = ranges === 'everything' ? ranges : mergedBytes(ranges, maxRanges);
  }

  get dirtyPages(): number {
    return this.#dirtyPages.size;
  }

  record(start: number, length: number): void {
    for (let byte = start; byte < start + length; byte++) {
      if (this.#isRequested(byte)) this.#dirtyPages.add(Math.floor((byte + this.#origin) / this.#pageSize));
    }
  }

  /** The bits that a report sets, in ascending order. */
  report(start: number, length: number, pageSize: number): number[] {
    const bits = new Set<number>();
    for (const page of [...this.#dirtyPages]) {
      let inside = false;
      let kept = false;
      for (let index = 0; index < this.#pageSize; index++) {
        const byte = page * this.#pageSize - this.#origin + index;
        if (byte >= start && byte < start + length) {
          inside = true;
          bits.add(Math.floor((byte - start) / pageSize));
        } else if (this.#isRequested(byte)) {
          kept = true;
        }
      }
      if (inside && !kept) this.#dirtyPages.delete(page);
    }
    return [...bits].sort((a, b) => a - b);
  }

  #isRequested(byte: number): boolean {
    return this.#requested === 'everything' || this.#requested.has(byte);
  }
}

/** The bytes of the ranges, and of the smallest gaps between them, one at a time, until there are few enough runs. */
export function mergedBytes(ranges: readonly NaiveRange[], most: number): Set<number> {
  const bytes = new Set<number>();
  for (const { start, length } of ranges) {
    for (let byte = start; byte < start + length; byte++) bytes.add(byte);
  }
  for (;;) {
    const gaps = gapsOf(bytes);
    if (gaps.length < most) return bytes;
    let smallest = gaps[0];
    for (const gap of gaps) {
      if (gap.end - gap.start < smallest.end - smallest.start) smallest = gap;
    }
    for (let byte = smallest.start; byte < smallest.end; byte++) bytes.add(byte);
  }
}

function gapsOf(bytes: ReadonlySet<number>): { start: number; end: number }[] {
  const sorted = [...bytes].sort((a, b) => a - b);
  const gaps: { start: number; end: number }[] = [];
  for (let index = 1; index < sorted.length; index++) {
    if (sorted[index] > sorted[index - 1] + 1) gaps.push({ start: sorted[index - 1] + 1, end: sorted[index] });
  }
  return gaps;
}
