import { VfioError } from '../uapi/index.js';
import type { Mapping } from './mapping.js';
import { Pagemap, type RunsVisitor } from './pagemap.js';
import { Userfault } from './userfault.js';

/*
 * Which pages of mappings this process wrote: protection that the kernel takes off at the first write (userfault.ts), and a scan for pages
 * without it, which protects them again (pagemap.ts).
 *
 * Why no write is lost: the kernel looks at a page's entry and protects it again in one step, under the lock of the page table, and tells the
 * processors before the call returns. A write either went through the old entry: then the page is in this scan's answer, and the bytes are in
 * memory when the call returns. Or it meets the protection, now or later: then the kernel takes that off, and the next scan finds it so. A write
 * that runs beside the scan may be told twice; it is never in neither.
 *
 * Worked example: page 7 is written (A), scanned, and written again (B), while its reader copies it. The scan names page 7, so that A is copied;
 * B may be in that copy or not. B took the protection off: the next scan names page 7 again, and B is copied for certain.
 */

const PAGE_SIZE = 4096;
/** Runs are told as u32 page numbers. */
const LENGTH_LIMIT = 2 ** 32 * PAGE_SIZE;

/** An interval of a mapping, in bytes: whole pages, at most 16 TiB. */
export interface WatchedInterval {
  readonly mapping: Mapping;
  readonly offset: number;
  readonly length: number;
}

/**
 * Watches for writes to mappings **by this process, through these mappings**: any thread's, and the kernel's on its behalf, as by read(2). Not
 * seen are another process that maps the same file, a second mapping in this one, pwrite(2) to the file, and what is written through pages that
 * were pinned beforehand (io_uring's fixed buffers, VFIO's DMA maps).
 *
 * It takes two descriptors. When the process dies, however that happens, nothing is left.
 */
export class WriteWatch {
  readonly #userfault: Userfault;
  readonly #pagemap: Pagemap;
  readonly #watched: WatchedInterval[] = [];
  #closed = false;

  /**
   * @throws VfioError where the kernel or the rights do not allow it: ENOSYS, EPERM, EINVAL or ENOTTY (before Linux 6.7), ENOENT (no /proc);
   *   EMFILE, ENOMEM
   */
  constructor() {
    this.#userfault = new Userfault();
    try {
      this.#pagemap = new Pagemap();
    } catch (error) {
      this.#userfault.close();
      throw error;
    }
    try {
      this.#pagemap.requireScan();
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /**
   * Watches an interval from now on, clean. Takes 8 to 12 ms for each GiB (measured), and page tables for all of it: 2 MiB for each GiB.
   * @throws VfioError EBUSY when somebody watches a part of it already; EINVAL unless it is whole pages of the mapping; EBADF when that is
   *   closed; EPERM when it cannot be written; ENOMEM
   */
  add(interval: WatchedInterval): void {
    requireInterval(interval);
    const address = interval.mapping.address + interval.offset;
    this.#userfault.register(address, interval.length);
    this.#watched.push(interval);
    this.#userfault.protect(address, interval.length);
  }

  /** Ends the watching of an interval, which was given to {@link WriteWatch.add} as it is. What was written there is forgotten. */
  remove({ mapping, offset, length }: WatchedInterval): void {
    const index = this.#watched.findIndex(
      watched => watched.mapping === mapping && watched.offset === offset && watched.length === length,
    );
    if (index < 0) return;
    this.#watched.splice(index, 1);
    this.#release({ mapping, offset, length });
  }

  /**
   * Visits the runs of pages of an interval, all of which is watched, that were written since the last call, and begins anew there.
   * @param visit told pages of 4096 bytes, counted from the interval's start
   * @throws VfioError EBADF when the mapping is closed; EPERM when a part is not watched (any more); ENOMEM. What was taken before and not
   *   visited is lost: everything counts as written.
   */
  takeWritten({ mapping, offset, length }: WatchedInterval, visit: RunsVisitor): void {
    const start = mapping.address + offset;
    this.#pagemap.takeWritten(start, start + length, visit);
  }

  /** Ends all watching; the mappings are as they were before. A second call does nothing. Never throws. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const interval of this.#watched) this.#release(interval);
    this.#pagemap.close();
    this.#userfault.close();
  }

  /** At once, and not only when the last copy of the descriptor is closed, which a child that is just being made may hold. */
  #release({ mapping, offset, length }: WatchedInterval): void {
    // Behind a mapping that is closed there may be somebody else's memory by now.
    if (mapping.closed) return;
    try {
      this.#userfault.unregister(mapping.address + offset, length);
    } catch {
      // Somebody has put something else in its place, which nobody watches.
    }
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

function requireInterval({ mapping, offset, length }: WatchedInterval): void {
  const whole = offset % PAGE_SIZE === 0 && length % PAGE_SIZE === 0;
  const reach = Math.ceil(mapping.length / PAGE_SIZE) * PAGE_SIZE;
  if (whole && offset >= 0 && length > 0 && length <= LENGTH_LIMIT && offset + length <= reach) return;
  const message = `${length} bytes at ${offset} of ${mapping.length} are not whole pages of the mapping`;
  throw new VfioError('EINVAL', { operation: 'WriteWatch', field: 'offset', message });
}
