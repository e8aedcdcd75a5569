import { clearRange, createBitmap, nextSetBit, orBits, RunCursor, setRange } from '../bitmap/index.js';
import { addressOf, bitmapBits, type IovaRange } from '../uapi/index.js';
import type { DirtyRange, DirtySet } from './dirty-set.js';

/*
 * What a log gave, until somebody asks for it. A kernel that reports (and clears) whole mappings reports more than is asked for, and a region
 * that is unmapped takes its log along: the pages wait here.
 *
 * Worked example: 8 pages at 0x10000 are reported, pages 2 and 5 are dirty, and the set covers [0x10000, 0x14000). Page 2 is moved into the
 * set; page 5 is kept, and moved into the next set that covers it.
 */

/** A report that came from a log: bit 0 speaks of the page at `iova`. */
export interface LogReport extends IovaRange {
  /** Bytes that one bit speaks of. */
  readonly pageSize: bigint;
  readonly bitmap: Uint32Array;
}

/** Dirty pages that no set has taken yet. */
export class KeptPages {
  /** By what they cover: a region that comes and goes takes room once. */
  readonly #reports = new Map<string, LogReport>();

  /** Keeps a report; it and its bitmap belong to this object from now on. */
  add(report: LogReport): void {
    if (isClean(report)) return;
    const { iova, length, pageSize, bitmap } = report;
    const key = `${iova} ${length} ${pageSize}`;
    const before = this.#reports.get(key);
    if (before === undefined) this.#reports.set(key, report);
    else orBits(bitmap, 0, before.bitmap, 0, Number(bitmapBits(length, pageSize)));
  }

  /** Keeps all pages of some ranges as dirty. */
  addAll(ranges: readonly IovaRange[], pageSize: bigint): void {
    for (const range of ranges) {
      const pages = Number(bitmapBits(range.length, pageSize));
      const bitmap = createBitmap(pages);
      setRange(bitmap, 0, pages);
      this.add({ ...range, pageSize, bitmap });
    }
  }

  /** Moves into a set what is kept of its ranges. */
  moveInto(dirty: DirtySet): void {
    for (const [key, report] of this.#reports) {
      if (!moveReport(report, dirty)) this.#reports.delete(key);
    }
  }

  /** Forgets everything. */
  clear(): void {
    this.#reports.clear();
  }
}

/**
 * Moves what a report says of a set's ranges into the set: it is cleared in the report, but for pages that a range covers only in part
 * (contract rule 4).
 * @returns whether anything is left in the report; if not, its bitmap is all zeros
 */
export function moveReport(report: LogReport, dirty: DirtySet): boolean {
  for (const range of dirty.ranges) {
    const start = range.iova > report.iova ? range.iova : report.iova;
    const end = smaller(range.iova + range.length, report.iova + report.length);
    if (start >= end) continue;
    const { iova, pageSize } = report;
    const isPageByPage = pageSize === dirty.pageSize && (iova - range.iova) % pageSize === 0n;
    if (isPageByPage) orPages(report, range, { start, end });
    else markPages(report, dirty, { start, end });
    clearRange(report.bitmap, Number((start - iova + pageSize - 1n) / pageSize), Number((end - iova) / pageSize));
  }
  return !isClean(report);
}

function isClean({ bitmap }: LogReport): boolean {
  const bits = bitmap.length * 32;
  return nextSetBit(bitmap, 0, bits) === bits;
}

interface Interval {
  readonly start: bigint;
  readonly end: bigint;
}

function orPages({ iova, pageSize, bitmap }: LogReport, range: DirtyRange, { start, end }: Interval): void {
  const pages = Number((end - start) / pageSize);
  orBits(bitmap, Number((start - iova) / pageSize), range.bitmap, Number((start - range.iova) / pageSize), pages);
}

/** For page sizes that differ: a run of pages at a time. */
function markPages({ iova, pageSize, bitmap }: LogReport, dirty: DirtySet, { start, end }: Interval): void {
  const cursor = new RunCursor(
    bitmap,
    Number((start - iova) / pageSize),
    Number((end - iova + pageSize - 1n) / pageSize),
  );
  while (cursor.next()) {
    const from = addressOf(BigInt(cursor.start), iova, pageSize);
    const to = smaller(addressOf(BigInt(cursor.end), iova, pageSize), end);
    const first = from > start ? from : start;
    dirty.mark({ iova: first, length: to - first });
  }
}

function smaller(a: bigint, b: bigint): bigint {
  return a < b ? a : b;
}
