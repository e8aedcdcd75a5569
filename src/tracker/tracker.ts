import type { IovaRange, VfioError } from '../uapi/index.js';
import type { DirtySet } from './dirty-set.js';

/** A tracker whose log was lost: everything in its ranges counts as dirty, and logging was restarted. */
export interface LostLog {
  /** Which tracker. */
  tracker: string;
  /** Why. */
  error: VfioError;
}

/**
 * Anything that can say which pages were written: a device's DMA log, the CPU's writes, an IOMMU.
 *
 * A session runs from `start` to `stop`. What was written before `start` is nobody's business: whoever needs it reads all memory once
 * *after* `start`.
 */
export interface Tracker {
  /** For people: `'dma log of vfio-user:/run/dev.sock'`. */
  readonly name: string;
  /**
   * Begins to track these ranges.
   * @throws VfioError when it cannot be done; nothing is tracked then
   */
  start(ranges: readonly IovaRange[]): Promise<void>;
  /**
   * ORs what was written since the last `collect` (or `start`) into `dirty`, and forgets it.
   *
   * When the log is lost on the way (contract rule 8), everything in the tracker's ranges is marked and tracking begins anew; that is a
   * success, and the result says so.
   *
   * @throws VfioError when tracking cannot go on. Everything is marked in that case too.
   */
  collect(dirty: DirtySet): Promise<LostLog[]>;
  /**
   * The memory to track changed (contract rule 9). What may have been written while this tracker did not track it is marked in `dirty`; the
   * rest is in the next `collect`.
   *
   * A tracker without it is stopped and started: see `changeTrackedRanges`.
   *
   * @param ranges all that is to be tracked from now on
   * @param dirty covers old and new ranges
   * @throws VfioError EINVAL for ranges that this tracker cannot track; and when tracking cannot go on
   */
  changeRanges?(ranges: readonly IovaRange[], dirty: DirtySet): Promise<void>;
  /** Ends the session; what was not collected is forgotten. Idempotent. */
  stop(): Promise<void>;
}

/** Lets a tracker that runs follow a change of memory: {@link Tracker.changeRanges}, or anew, with everything marked. */
export async function changeTrackedRanges(
  tracker: Tracker,
  ranges: readonly IovaRange[],
  dirty: DirtySet,
): Promise<void> {
  if (tracker.changeRanges !== undefined) return tracker.changeRanges(ranges, dirty);
  try {
    await tracker.stop();
    await tracker.start(ranges);
  } finally {
    // Last: what is written before tracking begins anew is in no log, but is read after this.
    dirty.markAll();
  }
}
