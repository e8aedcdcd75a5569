import { type IovaRange, VfioError } from '../../uapi/index.js';
import type { MachineMemory, MemoryLoan, MemorySlot } from '../memory/machine-memory.js';
import { decodeMemoryMap } from '../stream/memory-map.js';

/** Who provides memory that comes to the machine while it is received. */
export interface MemoryProvider {
  /**
   * Gives memory for a range that was added at the source, and lets the destination's devices reach it. Without it such a migration is refused.
   * @returns a slot of exactly this range; it is a part of `memory` then, also when the migration fails later
   */
  memoryFor?(range: IovaRange): Promise<MemorySlot>;
  /** Takes back what was removed at the source: `memory` has it no more, and nobody reads or writes it. */
  memoryGone?(slot: MemorySlot): Promise<void>;
}

/** The memory of a machine that comes, as the source knows it. */
export class DestinationMemory {
  readonly #memory: MachineMemory;
  readonly #provider: MemoryProvider;
  #loan: MemoryLoan;

  constructor(memory: MachineMemory, provider: MemoryProvider) {
    this.#memory = memory;
    this.#provider = provider;
    this.#loan = memory.lend();
  }

  /** What range numbers mean; nobody changes it. Another one after {@link DestinationMemory.follow}. */
  get current(): MachineMemory {
    return this.#loan.memory;
  }

  /**
   * The source has said by MEMORY_MAP what the machine's memory is now. What is gone goes first: what is new may lie in the same place.
   * @throws VfioError EBADMSG for a payload that is no map; EOPNOTSUPP when memory was added and nobody provides it; EINVAL when the provider
   *   gives something else; what the provider throws
   */
  async follow(payload: Uint8Array): Promise<void> {
    const ranges = decodeMemoryMap(payload);
    const { slots } = this.#loan;
    const gone = slots.filter(slot => !ranges.some(range => isSame(range, slot)));
    const added = ranges.filter(range => !slots.some(slot => isSame(range, slot)));
    this.#requireProvider(added);
    this.#loan.end();
    for (const slot of gone) {
      await this.#memory.remove(slot);
      await this.#provider.memoryGone?.(slot);
    }
    for (const range of added) await this.#add(range);
    this.#loan = this.#memory.lend();
    this.#requireRanges(ranges);
  }

  #requireProvider([first]: readonly IovaRange[]): void {
    if (first === undefined || this.#provider.memoryFor !== undefined) return;
    const message = `${describe(first)} was added at the source, and nobody provides memory for it here (memoryFor)`;
    throw new VfioError('EOPNOTSUPP', { operation: 'MEMORY_MAP', field: 'ranges', message });
  }

  async #add(range: IovaRange): Promise<void> {
    const slot = await this.#provider.memoryFor!(range);
    if (!isSame(range, slot)) {
      const message = `memoryFor gave ${describe(slot)} for ${describe(range)}`;
      throw new VfioError('EINVAL', { operation: 'MEMORY_MAP', field: 'memoryFor', message });
    }
    this.#memory.add(slot);
  }

  /** Somebody else may have changed the memory, too. */
  #requireRanges(ranges: readonly IovaRange[]): void {
    const ours = this.current.ranges;
    if (ours.length === ranges.length && ours.every((range, index) => isSame(range, ranges[index]!))) return;
    const message = `the memory here is ${ours.map(describe).join(', ')}, at the source ${ranges.map(describe).join(', ')}`;
    throw new VfioError('EINVAL', { operation: 'MEMORY_MAP', field: 'ranges', message });
  }

  /** Nothing writes the memory any more. Idempotent. */
  end(): void {
    this.#loan.end();
  }
}

function isSame(one: IovaRange, other: IovaRange): boolean {
  return one.iova === other.iova && one.length === other.length;
}

function describe({ iova, length }: IovaRange): string {
  return `0x${iova.toString(16)} + 0x${length.toString(16)}`;
}
