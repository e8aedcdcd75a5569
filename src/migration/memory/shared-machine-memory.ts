import { GuestMemory, type SharedGuestMemory } from '../../memory/index.js';
import type { IovaRange } from '../../uapi/index.js';
import { MachineMemory } from './machine-memory.js';

/** A machine's memory for another thread of this process: for `postMessage` or `workerData`. It means nothing in another process. */
export type SharedMachineMemory = readonly (IovaRange & { memory: SharedGuestMemory; offset: number })[];

/** A machine's memory as it is given to one other thread. */
export class MemoryShare {
  /** What that thread is given; it reads and writes the memory by {@link attachMemory}. */
  readonly forThread: SharedMachineMemory;
  readonly #lent: GuestMemory[] = [];

  /** @throws VfioError EBADF when memory is closed; nothing is shared then */
  constructor({ slots }: MachineMemory) {
    try {
      this.forThread = slots.map(({ iova, length, offset, memory }) => ({
        iova,
        length,
        offset,
        memory: this.#lend(memory),
      }));
    } catch (error) {
      this.end();
      throw error;
    }
  }

  #lend(memory: GuestMemory): SharedGuestMemory {
    const shared = memory.share();
    this.#lent.push(memory);
    return shared;
  }

  /** The thread has ended, or will not touch this memory any more. Idempotent. */
  end(): void {
    for (const memory of this.#lent.splice(0)) memory.endShare();
  }
}

/** The machine's memory in a thread that was given it. Ranges have the numbers that they have at the owner. */
export function attachMemory(shared: SharedMachineMemory): MachineMemory {
  return new MachineMemory(shared.map(slot => ({ ...slot, memory: GuestMemory.attach(slot.memory) })));
}
