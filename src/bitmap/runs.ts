import { RunBatches } from './run-batches.js';

/**
 * Walks the runs of set bits in `[from, limit)` without garbage:
 * `while (cursor.next()) use(cursor.start, cursor.end)`.
 *
 * Bits below `end` may be cleared during the walk.
 */
export class RunCursor {
  readonly #batches: RunBatches;
  /** Read from here, `start` and `end` cost a load; in fields of their own they cost 12 ns a run more. */
  readonly #edges: Int32Array | Float64Array;
  #at = 0;
  #count = 0;

  constructor(words: Uint32Array, from: number, limit: number) {
    this.#batches = new RunBatches(words, from, limit);
    this.#edges = this.#batches.edges;
  }

  /** First bit of the run. */
  get start(): number {
    return this.#edges[this.#at];
  }

  /** First bit behind the run. */
  get end(): number {
    return this.#edges[this.#at + 1];
  }

  /** Moves to the next run; `false` when there is none left. */
  next(): boolean {
    const at = this.#at + 2;
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

/** The runs of set bits in `[from, limit)`, for people: each one is an object. Hot paths use {@link RunCursor}. */
export function* runs(
  words: Uint32Array,
  from = 0,
  limit = words.length * 32,
): Generator<{ start: number; end: number }> {
  const cursor = new RunCursor(words, from, limit);
  while (cursor.next()) yield { start: cursor.start, end: cursor.end };
}
