import type { GuestMemory } from '../../memory/index.js';
import { type IovaRange, overlap, VfioError } from '../../uapi/index.js';

/** A piece of guest memory and where the machine sees it. */
export interface MemorySlot extends IovaRange {
  memory: GuestMemory;
  /** Where it begins in `memory`, in bytes; default 0. */
  offset?: number;
}

/** Bytes of a page in the migration stream. */
export const PAGE_SIZE = 4096;

/** From here on a piece may well be memory that nobody has used: reading it must not take pages for it. Bytes. */
const LONG_PIECE = 64 * PAGE_SIZE;

type Slot = Readonly<Required<MemorySlot>>;

/**
 * All memory of a machine: ranges of IOVA, sorted, and the guest memory behind each. Pages are named by range and index, so that nothing
 * per page needs 64-bit arithmetic.
 *
 * Memory may be added and removed at any time, also while a migration moves the machine (contract rule 9). Whoever reads it page by page
 * takes a {@link MemoryLoan}: the ranges keep their indexes there, and memory that is removed stays until the loan has ended.
 *
 * @example
 * machine.add({ iova: 0x1_0000_0000n, length: memory.size, memory });
 * // and later, when the guest has let go of it
 * await machine.remove({ iova: 0x1_0000_0000n, length: memory.size });
 * memory.close();
 */
export class MachineMemory {
  #slots: readonly Slot[];
  readonly #loans = new Set<MemoryLoan>();

  /** @throws VfioError EINVAL when a slot is not whole pages, overlaps another, or is larger than the memory behind it */
  constructor(slots: readonly MemorySlot[]) {
    this.#slots = sorted(slots.map(complete));
  }

  /** What there is now, sorted; another list after each change. */
  get slots(): readonly Slot[] {
    return this.#slots;
  }

  /** The slots' ranges. */
  get ranges(): IovaRange[] {
    return this.slots.map(({ iova, length }) => ({ iova, length }));
  }

  /** Number of pages in a range. */
  pagesOf(range: number): number {
    return Number(this.slots[range]!.length) / PAGE_SIZE;
  }

  /** Number of pages in all. */
  get pages(): number {
    return this.slots.reduce((sum, _, range) => sum + this.pagesOf(range), 0);
  }

  /** Copies pages from `page` of a range into `into`, a whole number of pages. */
  read(range: number, page: number, into: Uint8Array): void {
    const { memory, offset } = this.slots[range]!;
    if (into.length < LONG_PIECE) memory.read(offset + page * PAGE_SIZE, into);
    else memory.readSparsely(offset + page * PAGE_SIZE, into);
  }

  /** Copies whole pages to `page` of a range. */
  write(range: number, page: number, from: Uint8Array): void {
    const { memory, offset } = this.slots[range]!;
    if (from.length < LONG_PIECE) memory.write(offset + page * PAGE_SIZE, from);
    else memory.writeInBulk(offset + page * PAGE_SIZE, from);
  }

  /** Makes pages zero. Those that are already are not touched. */
  zero(range: number, page: number, pages: number): void {
    const { memory, offset } = this.slots[range]!;
    memory.zero(offset + page * PAGE_SIZE, pages * PAGE_SIZE);
  }

  /**
   * The machine has more memory from now on. A migration that is under way sends all of it.
   * @throws VfioError EINVAL as the constructor; EBUSY while a migration has the machine stopped for the switch
   */
  add(slot: MemorySlot): void {
    this.#requireChangeable('add');
    this.#slots = sorted([...this.#slots, complete(slot)]);
  }

