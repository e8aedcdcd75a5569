import { BitmapMemory } from '../bitmap/index.js';
import { type OwnedFd, PlacedMapping } from '../native/index.js';
import { releaseMapping, reserveMapping } from './mapping-budget.js';
import { requireMappable } from './peer-mapping.js';

const PAGE_SIZE = 4096;

/**
 * A bitmap in a memory file of a peer, mapped where the bitmap kernels reach it: their atomic OR is a single instruction, whereas each
 * `Atomics.or` of JavaScript is a call. 256 GiB with 1 % dirty are reported in 11 ms so, and in 45 without.
 */
export class PeerBitmap {
  /** 0 everywhere once the bitmap is closed. */
  readonly words: Uint32Array;
  readonly #mapping: PlacedMapping;
  #closed = false;

  /**
   * Maps `size` bytes of a file from `offset` on and closes the descriptor.
   * @param file owned by this call from now on, whether it succeeds or throws.
   * @param size a multiple of 8, at most 2^30
   * @param operation what errors call it.
   * @throws VfioError as `PeerMapping`; ENOMEM when the engine has no room
   */
  constructor(file: OwnedFd, offset: bigint, size: bigint, operation: string) {
    try {
      requireMappable(file.fd, offset, size, operation);
      const bytes = newPlace(Number(size), operation);
      this.#mapping = mapWithinBudget(bytes, file.fd, offset);
      this.words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
    } finally {
      file.close();
    }
  }

  /** Ends the mapping; a second call does nothing. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    releaseMapping(this.words.byteLength);
    this.#mapping.close();
  }
}

/** Whole pages, at the border of a page. */
function newPlace(size: number, operation: string): Uint8Array {
  const whole = Math.ceil(size / PAGE_SIZE) * PAGE_SIZE;
  const memory = BitmapMemory.create(whole + PAGE_SIZE, operation);
  return new Uint8Array(memory.memory.buffer, memory.allocate(whole, PAGE_SIZE), size);
}

function mapWithinBudget(bytes: Uint8Array, fd: number, offset: bigint): PlacedMapping {
  reserveMapping(bytes.length);
  try {
    return new PlacedMapping(bytes, fd, offset);
  } catch (error) {
    releaseMapping(bytes.length);
    throw error;
  }
}
