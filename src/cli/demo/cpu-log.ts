import { MarkedTracker, probeCpuTracking } from '../../tracker/index.js';
import type { IovaRange } from '../../uapi/index.js';

/** What was asked for: `auto` is the kernel where it can, else marks. */
export type CpuLogChoice = 'auto' | 'kernel' | 'marks' | 'none';

/** Who says which pages the guest's CPUs wrote. */
export interface CpuLog {
  /** `kernel`: userfaultfd and PAGEMAP_SCAN. `marks`: the CPUs' own threads mark what they store. `none`: nobody. */
  by: 'kernel' | 'marks' | 'none';
  /** Why the kernel does not, although it was to if it could. */
  why: string | undefined;
}

/** @throws VfioError as `probeCpuTracking` says, when the kernel was asked for and cannot */
export function chooseCpuLog(choice: CpuLogChoice): CpuLog {
  if (choice === 'none' || choice === 'marks') return { by: choice, why: undefined };
  const refusal = probeCpuTracking();
  if (refusal === undefined) return { by: 'kernel', why: undefined };
  if (choice === 'kernel') throw refusal;
  return { by: 'marks', why: refusal.message };
}

/** Where the CPUs' threads mark their stores, if they do. */
export function marksFor({ by }: CpuLog, ranges: readonly IovaRange[], name: string): MarkedTracker | undefined {
  return by === 'marks' ? new MarkedTracker(ranges, { name }) : undefined;
}
