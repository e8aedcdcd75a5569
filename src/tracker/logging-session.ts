import { type FeatureClient, Turns } from '../device/index.js';
import { mergeRanges } from '../log/index.js';
import { asVfioError, type IovaRange, VfioError } from '../uapi/index.js';
import { DirtySet } from './dirty-set.js';
import { reportInto } from './report-into.js';
import type { LostLog, Tracker } from './tracker.js';

/** Devices whose log a session of this process reads. A log that two read is half empty for each. */
const inUse = new WeakSet<FeatureClient>();

/** How a {@link LoggingSession} asks. */
export interface LoggingSessionOptions {
  /** For people. */
  name?: string;
  /** START's page size hint, in bytes; default 4096. Reports come at the page size of the set they go into. */
  pageSize?: bigint;
  /**
   * Whether a device that is already logging is stopped first. That is right after its last user has died, and wrong while another one uses
   * the log: whoever reads it clears it for the other. Default: such a device's EINVAL is thrown.
   */
  takeOver?: boolean;
}

/** One report for people: {@link LoggingSession.reports}. */
export interface SessionReport {
  /** What was written since the report before. */
  dirty: DirtySet;
  /** Number of dirty pages in it. */
  dirtyPages: number;
  /** Filled when the log was lost: everything is dirty in this report, and logging was restarted. */
  lost: LostLog[];
}

/**
 * A DMA logging session on one device: START, any number of REPORTs, STOP.
 *
 * Any error of a report means that the device's log is corrupt (contract rule 8). The session then restarts logging, marks everything as
 * dirty, and tells the caller, in this order: what is written between the failure and the new START is in no log, but is read after `collect`
 * returns, because everything is dirty.
 *
 * Calls are served one after another.
 */
export class LoggingSession implements Tracker {
  readonly name: string;
  readonly #features: FeatureClient;
  readonly #hint: bigint;
  readonly #takeOver: boolean;
  #ranges: IovaRange[] = [];
  #pageSize = 0n;
  #started = false;
  #holdsDevice = false;
  readonly #turns = new Turns();

  constructor(features: FeatureClient, options: LoggingSessionOptions = {}) {
    this.name = options.name ?? 'dma log';
    this.#features = features;
    this.#hint = options.pageSize ?? 4096n;
    this.#takeOver = options.takeOver ?? false;
  }

  /** The page size that the device chose, in bytes; 0 while not started. */
  get pageSize(): bigint {
    return this.#pageSize;
  }

  /** Whether the device is logging, as far as this side knows. */
  get started(): boolean {
    return this.#started;
  }

  /**
   * START. Ranges are merged to what the device takes (contract rule 11).
   *
   * @param ranges none: every write is logged, where the profile has that (contract rule 12)
   * @throws VfioError as the device answers; EBUSY when another session in this process is on the same device; EINVAL for a session that is
   *   started already
   */
  start(ranges: readonly IovaRange[]): Promise<void> {
    return this.#turns.run(async () => {
      const operation = 'DMA_LOGGING_START';
      if (this.#started) throw new VfioError('EINVAL', { operation, message: `${this.name} is started` });
      if (!this.#holdsDevice && inUse.has(this.#features)) {
        throw new VfioError('EBUSY', { operation, message: 'another session reads the log of this device' });
      }
      // A log that this session started and could not restart is its own to stop.
      const isOwn = this.#holdsDevice;
      this.#holdsDevice = true;
      inUse.add(this.#features);
      this.#ranges = ranges.map(range => ({ ...range }));
      try {
        await this.#startOrTakeOver(this.#takeOver || isOwn);
      } catch (error) {
        if (!isOwn) this.#letGo();
        throw error;
      }
    });
  }

