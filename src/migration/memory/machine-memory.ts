import type { GuestMemory } from '../../memory/index.js';
import { type IovaRange, VfioError } from '../../uapi/index.js';

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

/**
 * All memory of a machine: ranges of IOVA, sorted, and the guest memory behind each. Pages are named by range and index, so that nothing
 * per page needs 64-bit arithmetic.
 */
export class MachineMemory {
  readonly slots: readonly Readonly<Required<MemorySlot>>[];

  /** @throws VfioError EINVAL when a slot is not whole pages, overlaps another, or is larger than the memory behind it */
  constructor(slots: readonly MemorySlot[]) {
    this.slots = [...slots]
      .sort((a, b) => (a.iova < b.iova ? -1 : 1))
      .map(slot => ({ ...slot, offset: slot.offset ?? 0 }));
    for (const [index, { iova, length, offset, memory }] of this.slots.entries()) {
      const next = this.slots[index + 1];
      const isWhole = iova % 4096n === 0n && length % 4096n === 0n && length > 0n;
      const isBacked = offset >= 0 && BigInt(offset) + length <= memory.size;
      if (!isWhole || !isBacked || (next !== undefined && iova + length > next.iova)) {
        throw new VfioError('EINVAL', { operation: 'MachineMemory', field: 'slots', message: `slot ${index}` });
      }
    }
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
    memory.write(offset + page * PAGE_SIZE, from);
  }

  /** Makes pages zero. Those that are already are not touched. */
  zero(range: number, page: number, pages: number): void {
    const { memory, offset } = this.slots[range]!;
    memory.zero(offset + page * PAGE_SIZE, pages * PAGE_SIZE);
  }
}
