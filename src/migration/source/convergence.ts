/*
 * Whether another pass is worth it, or the machine should be stopped now, or neither helps.
 *
 * Worked example, a limit of 300 ms: estimates of 900, 700 and 640 ms after the first three passes are progress, 630, 620 and 610 ms after the
 * next three are none: the best of these three, 610, is more than 90 % of the best before, 640. That has stalled.
 */

/** What to do with a machine that does not converge, or has reached a limit: see {@link decide}. */
export type OnStall = 'abort' | 'stop' | 'wait';

/** All values of {@link OnStall}. */
export const ON_STALL: readonly OnStall[] = ['abort', 'stop', 'wait'];

/** When to stop trying. */
export interface ConvergenceLimits {
  /** Longest downtime wanted, milliseconds. */
  downtimeLimitMs: number;
  /** Most passes while the machine runs, the first one over all memory included. */
  maxPasses: number;
  /** Longest time from the call to the machine's stop, milliseconds. */
  maxMs: number;
  /** Most bytes sent before the machine stops. */
  maxBytes: number;
  /** `abort`: the machine stays. `stop`: it is stopped and moved, however long that takes. `wait`: as `abort`, but lack of progress is none. */
  onStall: OnStall;
}

/** What is known after a pass. */
export interface ConvergenceHistory {
  /** Downtime to expect after each pass, milliseconds, the oldest first. */
  estimatesMs: readonly number[];
  /** Pages dirty now. */
  dirtyPages: number;
  elapsedMs: number;
  bytesSent: number;
}

/** Which rule has ended the passes. */
export type StopRule =
  /** The rest fits the downtime limit. */
  | 'fits'
  /** No progress. */
  | 'stalled'
  /** The limit of passes. */
  | 'passes'
  /** The limit of time. */
  | 'time'
  /** The limit of bytes. */
  | 'bytes';

/** What to do after a pass. `afterMs`: passes that bring nothing need not follow each other at once. */
export type Decision =
  | { action: 'pass'; afterMs: number }
  /** Stop the machine and send the rest, or leave it where it is. `reason`: for people. */
  | { action: 'switch' | 'give-up'; stoppedBy: StopRule; reason: string };

/** Passes in which there must be some progress. */
const STALL_PASSES = 3;
/** What counts as progress: an estimate that is so much of the best before. */
const PROGRESS = 0.9;
/** Between two passes without progress, milliseconds. */
const WAIT_MS = 100;
/** So many pages are sent at any speed within what the estimate is allowed to be wrong by. */
const FEW_PAGES = 256;

/** Decides after a pass. */
export function decide(history: ConvergenceHistory, limits: ConvergenceLimits): Decision {
  const estimateMs = history.estimatesMs.at(-1)!;
  const limit = reachedLimit(history, limits);
  if (estimateMs <= limits.downtimeLimitMs && (isMeasured(history) || limit !== undefined)) {
    const reason = `the rest takes ${ms(estimateMs)}, which fits the limit of ${ms(limits.downtimeLimitMs)}`;
    return { action: 'switch', stoppedBy: 'fits', reason };
  }
  if (limit === undefined) return { action: 'pass', afterMs: hasStalled(history.estimatesMs) ? WAIT_MS : 0 };
  const reason = `${limit.reason}, and the rest would take ${ms(estimateMs)}; the limit is ${ms(limits.downtimeLimitMs)}`;
  return { action: limits.onStall === 'stop' ? 'switch' : 'give-up', stoppedBy: limit.stoppedBy, reason };
}

/** The first pass moves all memory in long runs: how fast scattered pages move shows after the second. */
function isMeasured({ estimatesMs, dirtyPages }: ConvergenceHistory): boolean {
  return estimatesMs.length > 1 || dirtyPages <= FEW_PAGES;
}

function reachedLimit(
  { estimatesMs, elapsedMs, bytesSent }: ConvergenceHistory,
  limits: ConvergenceLimits,
): { stoppedBy: StopRule; reason: string } | undefined {
  const passes = estimatesMs.length;
  if (passes >= limits.maxPasses) return { stoppedBy: 'passes', reason: `${passes} passes are done, the most allowed` };
  if (elapsedMs >= limits.maxMs)
    return { stoppedBy: 'time', reason: `${ms(elapsedMs)} have gone by, of ${limits.maxMs} ms` };
  if (bytesSent >= limits.maxBytes) {
    return { stoppedBy: 'bytes', reason: `${bytesSent} bytes are sent, of ${limits.maxBytes}` };
  }
  if (limits.onStall === 'wait' || !hasStalled(estimatesMs)) return undefined;
  return { stoppedBy: 'stalled', reason: `the last ${STALL_PASSES} passes brought less than 10 % of progress` };
}

function hasStalled(estimatesMs: readonly number[]): boolean {
  if (estimatesMs.length <= STALL_PASSES) return false;
  const before = Math.min(...estimatesMs.slice(0, -STALL_PASSES));
  const lately = Math.min(...estimatesMs.slice(-STALL_PASSES));
  return lately > PROGRESS * before;
}

function ms(value: number): string {
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
}
