import { nextClearBit, nextSetBit } from './search.js';
import { setRange } from './set-range.js';

/*
 * From small pages to large ones: `ratio` bits are ORed into one. Run by run, so that it costs what is set; behind a
 * run, the rest of its last large page is skipped, for that bit is set already.
 *
 * Worked example: 4 KiB pages to 64 KiB pages, ratio 16, phase 3 (the source begins three small pages into the first
 * large one). Source bits 0 to 12 are ORed into target bit 0, 13 to 28 into bit 1. A run [10, 12) sets bit 0, and the
 * search goes on at 13.
 */

/**
 * For every j in `[0, count)`: sets target bit `targetStart + floor((phase + j) / ratio)` if source bit `sourceStart +
 * j` is set. Nothing is cleared. `phase` (0 to `ratio - 1`) and `count` are in the source's small pages.
 */
export function shrinkBits(
  source: Uint32Array,
  sourceStart: number,
  target: Uint32Array,
  targetStart: number,
  count: number,
  ratio: number,
  phase = 0,
): void {
  const sourceEnd = sourceStart + count;
  const origin = sourceStart - phase;
  let start = nextSetBit(source, sourceStart, sourceEnd);
  while (start < sourceEnd) {
    const end = nextClearBit(source, start, sourceEnd);
    const first = Math.floor((start - origin) / ratio);
    const last = Math.floor((end - 1 - origin) / ratio);
    setRange(target, targetStart + first, targetStart + last + 1);
    start = nextSetBit(source, origin + (last + 1) * ratio, sourceEnd);
  }
}
