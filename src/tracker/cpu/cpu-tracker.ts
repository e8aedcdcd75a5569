import { setImmediate as turnOfLoop } from 'node:timers/promises';
import { setRange } from '../../bitmap/index.js';
import { Turns } from '../../device/index.js';
import { type Mapping, type WatchedInterval, WriteWatch } from '../../native/index.js';
import { asVfioError, type IovaRange, overlap, VfioError } from '../../uapi/index.js';
import type { DirtyRange, DirtySet } from '../dirty-set.js';
import { KeptPages } from '../kept-pages.js';
import type { LostLog, Tracker } from '../tracker.js';
import { pieces, requireCovered } from './cover.js';
import { explained } from './cpu-support.js';

/*
 * From runs of bytes that were written to bits.
 *
 * Worked example: a set over IOVA [0x10000, 0x20000) with pages of 4 KiB, and a slot that puts IOVA 0x14000 at byte 0x2000 of a mapping. The
 * scan names pages 1 and 2 of the slot, bytes [0x3000, 0x5000) of the mapping. IOVA 0x14000 is page 4 of the range, so that they are bits 5 and 6.
 * With pages of 8 KiB they are bits 2 and 3, of which each was written in part.
 */

const PAGE_SIZE = 4096n;
/** Bytes that are armed or scanned without a pause: 1 GiB takes 8 to 12 ms to arm and 0.2 to 4 ms to scan. */
const SLICE = 2 ** 30;
/** How long the event loop is kept, and then for one slice more, milliseconds. A turn of it after every slice made a clean scan a third slower. */
const LONGEST_WORK_MS = 10;

/** A piece of guest memory, where the machine sees it, and where this process has it. `MachineMemory.slots` are such. */
export interface CpuMemorySlot extends IovaRange {
  /** What the CPUs write through: a `GuestMemory`, or anything with a mapping. */
  readonly memory: { readonly mapping: Mapping };
  /** Where the slot begins in the mapping, in bytes; default 0. */
  readonly offset?: number;
}

/** Memory that may change: `MachineMemory` is such. */
export interface CpuMemory {
  /** As they are now. */
  readonly slots: readonly CpuMemorySlot[];
}

/** Where a piece of the machine's memory is in this process: whole pages. */
interface Segment extends IovaRange {
  readonly mapping: Mapping;
  readonly offset: number;
}

/** At most {@link SLICE} bytes of a segment. */
interface Slice extends WatchedInterval {
  readonly iova: bigint;
}

/**
 * The CPUs' own writes to guest memory, tracked by the kernel: userfaultfd write protection that needs nobody to answer, and PAGEMAP_SCAN
 * (Linux 6.7 and later). The first write to a page after each collect costs 1 to 2 µs, all others nothing.
 *
 * **It sees writes of this process through the given mappings only**, of any thread, and the kernel's on its behalf, such as read(2) into the
 * memory. It does not see: another process that maps the same file, such as a device (that is what DMA logging is for); a second mapping in this
 * process; pwrite(2) to the file; holes punched into it; DMA through pages that were pinned beforehand. Whoever does such a thing has a log of its own,
 * or marks it in a {@link MarkedTracker} beside this one.
 *
 * Where the kernel or the rights do not allow it (`probeCpuTracking`), a {@link MarkedTracker} takes its place.
 */
export class CpuTracker implements Tracker {
  readonly name: string;
  readonly #memory: CpuMemory;
  readonly #turns = new Turns();
  /** What is tracked. */
  #segments: readonly Segment[] = [];
  #watch: WriteWatch | undefined;
  /** What a lost log makes dirty, until it is asked for. */
  readonly #kept = new KeptPages();
  /** A session that failed for good still is one, until it is stopped. */
  #started = false;

  /**
   * @param memory slots that stay as they are, disjoint as the machine sees them, and in memory; or who has such, and changes them: they are
   *   looked at when the tracker starts, and when it hears of a change
   * @throws VfioError EINVAL unless the slots are disjoint whole pages of their mappings
   */
  constructor(memory: readonly CpuMemorySlot[] | CpuMemory, options: { name?: string } = {}) {
    this.name = options.name ?? 'CPU writes';
    this.#memory = 'slots' in memory ? memory : { slots: memory.map(slot => ({ ...slot })) };
    segmentsOf(this.#memory);
  }

  /** Whether the session runs. */
  get started(): boolean {
    return this.#started;
  }

  /**
   * Arms all memory of the ranges, some 10 ms for each GiB.
   * @throws VfioError EINVAL for a session that is started already, and for ranges that are not in the slots; EBUSY when somebody else tracks
   *   a part of the memory, in any thread; EBADF when a mapping is closed; as `probeCpuTracking` says where it cannot be done at all
   */
  start(ranges: readonly IovaRange[]): Promise<void> {
    return this.#turns.run(async () => {
      const operation = 'CpuTracker.start';
      if (this.#started) throw new VfioError('EINVAL', { operation, message: `${this.name} is started` });
      this.#segments = this.#segmentsIn(ranges, operation);
      await this.#arm();
      this.#started = true;
    });
  }

