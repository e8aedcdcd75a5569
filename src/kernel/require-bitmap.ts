import { bitmapBytes, isPowerOfTwo, VfioError } from '../uapi/index.js';

/**
 * The bytes of a bitmap that a report of `length` bytes at `pageSize` fills.
 * @throws VfioError EINVAL for a page size that is no power of two, nothing to report, or a bitmap that is too small
 */
export function requireBitmap(length: bigint, pageSize: bigint, bitmap: Uint32Array): Uint8Array {
  const bad = (field: string, message: string) => new VfioError('EINVAL', { operation: 'report', field, message });
  if (!isPowerOfTwo(pageSize)) throw bad('page_size', `${pageSize} is no power of two`);
  if (length <= 0n) throw bad('length', `${length} bytes`);
  const needed = bitmapBytes(length, pageSize);
  if (BigInt(bitmap.byteLength) < needed) throw bad('bitmap', `${bitmap.byteLength} bytes, needs ${needed}`);
  return new Uint8Array(bitmap.buffer, bitmap.byteOffset, Number(needed));
}
