import type { TwoLevelBitmap } from '../bitmap/index.js';
import { LIST_LENGTH } from './log-memory.js';
import { NUMBER_LIMIT } from './number-limit.js';
import { createPageRecorder, type PageRecorder } from './page-recorder.js';
import type { IntervalRecorder } from './record-write.js';

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

export class RangeRecorder implements IntervalRecorder {
  /** What the thread records through. */
  readonly pages: PageRecorder;
  readonly #bitmap: TwoLevelBitmap;
  readonly #ranges: readonly RecordedRange[];
  readonly #low: readonly LowRange[];
  readonly #pageSize: bigint;
  /** Multiplying by it is exact, as dividing by a power of two is, and cheaper. */
  readonly #pagesPerByte: number;
  readonly #plan: RecorderPlan;
  readonly #list: Float64Array;

  constructor(bitmap: TwoLevelBitmap, plan: RecorderPlan) {
    this.#bitmap = bitmap;
    this.pages = createPageRecorder(bitmap, this);
    this.#ranges = plan.ranges;
    this.#low = plan.ranges.filter(range => range.start < NUMBER_LIMIT).map(toLowRange);
    this.#pageSize = plan.pageSize;
    this.#pagesPerByte = 1 / Number(plan.pageSize);
    this.#plan = plan;
    this.#list = new Float64Array(bitmap.memory.memory.buffer, plan.list, LIST_LENGTH);
  }

  recordLow(start: number, end: number): void {
    const low = this.#low;
    for (let index = firstEndingAfter(low, start); index < low.length && low[index].start < end; index++) {
      const range = low[index];
      const first = Math.floor((Math.max(start, range.start) - range.base) * this.#pagesPerByte);
      const last = Math.floor((Math.min(end, range.end) - 1 - range.base) * this.#pagesPerByte);
      this.#bitmap.markRange(range.origin + first, range.origin + last + 1);
      this.pages.remember(range.start, range.end, range.base, range.origin, this.#pagesPerByte);
    }
  }

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
