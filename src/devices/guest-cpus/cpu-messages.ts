import type { SharedLog } from '../../log/index.js';
import type { SharedMapping } from '../../native/index.js';
import type { ErrnoName } from '../../uapi/index.js';
import type { VerifyResult } from '../dma-engine/index.js';
import type { WorkloadCounters, WorkloadProgress, WorkloadSettings } from '../workload/index.js';

/*
 * What the owner of the CPUs and a CPU's thread say to each other. Each question has one answer, in order. Memory and the generation table are
 * shared, and travel in no message.
 */

/** What a thread is given when it is made. */
export interface CpuThreadData {
  /** Guest memory as this process has it. */
  memory: SharedMapping;
  /** Where IOVA 0 would be in `memory`, bytes: may be below 0, or beyond it. */
  origin: number;
  /** Where stores are marked; missing where somebody else sees them. */
  marks: SharedLog | undefined;
}

/** Where a CPU is in its workload, but for the generation table. */
export type CpuPlace = Omit<WorkloadProgress, 'generations'>;

/** The questions: parameters and answer of each. */
export interface CpuCalls {
  /** Takes a workload, at rest. The table lies in shared memory. */
  arm: { parameters: { settings: WorkloadSettings; rate: number; progress: WorkloadProgress }; answer: undefined };
  /** Forgets its workload. */
  disarm: { parameters: undefined; answer: undefined };
  /** Stores from now on. */
  run: { parameters: undefined; answer: undefined };
  /** Has stored its last byte, marks included, when it answers. */
  pause: { parameters: undefined; answer: CpuPlace | undefined };
  /** What it counted. */
  count: { parameters: undefined; answer: WorkloadCounters | undefined };
  /** Compares every page that it ever wrote with what it wrote last. */
  verify: { parameters: undefined; answer: VerifyResult | undefined };
}

/** Name of a question. */
export type CpuCall = keyof CpuCalls;

/** Owner to thread. */
export interface CpuQuestion {
  call: CpuCall;
  parameters: unknown;
}

/** Thread to owner. */
export type CpuAnswer = { value: unknown } | { errno: ErrnoName; message: string };