  /**
   * The machine has less memory from now on: the slots in `range`, which are whole ones. Done when nobody reads them any more, a migration that
   * is under way at the end of its pass; until then the memory behind them must stay as it is. The device must have been told before.
   * @throws VfioError EINVAL for a part of a slot and for a range without slots; EBUSY while a migration has the machine stopped for the switch
   */
  async remove(range: IovaRange): Promise<void> {
    this.#requireChangeable('remove');
    const gone = this.#slots.filter(slot => overlap(slot, range));
    const areWhole = gone.every(
      slot => slot.iova >= range.iova && slot.iova + slot.length <= range.iova + range.length,
    );
    if (gone.length === 0 || !areWhole) {
      const what = gone.length === 0 ? 'holds no slot' : 'cuts through a slot';
      const message = `0x${range.iova.toString(16)} + 0x${range.length.toString(16)} ${what}`;
      throw new VfioError('EINVAL', { operation: 'MachineMemory.remove', field: 'range', message });
    }
    this.#slots = this.#slots.filter(slot => !gone.includes(slot));
    const readers = [...this.#loans].filter(loan => loan.slots.some(slot => gone.includes(slot)));
    await Promise.all(readers.map(loan => loan.ended));
  }

  #requireChangeable(operation: string): void {
    if (![...this.#loans].some(loan => loan.isFrozen)) return;
    const message = 'a migration has stopped the machine, and moves it as it is';
    throw new VfioError('EBUSY', { operation: `MachineMemory.${operation}`, message });
  }

  /** The memory as it is now, for somebody who reads it for a while and must end the loan. */
  lend(): MemoryLoan {
    const loan: MemoryLoan = new MemoryLoan(this, () => this.#loans.delete(loan));
    this.#loans.add(loan);
    return loan;
  }
}

/** Memory as it was at a moment: what is removed meanwhile is there until the loan has ended. */
export class MemoryLoan {
  /** Memory of its own that nobody changes. */
  readonly memory: MachineMemory;
  /** Done when the loan has ended. */
  readonly ended: Promise<void>;
  /** The machine's own, by which two loans are compared: a slot that was removed and added again is another. */
  readonly slots: readonly Slot[];
  readonly #lender: MachineMemory;
  readonly #giveBack: () => void;
  #resolveEnded!: () => void;
  #frozen = false;

  /** For {@link MachineMemory.lend}. */
  constructor(lender: MachineMemory, giveBack: () => void) {
    this.#lender = lender;
    this.slots = lender.slots;
    this.#giveBack = giveBack;
    this.memory = new MachineMemory(lender.slots);
    this.ended = new Promise(resolve => {
      this.#resolveEnded = resolve;
    });
  }

  /** Whether the machine's memory is still the same. */
  get isCurrent(): boolean {
    return this.#lender.slots === this.slots;
  }

  /** Whether the machine's memory must stay the same. */
  get isFrozen(): boolean {
    return this.#frozen;
  }

  /** Keeps the machine's memory as it is, until {@link MemoryLoan.thaw} or the loan's end. @returns whether that is as the loan has it */
  freeze(): boolean {
    this.#frozen = this.isCurrent;
    return this.#frozen;
  }

  /** Lets it change again. */
  thaw(): void {
    this.#frozen = false;
  }

  /** Idempotent. */
  end(): void {
    this.#frozen = false;
    this.#giveBack();
    this.#resolveEnded();
  }
}

/** A slot of this machine's own: one that was removed and added again is another. */
function complete(slot: MemorySlot): Slot {
  return { ...slot, offset: slot.offset ?? 0 };
}

function sorted(slots: readonly Slot[]): readonly Slot[] {
  const inOrder = [...slots].sort((a, b) => (a.iova < b.iova ? -1 : 1));
  for (const [index, { iova, length, offset, memory }] of inOrder.entries()) {
    const next = inOrder[index + 1];
    const isWhole = iova % 4096n === 0n && length % 4096n === 0n && length > 0n;
    const isBacked = offset >= 0 && BigInt(offset) + length <= memory.size;
    if (!isWhole || !isBacked || (next !== undefined && iova + length > next.iova)) {
      throw new VfioError('EINVAL', { operation: 'MachineMemory', field: 'slots', message: `slot ${index}` });
    }
  }
  return inOrder;
}
