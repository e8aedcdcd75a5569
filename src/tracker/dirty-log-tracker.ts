import { clearRange } from '../bitmap/index.js';
import { Turns } from '../device/index.js';
import { asVfioError, bitmapBits, bitmapBytes, type IovaRange, overlap, VfioError } from '../uapi/index.js';
import type { DirtyLog } from './dirty-log.js';
import type { DirtySet } from './dirty-set.js';
import { KeptPages, moveReport } from './kept-pages.js';
import type { LostLog, Tracker } from './tracker.js';

/** Address spaces whose log a tracker of this process reads. A log that two read is half empty for each. */
const inUse = new WeakSet<object>();

/**
 * Tracks what was written through an IOMMU's address space, by the kernel's own log of it.
 *
 * Any error of a report means that the log is corrupt (contract rule 8): logging is restarted, and everything counts as dirty, in this order,
 * as for a `LoggingSession`. What is unmapped while it runs stays dirty until it is collected (contract rule 10). Calls are served one after
 * another.
 */
export class DirtyLogTracker implements Tracker {
  readonly name: string;
  readonly #log: DirtyLog;
  readonly #kept = new KeptPages();
  /** Used for one region after the other; all zeros between two. */
  #bitmap = new Uint32Array(0);
  #ranges: readonly IovaRange[] = [];
  #pageSize = 0n;
  #started = false;
  #holdsSpace = false;
  readonly #turns = new Turns();

  constructor(name: string, log: DirtyLog) {
    this.name = name;
    this.#log = log;
  }

  /** Bytes that the kernel's log knows apart; 0 while not started. */
  get pageSize(): bigint {
    return this.#pageSize;
  }

  /**
   * Begins to track. The kernel logs all that is mapped now or later, and `ranges` say what counts as dirty when the log is lost.
   * @throws VfioError EOPNOTSUPP where the kernel or the IOMMU cannot; EBUSY when another tracker of this process reads the log; EINVAL when it
   *   is started
   */
  start(ranges: readonly IovaRange[]): Promise<void> {
    return this.#turns.run(async () => {
      const operation = 'start';
      if (this.#started) throw new VfioError('EINVAL', { operation, message: `${this.name} is started` });
      if (!this.#holdsSpace && inUse.has(this.#log.space)) {
        throw new VfioError('EBUSY', { operation, message: 'another tracker reads the log of this address space' });
      }
      this.#ranges = ranges.map(range => ({ ...range }));
      this.#holdsSpace = true;
      inUse.add(this.#log.space);
      try {
        await this.#startLog();
      } catch (error) {
        await this.#end();
        throw error;
      }
    });
  }

  /** See {@link Tracker.collect}. */
  collect(dirty: DirtySet): Promise<LostLog[]> {
    return this.#turns.run(async () => {
      if (!this.#started) {
        dirty.markAll();
        throw new VfioError('EINVAL', { operation: 'collect', message: `${this.name} is not started` });
      }
      try {
        this.#kept.moveInto(dirty);
        for (const region of this.#log.regions) {
          if (dirty.ranges.some(range => overlap(range, region))) await this.#report(region, dirty);
        }
        // What was unmapped meanwhile.
        this.#kept.moveInto(dirty);
        return [];
      } catch (error) {
        const lost = { tracker: this.name, error: asVfioError(error, 'collect') };
        await this.#restart(dirty, lost.error);
        return [lost];
      }
    });
  }

  async #report(region: IovaRange, dirty: DirtySet): Promise<void> {
    const words = Number(bitmapBytes(region.length, this.#pageSize)) / 4;
    if (this.#bitmap.length < words) this.#bitmap = new Uint32Array(words);
    const bitmap = this.#bitmap.subarray(0, words);
    await this.#log.report(region, bitmap);
    // A kernel may leave anything in the rest of the last word.
    clearRange(bitmap, Number(bitmapBits(region.length, this.#pageSize)), words * 32);
    const report = { ...region, pageSize: this.#pageSize, bitmap };
    if (!moveReport(report, dirty)) return;
    this.#kept.add(report);
    this.#bitmap = new Uint32Array(0);
  }

  async #restart(dirty: DirtySet, why: VfioError): Promise<void> {
    const pageSize = this.#pageSize;
    this.#started = false;
    this.#bitmap = new Uint32Array(0);
    try {
      await this.#stopLog();
      await this.#startLog();
    } catch (error) {
      const failure = asVfioError(error, 'start');
      throw new VfioError(failure.errno, {
        operation: 'start',
        message: `${this.name} lost its log (${why.message}) and could not be restarted: ${failure.message}`,
        cause: failure,
      });
    } finally {
      // Last, as what is written before the new log begins is in none.
      this.#kept.addAll(this.#ranges, pageSize);
      dirty.markAll();
      this.#kept.moveInto(dirty);
    }
  }

  /** See {@link Tracker.changeRanges}. The kernel logs all that is mapped, so that nothing is lost. */
  async changeRanges(ranges: readonly IovaRange[], dirty: DirtySet): Promise<void> {
    await this.#turns.run(async () => {
      if (!this.#started) {
        dirty.markAll();
        throw new VfioError('EINVAL', { operation: 'changeRanges', message: `${this.name} is not started` });
      }
      this.#ranges = ranges.map(range => ({ ...range }));
    });
  }

  /** See {@link Tracker.stop}. */
  stop(): Promise<void> {
    return this.#turns.run(() => this.#end());
  }

  async #end(): Promise<void> {
    if (!this.#holdsSpace) return;
    await this.#stopLog();
    inUse.delete(this.#log.space);
    this.#holdsSpace = false;
    this.#kept.clear();
    this.#started = false;
    this.#pageSize = 0n;
  }

  async #startLog(): Promise<void> {
    this.#pageSize = await this.#log.start((region, bitmap) =>
      this.#kept.add({ ...region, pageSize: this.#pageSize, bitmap }),
    );
    this.#started = true;
  }

  /** A log that cannot be stopped is one that is gone, or one that the next start will refuse. */
  async #stopLog(): Promise<void> {
    try {
      await this.#log.stop();
    } catch {}
  }
}
