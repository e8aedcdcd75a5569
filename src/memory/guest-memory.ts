import { BorrowedFd, createMemoryFile, Mapping, type OwnedFd, type SharedMapping } from '../native/index.js';
import { VfioError } from '../uapi/index.js';

/** A {@link GuestMemory} for another thread of this process, made by {@link GuestMemory.share}. It means nothing in another process. */
export interface SharedGuestMemory {
  readonly mapping: SharedMapping;
  readonly fd: number;
}

/**
 * The memory of a guest, host side: a memory file that is mapped here and can be sent to a device in another process. It is
 * sealed against shrinking and growing, so that a device may map it without fear.
 */
export class GuestMemory {
  readonly #file: OwnedFd;
  /** The whole memory; offset 0 is byte 0 of the file. */
  readonly mapping: Mapping;

  private constructor(file: OwnedFd, mapping: Mapping) {
    this.#file = file;
    this.mapping = mapping;
  }

  /**
   * Makes `size` bytes of zeros. Pages are taken from the system when they are first written.
   * @param name for people, in /proc/<pid>/fd.
   * @throws VfioError EINVAL for a bad size; EMFILE, ENOMEM as the system says.
   */
  static create(size: number | bigint, name = 'guest-memory'): GuestMemory {
    if (size > Number.MAX_SAFE_INTEGER) {
      throw new VfioError('EINVAL', { operation: 'GuestMemory', field: 'size', message: `${size} bytes` });
    }
    const file = createMemoryFile(name, size);
    try {
      return new GuestMemory(file, Mapping.map(file.fd, 0, Number(size), { read: true, write: true }));
    } catch (error) {
      file.close();
      throw error;
    }
  }

  /**
   * Memory of another thread of this process, in this one. Its owner keeps it open for as long as this thread uses it; closing it here ends
   * nothing but this object.
   */
  static attach({ fd, mapping }: SharedGuestMemory): GuestMemory {
    return new GuestMemory(new BorrowedFd(fd), Mapping.attach(mapping));
  }

  /**
   * The memory for another thread; for `postMessage` or `workerData`. Call {@link GuestMemory.endShare} when that thread has ended.
   * @throws VfioError EBADF when closed
   */
  share(): SharedGuestMemory {
    return { fd: this.fd, mapping: this.mapping.share() };
  }

  /** A thread that was given the memory by {@link GuestMemory.share} has ended. */
  endShare(): void {
    this.mapping.endShare();
  }

  /** The memory file, to send to a device; this object keeps owning it. -1 once closed. */
  get fd(): number {
    return this.#file.fd;
  }

  /** Bytes. */
  get size(): bigint {
    return BigInt(this.mapping.length);
  }

  /** A descriptor of the same memory with an owner of its own, such as the backing of a device in this process. */
  duplicateFd(): OwnedFd {
    return this.#file.duplicate();
  }

  /** Copies from byte `offset` on. @throws VfioError EFAULT out of range, EBADF when closed. */
  read(offset: number, into: Uint8Array): void {
    this.mapping.read(offset, into);
  }

  /** Copies to byte `offset` on. @throws VfioError EFAULT out of range, EBADF when closed. */
  write(offset: number, from: Uint8Array): void {
    this.mapping.write(offset, from);
  }

  /** The bytes themselves; see {@link Mapping.view}. @throws VfioError EINVAL across a window, EFAULT, EBADF. */
  view(offset: number, length: number): Uint8Array {
    return this.mapping.view(offset, length);
  }

  /** Ends the mapping and closes the file; a second call does nothing. Views that are still held show zeros from then on. */
  close(): void {
    this.mapping.close();
    this.#file.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
