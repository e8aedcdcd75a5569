import type { IovaRange } from '../../../src/uapi/index.js';
import { PlainLog } from './plain-log.js';

/* Logs that mark other pages than those that were written (contract rules 1, 11 and 12). */

/** A range's size without its last byte, and so without its last page (mlx5, once). */
export class ForgetsLastPageOfRange extends PlainLog {
  protected override isLogged(page: bigint): boolean {
    return this.ranges.some(({ iova, length }) => {
      const last = (iova + length - 1n) / this.pageSize;
      return page >= iova / this.pageSize && page < last;
    });
  }
}

/** Of a write that crosses pages, the first alone. */
export class MarksFirstPageAlone extends PlainLog {
  protected override *pagesOf(iova: bigint): Generator<bigint> {
    yield iova / this.pageSize;
  }
}

/** The page behind a write that ends at a page's end. */
export class MarksPageBehind extends PlainLog {
  protected override *pagesOf(iova: bigint, length: bigint): Generator<bigint> {
    for (let page = iova / this.pageSize; page <= (iova + length) / this.pageSize; page++) yield page;
  }
}

/** Everything that is written, whatever was asked for (libvfio-user logs every mapped region). */
export class IgnoresRanges extends PlainLog {
  protected override isLogged(): boolean {
    return true;
  }
}

/** A write that begins in a range marks all its pages, those behind the range's end, too. */
export class StraddlesOutwards extends PlainLog {
  override record(iova: number | bigint, length: number): void {
    if (!this.active || length === 0) return;
    const pages = [...this.pagesOf(BigInt(iova), BigInt(length))];
    if (pages.some(page => this.isLogged(page))) for (const page of pages) this.dirty.add(page);
  }
}

/** A write that leaves its range marks nothing. */
export class DropsStraddlingWrites extends PlainLog {
  override record(iova: number | bigint, length: number): void {
    if (!this.active || length === 0) return;
    const pages = [...this.pagesOf(BigInt(iova), BigInt(length))];
    if (pages.every(page => this.isLogged(page))) for (const page of pages) this.dirty.add(page);
  }
}

/** Ranges beyond the first are not kept, where they should be merged (rule 11). */
export class KeepsOneRange extends PlainLog {
  override start(pageSizeHint: bigint, ranges: readonly IovaRange[] | 'everything'): bigint {
    return super.start(pageSizeHint, ranges === 'everything' ? ranges : ranges.slice(0, 1));
  }
}

/** START without ranges logs nothing (rule 12). */
export class LogsNothingForEverything extends PlainLog {
  protected override isLogged(page: bigint): boolean {
    return this.ranges[0]?.length !== 1n << 64n && super.isLogged(page);
  }
}

/** A bit that was not yet reported is lost when its page is written again: a toggle (XOR) where there should be an OR. */
export class TogglesPages extends PlainLog {
  override record(iova: number | bigint, length: number): void {
    if (!this.active) return;
    for (const page of this.pagesOf(BigInt(iova), BigInt(length))) {
      if (this.dirty.delete(page)) continue;
      if (this.isLogged(page)) this.dirty.add(page);
    }
  }
}
