import type { VfioError } from '../../uapi/index.js';
import { LaneThread } from '../lane/lane-thread.js';
import type { MachineMemory } from '../memory/machine-memory.js';
import { MemoryShare } from '../memory/shared-machine-memory.js';
import type { LaneReceiverStart, ReceiverOrder, ReceiverWord } from './lane-orders.js';

/** What a {@link ReceivingLane} is made of. */
export interface ReceivingLaneOptions extends Omit<LaneReceiverStart, 'memory' | 'pages'> {
  memory: MachineMemory;
  /** The lane is broken for good. */
  onFailed(error: VfioError): void;
}

/** The destination's end of one lane, seen from the thread that directs the migration. */
export class ReceivingLane {
  /** Where it listens; never, when the lane has failed. */
  readonly port: Promise<number>;
  readonly #thread: LaneThread<ReceiverOrder, ReceiverWord>;
  readonly #pages = new Float64Array(new SharedArrayBuffer(8));
  /** All that the thread may write. */
  readonly #shares: MemoryShare[];
  readonly #whenHasMemory: (() => void)[] = [];
  #resolvePort!: (port: number) => void;

  /** Starts the thread, which listens at once. @throws VfioError EBADF when memory is closed */
  constructor({ memory, onFailed, ...start }: ReceivingLaneOptions) {
    this.port = new Promise(resolve => {
      this.#resolvePort = resolve;
    });
    const share = new MemoryShare(memory);
    this.#shares = [share];
    this.#thread = new LaneThread(
      `lane ${start.lane}`,
      '#lane-receiver',
      { ...start, memory: share.forThread, pages: this.#pages.buffer } satisfies LaneReceiverStart,
      { onWord: word => this.#hear(word), onFailed },
    );
  }

  /** Pages received. Right after {@link ReceivingLane.close}. */
  get pagesReceived(): number {
    return this.#pages[0]!;
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
    await this.#thread.stop();
    for (const share of this.#shares.splice(0)) share.end();
  }

  #hear(word: ReceiverWord): void {
    if (word.word === 'listening') this.#resolvePort(word.port);
    else this.#whenHasMemory.shift()?.();
  }
}
