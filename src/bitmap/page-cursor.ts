import { BitBatches } from './bit-batches.js';

/**
 * Walks the set bits in `[from, limit)` one by one without garbage: `while (cursor.next()) use(cursor.page)`.
 *
 * Bits up to `page` may be cleared during the walk.
 */
export class PageCursor {
  /** The set bit's number; the limit behind the last one. */
  page: number;
  readonly #batches: BitBatches;
  readonly #pages: Float64Array;
  readonly #limit: number;
  #next = 0;
  #count = 0;

  constructor(words: Uint32Array, from: number, limit: number) {
    this.page = from;
    this.#limit = Math.max(from, limit);
    this.#batches = new BitBatches(words, from, limit, 'pages');
    this.#pages = this.#batches.numbers;
  }

  /** Moves to the next set bit; `false` when there is none left. */
  next(): boolean {
    if (this.#next >= this.#count && !this.#fill()) return false;
    this.page = this.#pages[this.#next++];
    return true;
  }

  #fill(): boolean {
    this.#next = 0;
    this.#count = 0;
    while (this.#count === 0 && !this.#batches.done) this.#count = this.#batches.fill(0);
    if (this.#count > 0) return true;
    this.page = this.#limit;
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
