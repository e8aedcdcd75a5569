import { clearRange, countBits, createBitmap, orBits, RunCursor, setRange } from '../bitmap/index.js';
import { addressOf, bitmapBits, type IovaRange, isPowerOfTwo, overlap, VfioError } from '../uapi/index.js';

/** A range of memory and which of its pages are dirty: bit 0 speaks of the page at the range's start. */
export interface DirtyRange extends IovaRange {
  readonly bitmap: Uint32Array;
  /** Number of pages, which is the number of bits that mean anything. */
  readonly pages: number;
}

/**
 * Which pages are dirty, over all ranges of a machine's memory: what trackers report into and a migration's pass takes from.
 *
 * Every range has a bitmap of its own, so that a report begins at bit 0 whatever the range's address.
 */
export class DirtySet {
  /** Bytes that one bit speaks of. */
  readonly pageSize: bigint;
  #ranges: readonly DirtyRange[];

  /**
   * @param ranges disjoint, aligned to `pageSize`
   * @throws VfioError EINVAL
   */
  constructor(ranges: readonly IovaRange[], pageSize = 4096n) {
    const operation = 'DirtySet';
    if (!isPowerOfTwo(pageSize)) {
      throw new VfioError('EINVAL', { operation, field: 'pageSize', message: `${pageSize} is not a power of two` });
    }
    this.pageSize = pageSize;
    this.#ranges = emptyRanges(ranges, pageSize);
  }

  /** Sorted by address; others after {@link DirtySet.changeRanges}. */
  get ranges(): readonly DirtyRange[] {
    return this.#ranges;
  }

  /**
   * The machine's memory changed: pages that stay keep what is said of them, new ones are clean, and those that are gone are forgotten.
   * @param ranges as the constructor's
   * @throws VfioError EINVAL; nothing changes then
   */
  changeRanges(ranges: readonly IovaRange[]): void {
    const before = this.#ranges;
    const after = emptyRanges(ranges, this.pageSize);
    for (const to of after) for (const from of before) orCommonPages(from, to, this.pageSize);
    this.#ranges = after;
  }

  /** Number of pages, dirty or not. */
  get pages(): number {
    return this.ranges.reduce((sum, range) => sum + range.pages, 0);
  }

  /** Number of dirty pages. */
  count(): number {
    return this.ranges.reduce((sum, range) => sum + countBits(range.bitmap, 0, range.pages), 0);
  }

  /** Everything counts as dirty. */
  markAll(): void {
    for (const range of this.ranges) setRange(range.bitmap, 0, range.pages);
  }

  /** Marks every page that the interval touches; what lies outside the ranges is nobody's. */
  mark({ iova, length }: IovaRange): void {
    if (length <= 0n) return;
    for (const range of this.ranges) {
      const start = iova > range.iova ? iova - range.iova : 0n;
      const end = iova + length - range.iova < range.length ? iova + length - range.iova : range.length;
      if (start < end) setRange(range.bitmap, Number(start / this.pageSize), Number((end - 1n) / this.pageSize) + 1);
    }
  }

  /** ORs another set of the same ranges and page size into this one. */
  or(other: DirtySet): void {
    for (const [index, range] of this.ranges.entries()) {
      orBits(other.ranges[index]!.bitmap, 0, range.bitmap, 0, range.pages);
    }
  }

  /** Nothing is dirty any more. */
  clear(): void {
    for (const range of this.ranges) clearRange(range.bitmap, 0, range.pages);
  }

  /** The dirty intervals, in order of address, for people; hot paths walk `ranges` with a RunCursor. */
  *runs(): Generator<IovaRange> {
    for (const range of this.ranges) {
      const cursor = new RunCursor(range.bitmap, 0, range.pages);
      while (cursor.next()) {
        yield {
          iova: addressOf(BigInt(cursor.start), range.iova, this.pageSize),
          length: BigInt(cursor.end - cursor.start) * this.pageSize,
        };
      }
    }
  }
}

function emptyRanges(ranges: readonly IovaRange[], pageSize: bigint): DirtyRange[] {
  const bad = (message: string) => new VfioError('EINVAL', { operation: 'DirtySet', field: 'ranges', message });
  const sorted = [...ranges].sort((a, b) => (a.iova < b.iova ? -1 : a.iova > b.iova ? 1 : 0));
  for (const [index, range] of sorted.entries()) {
    if (range.iova % pageSize !== 0n || range.length % pageSize !== 0n || range.length === 0n) {
      throw bad(`${text(range)} is not whole pages`);
    }
    const next = sorted[index + 1];
    if (next !== undefined && range.iova + range.length > next.iova) {
      throw bad(`${text(range)} overlaps ${text(next)}`);
    }
  }
  return sorted.map(({ iova, length }) => {
    const pages = Number(bitmapBits(length, pageSize));
    return { iova, length, pages, bitmap: createBitmap(pages) };
  });
}

function orCommonPages(from: DirtyRange, to: DirtyRange, pageSize: bigint): void {
  if (!overlap(from, to)) return;
  const start = from.iova > to.iova ? from.iova : to.iova;
  const fromFirst = Number((start - from.iova) / pageSize);
  const toFirst = Number((start - to.iova) / pageSize);
  const pages = Math.min(from.pages - fromFirst, to.pages - toFirst);
  orBits(from.bitmap, fromFirst, to.bitmap, toFirst, pages);
}

function text({ iova, length }: IovaRange): string {
  return `0x${iova.toString(16)} + 0x${length.toString(16)}`;
}