  #segmentsIn(ranges: readonly IovaRange[], operation: string): Segment[] {
    const slots = segmentsOf(this.#memory);
    requireCovered(ranges, slots, operation);
    return [...pieces(ranges, slots)].map(({ start, end, outer }) => pagesAround(outer, start, end));
  }

  async #arm(): Promise<void> {
    const watch = openWatch();
    try {
      await this.#slowly(this.#segments.flatMap(slicesOf), slice => watch.add(slice));
      this.#watch = watch;
    } catch (error) {
      watch.close();
      throw error;
    }
  }

  /** Lets others have a turn of the event loop where the work takes long. */
  async #slowly<T>(slices: readonly T[], work: (slice: T) => void): Promise<void> {
    let since = performance.now();
    for (const slice of slices) {
      if (performance.now() - since > LONGEST_WORK_MS) {
        await turnOfLoop();
        since = performance.now();
      }
      work(slice);
    }
  }

  /**
   * See {@link Tracker.collect}. Reading and arming anew is one step for each page (why no write is lost: src/native/write-watch.ts).
   *
   * @param dirty pages of 4096 bytes or more: the kernel knows none that are smaller
   * @throws VfioError EINVAL when not started, or for smaller pages; as {@link CpuTracker.start} when the log was lost and cannot begin anew
   */
  collect(dirty: DirtySet): Promise<LostLog[]> {
    return this.#turns.run(async () => {
      const operation = 'CpuTracker.collect';
      if (!this.#started) {
        dirty.markAll();
        throw new VfioError('EINVAL', { operation, message: `${this.name} is not started` });
      }
      if (dirty.pageSize < PAGE_SIZE) {
        dirty.markAll();
        throw new VfioError('EINVAL', { operation, field: 'pageSize', message: `${dirty.pageSize} is below 4096` });
      }
      try {
        this.#kept.moveInto(dirty);
        await this.#scan(dirty);
        return [];
      } catch (error) {
        const lost = { tracker: this.name, error: asVfioError(error, operation) };
        await this.#restart(dirty, lost.error);
        return [lost];
      }
    });
  }

  async #scan(dirty: DirtySet): Promise<void> {
    const watch = this.#watch;
    // Left by a restart that failed: perhaps it succeeds now.
    if (watch === undefined)
      throw new VfioError('EIO', { operation: 'CpuTracker.collect', message: 'it does not run' });
    const slices = [...pieces(dirty.ranges, this.#segments)].flatMap(({ start, end, inner: range, outer }) =>
      slicesOf(pagesAround(outer, start, end)).map(slice => ({ slice, range })),
    );
    await this.#slowly(slices, ({ slice, range }) => takeInto(range, dirty.pageSize, watch, slice));
  }

  /** Contract rule 8. First the log, then the marks: what is written in between is in no log, but is read after this returns. */
  async #restart(dirty: DirtySet, why: VfioError): Promise<void> {
    this.#watch?.close();
    this.#watch = undefined;
    try {
      await this.#arm();
    } catch (error) {
      const failure = asVfioError(error, 'CpuTracker.start');
      throw new VfioError(failure.errno, {
        operation: 'CpuTracker.collect',
        message: `${this.name} lost its log (${why.message}) and could not be restarted: ${failure.message}`,
        cause: failure,
      });
    } finally {
      dirty.markAll();
      this.#kept.addAll(this.#segments, PAGE_SIZE);
      this.#kept.moveInto(dirty);
    }
  }

  /**
   * See {@link Tracker.changeRanges}. What stays is tracked on without a gap; what is new is armed, and marked.
   *
   * The slots are looked at before this call returns its promise: memory that is lent as it is at that moment is there.
   * @throws VfioError EINVAL when not started, and for ranges that are not in the slots; as {@link CpuTracker.start}
   */
  async changeRanges(ranges: readonly IovaRange[], dirty: DirtySet): Promise<void> {
    const operation = 'CpuTracker.changeRanges';
    const segments = this.#segmentsIn(ranges, operation);
    await this.#turns.run(async () => {
      if (!this.#started) {
        dirty.markAll();
        throw new VfioError('EINVAL', { operation, message: `${this.name} is not started` });
      }
      const before = this.#segments;
      this.#segments = segments;
      try {
        const added = without(segments, before);
        await this.#rewatch(without(before, segments), added);
        for (const segment of added) dirty.mark(segment);
      } catch (error) {
        await this.#restart(dirty, asVfioError(error, operation));
      }
    });
  }

  /** First what is gone: a part of it may be among what is added, in another shape. */
  async #rewatch(gone: readonly Segment[], added: readonly Segment[]): Promise<void> {
    const watch = this.#watch;
    if (watch === undefined)
      throw new VfioError('EIO', { operation: 'CpuTracker.changeRanges', message: 'it does not run' });
    for (const slice of gone.flatMap(slicesOf)) watch.remove(slice);
    await this.#slowly(added.flatMap(slicesOf), slice => watch.add(slice));
  }

  /** Ends the session: no page is protected any more, and the descriptors are closed. */
  stop(): Promise<void> {
    return this.#turns.run(async () => {
      this.#watch?.close();
      this.#watch = undefined;
      this.#kept.clear();
      this.#started = false;
    });
  }
}

