import { BitmapMemory, NUMBERS } from './bitmap-memory.js';

/*
 * What the kernels find in a long bitmap, a batch of numbers at a time. A bitmap in their own memory they read where it lies;
 * of any other, pieces of 16 KiB are copied to where they reach, which costs less than it saves.
 *
 * Numbers are small integers, so the limit is below 2^31: 256 MiB of bitmap. Each walk has its numbers in an array of its own, since several may be under way at once.
 *
 * Worked example: a bitmap elsewhere, from bit 100. Words 2 to 4097 are copied in, to address 0x4000. Bit 64 is word 2, so a
 * bitmap that began at 0x4000 - 64 / 8 would have its bit 64 there: with that address the kernel gives the bitmap's own bit
 * numbers.
 */

/** Bits from here on are not for batches. */
export const BATCH_LIMIT = 2 ** 31;

const PIECE_WORDS = 4096;

/** Where pieces are copied to; one place for a thread. */
interface PiecePlace {
  readonly memory: BitmapMemory;
  readonly words: Uint32Array;
  /** Whose piece is there. */
  user: BitBatches | undefined;
}

let piecePlace: PiecePlace | undefined;

function getPiecePlace(): PiecePlace {
  if (piecePlace === undefined) {
    const memory = BitmapMemory.create(PIECE_WORDS * 4 + 64);
    piecePlace = { memory, words: memory.createBitmap(PIECE_WORDS * 32), user: undefined };
  }
  return piecePlace;
}

/** The edges of runs (`'edges'`), or the set bits (`'pages'`), of `[from, limit)`. */
export class BitBatches {
  /** The batch: {@link BitBatches.fill} says how many. One more than a kernel gives at a time. */
  readonly numbers = new Int32Array(NUMBERS + 2);
  readonly #words: Uint32Array;
  readonly #limit: number;
  readonly #kind: 'edges' | 'pages';
  readonly #memory: BitmapMemory;
  /** Undefined for a bitmap in the kernels' memory. */
  readonly #place: PiecePlace | undefined;
  #base = 0;
  /** Behind what the kernels can reach now. */
  #reach: number;
  #at: number;
  #open = 0;

  constructor(words: Uint32Array, from: number, limit: number, kind: 'edges' | 'pages') {
    const memory = BitmapMemory.of(words);
    this.#place = memory === undefined ? getPiecePlace() : undefined;
    this.#words = words;
    this.#limit = limit;
    this.#kind = kind;
    this.#memory = memory ?? getPiecePlace().memory;
    this.#base = words.byteOffset;
    this.#reach = memory === undefined ? from : limit;
    this.#at = from;
  }

  /** Whether the limit is reached. */
  get done(): boolean {
    return this.#at >= this.#limit;
  }

  /** Puts the next numbers into the batch from index `offset` (0 or 1) on; returns how many, which may be 0. */
  fill(offset: number): number {
    const { kernels, numbers } = this.#memory;
    if (this.#place !== undefined) this.#copyPiece(this.#place);
    // Shared memory is copied bytewise unless both places are equally far from a border of 8 bytes: 4 µs a batch, not 0.3.
    const out = numbers.byteOffset + offset * 4;
    const count =
      this.#kind === 'edges'
        ? kernels.edges(this.#base, this.#at, this.#reach, this.#open, out, NUMBERS)
        : kernels.pages(this.#base, this.#at, this.#reach, out, NUMBERS);
    this.#at = kernels.edgesResume();
    this.#open = (this.#open + count) & 1;
    this.numbers.set(numbers.subarray(offset, offset + count), offset);
    return count;
  }

  /** Copies in the piece that begins with the word of the next bit, unless it is there still. */
  #copyPiece(place: PiecePlace): void {
    if (place.user === this && this.#at < this.#reach) return;
    const first = Math.floor(this.#at / 64) * 2;
    const end = Math.min(first + PIECE_WORDS, this.#words.length);
    place.words.set(this.#words.subarray(first, end));
    place.user = this;
    this.#base = place.words.byteOffset - first * 4;
    this.#reach = Math.min(end * 32, this.#limit);
  }
}
