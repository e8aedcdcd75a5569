import { clearRange } from './clear-range.js';
import { orBits } from './or.js';

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
  orBits(source, sourceStart, target, targetStart, count);
  clearRange(source, sourceStart, sourceStart + count);
}
