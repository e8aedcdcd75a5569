import { BATCH_LIMIT, BitBatches } from './bit-batches.js';
import { nextSetBit } from './runs.js';

/**
 * Walks the set bits in `[from, limit)` one by one without garbage: `while (cursor.next()) use(cursor.page)`.
 *
 * Bits up to `page` may be cleared during the walk.
 */
export class PageCursor {
  readonly #words: Uint32Array;
  readonly #limit: number;
  readonly #batches: BitBatches | undefined;
  readonly #pages: Int32Array | Float64Array;
  #at = 0;
  #count = 1;

  constructor(words: Uint32Array, from: number, limit: number) {
    this.#words = words;
    this.#limit = Math.max(from, limit);
    if (limit < BATCH_LIMIT) this.#batches = new BitBatches(words, from, limit, 'pages');
    this.#pages = this.#batches?.numbers ?? new Float64Array(1);
    // Where the search of large numbers begins.
    this.#pages[0] = from - 1;
  }

  /** The set bit's number; the limit behind the last one. */
  get page(): number {
    return this.#pages[this.#at];
  }

  /** Moves to the next set bit; `false` when there is none left. */
  next(): boolean {
    const at = this.#at + 1;
    if (at >= this.#count) return this.#batches === undefined ? this.#search() : this.#nextBatch(this.#batches);
    this.#at = at;
    return true;
  }

  #search(): boolean {
    this.#pages[0] = nextSetBit(this.#words, this.#pages[0] + 1, this.#limit);
    return this.#pages[0] < this.#limit;
  }

  #nextBatch(batches: BitBatches): boolean {
    this.#at = 0;
    this.#count = 0;
    while (this.#count === 0 && !batches.done) this.#count = batches.fill(0);
    if (this.#count > 0) return true;
    this.#pages[0] = this.#limit;
    return false;
  }
}

/**
 * The set bits in `[from, limit)` into a list, ascending, as many as it holds: what `DmaLog.recordPages` takes.
 * @returns how many; when that is the list's length, there may be more from `list.at(-1) + 1` on.
 */
export function listPages(words: Uint32Array, from: number, limit: number, list: Float64Array | Uint32Array): number {
  const cursor = new PageCursor(words, from, limit);
  let count = 0;
  while (count < list.length && cursor.next()) list[count++] = cursor.page;
  return count;
}

/** The set bits in `[from, limit)`, for people. Hot paths use {@link PageCursor}. */
export function* pages(words: Uint32Array, from = 0, limit = words.length * 32): Generator<number> {
  const cursor = new PageCursor(words, from, limit);
  while (cursor.next()) yield cursor.page;
}
