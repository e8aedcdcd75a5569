import { ADDRESS_LIMIT, VfioError } from '../uapi/index.js';

/** Bytes `[start, end)` of IO virtual address space. */
export interface Interval {
  readonly start: bigint;
  readonly end: bigint;
}

/** Whether any of `intervals` has a byte in `[start, end)`. */
export function touchesAny(intervals: readonly Interval[], start: bigint, end: bigint): boolean {
  return start < end && intervals.some(interval => interval.start < end && interval.end > start);
}

/**
 * Checks an interval that a peer named.
 * @throws VfioError EOVERFLOW when it reaches 2^64, as Linux answers; EINVAL when a number is negative.
 */
export function requireInterval(iova: bigint, length: bigint, operation: string): void {
  if (iova < 0n || length < 0n) {
    const field = iova < 0n ? 'iova' : 'length';
    throw new VfioError('EINVAL', { operation, field, message: 'is negative' });
  }
  if (iova + length >= ADDRESS_LIMIT) {
    const message = `0x${iova.toString(16)} + 0x${length.toString(16)} reaches 2^64`;
    throw new VfioError('EOVERFLOW', { operation, field: 'length', message });
  }
}
