import type { VfioError } from '../../uapi/index.js';
import type { LinkEvent } from '../link/link-keeper.js';
import type { TlsIdentity } from '../link/tls-identity.js';
import type { MachineMemory } from '../memory/machine-memory.js';
import type { Compression } from '../stream/memory-encoder.js';
import { PAGES_PER_BLOCK, type PageList } from '../stream/page-list.js';
import type { MemoryLane } from './memory-lane.js';
import { MOST_PAGES } from './shared-page-list.js';
import { WorkerLane } from './worker-lane.js';

/** Every lane gets so many lists of a pass at least, where there are blocks for them. */
const LISTS_EACH = 8;

/** What {@link MemoryLanes} are made of. */
export interface MemoryLanesOptions {
  host: string;
  tls: TlsIdentity | undefined;
  /** Where the destination waits for each lane. */
  ports: readonly number[];
  /** The session's secret. */
  token: Uint8Array;
  memory: MachineMemory;
  compression: Compression;
  timeoutMs: number;
  /** How long the other end waits for a sign of life, milliseconds. */
  peerTimeoutMs: number;
  /** Hears when a lane's connection is lost, and when it goes on. */
  onLinkEvent?: (event: LinkEvent) => void;
}

/**
 * Memory over several connections at a time, each with a thread of its own. A list goes to the lane that has the least to do. Where one lane
 * fails, all have failed.
 *
 * Worked example, two lanes that take three lists each: lists 0, 1, 2… go to lanes 0, 1, 0… until six are taken. The seventh waits for the
 * first that is sent, whichever lane's that is.
 */
export class MemoryLanes implements MemoryLane {
  readonly #lanes: WorkerLane[] = [];
  readonly #failed: Promise<never>;
  #reject!: (error: VfioError) => void;
  #failure: VfioError | undefined;
  #isFinished = false;
  /** Whoever waits for a lane that takes a list. */
  #waiting: (() => void)[] = [];

  private constructor() {
    this.#failed = new Promise((_, reject) => {
      this.#reject = reject;
    });
    this.#failed.catch(() => {});
  }

  /** Starts the threads; all, or none. @throws VfioError EBADF when memory is closed; what Node has against another thread */
  static async start(options: MemoryLanesOptions): Promise<MemoryLanes> {
    const lanes = new MemoryLanes();
    try {
      lanes.#open(options);
    } catch (error) {
      await lanes.close();
      throw error;
    }
    return lanes;
  }

  #open({ host, ports, onLinkEvent = () => {}, ...shared }: MemoryLanesOptions): void {
    const events = {
      onRoom: () => this.#wake(),
      onFailed: (error: VfioError) => this.giveUp(error),
      onLinkEvent: (event: LinkEvent) => {
        if (!this.#isFinished) onLinkEvent(event);
      },
    };
    for (const [lane, port] of ports.entries()) {
      this.#lanes.push(new WorkerLane({ ...shared, ...events, lane, to: { host, port } }));
    }
  }

  get bytesSent(): number {
    return this.#lanes.reduce((sum, { bytesSent }) => sum + bytesSent, 0);
  }

  get zeroPages(): number {
    return this.#lanes.reduce((sum, { zeroPages }) => sum + zeroPages, 0);
  }

  /** Done when the destination has taken all lanes. @throws VfioError why one of them cannot be: ECONNREFUSED, ETIMEDOUT… */
  async joined(): Promise<void> {
    await this.#unlessFailed(this.#lanes.map(lane => lane.joined()));
  }

  /** Long lists, unless the lanes would then end far apart. */
  pagesPerList(pages: number): number {
    const evenly = Math.floor(pages / (this.#lanes.length * LISTS_EACH));
    return Math.min(MOST_PAGES, Math.max(PAGES_PER_BLOCK, evenly));
  }

  async send(list: PageList): Promise<void> {
    while (true) {
      if (this.#failure !== undefined) throw this.#failure;
      const lane = this.#lanes.reduce((best, other) => (other.room > best.room ? other : best));
      if (lane.room > 0) return lane.send(list);
      await new Promise<void>(resolve => this.#waiting.push(resolve));
    }
  }

  async flush(): Promise<void> {
    await this.#unlessFailed(this.#lanes.map(lane => lane.flush()));
  }

  /** Lists mean this memory from now on; everything of the memory before must be flushed. @throws VfioError EBADF when memory is closed */
  useMemory(memory: MachineMemory): void {
    for (const lane of this.#lanes) lane.useMemory(memory);
  }

  /** How long to wait for another connection after one is lost, milliseconds; at first as long as `timeoutMs`. */
  set patienceMs(ms: number) {
    for (const lane of this.#lanes) lane.patienceMs = ms;
  }

  /** Whoever waits here, now and later, gets `error`. */
  giveUp(error: VfioError): void {
    this.#failure ??= error;
    this.#reject(this.#failure);
    this.#wake();
  }

  /** Nothing more is sent: the destination may close the lanes, and that is no loss. */
  finish(): void {
    this.#isFinished = true;
  }

  /** Ends threads and connections: done when nothing of them is left. Idempotent. */
  async close(): Promise<void> {
    await Promise.all(this.#lanes.map(lane => lane.close()));
  }

  async #unlessFailed(works: readonly Promise<void>[]): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    await Promise.race([Promise.all(works), this.#failed]);
  }

  #wake(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }
}
