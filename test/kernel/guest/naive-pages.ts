import type { DirtySet } from '../../../src/tracker/index.js';
import type { IovaRange } from '../../../src/uapi/index.js';

/** The naive twin of a log: a set of the pages that were written, one at a time. */
export class NaivePages {
  readonly #ranges: readonly IovaRange[];
  readonly #pageSize: bigint;
  #dirty = new Set<bigint>();

  /** @param pageSize of the log, bytes */
  constructor(ranges: readonly IovaRange[], pageSize: bigint) {
    this.#ranges = ranges;
    this.#pageSize = pageSize;
  }

  write({ iova, length }: IovaRange): void {
    for (const range of this.#ranges) {
      for (let page = range.iova; page < range.iova + range.length; page += this.#pageSize) {
        if (iova < page + this.#pageSize && page < iova + length) this.#dirty.add(page);
      }
    }
  }

  /** What a report has to say, in pages of its own size, and nothing is dirty any more. */
  take(pageSize: bigint): bigint[] {
    const pages = new Set<bigint>();
    for (const dirty of this.#dirty) {
      for (let at = dirty; at < dirty + this.#pageSize; at += 4096n) pages.add(at - (at % pageSize));
    }
    this.#dirty = new Set();
    return [...pages].sort((one, other) => Number(one - other));
  }
}

/** The dirty pages of a set, by their addresses. */
export function pagesOf(dirty: DirtySet): bigint[] {
  const pages: bigint[] = [];
  for (const { iova, length } of dirty.runs()) {
    for (let page = iova; page < iova + length; page += dirty.pageSize) pages.push(page);
  }
  return pages;
}
