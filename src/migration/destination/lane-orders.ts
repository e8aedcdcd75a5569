import type { TlsIdentity } from '../link/tls-identity.js';
import type { SharedMachineMemory } from '../memory/shared-machine-memory.js';

/** What a receiving thread is made of. */
export interface LaneReceiverStart {
  lane: number;
  tls: TlsIdentity | undefined;
  /** The session's secret. */
  token: Uint8Array;
  timeoutMs: number;
  /** How long the other end waits for a sign of life, milliseconds. */
  peerTimeoutMs: number;
  memory: SharedMachineMemory;
  /** What the thread has done, which it alone writes: {@link LaneCounts}. */
  counts: SharedArrayBuffer;
}

/** What a receiving thread is told. */
export type ReceiverOrder =
  /** Somebody has connected, by this descriptor. It is the thread's as soon as the thread has counted it. */
  | { order: 'connection'; fd: number }
  /** Range numbers mean this memory from now on. */
  | { order: 'memory'; memory: SharedMachineMemory };

/** What a receiving thread says, beside that it has failed: it has the memory that it was told of. */
export interface ReceiverWord {
  word: 'has-memory';
}

/** What a receiving thread has done, in memory that two threads see. Right when the thread has ended. */
export class LaneCounts {
  /** For the other thread. */
  readonly buffer: SharedArrayBuffer;
  readonly #counts: Float64Array;

  /** @param buffer the other thread's; default: a new one */
  constructor(buffer = new SharedArrayBuffer(16)) {
    this.buffer = buffer;
    this.#counts = new Float64Array(buffer);
  }

  /** Pages received. */
  get pages(): number {
    return this.#counts[0]!;
  }

  set pages(pages: number) {
    this.#counts[0] = pages;
  }

  /** Connections taken over, of those that it was told of, in their order. */
  get connections(): number {
    return this.#counts[1]!;
  }

  set connections(connections: number) {
    this.#counts[1] = connections;
  }
}
