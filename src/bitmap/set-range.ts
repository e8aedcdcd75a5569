import { maskFrom, maskThrough, wordOf } from './words.js';

/*
 * Setting bits: partial words at both ends, whole words between.
 *
 * Worked example: bits 30 to 99 of four words. Word 0 gets 0xc0000000 (bits 30 and 31), words 1 and 2 all ones, word 3
 * gets 0x0000000f (bits 96 to 99).
 */

/** Sets one bit. */
export function setBit(words: Uint32Array, bit: number): void {
  words[wordOf(bit)] |= 1 << (bit & 31);
}

/** Sets bits `[start, end)`. The caller has checked that they are there. */
export function setRange(words: Uint32Array, start: number, end: number): void {
  if (start >= end) return;
  const first = wordOf(start);
  const last = wordOf(end - 1);
  if (first === last) {
    words[first] |= maskFrom(start) & maskThrough(end - 1);
    return;
  }
  words[first] |= maskFrom(start);
  if (last - first > 1) words.fill(0xffffffff, first + 1, last);
  words[last] |= maskThrough(end - 1);
}
