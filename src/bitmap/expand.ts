import { RunCursor } from './runs.js';
import { setRange } from './set-range.js';

/*
 * From large pages to small ones: one bit becomes `ratio` bits. Run by run, so that it costs what is set.
 *
 * Worked example: 64 KiB pages to 4 KiB pages, ratio 16, phase 3 (the target begins three small pages into the first
 * large one). Source bit 0 becomes target bits 0 to 12, source bit 1 becomes 13 to 28. With count 20, bits 20 and up
 * stay as they were.
 */

/**
 * For every j in `[0, count)`: sets target bit `targetStart + j` if source bit `sourceStart + floor((phase + j) /
 * ratio)` is set. Nothing is cleared. `phase` (0 to `ratio - 1`) and `count` are in the target's small pages.
 */
export function expandBits(
  source: Uint32Array,
  sourceStart: number,
  target: Uint32Array,
  targetStart: number,
  count: number,
  ratio: number,
  phase = 0,
): void {
  if (count <= 0) return;
  const sourceEnd = sourceStart + Math.floor((phase + count - 1) / ratio) + 1;
  const cursor = new RunCursor(source, sourceStart, sourceEnd);
  while (cursor.next()) {
    const start = Math.max((cursor.start - sourceStart) * ratio - phase, 0);
    const end = Math.min((cursor.end - sourceStart) * ratio - phase, count);
    setRange(target, targetStart + start, targetStart + end);
  }
}
