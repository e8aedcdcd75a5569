import { expandWord } from './expand-blocks';
import { or } from './or';
import { setRange } from './ranges';
import { ones, orPart, orShifted } from './words';

/*
 * Between page sizes, at any ratio and alignment.
 *
 * Expand, one bit to many: bit by bit where each becomes whole bytes, else run by run; so that it costs what is set.
 * Worked example: 64 KiB pages to 4 KiB pages, ratio 16, phase 3 (the target begins three small pages into the first large
 * one). Source bit 0 becomes target bits 0 to 12, source bit 1 becomes 13 to 28.
 *
 * Shrink, many bits to one: where the ratio is a power of two and large pages begin on borders of the source (phase 0), a
 * comparison of sixteen bytes at a time gives 2 to 64 bits at once; otherwise large page by large page.
 * Worked example: 4 KiB pages to 64 KiB pages, ratio 16. The eight 16-bit lanes of a vector are eight large pages;
 * "not equal 0" on each lane, gathered, is a byte of the target.
 */

/**
 * For every j in `[0, count)`: sets target bit `targetStart + j` if source bit `sourceStart + floor((phase + j) / ratio)` is
 * set. Both bases are multiples of 8.
 */
export function expand(
  source: usize,
  sourceStart: f64,
  target: usize,
  targetStart: f64,
  count: f64,
  ratio: f64,
  phase: f64,
): void {
  if (count <= 0) return;
  const from = <u64>sourceStart;
  const large = (<u64>(phase + count) - 1) / <u64>ratio + 1;
  const size = <u32>ratio;
  // Target bit of source page 0; below 0 it wraps around, and back.
  const origin = <u64>targetStart - <u64>phase;
  if ((origin & 7) !== 0 || (size !== 8 && size !== 16 && size !== 32 && size !== 64)) {
    expandRuns(source, from, 0, large, target, targetStart, count, ratio, phase);
    return;
  }
  const first: u64 = phase === 0 ? 0 : 1;
  const end = max<u64>(first, <u64>(phase + count) / size);
  if (first !== 0) expandRuns(source, from, 0, 1, target, targetStart, count, ratio, phase);
  expandBytes(source, from, first, end, target + <usize>(origin >> 3), size >> 3);
  if (end < large) expandRuns(source, from, end, large, target, targetStart, count, ratio, phase);
}

/** Source pages `[page, end)`, run by run, cut to what is asked for. */
function expandRuns(
  source: usize,
  from: u64,
  page: u64,
  end: u64,
  target: usize,
  targetStart: f64,
  count: f64,
  ratio: f64,
  phase: f64,
): void {
  while (page < end) {
    const bit = from + page;
    const place = bit & 63;
    const here = min<u64>(64 - place, end - page);
    let word = (load<u64>(source + <usize>((bit >> 6) << 3)) & ones(place, here)) >> place;
    while (word !== 0) {
      const run = ctz(word);
      const length = ctz(~(word >> run));
      const start = max<f64>(<f64>(page + run) * ratio - phase, 0);
      const behind = min<f64>(<f64>(page + run + length) * ratio - phase, count);
      setRange(target, targetStart + start, targetStart + behind);
      word = run + length > 63 ? 0 : (word >> (run + length)) << (run + length);
    }
    page += here;
  }
}

/** Source pages `[page, end)`, each of which becomes 1, 2, 4 or 8 whole bytes of the target. */
function expandBytes(source: usize, from: u64, page: u64, end: u64, target: usize, bytes: u32): void {
  while (page < end) {
    const bit = from + page;
    const place = bit & 63;
    const here = min<u64>(64 - place, end - page);
    let word = load<u64>(source + <usize>((bit >> 6) << 3));
    if (here !== 64) word = (word & ones(place, here)) >> place;
    expandWord(word, target + <usize>page * bytes, bytes);
    page += here;
  }
}

