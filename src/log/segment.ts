import { RunCursor } from '../bitmap/index.js';
import { BitScale } from './bit-scale.js';
import { type Interval, touchesAny } from './interval.js';
import { PIECE_BITS } from './log-memory.js';
import type { PageMarks } from './page-marks.js';
import type { ReportRequest } from './report-request.js';

/*
 * A stretch of neighbouring log pages with one bit each. Log pages lie on the absolute grid: page = floor(iova /
 * pageSize).
 *
 * A report may cut the first and the last page that it touches. Such a page's bit is reported, and kept if a requested
 * byte of the page lies outside the report (contract rule 4), for that byte may be what was written. It is not taken and
 * put back: a writer on another thread may mark it in between. If no such byte exists, the bit is cleared: so a report of
 * exactly a logged range converges although the range's ends lie inside pages.
 *
 * Worked example: page size 4096, requested [0x1800, 0x3000), pages 1 and 2 dirty. A report of [0x1800, 0x2800) at 4096
 * sets bit 0 (page 1 from 0x1800 on, and page 2 up to 0x2800). Page 1 is cleared: nothing was requested below 0x1800.
 * Page 2 is kept: [0x2800, 0x3000) was not in the report.
 */

/** Between page sizes that differ by more than this, marks are converted run by run. */
const MOST_RATIO = PIECE_BITS / 64;

/** Log pages from `start` on, and the marks that say which of them were written. */
export class Segment {
  readonly marks: PageMarks;
  /** First byte, a multiple of the page size. */
  readonly start: bigint;
  /** First byte behind the last page. It may be beyond 2^64. */
  readonly end: bigint;
  readonly #pageSize: bigint;
  readonly #requested: readonly Interval[];

  /** `requested`: the bytes of these pages that are logged, ascending. */
  constructor(start: bigint, pages: number, pageSize: bigint, requested: readonly Interval[], marks: PageMarks) {
    this.marks = marks;
    this.start = start;
    this.end = start + BigInt(pages) * pageSize;
    this.#pageSize = pageSize;
    this.#requested = requested;
  }

  /** Moves the marks of the pages that `request` touches into its bitmap. */
  report(request: ReportRequest): void {
    const start = request.start > this.start ? request.start : this.start;
    const end = request.end < this.end ? request.end : this.end;
    if (start >= end) return;
    let first = this.#pageAt(start);
    let last = this.#pageAt(end - 1n);
    // What the report does not cut it holds whole: the outer pages of most.
    if (this.#isInsidePage(start) && this.#holdsMoreThan(request, first)) this.#copy(request, first++);
    if (first <= last && this.#isInsidePage(end) && this.#holdsMoreThan(request, last)) this.#copy(request, last--);
    if (first <= last) this.#move(request, first, last);
  }

  /** Reports one page and keeps its mark. */
  #copy(request: ReportRequest, page: number): void {
    if (!this.marks.isMarked(page)) return;
    const { first, last } = this.#bitsOf(request, page, page);
    request.target.touched = true;
    request.target.setRange(first, last + 1);
  }

  #move(request: ReportRequest, first: number, last: number): void {
    const { target } = request;
    if (!this.marks.mayHave(first, last - first + 1)) return;
    target.touched = true;
    const ratio = this.#ratio(request);
    const ahead = this.start + BigInt(first) * this.#pageSize - request.start;
    if (ratio === 1) {
      this.marks.move(first, last - first + 1, target, Number(ahead / this.#pageSize));
      return;
    }
    const bits = this.#bitsOf(request, first, last);
    if (ratio === undefined) {
      this.#convert(request, first, last, bits);
    } else if (this.#pageSize < request.pageSize) {
      // Not below 0: the report begins on a border of log pages.
      const phase = Number((ahead % request.pageSize) / this.#pageSize);
      this.marks.shrink(first, last - first + 1, target, bits.first, ratio, phase);
    } else {
      const phase = ahead < 0n ? Number(-ahead / request.pageSize) : 0;
      this.marks.expand(first, bits.last - bits.first + 1, target, bits.first, ratio, phase);
    }
  }

  /** How many of the smaller pages make a larger one; undefined when borders do not meet, or for too many. */
  #ratio(request: ReportRequest): number | undefined {
    const [small, large] =
      this.#pageSize < request.pageSize ? [this.#pageSize, request.pageSize] : [request.pageSize, this.#pageSize];
    if (request.start % small !== 0n) return undefined;
    const ratio = large / small;
    return ratio <= MOST_RATIO ? Number(ratio) : undefined;
  }

  /** Between any two page sizes at any alignment: run by run, so that it costs what is dirty. */
  #convert(request: ReportRequest, first: number, last: number, bits: { first: number; last: number }): void {
    // Boundaries inside the report are scaled from the first of them; the outer edges are known.
    const origin = first + 1;
    const offset = this.start + BigInt(origin) * this.#pageSize - request.start;
    const firstOf = new BitScale(offset, this.#pageSize, request.pageSize);
    const lastBefore = new BitScale(offset - 1n, this.#pageSize, request.pageSize);
    this.marks.takePieces(first, last - first + 1, (words, start, page, count) => {
      const runs = new RunCursor(words, start, start + count);
      while (runs.next()) {
        const from = runs.start - start + page;
        const end = runs.end - start + page;
        const firstBit = from === first ? bits.first : firstOf.bitAt(from - origin);
        const lastBit = end > last ? bits.last : lastBefore.bitAt(end - origin);
        request.target.setRange(firstBit, lastBit + 1);
      }
    });
  }

  /** The report's bits that speak of what it asks for of pages `[first, last]`. */
  #bitsOf(request: ReportRequest, first: number, last: number): { first: number; last: number } {
    const start = this.start + BigInt(first) * this.#pageSize;
    const end = this.start + BigInt(last + 1) * this.#pageSize;
    const from = start > request.start ? start : request.start;
    const through = (end < request.end ? end : request.end) - 1n;
    return {
      first: Number((from - request.start) / request.pageSize),
      last: Number((through - request.start) / request.pageSize),
    };
  }

  #isInsidePage(iova: bigint): boolean {
    return (iova & (this.#pageSize - 1n)) !== 0n;
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
