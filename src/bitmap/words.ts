/*
 * How bits stand in words. A bitmap is a Uint32Array: bit n is bit n % 32 of word n / 32. Two words make one u64 of the
 * ABI, which is little-endian, as every machine supported here: so the same bytes are the ABI's bitmap.
 *
 * Worked example: bit 70 is bit 6 of word 2; in u64s, it is bit 6 of word 1.
 *
 * A bit's number may exceed 2^32 (a tebibyte in bytes has 2^40), so `n >>> 5` would be wrong; `n & 31` is right for
 * every safe integer, because it takes the low bits of n modulo 2^32.
 */

/** The word that holds `bit`. */
export function wordOf(bit: number): number {
  return (bit - (bit & 31)) / 32;
}

/** The bits of a word from `bit`'s place upwards. */
export function maskFrom(bit: number): number {
  return -1 << (bit & 31);
}

/** The bits of a word up to `bit`'s place, that one too. */
export function maskThrough(bit: number): number {
  return -1 >>> (31 - (bit & 31));
}

/**
 * A bitmap of at least `bits` bits, all 0: whole u64s, as the ABI has it (contract: "The bitmap").
 * @throws RangeError when the engine has no room for it.
 */
export function createBitmap(bits: number): Uint32Array {
  return new Uint32Array(Math.ceil(bits / 64) * 2);
}

/** Whether `bit` is set. */
export function testBit(words: Uint32Array, bit: number): boolean {
  return (words[wordOf(bit)] & (1 << (bit & 31))) !== 0;
}
