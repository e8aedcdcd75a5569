import {
  clearRange,
  countBits,
  createBitmap,
  RunCursor,
  readAndClear,
  setBit,
  setRange,
  testBit,
} from '../bitmap/index.js';
import { BitScale } from './bit-scale.js';
import { type Interval, touchesAny } from './interval.js';
import type { ReportRequest } from './report-request.js';

/*
 * A stretch of neighbouring log pages with one bit each. Log pages lie on the absolute grid: page = floor(iova /
 * pageSize).
 *
 * A report may cut the first and the last page that it touches. Such a page's bit is reported, and kept if a requested
 * byte of the page lies outside the report (contract rule 4), for that byte may be what was written. If none does, the
 * bit is cleared: so a report of exactly a logged range converges although the range's ends lie inside pages.
 *
 * Worked example: page size 4096, requested [0x1800, 0x3000), pages 1 and 2 dirty. A report of [0x1800, 0x2800) at 4096
 * sets bit 0 (page 1 from 0x1800 on, and page 2 up to 0x2800). Page 1 is cleared: nothing was requested below 0x1800.
 * Page 2 is kept: [0x2800, 0x3000) was not in the report.
 */

/** Log pages from `start` on, and the bits that say which of them were written. */
export class Segment {
  /** The bits. Bit 0 is the page that begins at `start`. */
  readonly words: Uint32Array;
  /** First byte, a multiple of the page size. */
  readonly start: bigint;
  /** First byte behind the last page. It may be beyond 2^64. */
  readonly end: bigint;
  readonly #pageSize: bigint;
  readonly #requested: readonly Interval[];
  readonly #pages: number;

  /**
   * `requested`: the bytes of these pages that are logged, ascending.
   * @throws RangeError when the engine has no room for the bits.
   */
  constructor(start: bigint, pages: number, pageSize: bigint, requested: readonly Interval[]) {
    this.words = createBitmap(pages);
    this.start = start;
    this.end = start + BigInt(pages) * pageSize;
    this.#pageSize = pageSize;
    this.#requested = requested;
    this.#pages = pages;
  }

  /** Pages marked now. */
  dirtyPages(): number {
    return countBits(this.words, 0, this.#pages);
  }

  /** Moves the bits of the pages that `request` touches into its bitmap. */
  report(request: ReportRequest): void {
    const start = request.start > this.start ? request.start : this.start;
    const end = request.end < this.end ? request.end : this.end;
    if (start >= end) return;
    const first = this.#pageAt(start);
    const last = this.#pageAt(end - 1n);
    const keepFirst = testBit(this.words, first) && this.#holdsMoreThan(request, first);
    const keepLast = testBit(this.words, last) && this.#holdsMoreThan(request, last);
    if (request.pageSize === this.#pageSize && request.start % this.#pageSize === 0n) {
      const bit = Number((start - request.start) / this.#pageSize);
      readAndClear(this.words, first, request.bitmap, bit, last - first + 1);
    } else {
      this.#convert(request, start, end);
    }
    if (keepFirst) setBit(this.words, first);
    if (keepLast) setBit(this.words, last);
  }

  /** Read-and-clear between any two page sizes at any alignment: run by run, so that it costs what is dirty. */
  #convert(request: ReportRequest, start: bigint, end: bigint): void {
    const first = this.#pageAt(start);
    const last = this.#pageAt(end - 1n);
    const firstBit = Number((start - request.start) / request.pageSize);
    const lastBit = Number((end - 1n - request.start) / request.pageSize);
    // Boundaries inside the report are scaled from the first of them; the report's own edges are firstBit and lastBit.
    const origin = first + 1;
    const offset = this.start + BigInt(origin) * this.#pageSize - request.start;
    const firstOf = new BitScale(offset, this.#pageSize, request.pageSize);
    const lastBefore = new BitScale(offset - 1n, this.#pageSize, request.pageSize);
    const runs = new RunCursor(this.words, first, last + 1);
    while (runs.next()) {
      const from = runs.start === first ? firstBit : firstOf.bitAt(runs.start - origin);
      const through = runs.end > last ? lastBit : lastBefore.bitAt(runs.end - origin);
      setRange(request.bitmap, from, through + 1);
      clearRange(this.words, runs.start, runs.end);
    }
  }

  #pageAt(iova: bigint): number {
    return Number((iova - this.start) / this.#pageSize);
  }

  /** Whether `page` has a requested byte outside the report. */
  #holdsMoreThan(request: ReportRequest, page: number): boolean {
    const start = this.start + BigInt(page) * this.#pageSize;
    const end = start + this.#pageSize;
    return (
      touchesAny(this.#requested, start, request.start < end ? request.start : end) ||
      touchesAny(this.#requested, request.end > start ? request.end : start, end)
    );
  }
}
