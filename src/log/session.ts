import type { IovaRange } from '../uapi/index.js';
import type { ReportRequest } from './report-request.js';

/**
 * Addresses below this are recorded as numbers, which hold them exactly; the others as bigints. 8 PiB: no machine's
 * memory reaches it, but an IOVA may.
 */
export const NUMBER_LIMIT = 2 ** 53;

/** One START to its STOP: what keeps the marks. */
export interface LogSession {
  /** As logged. */
  readonly ranges: readonly IovaRange[];
  /** Marks what `[start, end)` touches; not empty, and below {@link NUMBER_LIMIT}. */
  record(start: number, end: number): void;
  /** Marks what `[start, end)` touches; not empty, and at most 2^64. */
  recordHigh(start: bigint, end: bigint): void;
  /** Read-and-clear; the interval is not empty. @throws VfioError ENOMEM when the log was lost. */
  report(request: ReportRequest): void;
  /** Pages marked now. */
  dirtyPages(): number;
}
