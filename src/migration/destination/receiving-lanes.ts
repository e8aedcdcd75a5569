import { lookup } from 'node:dns/promises';
import { VfioError } from '../../uapi/index.js';
import { MachineMemory } from '../memory/machine-memory.js';
import { ReceivingLane, type ReceivingLaneOptions } from './receiving-lane.js';

/** What {@link ReceivingLanes} are made of. */
export interface ReceivingLanesOptions extends Omit<ReceivingLaneOptions, 'lane' | 'listen'> {
  /** How many. */
  lanes: number;
  host: string;
  /** The first lane's port, and the others' from there on; 0: any. */
  firstPort: number;
}

/** The destination's ends of all lanes. Where one fails, all have failed. */
export class ReceivingLanes {
  readonly #lanes: readonly ReceivingLane[];
  /** Never done: why nothing more is to be expected of the lanes. */
  readonly #failed: Promise<never>;
  #reject!: (error: VfioError) => void;

  private constructor(
    open: (onFailed: (error: VfioError) => void) => readonly ReceivingLane[],
    onFailed: (error: VfioError) => void,
  ) {
    this.#failed = new Promise((_, reject) => {
      this.#reject = reject;
    });
    this.#failed.catch(() => {});
    this.#lanes = open(error => {
      this.#reject(error);
      onFailed(error);
    });
  }

  /** Begins to listen. @throws VfioError EADDRINUSE, EACCES… as the system says; EBADF when memory is closed */
  static async listen({ lanes, host, firstPort, onFailed, ...shared }: ReceivingLanesOptions): Promise<ReceivingLanes> {
    const { address } = await lookup(host);
    const opened: ReceivingLane[] = [];
    try {
      return new ReceivingLanes(onFailed => {
        for (let lane = 0; lane < lanes; lane++) {
          const port = firstPort === 0 ? 0 : firstPort + lane;
          opened.push(new ReceivingLane({ ...shared, lane, listen: { address, port }, onFailed }));
        }
        return opened;
      }, onFailed);
    } catch (error) {
      await Promise.all(opened.map(lane => lane.close()));
      throw error;
    }
  }

  /** Where the lanes listen, in their order. */
  get ports(): number[] {
    return this.#lanes.map(lane => lane.port);
  }

  /** Pages received; one that came twice counts twice. Right after {@link ReceivingLanes.close}. */
  get pagesReceived(): number {
    return this.#lanes.reduce((sum, { pagesReceived }) => sum + pagesReceived, 0);
  }

  /**
   * Range numbers mean this memory from now on, which all threads know when this is done. Nothing of the memory before may be under way.
   * @throws VfioError EBADF when memory is closed, ECANCELED when the lanes are, why a lane has failed
   */
  async useMemory(memory: MachineMemory): Promise<void> {
    await Promise.race([Promise.all(this.#lanes.map(lane => lane.useMemory(memory))), this.#failed]);
  }

  /** No thread writes any memory from here on: a page that comes all the same is refused. @throws VfioError as {@link ReceivingLanes.useMemory} */
  async letGoOfMemory(): Promise<void> {
    await this.useMemory(new MachineMemory([]));
  }

  /** Ends threads, ports and connections: done when nothing of them is left, and nothing of them writes memory any more. Idempotent. */
  async close(): Promise<void> {
    this.#reject(new VfioError('ECANCELED', { operation: 'receive', message: 'the lanes were closed' }));
    await Promise.all(this.#lanes.map(lane => lane.close()));
  }
}
