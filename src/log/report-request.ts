import { bitmapSize, VfioError } from '../uapi/index.js';
import { type BitTarget, OwnTarget, SharedTarget } from './bit-target.js';
import { requireInterval } from './interval.js';
import { requirePageSize } from './page-size.js';

const operation = 'DMA_LOGGING_REPORT';

/** A report that was checked: which bytes it speaks of, in which page size, and where its bits go. */
export interface ReportRequest {
  /** The first byte; the bitmap's bit 0 begins here. */
  readonly start: bigint;
  /** The first byte behind. */
  readonly end: bigint;
  /** What one bit speaks of, bytes. */
  readonly pageSize: bigint;
  /** Large enough for the interval. */
  readonly target: BitTarget;
}

/**
 * Checks a report, in Linux's order: page size, overflow, then the bitmap (kernel.md rows C27 and C53).
 * @throws VfioError EINVAL, EOVERFLOW
 */
export function checkReport(
  iova: bigint,
  length: bigint,
  pageSize: bigint,
  bitmap: Uint32Array,
  combining: 'own' | 'shared',
): ReportRequest {
  requirePageSize(pageSize, operation, 'page_size');
  requireInterval(iova, length, operation);
  const needed = bitmapSize(length, pageSize);
  if (bitmap.byteLength < needed) {
    const message = `${bitmap.byteLength} bytes, needs ${needed}`;
    throw new VfioError('EINVAL', { operation, field: 'bitmap', message });
  }
  return {
    start: iova,
    end: iova + length,
    pageSize,
    target: combining === 'own' ? new OwnTarget(bitmap) : new SharedTarget(bitmap),
  };
}