/**
 * For every j in `[0, count)`: sets target bit `targetStart + floor((phase + j) / ratio)` if source bit `sourceStart + j` is
 * set. `source` is a multiple of 8.
 */
export function shrink(
  source: usize,
  sourceStart: f64,
  target: usize,
  targetStart: f64,
  count: f64,
  ratio: f64,
  phase: f64,
): void {
  let from = <u64>sourceStart;
  let to = <u64>targetStart;
  let left = <u64>max(count, 0);
  const size = <u64>ratio;
  if (size === 1) {
    or(source, sourceStart, target, targetStart, count);
    return;
  }
  if (phase === 0 && (from & 63) === 0 && (size & (size - 1)) === 0 && size <= 64) {
    const done = shrinkVectors(source + <usize>(from >> 3), target, to, left, size);
    from += done;
    to += done / size;
    left -= done;
  }
  let page = <u64>phase;
  while (left !== 0) {
    const here = min<u64>(size - page, left);
    if (anySet(source, from, here)) orPart(target, to, 1);
    from += here;
    left -= here;
    to++;
    page = 0;
  }
}

/** Shrinks as many whole vectors as there are; returns how many source bits that was. */
function shrinkVectors(source: usize, target: usize, to: u64, count: u64, ratio: u64): u64 {
  const step = 128 / ratio;
  let at = source;
  const end = source + <usize>((count >> 7) << 4);
  while (at < end) {
    let word: u64 = 0;
    let filled: u64 = 0;
    for (; filled < 64 && at < end; filled += step, at += 16) word |= shrinkVector(v128.load(at), ratio) << filled;
    if (word !== 0) {
      const out = target + <usize>(to >> 3);
      if (filled < 64) orPart(target, to, word);
      else if ((to & 7) === 0) store<u64>(out, load<u64>(out) | word);
      else orShifted(out, to & 7, word);
    }
    to += filled;
  }
  return (<u64>(end - source)) << 3;
}

function shrinkVector(bits: v128, ratio: u64): u64 {
  const zero = i64x2.splat(0);
  if (ratio === 16) return <u64>i16x8.bitmask(i16x8.ne(bits, zero));
  if (ratio === 8) return <u64>i8x16.bitmask(i8x16.ne(bits, zero));
  if (ratio === 32) return <u64>i32x4.bitmask(i32x4.ne(bits, zero));
  if (ratio === 64) return <u64>i64x2.bitmask(i64x2.ne(bits, zero));
  const low = i64x2.extract_lane(bits, 0);
  const high = i64x2.extract_lane(bits, 1);
  return shrinkWord(low, ratio) | (shrinkWord(high, ratio) << (64 / ratio));
}

/** Ratio 2 or 4: the bits of each pair or four are ORed into its lowest, and the lowest gathered. */
function shrinkWord(word: u64, ratio: u64): u64 {
  word |= word >> 1;
  if (ratio === 4) word |= word >> 2;
  if (ratio === 2) {
    word &= 0x5555555555555555;
    word = (word | (word >> 1)) & 0x3333333333333333;
  } else {
    word &= 0x1111111111111111;
    word = (word | (word >> 3)) & 0x0303030303030303;
    word = (word | (word >> 6)) & 0x000f000f000f000f;
    word = (word | (word >> 12)) & 0x000000ff000000ff;
    return (word | (word >> 24)) & 0xffff;
  }
  word = (word | (word >> 2)) & 0x0f0f0f0f0f0f0f0f;
  word = (word | (word >> 4)) & 0x00ff00ff00ff00ff;
  word = (word | (word >> 8)) & 0x0000ffff0000ffff;
  return (word | (word >> 16)) & 0xffffffff;
}

function anySet(base: usize, from: u64, count: u64): bool {
  while (count !== 0) {
    const place = from & 63;
    const here = min<u64>(64 - place, count);
    if ((load<u64>(base + <usize>((from >> 6) << 3)) & ones(place, here)) !== 0) return true;
    from += here;
    count -= here;
  }
  return false;
}
