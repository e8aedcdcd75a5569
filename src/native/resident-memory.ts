import { VfioError } from '../uapi/index.js';
import { bufferAt, libc, systemError } from './libc.js';
import {
  MADV_DONTFORK,
  MADV_UNMERGEABLE,
  MAP_ANONYMOUS,
  MAP_FAILED,
  MAP_POPULATE,
  MAP_PRIVATE,
  PROT_READ,
  PROT_WRITE,
} from './mmap-flags.js';

const PAGE_SIZE = 4096;

/**
 * Memory that the kernel can write to at any moment, with no page to be found first: for results that are lost if it cannot.
 *
 * Why writing to it cannot fail for as long as it is open:
 *  - It is a mapping of its own, private and anonymous. Nobody but this object knows the address, so that no one unmaps it or takes the right
 *    to write from it; it is no file, which could be truncated, and no ArrayBuffer of the engine's, which could be transferred or moved.
 *  - Every page is there from the start (MAP_POPULATE), and locked (mlock): none is swapped out, so that none has to be read back when memory
 *    is short. Without the lock there is no such memory: the constructor throws.
 *  - It is left out of forks (MADV_DONTFORK): a child would share the pages, and the next write here would have to copy them first.
 *  - It is never merged with equal pages (MADV_UNMERGEABLE), for the same reason.
 */
export class ResidentMemory {
  /** The bytes, zeros at first. They must not be used after {@link ResidentMemory.close}, and so never leave their user's hands. */
  readonly bytes: Uint8Array;
  /** Where byte 0 stands: at the border of a page. */
  readonly address: number;
  #closed = false;

  /**
   * @param size bytes, rounded up to whole pages
   * @throws VfioError ENOMEM, EAGAIN, EPERM when the process may not lock so much
   */
  constructor(size: number) {
    const length = Math.max(Math.ceil(size / PAGE_SIZE), 1) * PAGE_SIZE;
    const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE;
    const address = libc.mmap(0n, length, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (address === MAP_FAILED) throw systemError('mmap', `${length} bytes`);
    try {
      if (libc.mlock(address, length) === -1) throw systemError('mlock', lockAdvice(length));
      // A kernel built without what they ward off answers EINVAL, which is as good.
      libc.madvise(address, length, MADV_DONTFORK);
      libc.madvise(address, length, MADV_UNMERGEABLE);
      this.bytes = new Uint8Array(bufferAt(address, length));
      this.address = Number(address);
    } catch (error) {
      libc.munmap(address, length);
      throw error;
    }
  }

  /**
   * The largest there can be of at most `most` bytes, halved until the process may lock it.
   * @throws VfioError as the constructor, when not even one page may be locked
   */
  static largest(most: number): ResidentMemory {
    for (let size = most; ; size /= 2) {
      try {
        return new ResidentMemory(size);
      } catch (error) {
        if (size <= PAGE_SIZE || !(error instanceof VfioError) || error.operation !== 'mlock') throw error;
      }
    }
  }

  /** Gives the memory back; a second call does nothing. Never throws. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    libc.munmap(BigInt(this.address), this.bytes.length);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

function lockAdvice(length: number): string {
  return `${length} bytes of memory are to be locked, and the limit is reached: raise it (ulimit -l, LimitMEMLOCK= in systemd)`;
}
