import { BATCH_LIMIT, BitBatches } from './bit-batches.js';
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
  readonly #words: Uint32Array;
  readonly #limit: number;
  readonly #batches: BitBatches | undefined;
  /**
   * Where runs begin and end, in turn; the cursor stands on those at `#at`. Read from here, `start` and `end` cost a load;
   * in fields of their own they cost 12 ns a run more.
   */
  readonly #edges: Int32Array | Float64Array;
  #at = 0;
  #count = 2;
  /** Whether one more edge stands behind them: the beginning of a run whose end is not known yet. */
  #open = false;

  constructor(words: Uint32Array, from: number, limit: number) {
    this.#words = words;
    this.#limit = limit;
    if (limit - from >= BATCHED_BITS && limit < BATCH_LIMIT)
      this.#batches = new BitBatches(words, from, limit, 'edges');
    this.#edges = this.#batches?.numbers ?? new Float64Array(2);
    this.#edges[0] = from;
    this.#edges[1] = from;
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
    if (at >= this.#count) return this.#batches === undefined ? this.#search() : this.#nextBatch(this.#batches);
    this.#at = at;
    return true;
  }

  #search(): boolean {
    const edges = this.#edges;
    edges[0] = nextSetBit(this.#words, edges[1], this.#limit);
    edges[1] = nextClearBit(this.#words, edges[0], this.#limit);
    return edges[0] < this.#limit;
  }

  #nextBatch(batches: BitBatches): boolean {
    const edges = this.#edges;
    let count = 0;
    // The beginning of a run that was open is carried over.
    if (this.#open) edges[count++] = edges[this.#count];
    while (count < 2 && !batches.done) count += batches.fill(count);
    if (batches.done && count % 2 === 1) edges[count++] = this.#limit;
    this.#open = count % 2 === 1;
    this.#count = count - (count % 2);
    this.#at = 0;
    if (this.#count > 0) return true;
    edges.fill(this.#limit, 0, 2);
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
