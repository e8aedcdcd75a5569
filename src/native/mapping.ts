import { VfioError } from '../uapi/index.js';
import { bufferAt, libc, systemError } from './libc.js';
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

/*
 * A file in memory, without SIGSEGV.
 *
 * JavaScript sees mapped pages through ArrayBuffers. Three things would kill the process, and each has its place here:
 *  - one buffer of more than 4 GiB aborts Node 20: a mapping is a row of windows of 1 GiB. Example: 1 GiB + 8 KiB is window 0
 *    of 0x40000000 bytes and window 1 of 0x2000 bytes; offset 0x40000010 is byte 0x10 of window 1.
 *  - a view that is used after munmap: close() puts anonymous pages under views that were handed out, and gives the addresses
 *    back only when the garbage collector has seen the last view go.
 *  - a file that shrinks: only the caller can know; see isShrinkSealed.
 *
 * Windows are made at the first touch: a buffer counts as external memory (3 ms of garbage collection for each GiB, measured),
 * and a peer may well map terabytes that nobody reads.
 */

/** Largest piece of a mapping that one view can show, bytes. */
export const WINDOW_SIZE = 2 ** 30;

/** Up to here a loop is quicker than `subarray` and `set`: 8 bytes take 27 against 121 ns, 32 take 97 against 138. */
const LOOP_LIMIT = 32;

/** What a mapping may be used for. */
export interface MappingRights {
  readonly read: boolean;
  readonly write: boolean;
}

/** A mapping as another thread of this process sees it, made by `Mapping.share`. It means nothing in another process. */
export interface SharedMapping {
  readonly address: bigint;
  /** Bytes. */
  readonly length: number;
}

interface AddressRange {
  readonly address: bigint;
  readonly length: number;
}

/*
 * Node lets nobody transfer a buffer over foreign memory to another thread, where it would outlive what is watched here.
 */
const abandonedWindows = new FinalizationRegistry<AddressRange>(({ address, length }) => libc.munmap(address, length));

/** An interval of a file, mapped shared. Offsets and lengths are bytes; offset 0 is where the mapping begins in the file. */
export class Mapping {
  /** Bytes mapped. */
  readonly length: number;
  readonly #address: bigint;
  readonly #rights: MappingRights;
  readonly #windows: (Uint8Array | undefined)[];
  /** The addresses are another thread's, who gives them back. */
  readonly #isBorrowed: boolean;
  #closed = false;
  #viewsHandedOut = false;
  /** Threads that were given the addresses, and may look at them still. */
  #shares = 0;

  private constructor(address: bigint, length: number, rights: MappingRights, isBorrowed = false) {
    this.length = length;
    this.#address = address;
    this.#rights = rights;
    this.#windows = new Array(Math.ceil(length / WINDOW_SIZE));
    this.#isBorrowed = isBorrowed;
  }

  /**
   * Maps `length` bytes of a file from `offset` on. The descriptor may be closed afterwards: the mapping stays.
   *
   * The file must never become shorter than what is mapped, or touching the lost part ends the process by SIGBUS: check
   * `isShrinkSealed` for a file that is not yours.
   * @param offset a multiple of 4096.
   * @throws VfioError EINVAL for no rights, a length below 1, an unaligned offset; EACCES when the descriptor was opened for
   *   less; EBADF, ENODEV, ENOMEM, EPERM as mmap(2).
   */
  static map(fd: number, offset: number | bigint, length: number, rights: MappingRights): Mapping {
    const bad = (field: string, message: string) => new VfioError('EINVAL', { operation: 'mmap', field, message });
    if (!Number.isSafeInteger(length) || length < 1) throw bad('length', `${length} bytes`);
    if (offset < 0 || offset >= 2n ** 63n || (typeof offset === 'number' && !Number.isSafeInteger(offset))) {
      throw bad('offset', `${offset}`);
    }
    if (!rights.read && !rights.write) throw bad('rights', 'neither read nor write');
    // Pages that can be written but not read do not exist on x86-64; read() holds the right instead.
    const protection = PROT_READ | (rights.write ? PROT_WRITE : 0);
    const address = libc.mmap(0n, length, protection, MAP_SHARED, fd, offset);
    if (address === MAP_FAILED) throw systemError('mmap', `${length} bytes at offset ${offset}`);
    return new Mapping(address, length, { read: rights.read, write: rights.write });
  }

