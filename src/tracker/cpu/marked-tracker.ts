import { DmaLog, type SharedLog } from '../../log/index.js';
import { asVfioError, bitmapBytes, type IovaRange, VfioError } from '../../uapi/index.js';
import type { DirtySet } from '../dirty-set.js';
import type { LostLog, Tracker } from '../tracker.js';
import { requireCovered } from './cover.js';

const PAGE_SIZE = 4096n;

/**
 * A tracker for memory whose owner says itself what it writes: where the kernel does not let a process track its own writes (`CpuTracker`), or
 * cannot see them, such as holes that are punched into guest memory.
 *
 * Marks are kept from construction on, a bit a page, whether a session runs or not, so that no thread has to be told of START; `start` forgets
 * those that are there. **Bytes first, then the mark**: a mark that came first could be collected, and its page copied, before the write.
 *
 * Any number of threads may mark (up to 256), each through what {@link MarkedTracker.share} gave it:
 *
 * @example
 * const tracker = new MarkedTracker(machine.ranges);
 * new Worker(file, { workerData: tracker.share() });
 * // in the worker: marks last for as long as the tracker
 * const marks = SharedRecorder.attach(workerData);
 * memory.set(bytes, offset);
 * marks.record(iova, bytes.length);
 */
export class MarkedTracker implements Tracker {
  readonly name: string;
  readonly #ranges: readonly IovaRange[];
  readonly #log = new DmaLog({ keeping: 'exchange', maxBytes: 2 ** 32 });
  #started = false;

  /**
   * @param ranges all memory that may ever be marked
   * @throws VfioError EINVAL for no ranges; EOVERFLOW for one that reaches 2^64; ENOMEM for more than 128 TiB
   */
  constructor(ranges: readonly IovaRange[], options: { name?: string } = {}) {
    this.name = options.name ?? 'marked writes';
    this.#ranges = ranges.map(({ iova, length }) => ({ iova, length }));
    this.#log.start(PAGE_SIZE, this.#ranges);
  }

  /** Whether a session runs. */
  get started(): boolean {
    return this.#started;
  }

  /**
   * Marks the pages that a write of `length` bytes at `iova` touched, when the bytes are in memory; what lies outside the ranges is nobody's.
   * @throws VfioError EINVAL for a number that is no safe integer
   */
  mark(iova: number | bigint, length: number): void {
    this.#log.record(iova, length);
  }

  /**
   * What another thread needs to mark, by `SharedRecorder.attach` of the package's `log`: for `postMessage` or `workerData`, one for each thread.
   * @throws VfioError ENOMEM for more than 256
   */
  share(): SharedLog {
    return this.#log.share();
  }

  /** @throws VfioError EINVAL for a session that is started already, and for ranges that cannot be marked */
  async start(ranges: readonly IovaRange[]): Promise<void> {
    const operation = 'MarkedTracker.start';
    if (this.#started) throw new VfioError('EINVAL', { operation, message: `${this.name} is started` });
    requireCovered(ranges, this.#ranges, operation);
    this.#forget();
    this.#started = true;
  }

  #forget(): void {
    for (const { iova, length } of this.#ranges) {
      this.#log.report(iova, length, PAGE_SIZE, new Uint32Array(Number(bitmapBytes(length, PAGE_SIZE)) / 4));
    }
  }

  /** See {@link Tracker.collect}. @throws VfioError EINVAL when not started */
  async collect(dirty: DirtySet): Promise<LostLog[]> {
    if (!this.#started) {
      dirty.markAll();
      throw new VfioError('EINVAL', { operation: 'MarkedTracker.collect', message: `${this.name} is not started` });
    }
    try {
      for (const { iova, length, bitmap } of dirty.ranges) this.#log.report(iova, length, dirty.pageSize, bitmap);
      return [];
    } catch (error) {
      dirty.markAll();
      return [{ tracker: this.name, error: asVfioError(error, 'MarkedTracker.collect') }];
    }
  }

  /**
   * See {@link Tracker.changeRanges}. Memory that comes later has to be among the ranges that the tracker was made with, as threads hold its marks;
   * ranges without memory cost a bit a page.
   * @throws VfioError EINVAL when not started, and for ranges that cannot be marked
   */
  async changeRanges(ranges: readonly IovaRange[], dirty: DirtySet): Promise<void> {
    const operation = 'MarkedTracker.changeRanges';
    if (!this.#started) {
      dirty.markAll();
      throw new VfioError('EINVAL', { operation, message: `${this.name} is not started` });
    }
    requireCovered(ranges, this.#ranges, operation);
  }

  /** Ends the session; marks go on being kept. */
  async stop(): Promise<void> {
    this.#started = false;
  }
}
