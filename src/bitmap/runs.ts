import { maskFrom, wordOf } from './words.js';

/*
 * Runs of set bits, found a word at a time: a clean word costs one comparison, a run costs two searches however long it
 * is.
 *
 * Worked example: words 0xf0000000 0x00000001 0x00000010 hold the runs [28, 33) and [68, 69).
 */

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

  constructor(words: Uint32Array, from: number, limit: number) {
    this.start = from;
    this.end = from;
    this.#words = words;
    this.#limit = limit;
  }

  /** Moves to the next run; `false` when there is none left. */
  next(): boolean {
    this.start = nextSetBit(this.#words, this.end, this.#limit);
    this.end = nextClearBit(this.#words, this.start, this.#limit);
    return this.start < this.#limit;
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
