import { maskFrom, maskThrough, wordOf } from './words.js';

/*
 * Counting set bits, a word at a time, by adding neighbours: pairs, nibbles, bytes, and the four bytes by one
 * multiplication.
 *
 * Worked example: 0xf0000003. Pairs hold 2 2 0 0 ... 0 2, nibbles 4 0 0 0 0 0 0 2, bytes 4 0 0 2; times 0x01010101 the
 * top byte is their sum, 6.
 */

/** The number of set bits among `[start, end)`. The caller has checked that they are there. */
export function countBits(words: Uint32Array, start: number, end: number): number {
  if (start >= end) return 0;
  const first = wordOf(start);
  const last = wordOf(end - 1);
  if (first === last) return countWord(words[first] & maskFrom(start) & maskThrough(end - 1));
  let total = countWord(words[first] & maskFrom(start)) + countWord(words[last] & maskThrough(end - 1));
  for (let index = first + 1; index < last; index++) {
    if (words[index] !== 0) total += countWord(words[index]);
  }
  return total;
}

function countWord(word: number): number {
  const pairs = word - ((word >>> 1) & 0x55555555);
  const nibbles = (pairs & 0x33333333) + ((pairs >>> 2) & 0x33333333);
  const bytes = (nibbles + (nibbles >>> 4)) & 0x0f0f0f0f;
  return Math.imul(bytes, 0x01010101) >>> 24;
}
