import type { UnmapWatch } from '../kernel/index.js';
import type { IovaRange } from '../uapi/index.js';

/**
 * A log of an IOMMU's address space, by which the kernel says what was written through it: what a `DirtyLogTracker` asks.
 *
 * It is asked for whole mapped regions, one at a time: type 1 takes nothing that cuts through a mapping, iommufd nothing that is not mapped.
 * And an IOMMU notes a write once for each of its own pages, 4 KiB to 1 GiB, which lie in one mapping: a question for a part of one would
 * clear what was written in the rest.
 */
export interface DirtyLog {
  /** The address space whose log it is. */
  readonly space: object;
  /** What is mapped. */
  readonly regions: readonly IovaRange[];
  /**
   * Begins to log.
   * @param unmapped is told what was written to each region that is unmapped from now until `stop` (contract rule 10)
   * @returns bytes that one bit of the bitmaps speaks of
   * @throws VfioError EOPNOTSUPP where it is not supported; nothing is logged then
   */
  start(unmapped: UnmapWatch['unmapped']): Promise<bigint>;
  /** Ends it, and forgets what was not reported. */
  stop(): Promise<void>;
  /**
   * Reads and clears the log of one of the `regions`, and ORs it into `bitmap`.
   * @throws VfioError when the log is lost, or can never be had: E2BIG
   */
  report(region: IovaRange, bitmap: Uint32Array): Promise<void>;
}
