import type { IovaRange } from '../uapi/index.js';
import type { LentBitmap } from './lent-bitmap.js';
import type { WriteRecorder } from './record-write.js';
import type { ReportRequest } from './report-request.js';
import type { SharedLog } from './shared-recorder.js';

/** One START to its STOP: what keeps the marks. */
export interface LogSession {
  /** Marks what the owner's thread writes. */
  readonly recorder: WriteRecorder;
  /** As logged. */
  readonly ranges: readonly IovaRange[];
  /** Read-and-clear; the interval is not empty. @throws VfioError ENOMEM when the log was lost. */
  report(request: ReportRequest): void;
  /** Pages marked now. */
  dirtyPages(): number;
  /** A clean bitmap that reports go to without a copy. @throws VfioError ENOMEM */
  createReportBitmap(bits: number): Uint32Array;
  /** See `DmaLog.lendReportBitmap`. */
  lendReportBitmap(bits: number): LentBitmap | undefined;
  /** What another thread needs to record. @throws VfioError EOPNOTSUPP, ENOMEM */
  share(): SharedLog;
}
