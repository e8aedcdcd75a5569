import type { DmaPort } from '../../src/device/index.js';
import type { DirtySet } from '../../src/tracker/index.js';

/** Bytes of a page, as the reports are asked for. */
export const PAGE_SIZE = 4096;

/**
 * Sees each DMA write of a device beside its log: a list of intervals, and nothing clever.
 */
export class DmaWitness {
  readonly #intervals: { iova: number; length: number }[] = [];
  /** Writes that failed: those may have changed memory or not, so that nothing can be proven with them. */
  failures = 0;

  /** Watches a port from now on. */
  constructor(port: DmaPort) {
    const write = port.write.bind(port);
    port.write = (iova, from) => {
      try {
        const done = write(iova, from);
        if (done !== undefined) throw new Error('the witness expects memory that is mapped');
        this.#intervals.push({ iova: Number(iova), length: from.length });
        return undefined;
      } catch (error) {
        this.failures++;
        throw error;
      }
    };
  }

  /** How many writes it saw. */
  get writes(): number {
    return this.#intervals.length;
  }

  /** The pages that were written by all writes from number `first` on. */
  pages(first = 0): Set<number> {
    const pages = new Set<number>();
    for (const { iova, length } of this.#intervals.slice(first)) {
      for (let page = Math.floor(iova / PAGE_SIZE); page * PAGE_SIZE < iova + length; page++) pages.add(page);
    }
    return pages;
  }
}

/** The pages of a set as numbers of guest-physical pages. */
export function pagesOf(dirty: DirtySet): Set<number> {
  const pages = new Set<number>();
  for (const { iova, length } of dirty.runs()) {
    for (let at = iova; at < iova + length; at += BigInt(PAGE_SIZE)) pages.add(Number(at) / PAGE_SIZE);
  }
  return pages;
}

/** The pages in which two copies of guest memory differ. */
export function differingPages(before: Uint8Array, after: Uint8Array): Set<number> {
  const pages = new Set<number>();
  for (let at = 0; at < before.length; at += PAGE_SIZE) {
    if (Buffer.compare(before.subarray(at, at + PAGE_SIZE), after.subarray(at, at + PAGE_SIZE)) !== 0) {
      pages.add(at / PAGE_SIZE);
    }
  }
  return pages;
}

/** The members of `these` that are not in `those`, in order. */
export function without(these: ReadonlySet<number>, those: ReadonlySet<number>): number[] {
  return [...these].filter(page => !those.has(page)).sort((a, b) => a - b);
}
