import { maskFrom, maskThrough, wordOf } from './words.js';

/*
 * The log's read-and-clear: bits move from the log into a report, at any two bit offsets, and are gone from the log.
 *
 * Worked example: 40 bits from source bit 20 to target bit 3. The distance is 3 - 20 = -17 = -1 * 32 + 15, so the image
 * of source word w begins 15 bits into target word w - 1: its low 17 bits go there, shifted left by 15, and its high 15
 * bits into word w, shifted right by 17. Of source word 0 only bits 20 to 31 are taken, of word 1 only bits 0 to 27.
 *
 * Words that are 0 cost a load and a comparison, for most of a log is clean.
 */

/**
 * ORs source bits `[sourceStart, sourceStart + count)` into target bits `[targetStart, targetStart + count)` and clears
 * them in the source; no other bit of either changes. The two bitmaps must not share memory. The caller has checked
 * that the bits are there.
 */
export function readAndClear(
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
    source[index] ^= word;
    const low = word << shift;
    if (low !== 0) target[index + distance] |= low;
    // In two steps, because a shift by 32 is a shift by 0.
    const high = (word >>> 1) >>> (31 - shift);
    if (high !== 0) target[index + distance + 1] |= high;
  }
}
