import type { PageList } from '../stream/page-list.js';
import { MAX_EXTENTS } from '../stream/stream-format.js';

const COUNT_SIZE = 8;
const FIRST_PAGES_AT = COUNT_SIZE;
const RANGES_AT = FIRST_PAGES_AT + 8 * MAX_EXTENTS;
const PAGE_COUNTS_AT = RANGES_AT + 4 * MAX_EXTENTS;
const SIZE = PAGE_COUNTS_AT + 4 * MAX_EXTENTS;

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
    this.#firstPages = new Float64Array(buffer, FIRST_PAGES_AT, MAX_EXTENTS);
    this.#ranges = new Uint32Array(buffer, RANGES_AT, MAX_EXTENTS);
    this.#pageCounts = new Uint32Array(buffer, PAGE_COUNTS_AT, MAX_EXTENTS);
  }

  /** Copies a list in. */
  put(list: PageList): void {
    this.#extents[0] = list.extents;
    this.#firstPages.set(list.firstPages.subarray(0, list.extents));
    this.#ranges.set(list.ranges.subarray(0, list.extents));
    this.#pageCounts.set(list.pageCounts.subarray(0, list.extents));
  }

  /** Copies the list out. */
  take(into: PageList): void {
    into.clear();
    for (let extent = 0; extent < this.#extents[0]!; extent++) {
      into.add(this.#ranges[extent]!, this.#firstPages[extent]!, this.#pageCounts[extent]!);
    }
  }
}
