import { type BigIntStats, fstatSync, readdirSync } from 'node:fs';
import { asVfioError } from '../uapi/index.js';
import { checked, libc } from './libc.js';

const F_DUPFD_CLOEXEC = 1030;

/** What runs before a descriptor closes, by descriptor number. */
const closingHooks = new Map<number, () => void>();

/**
 * A file descriptor with one owner, which closes it exactly once. A number alone would be closed twice sooner or later, and
 * the second time it is somebody else's.
 */
export class OwnedFd {
  #fd: number;

  /** Takes `fd` over: nobody else may close it. */
  constructor(fd: number) {
    this.#fd = fd;
  }

  /**
   * A second descriptor for the open file behind `fd`, which stays its owner's.
   * @throws VfioError EBADF when it is not open, EMFILE when the process may open no more.
   */
  static duplicateOf(fd: number): OwnedFd {
    return new OwnedFd(checked('dup', () => libc.fcntl(fd, F_DUPFD_CLOEXEC, 0)));
  }

  /** The descriptor's number; -1 once it is closed, which every call answers with EBADF. */
  get fd(): number {
    return this.#fd;
  }

  /** Whether {@link OwnedFd.close} or {@link OwnedFd.release} was called. */
  get closed(): boolean {
    return this.#fd === -1;
  }

  /**
   * A second descriptor for the same open file, with an owner of its own.
   * @throws VfioError EBADF when closed, EMFILE when the process may open no more.
   */
  duplicate(): OwnedFd {
    return OwnedFd.duplicateOf(this.#fd);
  }

  /** Gives the ownership away without closing: returns the number, and this object is as closed. */
  release(): number {
    const fd = this.#fd;
    this.#fd = -1;
    return fd;
  }

  /**
   * Closes the descriptor; a second call does nothing. A watch on it ends first. Never throws: whatever close(2) says, Linux
   * has freed the number, and a retry would close a stranger's.
   */
  close(): void {
    const fd = this.release();
    if (fd === -1) return;
    closingHooks.get(fd)?.();
    libc.close(fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** A descriptor that another thread of this process owns: closing it here only forgets it. */
export class BorrowedFd extends OwnedFd {
  override close(): void {
    this.release();
  }
}

/** Runs `hook` before the owner of `fd` closes it, until the returned function is called. One hook a descriptor. */
export function beforeClosing(fd: number, hook: () => void): () => void {
  closingHooks.set(fd, hook);
  return () => closingHooks.delete(fd);
}

/** What is behind a descriptor. `'anonymous'` is an eventfd and its like; a memory file is a `'file'`. */
export type FdKind = 'file' | 'directory' | 'socket' | 'pipe' | 'character device' | 'block device' | 'anonymous';

/** What is behind a descriptor. @throws VfioError EBADF */
export function fdKind(fd: number): FdKind {
  const stats = fstat(fd);
  if (stats.isFile()) return 'file';
  if (stats.isDirectory()) return 'directory';
  if (stats.isSocket()) return 'socket';
  if (stats.isFIFO()) return 'pipe';
  if (stats.isCharacterDevice()) return 'character device';
  if (stats.isBlockDevice()) return 'block device';
  return 'anonymous';
}

/** Size of the file behind a descriptor, in bytes. @throws VfioError EBADF */
export function fileSize(fd: number): bigint {
  return fstat(fd).size;
}

function fstat(fd: number): BigIntStats {
  try {
    return fstatSync(fd, { bigint: true });
  } catch (error) {
    // Node refuses a negative number before it asks the kernel; to a caller that is a bad descriptor all the same.
    throw asVfioError(error, 'fstat', 'EBADF');
  }
}

/** How many descriptors this process holds open: for statistics, and for tests that nothing leaks. */
export function openFdCount(): number {
  const listing = 1; // the descriptor that reads the directory is in it
  return readdirSync('/proc/self/fd').length - listing;
}
