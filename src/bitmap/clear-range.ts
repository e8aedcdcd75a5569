import { maskFrom, maskThrough, wordOf } from './words.js';

/*
 * Clearing bits: partial words at both ends, whole words between.
 *
 * Worked example: bits 30 to 99 of four words of ones. Word 0 keeps 0x3fffffff, words 1 and 2 become 0, word 3 keeps
 * 0xfffffff0.
 */

/** Clears bits `[start, end)`. The caller has checked that they are there. */
export function clearRange(words: Uint32Array, start: number, end: number): void {
  if (start >= end) return;
  const first = wordOf(start);
  const last = wordOf(end - 1);
  if (first === last) {
    words[first] &= ~(maskFrom(start) & maskThrough(end - 1));
    return;
  }
  words[first] &= ~maskFrom(start);
  if (last - first > 1) words.fill(0, first + 1, last);
  words[last] &= ~maskThrough(end - 1);
}
