/*
 * Whether another pass is worth it, or the machine should be stopped now.
 *
 * Worked example: 12,000 dirty pages are 49 MB; the last pass moved 900 MB/s: 55 ms. Reading the log took 2 ms, the devices' states have
 * 1 MB: 1 ms, and 4 ms went for stopping and round trips: 62 ms, which fits a limit of 300 ms.
 */

/** What the downtime is made of. */
export interface DowntimeParts {
  /** Memory that is still dirty, bytes. */
  dirtyBytes: number;
  /** State of all devices, bytes. */
  stateBytes: number;
  /** What the link moved lately, bytes per second. */
  bytesPerSecond: number;
  /** What does not depend on size: reading the logs, stopping, round trips; milliseconds. */
  fixedMs: number;
}

/** The downtime to expect if the machine stopped now, in milliseconds. */
export function estimateDowntimeMs(parts: DowntimeParts): number {
  return parts.fixedMs + ((parts.dirtyBytes + parts.stateBytes) / parts.bytesPerSecond) * 1000;
}

/** When to stop trying. */
export interface ConvergenceLimits {
  /** Longest downtime wanted, milliseconds. */
  downtimeLimitMs: number;
  /** Most passes while the machine runs, the first one over all memory included. */
  maxPasses: number;
}

/** What to do after a pass: stop the machine and send the rest, send another pass, or give up. */
export type Decision = 'switch' | 'pass' | 'give-up';

/** @param passes how many passes are done */
export function decide(estimatedDowntimeMs: number, passes: number, limits: ConvergenceLimits): Decision {
  if (estimatedDowntimeMs <= limits.downtimeLimitMs) return 'switch';
  return passes < limits.maxPasses ? 'pass' : 'give-up';
}
