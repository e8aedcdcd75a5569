import { readSync, writeSync } from 'node:fs';
import {
  BorrowedFd,
  createMemoryFile,
  fileSize,
  Mapping,
  type OwnedFd,
  openMemoryFile,
  type SharedMapping,
} from '../native/index.js';
import { asVfioError, VfioError } from '../uapi/index.js';

const PAGE = 4096;
/** How much {@link GuestMemory.zero} looks at by one system call, bytes. */
const PIECE = 16 * PAGE;
const zeroPage = Buffer.alloc(PAGE);
const scratch = Buffer.alloc(PIECE);

/** A {@link GuestMemory} for another thread of this process, made by {@link GuestMemory.share}. It means nothing in another process. */
export interface SharedGuestMemory {
  readonly mapping: SharedMapping;
  readonly fd: number;
}

/**
 * The memory of a guest, host side: a file that is mapped here and can be sent to a device in another process. One that was made
 * here is sealed against shrinking and growing, so that a device may map it without fear.
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
    return GuestMemory.#mapWhole(createMemoryFile(name, size), Number(size));
  }

  /**
   * The memory in a file that is there already, all of it; what is in it stays. See {@link openMemoryFile} for which files there are. A device in
   * another process maps it only when it is a memory file, which can be sealed; any other one it reads and writes by system calls.
   * @throws VfioError as {@link openMemoryFile}; EINVAL for a file that is not whole pages of 4096 bytes; ENOMEM as the system says
   */
  static open(path: string): GuestMemory {
    const file = openMemoryFile(path);
    const size = fileSize(file.fd);
    if (size > 0n && size % 4096n === 0n && size <= Number.MAX_SAFE_INTEGER) {
      return GuestMemory.#mapWhole(file, Number(size));
    }
    file.close();
    const message = `${path} has ${size} bytes, and memory is whole pages of 4096`;
    throw new VfioError('EINVAL', { operation: 'memory', field: 'size', message });
  }

  /** @param file is closed when it cannot be mapped */
  static #mapWhole(file: OwnedFd, size: number): GuestMemory {
    try {
      return new GuestMemory(file, Mapping.map(file.fd, 0, size, { read: true, write: true }));
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

  /**
   * Copies from byte `offset` on by a system call. Unlike {@link GuestMemory.read} it takes no memory from the system for pages that nobody has
   * written yet, and passes over them twenty times as fast; over others it is somewhat slower. For long pieces of memory that may be empty.
   * @throws VfioError EFAULT out of range, EBADF when closed.
   */
  readSparsely(offset: number, into: Uint8Array): void {
    this.#requireInside('read', offset, into.length);
    try {
      for (let done = 0; done < into.length; ) done += readSync(this.fd, into, done, into.length - done, offset + done);
    } catch (error) {
      throw asVfioError(error, 'read');
    }
  }

  /**
   * Copies to byte `offset` on by a system call. For long pieces of memory that may never have been touched: the system then neither clears the
   * pages first nor takes a fault for each, 1.6 µs a page where {@link GuestMemory.write} takes 3.0; pages that are mapped already take 1.1 µs
   * instead of 0.5.
   * @throws VfioError EFAULT out of range, EBADF when closed.
   */
  writeInBulk(offset: number, from: Uint8Array): void {
    this.#requireInside('write', offset, from.length);
    try {
      for (let done = 0; done < from.length; )
        done += writeSync(this.fd, from, done, from.length - done, offset + done);
    } catch (error) {
      // Huge pages of their own file system are written through a mapping only.
      if ((error as NodeJS.ErrnoException).code !== 'EINVAL') throw asVfioError(error, 'write');
      this.write(offset, from);
    }
  }

  /**
   * Makes zeros of `length` bytes. Where there are zeros nothing is written, so that pages that nobody has written yet stay without memory
   * behind them, and pages that a device has pinned stay where they are.
   * @throws VfioError EFAULT out of range, EBADF when closed.
   */
  zero(offset: number, length: number): void {
    for (let done = 0; done < length; done += PIECE) {
      const size = Math.min(PIECE, length - done);
      this.readSparsely(offset + done, scratch.subarray(0, size));
      for (let at = 0; at < size; at += PAGE) {
        const here = Math.min(PAGE, size - at);
        if (scratch.compare(zeroPage, 0, here, at, at + here) !== 0) this.mapping.fill(offset + done + at, here, 0);
      }
    }
  }

  #requireInside(operation: string, offset: number, length: number): void {
    if (offset >= 0 && offset + length <= this.mapping.length) return;
    const message = `${length} bytes at ${offset} of ${this.mapping.length}`;
    throw new VfioError('EFAULT', { operation, field: 'offset', message });
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
