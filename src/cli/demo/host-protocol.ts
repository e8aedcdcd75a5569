import type { VerifyResult, WorkloadConfig, WorkloadStatistics } from '../../devices/dma-engine/index.js';
import type { CpuStatistics, CpuWorkload } from '../../devices/guest-cpus/index.js';
import type { MigrationEvent, MigrationReport, ReceiveReport } from '../../migration/index.js';
import type { CpuLog, CpuLogChoice } from './cpu-log.js';

/** The name of the device's log in a pass report. */
export const DMA_LOG_NAME = 'DMA log';
/** The name of whoever tracks the CPUs' writes. */
export const CPU_LOG_NAME = 'CPU log';

/*
 * What the demo and its two host processes say to each other, over Node's own channel between parent and child. The migration itself goes
 * from host to host by TCP, and from host to device by vfio-user; nothing of it passes here.
 */

/** The calls that a host process serves: parameters and result of each. */
export interface HostCalls {
  /** Connects to the device, makes guest memory and maps it into the device, and starts the CPUs' threads. Says who logs what they write. */
  boot: { parameters: BootParameters; result: CpuLog };
  /** Fills memory with what a guest might have in it. */
  fill: { parameters: { seed: number }; result: undefined };
  /** Configures and starts the workloads of engine and CPUs. */
  startWorkloads: { parameters: { engine: WorkloadConfig; cpus: CpuWorkload }; result: undefined };
  /** Waits for a migration; says where. */
  listen: { parameters: undefined; result: { host: string; port: number } };
  /** Done when the machine runs here. */
  received: { parameters: undefined; result: ReceiveReport };
  /** Migrates the machine away. */
  migrate: { parameters: MigrateParameters; result: MigrationReport };
  /** Stops both workloads and lets them check all pages that they ever wrote. */
  prove: { parameters: undefined; result: Proof };
  /** The most memory that the process had beside the guest's, bytes. */
  peakMemory: { parameters: undefined; result: number };
}

/** See {@link HostCalls}. */
export interface BootParameters {
  socket: string;
  memoryBytes: number;
  /** How many. */
  cpus: number;
  cpuLog: CpuLogChoice;
}

/** What engine and CPUs found in the memory that they wrote. `running`: whether they still wrote when they were asked. */
export interface Proof {
  engine: WorkloadStatistics & { verify: VerifyResult };
  cpus: CpuStatistics & { verify: VerifyResult };
}

/** See {@link HostCalls}. */
export interface MigrateParameters {
  to: { host: string; port: number };
  log: boolean;
  downtimeLimitMs: number;
  maxPasses: number;
}

/** Name of a call. */
export type HostCall = keyof HostCalls;

/** Parent to host. */
export interface HostRequest {
  id: number;
  call: HostCall;
  parameters: unknown;
}

/** Host to parent. */
export type HostMessage =
  | { kind: 'result'; id: number; result: unknown }
  | { kind: 'error'; id: number; errno: string; message: string }
  | { kind: 'event'; event: MigrationEvent };
