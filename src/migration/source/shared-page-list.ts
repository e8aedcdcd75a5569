import { PAGES_PER_BLOCK, type PageList } from '../stream/page-list.js';

/** Most pages of a list that is handed to another thread: a word for each block would cost both threads more than the block's own frame. */
export const MOST_PAGES = 4 * PAGES_PER_BLOCK;

const COUNT_SIZE = 8;
const FIRST_PAGES_AT = COUNT_SIZE;
const RANGES_AT = FIRST_PAGES_AT + 8 * MOST_PAGES;
const PAGE_COUNTS_AT = RANGES_AT + 4 * MOST_PAGES;
const SIZE = PAGE_COUNTS_AT + 4 * MOST_PAGES;

/** A place for a page list in memory that two threads see. They tell each other by messages whose turn it is. */
export class SharedPageList {
  /** For the other thread. */
  readonly buffer: SharedArrayBuffer;
  readonly #extents: Uint32Array;
  readonly #firstPages: Float64Array;
  readonly #ranges: Uint32Array;
  readonly #pageCounts: Uint32Array;

  /** @param buffer the other thread's; default: a new one */
  constructor(buffer = new SharedArrayBuffer(SIZE)) {
    this.buffer = buffer;
    this.#extents = new Uint32Array(buffer, 0, 1);
    this.#firstPages = new Float64Array(buffer, FIRST_PAGES_AT, MOST_PAGES);
    this.#ranges = new Uint32Array(buffer, RANGES_AT, MOST_PAGES);
    this.#pageCounts = new Uint32Array(buffer, PAGE_COUNTS_AT, MOST_PAGES);
  }

  /** Copies a list in. */
  put(list: PageList): void {
    this.#extents[0] = list.extents;
    this.#firstPages.set(list.firstPages.subarray(0, list.extents));
    this.#ranges.set(list.ranges.subarray(0, list.extents));
    this.#pageCounts.set(list.pageCounts.subarray(0, list.extents));
  }

  /** Copies the list out, piece by piece: `into` again and again, with as many pages as it takes. */
  *takeBy(into: PageList): Generator<PageList, void> {
    into.clear();
    for (let extent = 0; extent < this.#extents[0]!; extent++) {
      const range = this.#ranges[extent]!;
      const firstPage = this.#firstPages[extent]!;
      const pages = this.#pageCounts[extent]!;
      for (let taken = 0; taken < pages; ) {
        taken += into.add(range, firstPage + taken, pages - taken);
        if (!into.full) continue;
        yield into;
        into.clear();
      }
    }
    if (into.pages > 0) yield into;
  }
}
