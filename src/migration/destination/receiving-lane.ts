import { OwnedFd } from '../../native/index.js';
import type { VfioError } from '../../uapi/index.js';
import { LaneThread } from '../lane/lane-thread.js';
import { ConnectionListener } from '../link/connection-listener.js';
import type { MachineMemory } from '../memory/machine-memory.js';
import { MemoryShare } from '../memory/shared-machine-memory.js';

import { LaneCounts, type LaneReceiverStart, type ReceiverOrder, type ReceiverWord } from './lane-orders.js';

/** What a {@link ReceivingLane} is made of. */
export interface ReceivingLaneOptions extends Omit<LaneReceiverStart, 'memory' | 'counts'> {
  /** Where to listen, an address and no name; port 0: any. */
  listen: { address: string; port: number };
  memory: MachineMemory;
  /** The lane is broken for good. */
  onFailed(error: VfioError): void;
}

/** How many connections may wait for the thread: a flood of them must not use up this process's descriptors. */
const MOST_WAITING = 16;

/** The destination's end of one lane, seen from the thread that directs the migration. */
export class ReceivingLane {
  readonly #listener: ConnectionListener;
  /** Descriptors that the thread was told of, in order, the newest of them. */
  readonly #connections: number[] = [];
  /** How many there were before those. */
  #connectionsBefore = 0;
  readonly #thread: LaneThread<ReceiverOrder, ReceiverWord>;
  readonly #counts = new LaneCounts();
  /** All that the thread may write: the memory that it has, and what it was told of since. */
  readonly #shares: MemoryShare[] = [];
  readonly #whenHasMemory: (() => void)[] = [];

  /** Begins to listen, and starts the thread. @throws VfioError EADDRINUSE, EACCES… as the system says; EBADF when memory is closed */
  constructor({ listen, memory, onFailed, ...start }: ReceivingLaneOptions) {
    // Here and not in the thread, which may be ended at any moment and would leave the descriptor open.
    this.#listener = new ConnectionListener(listen.address, listen.port, connection => this.#handOver(connection));
    try {
      const share = new MemoryShare(memory);
      this.#shares.push(share);
      this.#thread = new LaneThread(
        `lane ${start.lane}`,
        '#lane-receiver',
        { ...start, memory: share.forThread, counts: this.#counts.buffer } satisfies LaneReceiverStart,
        { onWord: () => this.#hasMemory(), onFailed },
      );
    } catch (error) {
      this.#listener.close();
      for (const share of this.#shares) share.end();
      throw error;
    }
  }

  /** Where it listens. */
  get port(): number {
    return this.#listener.port;
  }

  /** Pages received. Right after {@link ReceivingLane.close}. */
  get pagesReceived(): number {
    return this.#counts.pages;
  }

  /** Done when the thread has it; never, when the lane has failed. @throws VfioError EBADF when memory is closed */
  useMemory(memory: MachineMemory): Promise<void> {
    const share = new MemoryShare(memory);
    this.#shares.push(share);
    this.#thread.tell({ order: 'memory', memory: share.forThread });
    return new Promise(resolve => this.#whenHasMemory.push(resolve));
  }

  /** Ends the thread, its port and its connection: done when nothing of them is left. Idempotent. */
  async close(): Promise<void> {
    this.#listener.close();
    await this.#thread.stop();
    this.#forgetTaken();
    for (const fd of this.#connections.splice(0)) new OwnedFd(fd).close();
    for (const share of this.#shares.splice(0)) share.end();
  }

  /** The one that it was told of next: the one before it does not touch any more. */
  #hasMemory(): void {
    this.#shares.shift()?.end();
    this.#whenHasMemory.shift()?.();
  }

  #handOver(connection: OwnedFd): void {
    this.#forgetTaken();
    if (this.#connections.length === MOST_WAITING) {
      connection.close();
      return;
    }
    const fd = connection.release();
    this.#connections.push(fd);
    this.#thread.tell({ order: 'connection', fd });
  }

  /** The thread's own by now. */
  #forgetTaken(): void {
    const taken = this.#connections.splice(0, this.#counts.connections - this.#connectionsBefore).length;
    this.#connectionsBefore += taken;
  }
}