  async #startOrTakeOver(takeOver: boolean): Promise<void> {
    try {
      await this.#startDevice();
    } catch (error) {
      const mayBeStarted = error instanceof VfioError && error.errno === 'EINVAL';
      if (!takeOver || !mayBeStarted || !(await this.#stopDevice())) throw error;
      await this.#startDevice();
    }
  }

  /** See {@link Tracker.collect}. */
  collect(dirty: DirtySet): Promise<LostLog[]> {
    return this.#turns.run(() => this.#collect(dirty));
  }

  async #collect(dirty: DirtySet): Promise<LostLog[]> {
    if (!this.#started) {
      dirty.markAll();
      throw new VfioError('EINVAL', { operation: 'DMA_LOGGING_REPORT', message: `${this.name} is not started` });
    }
    try {
      await reportInto(dirty, this.#pageSize, (range, bitmap) => this.#features.report(range, bitmap));
      return [];
    } catch (error) {
      const lost = { tracker: this.name, error: asVfioError(error, 'DMA_LOGGING_REPORT') };
      await this.#restart(dirty, `lost its log (${lost.error.message})`);
      return [lost];
    }
  }

  /** A failure leaves the session in the middle: to be stopped, or given up. Whatever comes, everything is marked. */
  async #restart(dirty: DirtySet, why: string): Promise<void> {
    this.#started = false;
    try {
      await this.#stopDevice();
      await this.#startDevice();
    } catch (error) {
      const failure = asVfioError(error, 'DMA_LOGGING_START');
      throw new VfioError(failure.errno, {
        operation: 'DMA_LOGGING_START',
        message: `${this.name} ${why} and could not be restarted: ${failure.message}`,
        cause: failure,
      });
    } finally {
      dirty.markAll();
    }
  }

  /**
   * The machine's memory changed (contract rule 9). When it only became less, the device's log goes on. Otherwise logging restarts, and everything
   * counts as dirty: what is new, and, as nothing is logged between the last report and the new START, what was there before.
   *
   * @param dirty covers old and new ranges
   * @throws VfioError as {@link LoggingSession.collect}
   */
  changeRanges(ranges: readonly IovaRange[], dirty: DirtySet): Promise<void> {
    return this.#turns.run(async () => {
      if (!this.#started) {
        dirty.markAll();
        throw new VfioError('EINVAL', { operation: 'DMA_LOGGING_START', message: `${this.name} is not started` });
      }
      const before = this.#ranges;
      this.#ranges = ranges.map(range => ({ ...range }));
      if (!isPartOf(ranges, before)) await this.#restart(dirty, 'was given new ranges');
    });
  }

  /**
   * Reports as they come, until `signal` ends it or the loop is left; the session stays started.
   *
   * @param ranges what each report's set covers; default: all of the session's
   * @param options.intervalMs pause between two reports, in milliseconds
   * @throws VfioError as {@link LoggingSession.collect}
   */
  async *reports(
    options: { intervalMs?: number; signal?: AbortSignal; pageSize?: bigint } = {},
  ): AsyncGenerator<SessionReport> {
    const { intervalMs = 1000, signal, pageSize = 4096n } = options;
    while (!signal?.aborted) {
      const dirty = new DirtySet(this.#ranges, pageSize);
      const lost = await this.collect(dirty);
      yield { dirty, dirtyPages: dirty.count(), lost };
      await pause(intervalMs, signal);
    }
  }

  /** STOP. Failing to reach the device is no error: with it, its log is gone. */
  stop(): Promise<void> {
    return this.#turns.run(async () => {
      // Also one that is not known to run: a restart that failed may have left it.
      if (this.#holdsDevice) {
        await this.#stopDevice();
        this.#letGo();
      }
      this.#started = false;
      this.#pageSize = 0n;
    });
  }

  #letGo(): void {
    inUse.delete(this.#features);
    this.#holdsDevice = false;
  }

  async #startDevice(): Promise<void> {
    const merged = mergeRanges(this.#ranges, this.#features.maxRanges);
    const ranges = merged.map(({ start, end }) => ({ iova: start, length: end - start }));
    this.#pageSize = await this.#features.startLogging(this.#hint, ranges);
    this.#started = true;
  }

  async #stopDevice(): Promise<boolean> {
    try {
      await this.#features.stopLogging();
      return true;
    } catch {
      return false;
    }
  }
}

/** @param whole none: everything. A device that is asked to log nothing logs everything, which is no part of anything else. */
function isPartOf(ranges: readonly IovaRange[], whole: readonly IovaRange[]): boolean {
  if (whole.length === 0) return true;
  const covers = (one: IovaRange, other: IovaRange) =>
    one.iova <= other.iova && one.iova + one.length >= other.iova + other.length;
  return ranges.length > 0 && ranges.every(range => whole.some(one => covers(one, range)));
}

function pause(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise(resolve => {
    const finish = () => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', finish);
      resolve();
    };
    const timer = setTimeout(finish, milliseconds);
    signal?.addEventListener('abort', finish, { once: true });
    if (signal?.aborted) finish();
  });
}
