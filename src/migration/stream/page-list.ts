import { PAGE_SIZE } from '../memory/machine-memory.js';
import { BLOCK_SIZE, MAX_EXTENTS } from './stream-format.js';

/** Pages that travel in one block: extents, each some pages in a row. Used again and again, so that nothing is allocated for a page. */
export class PageList {
  /** Of each extent: the range's index in the machine's memory, its first page there, and how many pages. */
  readonly ranges = new Uint32Array(MAX_EXTENTS);
  readonly firstPages = new Float64Array(MAX_EXTENTS);
  readonly pageCounts = new Uint32Array(MAX_EXTENTS);
  readonly #most: number;
  #extents = 0;
  #pages = 0;

  /** @param most pages that it takes, at most a block's; fewer make a slow link move more evenly */
  constructor(most: number = BLOCK_SIZE / PAGE_SIZE) {
    this.#most = Math.max(1, Math.min(most, BLOCK_SIZE / PAGE_SIZE));
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
