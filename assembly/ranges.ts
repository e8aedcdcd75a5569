import { bitsToBorder, ones } from './words';

/*
 * Setting and clearing ranges: partial words at both ends, whole bytes between.
 *
 * Worked example: bits 30 to 299. Word 0 gets bits 30 to 63, bytes 8 to 31 become 0xff, word 4 gets bits 0 to 43.
 *
 * The shared form sets with atomic OR at both ends, since others write those words too; between them every bit is set
 * anyway, so that a plain fill loses nobody's. The last thing that it does is atomic: see two-level.ts for why.
 */

/** Sets bits `[start, end)`. `base` is a multiple of 8. */
export function setRange(base: usize, start: f64, end: f64): void {
  let bit = <u64>start;
  let left = <u64>max(end - start, 0);
  const head = bitsToBorder(bit, left);
  if (head !== 0) {
    const at = base + <usize>((bit >> 6) << 3);
    store<u64>(at, load<u64>(at) | ones(bit & 63, head));
    bit += head;
    left -= head;
  }
  const bytes = <usize>((left >> 6) << 3);
  let at = base + <usize>(bit >> 3);
  if (bytes !== 0) memory.fill(at, 0xff, bytes);
  if ((left & 63) !== 0) {
    at += bytes;
    store<u64>(at, load<u64>(at) | ones(0, left & 63));
  }
}

/** Sets bits `[start, end)`, while others set and clear bits of the same words. `base` is a multiple of 8. */
export function setRangeShared(base: usize, start: f64, end: f64): void {
  if (start >= end) return;
  const first = <u64>start;
  const last = <u64>end - 1;
  const firstWord = base + <usize>((first >> 6) << 3);
  const lastWord = base + <usize>((last >> 6) << 3);
  if (firstWord !== lastWord) {
    atomic.or<u64>(firstWord, ones(first & 63, 64 - (first & 63)));
    memory.fill(firstWord + 8, 0xff, lastWord - firstWord - 8);
    atomic.or<u64>(lastWord, ones(0, (last & 63) + 1));
  } else {
    atomic.or<u64>(firstWord, ones(first & 63, last - first + 1));
  }
}

/** Clears bits `[start, end)`. `base` is a multiple of 8. */
export function clearRange(base: usize, start: f64, end: f64): void {
  let bit = <u64>start;
  let left = <u64>max(end - start, 0);
  const head = bitsToBorder(bit, left);
  if (head !== 0) {
    const at = base + <usize>((bit >> 6) << 3);
    store<u64>(at, load<u64>(at) & ~ones(bit & 63, head));
    bit += head;
    left -= head;
  }
  const bytes = <usize>((left >> 6) << 3);
  let at = base + <usize>(bit >> 3);
  if (bytes !== 0) memory.fill(at, 0, bytes);
  if ((left & 63) !== 0) {
    at += bytes;
    store<u64>(at, load<u64>(at) & ~ones(0, left & 63));
  }
}
