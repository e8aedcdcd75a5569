import { maskFrom, maskThrough, wordOf } from './words.js';

/*
 * OR, at any two bit offsets: how several trackers' reports become one.
 *
 * Worked example: 2 bits, both set, from source bit 31 to target bit 4. The distance is 4 - 31 = -27 = -1 * 32 + 5.
 * Source word 0 is taken as 0x80000000; shifted left by 5 nothing is left of it, and its high 5 bits, 0x10, go into
 * target word 0: bit 4. Source word 1 is taken as 1; shifted left by 5 it is bit 5 of target word 0.
 */

/**
 * ORs source bits `[sourceStart, sourceStart + count)` into target bits `[targetStart, targetStart + count)`. The two
 * bitmaps must not share memory. The caller has checked that the bits are there.
 */
export function orBits(
  source: Uint32Array,
  sourceStart: number,
  target: Uint32Array,
  targetStart: number,
  count: number,
): void {
  if (count <= 0) return;
  const sourceLast = sourceStart + count - 1;
  const first = wordOf(sourceStart);
  const last = wordOf(sourceLast);
  const shift = (targetStart - sourceStart) & 31;
  const distance = wordOf(targetStart - sourceStart);
  for (let index = first; index <= last; index++) {
    let word = source[index];
    if (word === 0) continue;
    if (index === first) word &= maskFrom(sourceStart);
    if (index === last) word &= maskThrough(sourceLast);
    const low = word << shift;
    if (low !== 0) target[index + distance] |= low;
    // In two steps, because a shift by 32 is a shift by 0.
    const high = (word >>> 1) >>> (31 - shift);
    if (high !== 0) target[index + distance + 1] |= high;
  }
}
