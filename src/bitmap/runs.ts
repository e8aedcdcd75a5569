import { BitBatches } from './bit-batches.js';
import { maskFrom, wordOf } from './words.js';

/*
 * Runs of set bits. Short intervals are searched a word at a time: a clean word costs one comparison, a run costs two
 * searches however long it is. Long ones are left to the kernels, some hundred runs in one call (bit-batches.ts): at 1 % dirty
 * that takes half as long.
 *
 * Worked example: words 0xf0000000 0x00000001 0x00000010 hold the runs [28, 33) and [68, 69).
 */

/** From this many bits on a cursor asks the kernels. */
const BATCHED_BITS = 8192;

const noEdges = new Float64Array(0);

/** The first set bit in `[from, limit)`, or `limit` when there is none. */
export function nextSetBit(words: Uint32Array, from: number, limit: number): number {
  if (from >= limit) return limit;
  const last = wordOf(limit - 1);
  let index = wordOf(from);
  let word = words[index] & maskFrom(from);
  while (word === 0) {
    if (index === last) return limit;
    word = words[++index];
  }
  return Math.min(index * 32 + trailingZeros(word), limit);
}

/** The first clear bit in `[from, limit)`, or `limit` when there is none. */
export function nextClearBit(words: Uint32Array, from: number, limit: number): number {
  if (from >= limit) return limit;
  const last = wordOf(limit - 1);
  let index = wordOf(from);
  let holes = ~words[index] & maskFrom(from);
  while (holes === 0) {
    if (index === last) return limit;
    holes = ~words[++index];
  }
  return Math.min(index * 32 + trailingZeros(holes), limit);
}

function trailingZeros(word: number): number {
  return 31 - Math.clz32(word & -word);
}

/**
 * Walks the runs of set bits in `[from, limit)` without garbage:
 * `while (cursor.next()) use(cursor.start, cursor.end)`.
 *
 * Bits below `end` may be cleared during the walk.
 */
export class RunCursor {
  /** First bit of the run. */
  start: number;
  /** First bit behind the run. */
  end: number;
  readonly #words: Uint32Array;
  readonly #limit: number;
  readonly #batches: BitBatches | undefined;
  /** Edges of the runs to come: those of the batch from `#next` to `#count`. */
  readonly #edges: Float64Array;
  #next = 0;
  #count = 0;
  /** Whether one more edge stands behind them: the beginning of a run whose end is not known yet. */
  #open = false;

  constructor(words: Uint32Array, from: number, limit: number) {
    this.start = from;
    this.end = from;
    this.#words = words;
    this.#limit = limit;
    if (limit - from >= BATCHED_BITS) this.#batches = new BitBatches(words, from, limit, 'edges');
    this.#edges = this.#batches?.numbers ?? noEdges;
  }

  /** Moves to the next run; `false` when there is none left. */
  next(): boolean {
    const next = this.#next;
    if (next >= this.#count) return this.#batches === undefined ? this.#search() : this.#nextBatch(this.#batches);
    this.start = this.#edges[next];
    this.end = this.#edges[next + 1];
    this.#next = next + 2;
    return true;
  }

  #search(): boolean {
    this.start = nextSetBit(this.#words, this.end, this.#limit);
    this.end = nextClearBit(this.#words, this.start, this.#limit);
    return this.start < this.#limit;
  }

  #nextBatch(batches: BitBatches): boolean {
    let count = 0;
    if (this.#open) {
      // The last run of the batch was open: its beginning is carried over.
      this.#edges[0] = this.#edges[this.#count];
      count = 1;
    }
    while (count < 2 && !batches.done) count += batches.fill(count);
    if (batches.done && count % 2 === 1) this.#edges[count++] = this.#limit;
    this.#open = count % 2 === 1;
    this.#count = count - (count % 2);
    this.#next = 0;
    if (this.#count > 0) return this.next();
    this.start = this.#limit;
    this.end = this.#limit;
    return false;
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
