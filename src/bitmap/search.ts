import { maskFrom, wordOf } from './words.js';

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
