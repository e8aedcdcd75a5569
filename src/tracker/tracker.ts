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
  /** Ends the session; what was not collected is forgotten. Idempotent. */
  stop(): Promise<void>;
}
