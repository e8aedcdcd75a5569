import { fstatSync, openSync } from 'node:fs';
import { asVfioError, ERRNO, VfioError } from '../uapi/index.js';
import { fdKind, OwnedFd } from './file-descriptor.js';
import { checked, lastErrno, libc, systemError, uninterrupted } from './libc.js';

const MFD_CLOEXEC = 1;
const MFD_ALLOW_SEALING = 2;
const F_GETFL = 3;
const F_ADD_SEALS = 1033;
const F_GET_SEALS = 1034;
const O_ACCMODE = 3;
const O_WRONLY = 1;
const O_RDWR = 2;
const O_APPEND = 0o2000;
/** Mode bits: group and others may write. */
const WRITABLE_BY_OTHERS = 0o022;

/** Seals of a memory file (linux/fcntl.h): what may no longer happen to it. A seal never comes off. */
export const Seal = { SEAL: 1, SHRINK: 2, GROW: 4, WRITE: 8, FUTURE_WRITE: 16 } as const;

/**
 * A memory file of a fixed size, all zeros, sealed against shrinking and growing: whoever maps it can touch all of it for as
 * long as it is mapped, without the SIGBUS that a shrunk file raises.
 * @param name for people, in /proc/<pid>/fd; at most 249 bytes.
 * @param size bytes, 1 or more. Memory is taken when a page is first written.
 * @throws VfioError EINVAL for a bad size or name, EMFILE, ENOMEM, EFBIG as memfd_create and ftruncate say.
 */
export function createMemoryFile(name: string, size: number | bigint): OwnedFd {
  requireSize(size);
  const file = new OwnedFd(checked('memfd_create', () => libc.memfdCreate(name, MFD_CLOEXEC | MFD_ALLOW_SEALING)));
  try {
    checked('ftruncate', () => libc.ftruncate(file.fd, size));
    checked('fcntl', () => libc.fcntl(file.fd, F_ADD_SEALS, Seal.SHRINK | Seal.GROW | Seal.SEAL));
    return file;
  } catch (error) {
    file.close();
    throw error;
  }
}

function requireSize(size: number | bigint): void {
  const whole = typeof size === 'bigint' || Number.isSafeInteger(size);
  if (!whole || size <= 0 || size >= 2n ** 63n) {
    throw new VfioError('EINVAL', { operation: 'memfd_create', field: 'size', message: `${size} bytes` });
  }
}

/**
 * Opens a file that holds a guest's memory (a file of tmpfs or hugetlbfs, or another process's memory file by `/proc/PID/fd/N`), for reading and
 * writing, and sees to it that nobody else makes it shorter.
 *
 * A memory file is sealed against shrinking, for good. Files with a path cannot be sealed: such a one must be this user's, and nobody else's to
 * write; that the user leaves its size alone is taken for granted.
 * @throws VfioError ENOENT, EACCES… as open(2); EINVAL for what is no regular file; EPERM for one that others may make shorter
 */
export function openMemoryFile(path: string): OwnedFd {
  const file = openForBoth(path);
  try {
    if (fdKind(file.fd) !== 'file') throw refused('EINVAL', path, `a ${fdKind(file.fd)} is not memory`);
    if (isShrinkSealed(file.fd) || sealAgainstShrinking(file.fd) || isOnlyOurs(file.fd)) return file;
    throw refused(
      'EPERM',
      path,
      'others may make it shorter: it must be a sealed memory file, or yours and of mode 600',
    );
  } catch (error) {
    file.close();
    throw error;
  }
}

function openForBoth(path: string): OwnedFd {
  try {
    return new OwnedFd(openSync(path, 'r+'));
  } catch (error) {
    throw asVfioError(error, 'memory', 'EINVAL');
  }
}

/** Whether it could be done: not where seals are unknown, or where a seal forbids more of them. */
function sealAgainstShrinking(fd: number): boolean {
  return libc.fcntl(fd, F_ADD_SEALS, Seal.SHRINK) !== -1;
}

function isOnlyOurs(fd: number): boolean {
  const { uid, mode } = fstatSync(fd);
  return uid === process.geteuid!() && (mode & WRITABLE_BY_OTHERS) === 0;
}

function refused(errno: 'EINVAL' | 'EPERM', path: string, message: string): VfioError {
  return new VfioError(errno, { operation: 'memory', field: path, message });
}

/**
 * The seals of a file, {@link Seal} bits; 0 for anything that cannot be sealed.
 * @throws VfioError EBADF
 */
export function sealsOf(fd: number): number {
  const seals = libc.fcntl(fd, F_GET_SEALS, 0);
  if (seals !== -1) return seals;
  if (lastErrno() === ERRNO.EINVAL) return 0;
  throw systemError('fcntl');
}

/** Whether a file can never become smaller: only such a file of a peer is safe to map. @throws VfioError EBADF */
export function isShrinkSealed(fd: number): boolean {
  return (sealsOf(fd) & Seal.SHRINK) !== 0;
}

/** How a descriptor was opened. @throws VfioError EBADF */
export function accessOf(fd: number): { readable: boolean; writable: boolean; append: boolean } {
  const flags = checked('fcntl', () => libc.fcntl(fd, F_GETFL, 0));
  const mode = flags & O_ACCMODE;
  return {
    readable: mode !== O_WRONLY,
    writable: mode === O_WRONLY || mode === O_RDWR,
    append: (flags & O_APPEND) !== 0,
  };
}

/**
 * Fills `into` from a file, starting at byte `offset`.
 * @returns how many bytes were there: fewer than asked for only where the file ends.
 * @throws VfioError as pread(2)
 */
export function readAt(fd: number, offset: number, into: Uint8Array): number {
  let done = 0;
  while (done < into.length) {
    const rest = done === 0 ? into : into.subarray(done);
    const count = uninterrupted(() => libc.pread(fd, rest, rest.length, offset + done));
    if (count === -1) throw systemError('pread');
    if (count === 0) return done;
    done += count;
  }
  return done;
}

/**
 * Writes all of `from` to a file, starting at byte `offset`.
 * @throws VfioError as pwrite(2); a part may have been written then.
 */
export function writeAt(fd: number, offset: number, from: Uint8Array): void {
  let done = 0;
  while (done < from.length) {
    const rest = done === 0 ? from : from.subarray(done);
    const count = uninterrupted(() => libc.pwrite(fd, rest, rest.length, offset + done));
    if (count === -1) throw systemError('pwrite');
    if (count === 0) throw new VfioError('EIO', { operation: 'pwrite', message: 'wrote nothing' });
    done += count;
  }
}
