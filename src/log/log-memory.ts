import { BitmapMemory, type Keeping, TwoLevelBitmap, twoLevelBytes } from '../bitmap/index.js';

/** Pages that are taken at a time when their bits cannot go straight to where they are wanted: 16 KiB of bits. */
export const PIECE_BITS = 2 ** 17;

/** Pages of a list that go to the kernels at a time. */
export const LIST_LENGTH = 1024;

/** Threads besides the owner's that can record into one log: each has a place for its lists. */
export const MAX_SHARES = 256;

const PIECE_BYTES = PIECE_BITS / 8 + 64;
const LIST_BYTES = LIST_LENGTH * 8;

/**
 * All memory of one session: the two-level bitmap, room for bitmaps to report into, and scratch. Of what is not used the
 * operating system keeps nothing.
 */
export class LogMemory {
  readonly memory: BitmapMemory;
  readonly bitmap: TwoLevelBitmap;
  /** A piece of marks on its way; all 0 between calls. */
  readonly piece: Uint32Array;
  /** The same piece in another page size; all 0 between calls. */
  readonly converted: Uint32Array;

  /**
   * @param reportBytes room for bitmaps to report into.
   * @throws VfioError ENOMEM
   */
  constructor(pages: number, keeping: Keeping, tableBytes: number, reportBytes: number, operation: string) {
    const scratch = 2 * PIECE_BYTES + (1 + MAX_SHARES) * LIST_BYTES + tableBytes + 8192;
    this.memory = BitmapMemory.create(twoLevelBytes(pages, keeping) + reportBytes + scratch, operation);
    this.bitmap = TwoLevelBitmap.create(this.memory, pages, keeping);
    this.piece = this.memory.createBitmap(PIECE_BYTES * 8);
    this.converted = this.memory.createBitmap(PIECE_BYTES * 8);
  }
}
