/** 2^32 divided by the golden ratio, odd: its multiples are spread evenly over 32 bits. */
export const GOLDEN = 0x9e37_79b9;

/** Mixes 32 bits so that each bit of the input changes about half of the output (Murmur3's finalizer). One to one; 0 stays 0. */
export function mix(value: number): number {
  let bits = value | 0;
  bits = Math.imul(bits ^ (bits >>> 16), 0x85eb_ca6b);
  bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2_ae35);
  return (bits ^ (bits >>> 16)) >>> 0;
}
