import { runs } from '../../src/bitmap/index.js';
import type { DmaLog } from '../../src/log/index.js';
import { bitmapBytes } from '../../src/uapi/index.js';

/** The set bits of a bitmap, ascending. */
export function setBits(bitmap: Uint32Array): number[] {
  return [...runs(bitmap)].flatMap(({ start, end }) =>
    Array.from({ length: end - start }, (_, index) => start + index),
  );
}

/** A clean bitmap for a report. */
export function bitmapFor(length: bigint, pageSize: bigint): Uint32Array {
  return new Uint32Array(Number(bitmapBytes(length, pageSize)) / 4);
}

/** The bits that a report sets in a clean bitmap, ascending. */
export function reportBits(log: DmaLog, iova: bigint, length: bigint, pageSize: bigint): number[] {
  const bitmap = bitmapFor(length, pageSize);
  log.report(iova, length, pageSize, bitmap);
  return setBits(bitmap);
}

/** The errno of the VfioError that `action` throws; `undefined` when it throws none. Other errors go through. */
export function errnoOf(action: () => unknown): string | undefined {
  try {
    action();
    return undefined;
  } catch (error) {
    const { name, errno } = error as { name?: string; errno?: string };
    if (name !== 'VfioError') throw error;
    return errno;
  }
}
