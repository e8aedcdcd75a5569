import { VfioError } from './error.js';

/** A DataView over exactly the bytes of `bytes`. All integers of the ABI are little-endian: pass `true` to its methods. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/**
 * Checks that a structure is whole before it is decoded.
 * @throws VfioError EINVAL naming `operation` when fewer than `size` bytes are there.
 */
export function requireBytes(bytes: Uint8Array, size: number, operation: string, field = 'argsz'): void {
  if (bytes.length < size) {
    throw new VfioError('EINVAL', { operation, field, message: `${bytes.length} bytes, needs ${size}` });
  }
}

/** Whether `value` is a power of two. 0 is not. */
export function isPowerOfTwo(value: bigint): boolean {
  // Page sizes, mostly, and these before each report: numbers take a tenth of the time.
  const number = Number(value);
  if (number < 2 ** 31) return number > 0 && (number & (number - 1)) === 0;
  return value > 0n && (value & (value - 1n)) === 0n;
}

/** The end of the 64-bit address space. No interval may reach it (Linux answers EOVERFLOW for iova + length = 2^64). */
export const ADDRESS_LIMIT = 1n << 64n;
