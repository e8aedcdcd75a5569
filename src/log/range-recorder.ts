import type { TwoLevelBitmap } from '../bitmap/index.js';
import { LIST_LENGTH } from './log-memory.js';
import { NUMBER_LIMIT } from './number-limit.js';

/*
 * The writers' side of a log with ranges: which bit stands for which page, and the marking. Every thread that records has a
 * recorder of its own over the same memory.
 *
 * Worked example: page size 4096, a range [0x1800, 0x3000) whose page 1 is bit 512 of the bitmap, so base 0x1000 and origin
 * 512. A write of 0x10 bytes at 0x2000 is page (0x2000 - 0x1000) / 0x1000 = 1 from the base: bit 513.
 */

/** A range and where its bits are. */
export interface RecordedRange {
  readonly start: bigint;
  readonly end: bigint;
  /** Address of the page of bit {@link RecordedRange.origin}. */
  readonly base: bigint;
  readonly origin: number;
}

/** What a recorder needs to know; structured clone keeps it. */
export interface RecorderPlan {
  readonly pageSize: bigint;
  /** Ascending, apart from each other. */
  readonly ranges: readonly RecordedRange[];
  /** Addresses of a list's place and of the table of segments, and how many of those there are: `Kernels.markList`. */
  readonly list: number;
  readonly table: number;
  readonly segments: number;
}

/** The part of a range that lies below {@link NUMBER_LIMIT}, for the hot path. */
interface LowRange {
  readonly start: number;
  readonly end: number;
  readonly base: number;
  readonly origin: number;
}

/** Never hit: no write begins at infinity. */
const noRange: LowRange = { start: Number.POSITIVE_INFINITY, end: Number.POSITIVE_INFINITY, base: 0, origin: 0 };

export class RangeRecorder {
  readonly #bitmap: TwoLevelBitmap;
  readonly #markPage: (page: number) => void;
  readonly #ranges: readonly RecordedRange[];
  readonly #low: readonly LowRange[];
  readonly #pageSize: bigint;
  /** Multiplying by it is exact, as dividing by a power of two is, and cheaper. */
  readonly #pagesPerByte: number;
  readonly #plan: RecorderPlan;
  readonly #list: Float64Array;
  /** Writes come in clusters: most hit the range that the last one hit. */
  #recent: LowRange = noRange;

  constructor(bitmap: TwoLevelBitmap, plan: RecorderPlan) {
    this.#bitmap = bitmap;
    this.#markPage = bitmap.markPage;
    this.#ranges = plan.ranges;
    this.#low = plan.ranges.filter(range => range.start < NUMBER_LIMIT).map(toLowRange);
    this.#pageSize = plan.pageSize;
    this.#pagesPerByte = 1 / Number(plan.pageSize);
    this.#plan = plan;
    this.#list = new Float64Array(bitmap.memory.memory.buffer, plan.list, LIST_LENGTH);
  }

  /** Marks what `[start, end)` touches; not empty, and below {@link NUMBER_LIMIT}. */
  record(start: number, end: number): void {
    const recent = this.#recent;
    if (start >= recent.start && end <= recent.end) {
      this.#mark(recent, start, end);
      return;
    }
    const low = this.#low;
    for (let index = firstEndingAfter(low, start); index < low.length && low[index].start < end; index++) {
      const range = low[index];
      this.#mark(range, Math.max(start, range.start), Math.min(end, range.end));
      this.#recent = range;
    }
  }

  #mark(range: LowRange, start: number, end: number): void {
    const first = range.origin + Math.floor((start - range.base) * this.#pagesPerByte);
    const last = range.origin + Math.floor((end - 1 - range.base) * this.#pagesPerByte);
    // Most writes touch one page, and a number below 2^31 needs no conversion on its way into the kernel.
    if (first === last && first < 2 ** 31) this.#markPage(first);
    else this.#bitmap.markRange(first, last + 1);
  }

  /** Marks what `[start, end)` touches; not empty, and at most 2^64. */
  recordHigh(start: bigint, end: bigint): void {
    for (const range of this.#ranges) {
      if (range.end <= start) continue;
      if (range.start >= end) break;
      const from = start > range.start ? start : range.start;
      const through = (end < range.end ? end : range.end) - 1n;
      const first = range.origin + Number((from - range.base) / this.#pageSize);
      const last = range.origin + Number((through - range.base) / this.#pageSize);
      this.#bitmap.markRange(first, last + 1);
    }
  }

  /** Marks whole pages by their numbers. */
  recordPages(pages: Float64Array | Uint32Array, count: number): void {
    const { list, table, segments } = this.#plan;
    const { kernels } = this.#bitmap.memory;
    for (let from = 0; from < count; from += LIST_LENGTH) {
      const here = Math.min(count - from, LIST_LENGTH);
      this.#list.set(here === pages.length ? pages : pages.subarray(from, from + here));
      kernels.markList(list, here, table, segments);
    }
  }
}

function toLowRange({ start, end, base, origin }: RecordedRange): LowRange {
  return { start: Number(start), end: Math.min(Number(end), NUMBER_LIMIT), base: Number(base), origin };
}

function firstEndingAfter(ranges: readonly LowRange[], address: number): number {
  let below = 0;
  let above = ranges.length;
  while (below < above) {
    const middle = (below + above) >>> 1;
    if (ranges[middle].end <= address) below = middle + 1;
    else above = middle;
  }
  return below;
}
