import koffi from 'koffi';
import { type Mapping, type OwnedFd, WriteWatch } from '../../src/native/index.js';

/* What somebody else in the process may do to guest memory, behind the back of its owner. */

const PAGE = 4096;
const library = koffi.load(null);
const madviseCall = library.func('int madvise(uintptr_t address, size_t length, int advice)');
const fallocateCall = library.func('int fallocate64(int fd, int mode, int64_t offset, int64_t length)');
const munmapCall = library.func('int munmap(uintptr_t address, size_t length)');
const mmapCall = library.func(
  'void *mmap64(uintptr_t address, size_t length, int protection, int flags, int fd, int64_t offset)',
);

/** linux/mman.h */
export const Advice = { DONTNEED: 4, COLLAPSE: 25 } as const;

/** Whether the kernel took the advice. */
export function advise(mapping: Mapping, page: number, pages: number, advice: number): boolean {
  return madviseCall(mapping.address + page * PAGE, pages * PAGE, advice) === 0;
}

/** Gives pages of a file back to the system: they read as zeros from then on. */
export function punchHole(file: OwnedFd | { fd: number }, page: number, pages: number): void {
  const PUNCH_HOLE_KEEP_SIZE = 3;
  if (fallocateCall(file.fd, PUNCH_HOLE_KEEP_SIZE, page * PAGE, pages * PAGE) !== 0) throw new Error('fallocate');
}

/** Takes the addresses of pages away. Nobody may touch them afterwards. */
export function unmapPages(mapping: Mapping, page: number, pages: number): void {
  munmapCall(mapping.address + page * PAGE, pages * PAGE);
}

/** Maps pages of a file anew, at the addresses where a mapping of the whole file has them. */
export function replacePages(mapping: Mapping, file: { fd: number }, page: number, pages: number): void {
  const READ_WRITE = 3;
  const SHARED_FIXED = 0x11;
  mmapCall(mapping.address + page * PAGE, pages * PAGE, READ_WRITE, SHARED_FIXED, file.fd, page * PAGE);
}

/** Whether this kernel, or what this process may do, leaves nothing to test: Linux before 6.7, or a container that forbids it. */
export function cannotWatchWrites(): boolean {
  try {
    new WriteWatch().close();
    return false;
  } catch {
    return true;
  }
}
