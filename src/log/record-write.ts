import { ADDRESS_LIMIT, VfioError } from '../uapi/index.js';
import { NUMBER_LIMIT } from './number-limit.js';

/** What marks the writes of one thread. */
export interface WriteRecorder {
  /** Marks what a write touches. @throws VfioError EINVAL for what is no address or length. */
  record(iova: number | bigint, length: number): void;
  /** Marks log pages by their numbers. */
  recordPages(pages: Float64Array | Uint32Array, count: number): void;
}

/** What marks writes by the ranges that they touch. */
export interface IntervalRecorder {
  /** Marks what `[start, end)` touches; not empty, and below {@link NUMBER_LIMIT}. */
  recordLow(start: number, end: number): void;
  /** Marks what `[start, end)` touches; not empty, and at most 2^64. */
  recordHigh(start: bigint, end: bigint): void;
  /** Marks log pages by their numbers. */
  recordPages(pages: Float64Array | Uint32Array, count: number): void;
}

/**
 * Records one write after checking it.
 * @throws VfioError EINVAL for a number that is no safe integer, or negative.
 */
export function recordWrite(recorder: IntervalRecorder, iova: number | bigint, length: number): void {
  const start = Number(iova);
  const end = start + length;
  // A bigint above the limit is rounded, but not to below the limit; the same goes for the sum.
  if (start >= 0 && length > 0 && end < NUMBER_LIMIT && Number.isInteger(start) && Number.isInteger(length)) {
    recorder.recordLow(start, end);
  } else {
    recordUncommon(recorder, iova, length);
  }
}

function recordUncommon(recorder: IntervalRecorder, iova: number | bigint, length: number): void {
  if (!Number.isSafeInteger(length) || length < 0) throw badWrite('length', length);
  if (typeof iova === 'number' && !Number.isSafeInteger(iova)) throw badWrite('iova', iova);
  if (iova < 0) throw badWrite('iova', iova);
  const start = BigInt(iova);
  const reach = start + BigInt(length);
  const end = reach < ADDRESS_LIMIT ? reach : ADDRESS_LIMIT;
  if (start < end) recorder.recordHigh(start, end);
}

/** Checks the count of a list of pages. @throws VfioError EINVAL when the list is shorter. */
export function requireCount(pages: Float64Array | Uint32Array, count: number): void {
  if (Number.isSafeInteger(count) && count >= 0 && count <= pages.length) return;
  const message = `${count} of ${pages.length} pages`;
  throw new VfioError('EINVAL', { operation: 'DmaLog.recordPages', field: 'count', message });
}

function badWrite(field: string, value: number | bigint): VfioError {
  return new VfioError('EINVAL', { operation: 'DmaLog.record', field, message: `${value} is no address or length` });
}
