import type { IovaRange } from '../../../src/uapi/index.js';
import { PlainLog } from './plain-log.js';

/* Logs that clear too much, too little or at the wrong time (contract rules 3, 4, 6 and 7). */

/** Every report clears the whole log. */
export class ClearsEverything extends PlainLog {
  override report(iova: bigint, length: bigint, pageSize: bigint, bitmap: Uint32Array): void {
    super.report(iova, length, pageSize, bitmap);
    this.dirty.clear();
  }
}

/** A report clears nothing. */
export class NeverClears extends PlainLog {
  protected override mayClear(): boolean {
    return false;
  }
}

/** A log page of which the interval has only a part is cleared with it. */
export class ClearsPartialPages extends PlainLog {
  protected override mayClear(): boolean {
    return true;
  }
}

/** Sets and clears bits up to the end of the bitmap's last word, beyond the interval (libvfio-user: up to 63 pages). */
export class ReportsToEndOfWord extends PlainLog {
  override report(iova: bigint, length: bigint, pageSize: bigint, bitmap: Uint32Array): void {
    const word = pageSize * 64n;
    super.report(iova, ((length + word - 1n) / word) * word, pageSize, bitmap);
  }
}

/** Clears up to the end of the bitmap's last word, and tells of it nothing. */
export class ClearsToEndOfWord extends PlainLog {
  override report(iova: bigint, length: bigint, pageSize: bigint, bitmap: Uint32Array): void {
    super.report(iova, length, pageSize, bitmap);
    const word = pageSize * 64n;
    const end = iova + ((length + word - 1n) / word) * word;
    for (const page of this.dirty) {
      if (page * this.pageSize >= iova + length && page * this.pageSize < end) this.dirty.delete(page);
    }
  }
}

/** A report that looks for pages of a coarser size clears all of a report page that has one. */
export class ClearsWholeReportPages extends PlainLog {
  override report(iova: bigint, length: bigint, pageSize: bigint, bitmap: Uint32Array): void {
    super.report(iova, length, pageSize, bitmap);
    const end = iova + ((length + pageSize - 1n) / pageSize) * pageSize;
    for (const page of this.dirty) {
      if (page * this.pageSize < end && page * this.pageSize >= iova) this.dirty.delete(page);
    }
  }
}

/** What was dirty at STOP is dirty at the next START (rule 7). */
export class SurvivesStop extends PlainLog {
  #left: IovaRange[] = [];

  override start(pageSizeHint: bigint, ranges: readonly IovaRange[] | 'everything'): bigint {
    const pageSize = super.start(pageSizeHint, ranges);
    for (const { iova, length } of this.#left.splice(0)) this.pretend(iova, length);
    return pageSize;
  }

  override stop(): void {
    const { pageSize } = this;
    for (const page of this.dirty) this.#left.push({ iova: page * pageSize, length: pageSize });
    super.stop();
  }
}

/** A second START fails, as it should, but has emptied the log (rule 6). */
export class SecondStartClears extends PlainLog {
  override start(pageSizeHint: bigint, ranges: readonly IovaRange[] | 'everything'): bigint {
    this.dirty.clear();
    return super.start(pageSizeHint, ranges);
  }
}

/** A second START of the same page size is taken, and the log goes on as it was (libvfio-user). */
export class TakesSecondStart extends PlainLog {
  override start(pageSizeHint: bigint, ranges: readonly IovaRange[] | 'everything'): bigint {
    if (this.active && pageSizeHint === this.pageSize) return this.pageSize;
    return super.start(pageSizeHint, ranges);
  }
}

/** A second START starts anew (mtty takes it without a word). */
export class RestartsOnSecondStart extends PlainLog {
  override start(pageSizeHint: bigint, ranges: readonly IovaRange[] | 'everything'): bigint {
    if (this.active) this.stop();
    return super.start(pageSizeHint, ranges);
  }
}

/** STOP says that it is done, and the log goes on. */
export class IgnoresStop extends PlainLog {
  override stop(): void {
    if (!this.active) super.stop();
  }
}
