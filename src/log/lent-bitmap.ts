import type { BitmapMemory } from '../bitmap/index.js';

/** A bitmap of the log's, in use by one borrower. */
export interface LentBitmap {
  /** All 0 when they are lent, and whole 64-bit words. */
  readonly words: Uint32Array;
  /** Ends the use. What others than reports have written into the words must be 0 again. A second call does nothing. */
  giveBack(): void;
}

/** Room that a borrower may want in front of a bitmap of all pages, bytes. */
export const HEAD_ROOM = 64;

/**
 * The bitmap that a session lends, one borrower at a time: what is used again and again costs neither zeroing nor page faults. It is cleared
 * when it comes back, and only if a report has set bits meanwhile.
 *
 * Example: 8 MiB, the bitmap of 256 GiB at 4 KiB, take 4 ms as a new array, 1 ms to clear, and nothing when nothing was dirty.
 */
export class BitmapLender {
  readonly #memory: BitmapMemory;
  readonly #usualBytes: number;
  #kept: Uint32Array | undefined;
  #lent: Uint32Array | undefined;
  #touched = false;

  /** @param usualBytes what the first borrower makes it to be, at least */
  constructor(memory: BitmapMemory, usualBytes: number) {
    this.#memory = memory;
    this.#usualBytes = usualBytes;
  }

  /** A bitmap of `bits` bits; `undefined` while somebody has it, and for more than it or the memory's room holds. */
  lend(bits: number): LentBitmap | undefined {
    if (this.#lent !== undefined) return undefined;
    const length = Math.ceil(bits / 64) * 2;
    this.#kept ??= this.#create(length * 4);
    if (this.#kept === undefined || this.#kept.length < length) return undefined;
    const words = this.#kept.subarray(0, length);
    this.#lent = words;
    return { words, giveBack: () => this.#takeBack(words) };
  }

  /** A report has set bits, here or elsewhere. */
  reported(): void {
    this.#touched = this.#lent !== undefined;
  }

  #create(leastBytes: number): Uint32Array | undefined {
    for (const bytes of [Math.max(leastBytes, this.#usualBytes), leastBytes]) {
      // Less than 64 bytes go to waste in front of it.
      if (bytes + 64 <= this.#memory.free) return this.#memory.createBitmap(bytes * 8);
    }
    return undefined;
  }

  #takeBack(words: Uint32Array): void {
    if (this.#lent !== words) return;
    if (this.#touched) words.fill(0);
    this.#touched = false;
    this.#lent = undefined;
  }
}
