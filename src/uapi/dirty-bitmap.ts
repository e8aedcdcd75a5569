/*
 * The dirty bitmap's arithmetic.
 *
 * Bit n speaks of [iova + n * pageSize, iova + (n + 1) * pageSize), and is bit n % 64 of little-endian word n / 64.
 * Worked example: iova 0x100000, page size 4096, address 0x141234: n = 0x41234 / 4096 = 65, so word 1, bit 1.
 *
 * Erratum: the request for comments, linux/vfio.h and the vfio-user text print
 *     bitmap[(addr - iova)/page_size] & (1ULL << (addr % 64))
 * which would put that address into word 65, bit 52. It indexes words by page number and bits by byte address; every
 * implementation, Linux included, does what stands above (measured: kernel.md rows E10, E16, E19).
 */

/** The number of bits that a report of `length` bytes has. */
export function bitmapBits(length: bigint, pageSize: bigint): bigint {
  return (length + pageSize - 1n) / pageSize;
}

/** Size of the bitmap in bytes: whole 64-bit words. 1 TiB at 4 KiB is 32 MiB; 1 GiB is 32 KiB. */
export function bitmapBytes(length: bigint, pageSize: bigint): bigint {
  return ((bitmapBits(length, pageSize) + 63n) / 64n) * 8n;
}

/**
 * {@link bitmapBytes} as a number, for a page size that is a power of two. As quick as numbers are wherever they are exact: below 2^53 the length
 * is, and its quotient by a power of two too.
 */
export function bitmapSize(length: bigint, pageSize: bigint): number {
  const bytes = Number(length);
  if (!Number.isSafeInteger(bytes)) return Number(bitmapBytes(length, pageSize));
  return Math.ceil(Math.ceil(bytes / Number(pageSize)) / 64) * 8;
}

/** The bit that speaks of `address` in a report that begins at `iova`. */
export function bitOf(address: bigint, iova: bigint, pageSize: bigint): bigint {
  return (address - iova) / pageSize;
}

/** The first address that bit `bit` speaks of. */
export function addressOf(bit: bigint, iova: bigint, pageSize: bigint): bigint {
  return iova + bit * pageSize;
}