  /**
   * The mapping of another thread of this process, in this one. Once its owner has closed it, it holds zeros and leads nowhere; closing it here
   * ends nothing but this object.
   * @param shared from {@link Mapping.share} of the owner
   */
  static attach({ address, length }: SharedMapping): Mapping {
    return new Mapping(address, length, { read: true, write: true }, true);
  }

  /**
   * Copies from the mapping.
   * @throws VfioError EBADF when closed, EACCES without the right, EFAULT out of range. Nothing is copied then.
   */
  read(offset: number, into: Uint8Array): void {
    this.#require('read', offset, into.length);
    if (into.length === 0) return;
    const index = Math.floor(offset / WINDOW_SIZE);
    const start = offset - index * WINDOW_SIZE;
    if (start + into.length <= WINDOW_SIZE) copyOut(this.#window(index), start, into);
    else {
      const here = WINDOW_SIZE - start;
      this.read(offset, into.subarray(0, here));
      this.read(offset + here, into.subarray(here));
    }
  }

  /**
   * Copies into the mapping.
   * @throws VfioError EBADF when closed, EACCES without the right, EFAULT out of range. Nothing is copied then.
   */
  write(offset: number, from: Uint8Array): void {
    this.#require('write', offset, from.length);
    if (from.length === 0) return;
    const index = Math.floor(offset / WINDOW_SIZE);
    const start = offset - index * WINDOW_SIZE;
    if (start + from.length <= WINDOW_SIZE) this.#window(index).set(from, start);
    else {
      const here = WINDOW_SIZE - start;
      this.write(offset, from.subarray(0, here));
      this.write(offset + here, from.subarray(here));
    }
  }

  /**
   * Sets `length` bytes from `offset` on to `byte`.
   * @throws VfioError as {@link Mapping.write}.
   */
  fill(offset: number, length: number, byte: number): void {
    this.#require('write', offset, length);
    for (let done = 0; done < length; ) {
      const index = Math.floor((offset + done) / WINDOW_SIZE);
      const start = offset + done - index * WINDOW_SIZE;
      const here = Math.min(length - done, WINDOW_SIZE - start);
      this.#window(index).fill(byte, start, start + here);
      done += here;
    }
  }

  /**
   * The bytes themselves, not copied, in one window. After {@link Mapping.close} a view shows zeros and leads nowhere.
   * @throws VfioError EBADF when closed; EACCES unless the mapping may be read and written, since a stray write through a view
   *   of read-only pages ends the process; EFAULT out of range; EINVAL when the interval crosses a multiple of
   *   {@link WINDOW_SIZE}.
   */
  view(offset: number, length: number): Uint8Array {
    this.#require('read', offset, length);
    this.#require('write', offset, length);
    const index = Math.floor(offset / WINDOW_SIZE);
    const start = offset - index * WINDOW_SIZE;
    if (start + length > WINDOW_SIZE) {
      const message = `${length} bytes at ${offset} cross a window of ${WINDOW_SIZE}`;
      throw new VfioError('EINVAL', { operation: 'view', field: 'length', message });
    }
    // An empty view at the very end would name a window that does not exist.
    if (length === 0) return new Uint8Array(0);
    this.#viewsHandedOut = true;
    return this.#window(index).subarray(start, start + length);
  }

  /**
   * The whole mapping as views of at most {@link WINDOW_SIZE} bytes, in order; the conditions of {@link Mapping.view} hold.
   * @throws VfioError EBADF when closed, EACCES unless the mapping may be read and written.
   */
  get windows(): readonly Uint8Array[] {
    this.#require('read', 0, this.length);
    this.#require('write', 0, this.length);
    this.#viewsHandedOut = true;
    return Array.from(this.#windows, (_, index) => this.#window(index));
  }

  /**
   * The mapping for another thread of this process, which sees it by `viewShared` or {@link Mapping.attach}; for `postMessage` or `workerData`.
   *
   * How long that thread looks nobody here can know: the addresses of a mapping that was shared are not given back, also after
   * {@link Mapping.close}, until {@link Mapping.endShare}. The memory is.
   * @throws VfioError EBADF when closed, EACCES unless the mapping may be read and written.
   */
  share(): SharedMapping {
    this.#require('read', 0, 0);
    this.#require('write', 0, 0);
    this.#viewsHandedOut = true;
    this.#shares++;
    return { address: this.#address, length: this.length };
  }

  /** A thread that was given the mapping by {@link Mapping.share} has ended: call it once for each. */
  endShare(): void {
    if (this.#shares === 0) return;
    this.#shares--;
    if (this.#shares === 0 && this.#closed) this.#giveAddressesBack();
  }

  /** Whether {@link Mapping.close} was called. */
  get closed(): boolean {
    return this.#closed;
  }

  /**
   * Where the first byte lies in this process, for the kernel alone: addresses outlive mappings. User space ends below 2^47, so that a number is
   * exact.
   * @internal
   * @throws VfioError EBADF when closed
   */
  get address(): number {
    this.#requireOpen('address');
    return Number(this.#address);
  }

  /** Ends the mapping; a second call does nothing. Never throws. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#isBorrowed) this.#windows.length = 0;
    else if (this.#viewsHandedOut) this.#abandonViews();
    else libc.munmap(this.#address, this.length);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /**
   * Detaches the pages from the file under views that may still be in use. Should that fail for want of memory, the file's
   * pages stay under the views instead, which is as safe.
   */
  #abandonViews(): void {
    const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
    libc.mmap(this.#address, this.length, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (this.#shares === 0) this.#giveAddressesBack();
  }

  /** Where views were handed out, only when the last of them is gone. */
  #giveAddressesBack(): void {
    for (const [index, window] of this.#windows.entries()) {
      const range = this.#range(index);
      if (window === undefined) libc.munmap(range.address, range.length);
      else abandonedWindows.register(window.buffer, range);
    }
    this.#windows.length = 0;
  }

  #range(index: number): AddressRange {
    const start = index * WINDOW_SIZE;
    return { address: this.#address + BigInt(start), length: Math.min(WINDOW_SIZE, this.length - start) };
  }

  #window(index: number): Uint8Array {
    return this.#windows[index] ?? this.#makeWindow(index);
  }

  #makeWindow(index: number): Uint8Array {
    const { address, length } = this.#range(index);
    const window = new Uint8Array(bufferAt(address, length));
    this.#windows[index] = window;
    return window;
  }

  #requireOpen(operation: string): void {
    if (this.#closed) throw new VfioError('EBADF', { operation, message: 'the mapping is closed' });
  }

  #require(right: 'read' | 'write', offset: number, length: number): void {
    this.#requireOpen(right);
    if (!this.#rights[right]) throw new VfioError('EACCES', { operation: right, message: `no right to ${right}` });
    if (!(Number.isSafeInteger(offset) && offset >= 0 && length >= 0 && length <= this.length - offset)) {
      const message = `${length} bytes at ${offset} of ${this.length}`;
      throw new VfioError('EFAULT', { operation: right, field: 'offset', message });
    }
  }
}

function copyOut(window: Uint8Array, start: number, into: Uint8Array): void {
  if (into.length > LOOP_LIMIT) into.set(window.subarray(start, start + into.length));
  else for (let index = 0; index < into.length; index++) into[index] = window[start + index]!;
}
