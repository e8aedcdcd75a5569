import { BATCH_LIMIT, BitBatches } from './bit-batches.js';
import { nextSetBit } from './search.js';

/**
 * The set bits in `[from, limit)`, many at a time, for loops that are to be as quick as they can:
 *
 *     while (batches.next()) {
 *       const { pages, count } = batches;
 *       for (let at = 0; at < count; at++) use(pages[at]);
 *     }
 *
 * Bits up to the last page may be cleared during the walk.
 */
export class PageBatches {
  /** Set bits, ascending. The next call puts others into the same array. */
  readonly pages: Int32Array | Float64Array;
  /** How many are in {@link PageBatches.pages}. */
  count = 0;
  readonly #words: Uint32Array;
  readonly #limit: number;
  readonly #batches: BitBatches | undefined;

  constructor(words: Uint32Array, from: number, limit: number) {
    this.#words = words;
    this.#limit = Math.max(from, limit);
    if (limit < BATCH_LIMIT) this.#batches = new BitBatches(words, from, limit, 'pages');
    this.pages = this.#batches?.numbers ?? new Float64Array(1);
    // Where the search of large numbers begins.
    this.pages[0] = from - 1;
  }

  /** Fills {@link PageBatches.pages}; `false` when there is none left: then the first one is the limit. */
  next(): boolean {
    if (this.#batches === undefined) return this.#search();
    this.count = 0;
    while (this.count === 0 && !this.#batches.done) this.count = this.#batches.fill(0);
    if (this.count === 0) this.pages[0] = this.#limit;
    return this.count > 0;
  }

  #search(): boolean {
    this.pages[0] = nextSetBit(this.#words, this.pages[0] + 1, this.#limit);
    this.count = this.pages[0] < this.#limit ? 1 : 0;
    return this.count > 0;
  }
}
