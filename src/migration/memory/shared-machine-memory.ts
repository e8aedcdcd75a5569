import { GuestMemory, type SharedGuestMemory } from '../../memory/index.js';
import type { IovaRange } from '../../uapi/index.js';
import { MachineMemory } from './machine-memory.js';

/** A machine's memory for another thread of this process: for `postMessage` or `workerData`. It means nothing in another process. */
export type SharedMachineMemory = readonly (IovaRange & { memory: SharedGuestMemory; offset: number })[];

/** A machine's memory as it is given to one other thread. */
export class MemoryShare {
  /** What that thread is given; it reads and writes the memory by {@link attachMemory}. */
  readonly forThread: SharedMachineMemory;
  #lent: MachineMemory['slots'];

  /** @throws VfioError EBADF when memory is closed */
  constructor({ slots }: MachineMemory) {
    this.#lent = slots;
    this.forThread = slots.map(({ iova, length, offset, memory }) => ({
      iova,
      length,
      offset,
      memory: memory.share(),
    }));
  }

  /** The thread has ended, or will not touch this memory any more. Idempotent. */
  end(): void {
    for (const slot of this.#lent) slot.memory.endShare();
    this.#lent = [];
  }
}

/** The machine's memory in a thread that was given it. Ranges have the numbers that they have at the owner. */
export function attachMemory(shared: SharedMachineMemory): MachineMemory {
  return new MachineMemory(shared.map(slot => ({ ...slot, memory: GuestMemory.attach(slot.memory) })));
}
