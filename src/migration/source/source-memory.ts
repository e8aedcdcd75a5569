import { mergeRanges } from '../../log/index.js';
import { changeTrackedRanges, type DirtySet, type Tracker } from '../../tracker/index.js';
import type { IovaRange } from '../../uapi/index.js';
import type { MachineMemory, MemoryLoan } from '../memory/machine-memory.js';
import { encodeMemoryMap } from '../stream/memory-map.js';
import { FrameType } from '../stream/stream-format.js';
import type { SourceLink } from './source-link.js';

/** What came to a machine's memory, and what left it. */
export interface MemoryChange {
  added: IovaRange[];
  removed: IovaRange[];
}

/**
 * The memory of a machine that is moved away, as the destination knows it. The machine's own may change at any time (contract rule 9); that is
 * taken up at the border of two passes, where nothing of the memory is under way and the ranges may get other numbers.
 *
 * Worked example: ranges [0, 1 GiB) and [4 GiB, 5 GiB), of which pages 7 and 9 of the first and 3 of the second are dirty. The second is
 * removed, and [8 GiB, 9 GiB) is added: pages 7 and 9 stay dirty, page 3 is nobody's, and all of the new range is dirty.
 */
export class SourceMemory {
  readonly #memory: MachineMemory;
  #loan: MemoryLoan;

  constructor(memory: MachineMemory) {
    this.#memory = memory;
    this.#loan = memory.lend();
  }

  /** As the destination knows it; nobody changes it. Another one after {@link SourceMemory.follow}. */
  get current(): MachineMemory {
    return this.#loan.memory;
  }

  /** Whether the machine still has the memory that the destination knows of. */
  get isCurrent(): boolean {
    return this.#loan.isCurrent;
  }

  /**
   * Takes up what changed, with the destination and with the trackers, which must run. Nothing of the memory may be under way to the destination,
   * and no answer of it.
   * @param dirty changes with the memory; pages that stay dirty stay so, and all that is new is
   * @throws VfioError what the destination says that has no such memory; as {@link Tracker.changeRanges}
   */
  async follow(link: SourceLink, tracker: Tracker, dirty: DirtySet): Promise<MemoryChange> {
    const before = this.#loan;
    this.#loan = this.#memory.lend();
    const { ranges } = this.current;
    try {
      dirty.changeRanges(union([...before.slots, ...ranges]));
      // The trackers first, and at once: they look at the machine's memory as it was lent, and track what is new before it is read.
      await changeTrackedRanges(tracker, ranges, dirty);
      dirty.changeRanges(ranges);
      for (const slot of this.#loan.slots) if (!before.slots.includes(slot)) dirty.mark(slot);
      await this.#tell(link);
    } finally {
      before.end();
    }
    return changeBetween(before, this.#loan);
  }

  /** Takes up what changed before the trackers run. */
  async followUntracked(link: SourceLink): Promise<void> {
    while (!this.isCurrent) {
      this.#loan.end();
      this.#loan = this.#memory.lend();
      await this.#tell(link);
    }
  }

  async #tell(link: SourceLink): Promise<void> {
    await link.channel.send(FrameType.MEMORY_MAP, encodeMemoryMap(this.current.ranges));
    await link.expect(FrameType.MEMORY_MAPPED);
  }

  /** The machine stops: its memory stays as it is. @returns false when it has changed: that is to be taken up first */
  freeze(): boolean {
    return this.#loan.freeze();
  }

  /** The machine runs again. */
  thaw(): void {
    this.#loan.thaw();
  }

  /** Nothing reads the memory any more. Idempotent. */
  end(): void {
    this.#loan.end();
  }
}

function union(ranges: readonly IovaRange[]): IovaRange[] {
  const merged = mergeRanges(ranges, Number.POSITIVE_INFINITY);
  return merged.map(({ start, end }) => ({ iova: start, length: end - start }));
}

function changeBetween(before: MemoryLoan, after: MemoryLoan): MemoryChange {
  const without = (one: MemoryLoan, other: MemoryLoan): IovaRange[] =>
    one.slots.filter(slot => !other.slots.includes(slot)).map(({ iova, length }) => ({ iova, length }));
  return { added: without(after, before), removed: without(before, after) };
}
