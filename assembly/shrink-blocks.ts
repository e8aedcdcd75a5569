/*
 * Whole blocks, 64 bytes each, of one group go straight into a report whose pages are 8, 16, 32 or 64 log pages: 64 to 8 bits
 * of the target for each block, read, cleared and shrunk in one step.
 *
 * Worked example: ratio 16. A block is four vectors of eight 16-bit lanes, 32 report pages. "Not equal 0" gives lanes of ones;
 * two vectors of lanes narrowed to bytes and their top bits gathered are 16 bits of the target.
 */

/** Moves the blocks of `marked` from `source` (a group's page bits) into the target from its byte `out` on; plainly. */
export function shrinkBlocks(source: usize, marked: u64, out: usize, ratio: u32): void {
  const zero = i64x2.splat(0);
  for (; marked !== 0; marked &= marked - 1) {
    const block = <usize>ctz(marked);
    const at = source + (block << 6);
    const first = v128.load(at);
    const second = v128.load(at, 16);
    const third = v128.load(at, 32);
    const fourth = v128.load(at, 48);
    v128.store(at, zero);
    v128.store(at, zero, 16);
    v128.store(at, zero, 32);
    v128.store(at, zero, 48);
    if (ratio === 16) {
      const low = shrink16(first, second);
      const to = out + (block << 2);
      store<u32>(to, load<u32>(to) | low | (shrink16(third, fourth) << 16));
    } else if (ratio === 8) {
      const low = shrink8(first) | (shrink8(second) << 16);
      const high = shrink8(third) | (shrink8(fourth) << 16);
      const to = out + (block << 3);
      store<u64>(to, load<u64>(to) | <u64>low | ((<u64>high) << 32));
    } else if (ratio === 32) {
      const to = out + (block << 1);
      const bits = shrink32(first) | (shrink32(second) << 4) | (shrink32(third) << 8) | (shrink32(fourth) << 12);
      store<u16>(to, load<u16>(to) | <u16>bits);
    } else {
      const to = out + block;
      const bits = shrink64(first) | (shrink64(second) << 2) | (shrink64(third) << 4) | (shrink64(fourth) << 6);
      store<u8>(to, load<u8>(to) | <u8>bits);
    }
  }
}

function shrink8(bits: v128): u32 {
  return <u32>i8x16.bitmask(i8x16.ne(bits, i64x2.splat(0)));
}

function shrink16(low: v128, high: v128): u32 {
  const zero = i64x2.splat(0);
  return <u32>i8x16.bitmask(i8x16.narrow_i16x8_s(i16x8.ne(low, zero), i16x8.ne(high, zero)));
}

function shrink32(bits: v128): u32 {
  return <u32>i32x4.bitmask(i32x4.ne(bits, i64x2.splat(0)));
}

function shrink64(bits: v128): u32 {
  return <u32>i64x2.bitmask(i64x2.ne(bits, i64x2.splat(0)));
}
