import type { TlsIdentity } from '../link/tls-identity.js';
import type { SharedMachineMemory } from '../memory/shared-machine-memory.js';

/** What a receiving thread is made of. */
export interface LaneReceiverStart {
  lane: number;
  /** Where to listen; port 0: any. */
  listen: { host: string; port: number };
  tls: TlsIdentity | undefined;
  /** The session's secret. */
  token: Uint8Array;
  timeoutMs: number;
  /** How long the other end waits for a sign of life, milliseconds. */
  peerTimeoutMs: number;
  memory: SharedMachineMemory;
  /** One number, pages received, which only the thread writes. */
  pages: SharedArrayBuffer;
}

/** What a receiving thread is told: range numbers mean this memory from now on. */
export interface ReceiverOrder {
  order: 'memory';
  memory: SharedMachineMemory;
}

/** What a receiving thread says, beside that it has failed. */
export type ReceiverWord =
  | { word: 'listening'; port: number }
  /** It has the memory that it was told of. */
  | { word: 'has-memory' };
