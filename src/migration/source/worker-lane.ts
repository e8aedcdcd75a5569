import { VfioError } from '../../uapi/index.js';
import { channelOfLane } from '../lane/join.js';
import { LaneThread } from '../lane/lane-thread.js';
import type { LinkEvent } from '../link/link-keeper.js';
import type { MachineMemory } from '../memory/machine-memory.js';
import { MemoryShare } from '../memory/shared-machine-memory.js';
import type { PageList } from '../stream/page-list.js';
import type { LaneSenderStart, SenderOrder, SenderWord } from './lane-orders.js';
import { SharedPageList } from './shared-page-list.js';

/** Lists that a lane takes before it has sent the first: one in work, one to go on with at once, and one on its way. */
const PLACES = 3;

/** What a {@link WorkerLane} is made of. */
export interface WorkerLaneOptions extends Omit<LaneSenderStart, 'memory' | 'places'> {
  memory: MachineMemory;
  /** The lane takes another list. */
  onRoom(): void;
  /** The lane is broken for good. */
  onFailed(error: VfioError): void;
  onLinkEvent(event: LinkEvent): void;
}

/** The source's end of one lane, seen from the thread that directs the migration. */
export class WorkerLane {
  readonly #options: WorkerLaneOptions;
  readonly #thread: LaneThread<SenderOrder, SenderWord>;
  readonly #places = Array.from({ length: PLACES }, () => new SharedPageList());
  readonly #free = this.#places.map((_, place) => place);
  /** All that the thread may read. */
  readonly #shares: MemoryShare[];
  readonly #joined: Promise<void>;
  #resolveJoined!: () => void;
  readonly #whenFlushed: (() => void)[] = [];
  #bytesSent = 0;
  #zeroPages = 0;

  /** Starts the thread, which connects at once. @throws VfioError EBADF when memory is closed; what Node has against another thread */
  constructor({ memory, onRoom, onFailed, onLinkEvent, ...start }: WorkerLaneOptions) {
    this.#options = { memory, onRoom, onFailed, onLinkEvent, ...start };
    this.#joined = new Promise(resolve => {
      this.#resolveJoined = resolve;
    });
    const share = new MemoryShare(memory);
    this.#shares = [share];
    const places = this.#places.map(({ buffer }) => buffer);
    try {
      this.#thread = new LaneThread(
        `lane ${start.lane}`,
        '#lane-sender',
        { ...start, memory: share.forThread, places } satisfies LaneSenderStart,
        { onWord: word => this.#hear(word), onFailed },
      );
    } catch (error) {
      share.end();
      throw error;
    }
  }

  /** Bytes sent so far, headers included. */
  get bytesSent(): number {
    return this.#bytesSent;
  }

  /** Pages sent so far that were zero, and only named. */
  get zeroPages(): number {
    return this.#zeroPages;
  }

  /** How many lists it takes now. */
  get room(): number {
    return this.#free.length;
  }

  /** Done when the destination has taken the lane; never, when it has failed. */
  joined(): Promise<void> {
    return this.#joined;
  }

  /** Takes a list; there must be {@link WorkerLane.room}. */
  send(list: PageList): void {
    const place = this.#free.pop()!;
    this.#places[place]!.put(list);
    this.#thread.tell({ order: 'send', place });
  }

  /** Done when the destination has everything; never, when the lane has failed. */
  flush(): Promise<void> {
    this.#thread.tell({ order: 'flush' });
    return new Promise(resolve => this.#whenFlushed.push(resolve));
  }

  /** Lists mean this memory from now on. */
  useMemory(memory: MachineMemory): void {
    const share = new MemoryShare(memory);
    this.#shares.push(share);
    this.#thread.tell({ order: 'memory', memory: share.forThread });
  }

  /** How long to wait for another connection after one is lost, milliseconds. */
  set patienceMs(ms: number) {
    this.#thread.tell({ order: 'patience', ms });
  }

  /** Ends the thread and its connection: done when nothing of them is left. Idempotent. */
  async close(): Promise<void> {
    await this.#thread.stop();
    for (const share of this.#shares.splice(0)) share.end();
  }

  #hear(word: SenderWord): void {
    const { lane, onRoom, onLinkEvent } = this.#options;
    const channel = channelOfLane(lane);
    switch (word.word) {
      case 'joined':
        this.#resolveJoined();
        break;
      case 'sent':
        this.#free.push(word.place);
        this.#bytesSent = word.bytesSent;
        this.#zeroPages = word.zeroPages;
        onRoom();
        break;
      case 'flushed':
        this.#whenFlushed.shift()?.();
        break;
      case 'link-lost': {
        const error = new VfioError(word.errno, { operation: `lane ${lane}`, message: word.message });
        onLinkEvent({ event: 'link-lost', channel, error });
        break;
      }
      case 'link-resumed':
        onLinkEvent({ event: 'link-resumed', channel, afterMs: word.afterMs, reason: word.reason });
        break;
    }
  }
}
