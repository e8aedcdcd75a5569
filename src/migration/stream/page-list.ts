import { PAGE_SIZE } from '../memory/machine-memory.js';
import { BLOCK_SIZE } from './stream-format.js';

/** Most pages in one block. */
export const PAGES_PER_BLOCK = BLOCK_SIZE / PAGE_SIZE;

/** Pages that travel together: extents, each some pages in a row. Used again and again, so that nothing is allocated for a page. */
export class PageList {
  /** Of each extent: the range's index in the machine's memory, its first page there, and how many pages. */
  readonly ranges: Uint32Array;
  readonly firstPages: Float64Array;
  readonly pageCounts: Uint32Array;
  readonly #most: number;
  #extents = 0;
  #pages = 0;

  /** @param most pages that it takes; default: a block's */
  constructor(most: number = PAGES_PER_BLOCK) {
    this.#most = most;
    this.ranges = new Uint32Array(most);
    this.firstPages = new Float64Array(most);
    this.pageCounts = new Uint32Array(most);
  }

  /** Extents collected. */
  get extents(): number {
    return this.#extents;
  }

  /** Pages collected. */
  get pages(): number {
    return this.#pages;
  }

  /** Whether nothing more fits. */
  get full(): boolean {
    return this.#pages === this.#most;
  }

  /** Takes as many of `pages` pages as fit; returns how many. */
  add(range: number, firstPage: number, pages: number): number {
    const taken = Math.min(pages, this.#most - this.#pages);
    if (taken === 0) return 0;
    this.ranges[this.#extents] = range;
    this.firstPages[this.#extents] = firstPage;
    this.pageCounts[this.#extents] = taken;
    this.#extents++;
    this.#pages += taken;
    return taken;
  }

  clear(): void {
    this.#extents = 0;
    this.#pages = 0;
  }
}
