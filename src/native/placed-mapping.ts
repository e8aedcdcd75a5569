import { VfioError } from '../uapi/index.js';
import { addressOfBytes, libc, systemError } from './libc.js';
import {
  MAP_ANONYMOUS,
  MAP_FAILED,
  MAP_FIXED,
  MAP_NORESERVE,
  MAP_PRIVATE,
  MAP_SHARED,
  PROT_READ,
  PROT_WRITE,
} from './mmap-flags.js';

const PAGE_SIZE = 4096n;

/**
 * A file's bytes at a place that is there already: in a WebAssembly memory, whose code cannot reach any other.
 *
 * The pages of the place are exchanged for the file's, so that whoever holds a view of them sees the file from then on, and zeros of its own
 * after {@link PlacedMapping.close}. The engine gives the addresses back with the rest of the memory; nothing is left over.
 */
export class PlacedMapping {
  /** The place. */
  readonly bytes: Uint8Array;
  #closed = false;

  /**
   * Maps the file, from `offset` on, shared, to be read and written. The descriptor may be closed afterwards.
   *
   * The file must never become shorter than what is mapped, as for `Mapping.map`. A place for which this throws ENOMEM must not be touched
   * any more.
   * @param bytes begins at a multiple of 4096; the whole of its last page of 4096 bytes is the file's, too. Never part of a memory that may
   *   grow: it would move.
   * @param offset a multiple of 4096
   * @throws VfioError EINVAL for a place or an offset that is not aligned, or an empty place; EACCES, EBADF, ENODEV, ENOMEM, EPERM as mmap(2)
   */
  constructor(bytes: Uint8Array, fd: number, offset: bigint) {
    const address = addressOfBytes(bytes);
    if (address % PAGE_SIZE !== 0n) {
      throw new VfioError('EINVAL', { operation: 'mmap', field: 'bytes', message: 'not at the border of a page' });
    }
    const mapped = libc.mmap(address, bytes.length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, offset);
    if (mapped === MAP_FAILED) throw systemError('mmap', `${bytes.length} bytes at offset ${offset}`);
    this.bytes = bytes;
  }

  /** Ends the mapping; a second call does nothing. Should memory be short, the file stays mapped, which is as safe. Never throws. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
    libc.mmap(addressOfBytes(this.bytes), this.bytes.length, PROT_READ | PROT_WRITE, flags, -1, 0);
  }
}
