/*
 * Bits in bytes. Bit n of a bitmap at `base` is bit n % 8 of byte base + n / 8, so a bitmap at any byte works, and two bit
 * offsets that differ by whole bytes need no shift at all: only distances of 1 to 7 bits do. WebAssembly allows loads and
 * stores at any byte, atomics at their own size only.
 *
 * Worked example: 64 bits of source from bit 0 to target bit 77. They go to target byte 9, shifted left by 5; the top 5
 * bits of the word go to byte 17.
 */

/** ORs the set bits of `word`, whose bit 0 becomes target bit `bit`. Touches no byte that gets no bit. */
export function orPart(target: usize, bit: u64, word: u64): void {
  let at = target + <usize>(bit >> 3);
  const shift = bit & 7;
  const high = shift === 0 ? 0 : word >> (64 - shift);
  if (high !== 0) store<u8>(at + 8, load<u8>(at + 8) | <u8>high);
  for (let low = word << shift; low !== 0; low >>= 8, at++) {
    if (<u8>low !== 0) store<u8>(at, load<u8>(at) | <u8>low);
  }
}

/** ORs all 64 bits of `word` at byte `at`, shifted left by 1 to 7 bits. */
export function orShifted(at: usize, shift: u64, word: u64): void {
  store<u64>(at, load<u64>(at) | (word << shift));
  const high = <u8>(word >> (64 - shift));
  if (high !== 0) store<u8>(at + 8, load<u8>(at + 8) | high);
}

/** `count` (1 to 64) ones from bit `bit` (0 to 63) upwards. */
export function ones(bit: u64, count: u64): u64 {
  return (~(<u64>0) >> (64 - count)) << bit;
}

/** How many bits from `bit` on, of `count`, lie before the next 64-bit border; 0 on a border. */
export function bitsToBorder(bit: u64, count: u64): u64 {
  return min<u64>((64 - (bit & 63)) & 63, count);
}
