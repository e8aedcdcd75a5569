import { DmaLog } from '../../../src/log/index.js';
import type { IovaRange } from '../../../src/uapi/index.js';

/**
 * A DMA log that keeps every rule in the plainest way: a set of page numbers. START's and STOP's checks are the real log's; what happens to the
 * pages is here, each step a method of its own, so that a deviation is one method that does something else.
 */
export class PlainLog extends DmaLog {
  /** Dirty log pages: iova divided by the log's page size. */
  protected readonly dirty = new Set<bigint>();

  override start(pageSizeHint: bigint, ranges: readonly IovaRange[] | 'everything'): bigint {
    const pageSize = super.start(pageSizeHint, ranges);
    this.dirty.clear();
    return pageSize;
  }

  override stop(): void {
    super.stop();
    this.dirty.clear();
  }

  override record(iova: number | bigint, length: number): void {
    if (!this.active || length === 0) return;
    for (const page of this.pagesOf(BigInt(iova), BigInt(length))) {
      if (this.isLogged(page)) this.dirty.add(page);
    }
  }

  /** The log pages that a write touches. */
  protected *pagesOf(iova: bigint, length: bigint): Generator<bigint> {
    for (let page = iova / this.pageSize; page * this.pageSize < iova + length; page++) yield page;
  }

  /** Whether a log page lies in a range, with a byte at least. */
  protected isLogged(page: bigint): boolean {
    return this.ranges.some(range => this.#overlap(page, range) !== undefined);
  }

  override report(iova: bigint, length: bigint, pageSize: bigint, bitmap: Uint32Array): void {
    const asked = { iova, length };
    for (const page of [...this.dirty].sort((a, b) => (a < b ? -1 : 1))) {
      const part = this.#overlap(page, asked);
      if (part === undefined) continue;
      this.tell(part, asked, pageSize, bitmap);
      if (this.mayClear(page, asked)) this.dirty.delete(page);
    }
  }

  /** Sets the bits of a part of a dirty page. */
  protected tell(part: IovaRange, asked: IovaRange, pageSize: bigint, bitmap: Uint32Array): void {
    const last = (part.iova + part.length - 1n - asked.iova) / pageSize;
    for (let bit = (part.iova - asked.iova) / pageSize; bit <= last; bit++) this.setBit(bitmap, bit);
  }

  protected setBit(bitmap: Uint32Array, bit: bigint): void {
    bitmap[Number(bit / 32n)]! |= 1 << Number(bit % 32n);
  }

  /** Whether a report has told all that the page is dirty for: all of it that is logged. */
  protected mayClear(page: bigint, asked: IovaRange): boolean {
    return this.ranges.every(range => {
      const logged = this.#overlap(page, range);
      return logged === undefined || (asked.iova <= logged.iova && endOf(logged) <= endOf(asked));
    });
  }

  /** Drops what is dirty in an interval, untold. For deviations that lie outside of the log. */
  forget(interval: IovaRange): void {
    for (const page of this.dirty) if (this.#overlap(page, interval) !== undefined) this.dirty.delete(page);
  }

  /** Marks pages although nobody has written them. For deviations that lie outside of the log. */
  pretend(iova: bigint, length: bigint): void {
    for (const page of this.pagesOf(iova, length)) if (this.isLogged(page)) this.dirty.add(page);
  }

  override dirtyPages(): number {
    return this.dirty.size;
  }

  /** The part of a log page in an interval. */
  #overlap(page: bigint, interval: IovaRange): IovaRange | undefined {
    const start = page * this.pageSize > interval.iova ? page * this.pageSize : interval.iova;
    const pageEnd = (page + 1n) * this.pageSize;
    const end = pageEnd < endOf(interval) ? pageEnd : endOf(interval);
    return start < end ? { iova: start, length: end - start } : undefined;
  }
}

function endOf({ iova, length }: IovaRange): bigint {
  return iova + length;
}
