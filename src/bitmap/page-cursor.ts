import { PageBatches } from './page-batches.js';

/**
 * Walks the set bits in `[from, limit)` one by one without garbage: `while (cursor.next()) use(cursor.page)`.
 *
 * Bits up to `page` may be cleared during the walk.
 */
export class PageCursor {
  readonly #batches: PageBatches;
  readonly #pages: Int32Array | Float64Array;
  #at = 0;
  #count = 0;

  constructor(words: Uint32Array, from: number, limit: number) {
    this.#batches = new PageBatches(words, from, limit);
    this.#pages = this.#batches.pages;
  }

  /** The set bit's number; the limit behind the last one. */
  get page(): number {
    return this.#pages[this.#at];
  }

  /** Moves to the next set bit; `false` when there is none left. */
  next(): boolean {
    const at = this.#at + 1;
    if (at >= this.#count) return this.#nextBatch();
    this.#at = at;
    return true;
  }

  #nextBatch(): boolean {
    const found = this.#batches.next();
    this.#at = 0;
    this.#count = this.#batches.count;
    return found;
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