function openWatch(): WriteWatch {
  try {
    return new WriteWatch();
  } catch (error) {
    throw explained(error);
  }
}

/** Marks in a range what was written in a slice of it. */
function takeInto({ iova, bitmap }: DirtyRange, pageSize: bigint, watch: WriteWatch, slice: Slice): void {
  const firstPage = Number((slice.iova - iova) / PAGE_SIZE);
  // Powers of two make the multiplication exact.
  const bitsPerPage = Number(PAGE_SIZE) / Number(pageSize);
  watch.takeWritten(slice, (runs, count) => {
    for (let run = 0; run < 2 * count; run += 2) {
      markRun(bitmap, firstPage + runs[run]!, firstPage + runs[run + 1]!, bitsPerPage);
    }
  });
}

/** A function of its own: it is called often enough to be compiled for good, where the loop around it is entered a few times a scan. */
function markRun(bitmap: Uint32Array, first: number, end: number, bitsPerPage: number): void {
  setRange(bitmap, Math.floor(first * bitsPerPage), Math.floor((end - 1) * bitsPerPage) + 1);
}

/** @throws VfioError EINVAL unless the slots are disjoint whole pages of their mappings */
function segmentsOf({ slots }: CpuMemory): Segment[] {
  const segments = slots.map(({ iova, length, memory, offset = 0 }) => ({
    iova,
    length,
    offset,
    mapping: memory.mapping,
  }));
  requireSlots(segments);
  return segments;
}

/** Those of some segments that are not among others. */
function without(some: readonly Segment[], others: readonly Segment[]): Segment[] {
  return some.filter(({ iova, length, mapping, offset }) => {
    const isSame = (other: Segment) =>
      other.iova === iova && other.length === length && other.mapping === mapping && other.offset === offset;
    return !others.some(isSame);
  });
}

/** The whole pages of a segment that IOVA `[start, end)` touches. */
function pagesAround({ iova, mapping, offset }: Segment, start: bigint, end: bigint): Segment {
  const from = start - (start % PAGE_SIZE);
  const length = end - from + ((PAGE_SIZE - (end % PAGE_SIZE)) % PAGE_SIZE);
  return { iova: from, length, mapping, offset: offset + Number(from - iova) };
}

function slicesOf({ iova, length, mapping, offset }: Segment): Slice[] {
  const bytes = Number(length);
  return Array.from({ length: Math.ceil(bytes / SLICE) }, (_, index) => {
    const start = index * SLICE;
    return { iova: iova + BigInt(start), mapping, offset: offset + start, length: Math.min(SLICE, bytes - start) };
  });
}

/** One collect clears a page's mark: it must be one page of the machine's, too. */
function requireSlots(slots: readonly Segment[]): void {
  const bad = (index: number, message: string) =>
    new VfioError('EINVAL', { operation: 'CpuTracker', field: `slots[${index}]`, message });
  for (const [index, slot] of slots.entries()) {
    const { iova, length, mapping, offset } = slot;
    const whole = iova % PAGE_SIZE === 0n && length % PAGE_SIZE === 0n && offset % Number(PAGE_SIZE) === 0;
    if (!whole || length <= 0n) throw bad(index, 'is not whole pages');
    if (offset < 0 || BigInt(offset) + length > BigInt(mapping.length)) throw bad(index, 'is not in its mapping');
    const place = { iova: BigInt(offset), length };
    for (const other of slots.slice(0, index)) {
      if (overlap({ iova, length }, other)) throw bad(index, 'overlaps another');
      const sameMemory = overlap(place, { iova: BigInt(other.offset), length: other.length });
      if (mapping === other.mapping && sameMemory) throw bad(index, 'is the same memory as another');
    }
  }
}
