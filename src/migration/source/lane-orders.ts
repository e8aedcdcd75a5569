import type { ErrnoName } from '../../uapi/index.js';
import type { TlsIdentity } from '../link/tls-identity.js';
import type { SharedMachineMemory } from '../memory/shared-machine-memory.js';
import type { Compression } from '../stream/memory-encoder.js';

/** What a sending thread is made of. */
export interface LaneSenderStart {
  lane: number;
  to: { host: string; port: number };
  tls: TlsIdentity | undefined;
  /** The session's secret. */
  token: Uint8Array;
  timeoutMs: number;
  /** How long the other end waits for a sign of life, milliseconds. */
  peerTimeoutMs: number;
  memory: SharedMachineMemory;
  compression: Compression;
  /** Places of page lists, by number. */
  places: readonly SharedArrayBuffer[];
}

/** What a sending thread is told, and does one after the other. */
export type SenderOrder =
  /** Send the list in this place. */
  | { order: 'send'; place: number }
  /** Say when the destination has everything. */
  | { order: 'flush' }
  /** Range numbers mean this memory from now on. */
  | { order: 'memory'; memory: SharedMachineMemory }
  /** Wait so long for another connection after one is lost. */
  | { order: 'patience'; ms: number };

/** What a sending thread says, beside that it has failed. */
export type SenderWord =
  | { word: 'joined' }
  /** The list in this place is sent, and the place is free. */
  | { word: 'sent'; place: number; bytesSent: number; zeroPages: number }
  | { word: 'flushed' }
  | { word: 'link-lost'; errno: ErrnoName; message: string }
  | { word: 'link-resumed'; afterMs: number; reason: string | undefined };
