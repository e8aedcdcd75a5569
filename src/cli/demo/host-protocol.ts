import type { VerifyResult, WorkloadConfig, WorkloadStatistics } from '../../devices/dma-engine/index.js';
import type { MigrationEvent, MigrationReport, ReceiveReport } from '../../migration/index.js';

/*
 * What the demo and its two host processes say to each other, over Node's own channel between parent and child. The migration itself goes
 * from host to host by TCP, and from host to device by vfio-user; nothing of it passes here.
 */

/** The calls that a host process serves: parameters and result of each. */
export interface HostCalls {
  /** Connects to the device, makes guest memory and maps it into the device. */
  boot: { parameters: { socket: string; memoryBytes: number }; result: undefined };
  /** Fills memory with what a guest might have in it. */
  fill: { parameters: { seed: number }; result: undefined };
  /** Configures and starts the engine's workload. */
  startWorkload: { parameters: WorkloadConfig; result: undefined };
  /** Waits for a migration; says where. */
  listen: { parameters: undefined; result: { host: string; port: number } };
  /** Done when the machine runs here. */
  received: { parameters: undefined; result: ReceiveReport };
  /** Migrates the machine away. */
  migrate: { parameters: MigrateParameters; result: MigrationReport };
  /** What the engine counted. */
  statistics: { parameters: undefined; result: WorkloadStatistics };
  /** Stops the engine's workload and lets it check all pages. */
  verify: { parameters: undefined; result: VerifyResult };
  /** Peak memory of the process in bytes, guest memory included as far as it was touched. */
  peakMemory: { parameters: undefined; result: number };
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
