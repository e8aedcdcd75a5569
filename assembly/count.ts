import { bitsToBorder, ones } from './words';

/*
 * Counting. Sixteen bytes at a time: each byte's ones are counted, and up to 31 such counts (at most 8 each, 248 together)
 * are added up in bytes before they are widened.
 *
 * Worked example: 512 bytes of ones are 32 vectors. The first 31 leave 248 in each byte, widened 16 x 248 = 3968; the last
 * one adds 128: 4096.
 */

/** The number of set bits among `[start, end)`. `base` is a multiple of 8. */
export function count(base: usize, start: f64, end: f64): f64 {
  let bit = <u64>start;
  let left = <u64>max(end - start, 0);
  let total: u64 = 0;
  const head = bitsToBorder(bit, left);
  if (head !== 0) {
    total += popcnt(load<u64>(base + <usize>((bit >> 6) << 3)) & ones(bit & 63, head));
    bit += head;
    left -= head;
  }
  let at = base + <usize>(bit >> 3);
  const bytes = <usize>((left >> 6) << 3);
  total += countBytes(at, bytes);
  at += bytes;
  if ((left & 63) !== 0) total += popcnt(load<u64>(at) & ones(0, left & 63));
  return <f64>total;
}

/** The number of set bits in `bytes` bytes, a multiple of 8. */
export function countBytes(at: usize, bytes: usize): u64 {
  let total: u64 = 0;
  const end = at + bytes;
  while (end - at >= 16) {
    const chunkEnd = at + min<usize>((end - at) & ~15, 31 * 16);
    let sums = i8x16.splat(0);
    for (; at < chunkEnd; at += 16) sums = i8x16.add(sums, i8x16.popcnt(v128.load(at)));
    total += <u64>sumBytes(sums);
  }
  if (at < end) total += popcnt(load<u64>(at));
  return total;
}

/** The number of bits that are set in one or both of two bitmaps of `bytes` bytes, a multiple of 16. */
export function countUnion(at: usize, other: usize, bytes: usize): u64 {
  let total: u64 = 0;
  const end = at + bytes;
  while (at < end) {
    const chunkEnd = at + min<usize>(end - at, 31 * 16);
    let sums = i8x16.splat(0);
    for (; at < chunkEnd; at += 16, other += 16) {
      sums = i8x16.add(sums, i8x16.popcnt(v128.or(v128.load(at), v128.load(other))));
    }
    total += <u64>sumBytes(sums);
  }
  return total;
}

function sumBytes(sums: v128): u32 {
  const words = i32x4.extadd_pairwise_i16x8_u(i16x8.extadd_pairwise_i8x16_u(sums));
  return (
    i32x4.extract_lane(words, 0) +
    i32x4.extract_lane(words, 1) +
    i32x4.extract_lane(words, 2) +
    i32x4.extract_lane(words, 3)
  );
}
