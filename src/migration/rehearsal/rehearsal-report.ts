import type { LostLog } from '../../tracker/index.js';
import type { StopRule } from '../source/convergence.js';
import type { PassReport } from '../source/migration-report.js';

/** The link that a rehearsal counts with. */
export interface RehearsedLink {
  bytesPerSecond: number;
  /** `measured`: between the two ends, now. `given`: by the caller, or a measured link that the caller's limit makes slower. */
  source: 'measured' | 'given';
  /** From HELLO to its answer, milliseconds; 0 where no destination was asked. */
  roundTripMs: number;
}

/** What a migration would have done. */
export interface RehearsalReport {
  /** Whether the machine would have been stopped and moved. */
  wouldMove: boolean;
  /** Which rule ended the passes. */
  stoppedBy: StopRule;
  /** The same for people. */
  reason: string;
  link: RehearsedLink;
  /** Passes as a migration would have sent them. Nothing was sent: `bytesSent` is the pages' size. */
  passes: PassReport[];
  pagesSent: number;
  bytesSent: number;
  /** From the first page to the decision, milliseconds; the downtime would follow. */
  preCopyMs: number;
  /** Of all devices, bytes, as they say while they run; what a device does not say counts as 0. */
  stateBytes: number;
  /** Downtime to expect after the last pass, and what was allowed; milliseconds. */
  estimatedDowntimeMs: number;
  downtimeLimitMs: number;
  /** Logs that were lost and made everything dirty. */
  lostLogs: LostLog[];
}
