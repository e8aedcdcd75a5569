import { orBytes } from '../device/index.js';
import { ResidentMemory } from '../native/index.js';
import { VfioError } from '../uapi/index.js';

/*
 * The memory that the kernel writes dirty bitmaps to.
 *
 * Since some release after 6.1 Linux pins a report's bitmap only when there are bits to set, in a function that cannot fail: a bitmap that
 * cannot be written then makes a report that answers success, sets nothing, and has cleared the log (kernel rows E22 and E23, measured on 6.12
 * and 7.3). So no pointer to a caller's memory is ever given to the kernel, whatever that memory may be: a view that is transferred to another
 * thread meanwhile, a file that is cut, pages that are only to be read. The kernel gets the address of a ResidentMemory, whose header says why
 * writing to it cannot fail; from there the bits are ORed into the caller's bitmap, as the kernel itself would have.
 *
 * The memory is in one report's use at a time, from before the call until its bits are out and it is all zeros again; nobody outside sees it,
 * so that no close, no error and no other report can take it away while a thread is still in the kernel.
 *
 * Example: 256 GiB at 4 KiB are 8 MiB of bitmap; the memory is 2 MiB, so that a client asks four times for 64 GiB each. 2 MiB are also what
 * Linux pins at a time: larger pieces would be no quicker. Where a process may lock less, the pieces are smaller.
 */

/** Most that is kept for one device or address space, bytes. */
const MOST_KEPT = 2 ** 21;

/** Of memory, bytes. */
const PAGE_SIZE = 4096;

/** Memory for reports, locked when it is first needed. One report at a time: its owner sees to that. */
export class ReportMemory {
  #kept: ResidentMemory | undefined;
  #inUse = false;
  #closed = false;

  /**
   * Bytes of bitmap that one report can have, a power of two.
   * @throws VfioError ENOMEM, EAGAIN, EPERM when the process may not lock even one page; EBADF when closed
   */
  get size(): number {
    if (this.#closed) throw new VfioError('EBADF', { operation: 'report', message: 'the memory is closed' });
    this.#kept ??= ResidentMemory.largest(MOST_KEPT);
    return this.#kept.bytes.length;
  }

  /**
   * Lets `ask` have bits written to an address, and ORs them into `bitmap`. When it fails, what is there by then is ORed all the same: to
   * report too much is allowed.
   * @param bitmap any alignment; what of it is gone when `ask` is done (transferred to another thread) is an error, and never a silent loss
   * @param ask gets the address of as many zeros as the bitmap has bytes
   * @throws VfioError as `ask`; ENOMEM when more is to be locked than the process may; EFAULT when the bitmap is gone. The log is to be taken
   *   as lost in each case (contract rule 8).
   */
  report(bitmap: Uint8Array, ask: (address: number) => void): void {
    const memory = this.#take(bitmap.length);
    const size = bitmap.length;
    try {
      ask(memory.address);
    } finally {
      this.#finish(memory, bitmap, size);
    }
  }

  /** {@link ReportMemory.report} for a call on another thread. */
  async reportOffThread(bitmap: Uint8Array, ask: (address: number) => Promise<unknown>): Promise<void> {
    const memory = this.#take(bitmap.length);
    const size = bitmap.length;
    try {
      await ask(memory.address);
    } finally {
      this.#finish(memory, bitmap, size);
    }
  }

  #take(size: number): ResidentMemory {
    if (this.#inUse) throw new VfioError('EBUSY', { operation: 'report', message: 'another report is under way' });
    const memory = size <= this.size ? this.#kept! : new ResidentMemory(size);
    this.#inUse = true;
    return memory;
  }

  #finish(memory: ResidentMemory, bitmap: Uint8Array, size: number): void {
    this.#inUse = false;
    const gone = bitmap.length !== size;
    moveBits(memory.bytes, size, gone ? undefined : bitmap);
    // Of a log page that reaches beyond the report, Linux sets all bits that the last page of memory has room for.
    memory.bytes.fill(0, size, Math.ceil(size / PAGE_SIZE) * PAGE_SIZE);
    if (memory !== this.#kept || this.#closed) memory.close();
    if (gone) {
      throw new VfioError('EFAULT', { operation: 'report', field: 'bitmap', message: 'it was taken away meanwhile' });
    }
  }

  /** Gives the memory back, after the report that has it. A second call does nothing. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    if (!this.#inUse) this.#kept?.close();
  }
}

/** Up to here a loop over the bytes is quicker than what pieces and words need first. */
const FEW_BYTES = 64;

/** Most of a log is clean: a piece is compared with zeros, which is quicker than clearing it, and is done with. Bytes. */
const PIECE = 2 ** 16;
const ZEROS = new Uint8Array(PIECE);

/** ORs the first bytes of a memory into a bitmap, where there still is one, and leaves zeros behind. */
function moveBits(memory: Uint8Array, size: number, bitmap: Uint8Array | undefined): void {
  if (size > FEW_BYTES) {
    movePieces(memory.subarray(0, size), bitmap);
    return;
  }
  for (let index = 0; index < size; index++) {
    if (memory[index] === 0) continue;
    if (bitmap !== undefined) bitmap[index]! |= memory[index]!;
    memory[index] = 0;
  }
}

function movePieces(reported: Uint8Array, bitmap: Uint8Array | undefined): void {
  for (let at = 0; at < reported.length; at += PIECE) {
    const piece = reported.subarray(at, at + PIECE);
    if (Buffer.compare(piece, ZEROS.subarray(0, piece.length)) === 0) continue;
    if (bitmap !== undefined) orInto(bitmap.subarray(at, at + PIECE), piece);
    piece.fill(0);
  }
}

/** Whole words by words, and a bitmap that stands at no border of a word byte by byte. */
function orInto(bitmap: Uint8Array, reported: Uint8Array): void {
  if (bitmap.length > FEW_BYTES && ((bitmap.byteOffset | bitmap.length) & 3) === 0) {
    orBytes(new Uint32Array(bitmap.buffer, bitmap.byteOffset, bitmap.length / 4), reported);
  } else {
    for (let index = 0; index < bitmap.length; index++) bitmap[index]! |= reported[index]!;
  }
}
