import { BitmapMemory } from './bitmap-memory.js';
import type { Kernels } from './kernels.js';
import type { Keeping, TwoLevelPlace } from './two-level-place.js';

/*
 * The log's bitmap, of two levels: a bit for each page, and a summary bit for each block of 512 pages (assembly/two-level.ts
 * has the layout, the reasons and the measurement). How it is kept depends on who marks:
 *  - one thread: plain stores (assembly/one-writer.ts);
 *  - any number, one bitmap: atomic OR, and a report takes words by atomic exchange (assembly/exchange.ts);
 *  - any number, two bitmaps that a report swaps, so that it runs at plain speed (assembly/generations.ts).
 * The argument why no mark is lost stands in those files.
 *
 * Worked example: 1 TiB at 4 KiB, one writer, is 2^28 pages: 32 MiB of page bits and 64 KiB of summary, 0.2 % of it. With
 * generations both twice, and a counter of four bytes for every 4 KiB of page bits.
 */

/** Pages that one summary bit speaks of: page bits begin and end on such borders. */
export const BLOCK_PAGES = 512;

/** Pages of a group: what generations swap at a time. */
export const GROUP_PAGES = 32768;

const GROUP_BYTES = GROUP_PAGES / 8;
const modeNumbers: Readonly<Record<Keeping, number>> = { 'one-writer': 0, exchange: 1, generations: 2 };

/** Bytes that a two-level bitmap takes. */
export function twoLevelBytes(pages: number, keeping: Keeping): number {
  const { bitsBytes, summaryBytes, counterBytes, copies } = sizesOf(pages, keeping);
  return copies * (bitsBytes + summaryBytes) + counterBytes + GROUP_BYTES;
}

function sizesOf(pages: number, keeping: Keeping) {
  const groups = Math.ceil(pages / GROUP_PAGES);
  const [copies, counters] = keeping === 'generations' ? [2, groups] : [1, 0];
  return {
    bitsBytes: groups * GROUP_BYTES,
    summaryBytes: roundUp(groups * 8),
    counterBytes: roundUp(counters * 4),
    copies,
  };
}

function roundUp(bytes: number): number {
  return Math.ceil(bytes / GROUP_BYTES) * GROUP_BYTES;
}

/** Marks of pages, numbered from 0. Page numbers are not checked. */
export class TwoLevelBitmap {
  /** The memory that it lies in. */
  readonly memory: BitmapMemory;
  readonly place: TwoLevelPlace;
  /** Page bits and their summary; with generations, of both. */
  readonly bits: Int32Array;
  readonly summary: Int32Array;
  /** Marks a page below 2^31. */
  readonly mark: (page: number) => void;
  readonly #kernels: Kernels;

  private constructor(memory: BitmapMemory, place: TwoLevelPlace) {
    this.memory = memory;
    this.place = place;
    this.#kernels = memory.kernels;
    const { keeping, bits, summary, bitsStride, summaryStride, generations } = place;
    this.bits = new Int32Array(place.memory.buffer, bits, (summary - bits) / 4);
    this.summary = new Int32Array(place.memory.buffer, summary, (generations - summary) / 4);
    this.mark = this.#markOf(keeping);
    memory.kernels.configure(modeNumbers[keeping], bits, summary, bitsStride, summaryStride, generations);
  }

  /**
   * A clean one, the only one of its memory.
   * @param memory has {@link twoLevelBytes} free.
   * @throws VfioError ENOMEM
   */
  static create(memory: BitmapMemory, pages: number, keeping: Keeping): TwoLevelBitmap {
    const { bitsBytes, summaryBytes, counterBytes, copies } = sizesOf(pages, keeping);
    const bits = memory.allocate(copies * bitsBytes, GROUP_BYTES);
    const summary = memory.allocate(copies * summaryBytes, GROUP_BYTES);
    return new TwoLevelBitmap(memory, {
      memory: memory.memory,
      keeping,
      bits,
      summary,
      bitsStride: (copies - 1) * bitsBytes,
      summaryStride: (copies - 1) * summaryBytes,
      generations: memory.allocate(counterBytes),
    });
  }

  /** The same bitmap in another thread. */
  static attach(place: TwoLevelPlace): TwoLevelBitmap {
    return new TwoLevelBitmap(BitmapMemory.attach(place.memory), place);
  }

  #markOf(keeping: Keeping): (page: number) => void {
    if (keeping === 'one-writer') return this.#kernels.markPlain;
    return keeping === 'exchange' ? this.#kernels.markShared : this.#kernels.markLive;
  }

  /** Marks pages `[first, end)`, at least one. */
  markRange(first: number, end: number): void {
    this.#kernels.markRange(first, end);
  }

  /** Whether a page is marked now. */
  isMarked(page: number): boolean {
    return this.#kernels.isMarked(page) !== 0;
  }

  /** How many pages of `[first, end)`, multiples of {@link BLOCK_PAGES}, are marked now. */
  count(first: number, end: number): number {
    return this.#kernels.countMarked(first, end);
  }

  /** The first page from `from` on, below `end`, that may be marked, or one before it; `end` when there is none. */
  nextMarked(from: number, end: number): number {
    return this.#kernels.nextMarkedBlock(from, end);
  }

  /**
   * ORs the marks of `count` pages from `first` on into the bits from `targetBit` on at address `target` of the same memory,
   * and clears them. One thread at a time; nobody else writes the target.
   */
  drain(first: number, count: number, target: number, targetBit: number): void {
    this.#kernels.drain(first, count, target, targetBit);
  }

  /**
   * {@link TwoLevelBitmap.drain} of whole groups, `[first, end)` in multiples of {@link GROUP_PAGES}, to bits of `ratio` pages:
   * page `first` goes to bit 0 of byte `target`. See {@link TwoLevelBitmap.canConvert}.
   */
  drainShrunk(first: number, end: number, target: number, ratio: number): void {
    this.#kernels.drainShrunk(first, end, target, ratio);
  }

  /** The same to `ratio` bits a page. */
  drainExpanded(first: number, end: number, target: number, ratio: number): void {
    this.#kernels.drainExpanded(first, end, target, ratio);
  }

  /** Whether whole groups can be converted as they are drained; by exchange they cannot. */
  canConvert(ratio: number): boolean {
    return this.place.keeping !== 'exchange' && (ratio === 8 || ratio === 16 || ratio === 32 || ratio === 64);
  }
}
