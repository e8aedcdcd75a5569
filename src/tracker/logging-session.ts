import type { FeatureClient } from '../device/index.js';
import { mergeRanges } from '../log/index.js';
import { asVfioError, type IovaRange, VfioError } from '../uapi/index.js';
import { DirtySet } from './dirty-set.js';
import type { LostLog, Tracker } from './tracker.js';

/** What fits a vfio-user message of 1 MiB, which every server takes. */
const MOST_RANGES = 32_768;

/** How a {@link LoggingSession} asks. */
export interface LoggingSessionOptions {
  /** For people. */
  name?: string;
  /** START's page size hint, in bytes; default 4096. Reports come at the page size of the set they go into. */
  pageSize?: bigint;
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
  #ranges: IovaRange[] = [];
  #pageSize = 0n;
  #started = false;
  #turn: Promise<unknown> = Promise.resolve();

  constructor(features: FeatureClient, options: LoggingSessionOptions = {}) {
    this.name = options.name ?? 'dma log';
    this.#features = features;
    this.#hint = options.pageSize ?? 4096n;
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
   * START. Ranges are merged to what the profile takes (contract rule 11).
   *
   * A device that is still logging for somebody who died is stopped first: its log is of no use to anybody.
   *
   * @throws VfioError as the device answers; EINVAL for a session that is started already
   */
  start(ranges: readonly IovaRange[]): Promise<void> {
    return this.#inTurn(async () => {
      if (this.#started)
        throw new VfioError('EINVAL', { operation: 'DMA_LOGGING_START', message: `${this.name} is started` });
      this.#ranges = ranges.map(range => ({ ...range }));
      try {
        await this.#startDevice();
      } catch (error) {
        if (!(await this.#stopDevice())) throw error;
        await this.#startDevice();
      }
    });
  }

  /** See {@link Tracker.collect}. */
  collect(dirty: DirtySet): Promise<LostLog[]> {
    return this.#inTurn(() => this.#collect(dirty));
  }

  async #collect(dirty: DirtySet): Promise<LostLog[]> {
    if (!this.#started) {
      throw new VfioError('EINVAL', { operation: 'DMA_LOGGING_REPORT', message: `${this.name} is not started` });
    }
    try {
      for (const range of dirty.ranges) {
        await this.#features.report({ iova: range.iova, length: range.length, pageSize: dirty.pageSize }, range.bitmap);
      }
      return [];
    } catch (error) {
      const lost = { tracker: this.name, error: asVfioError(error, 'DMA_LOGGING_REPORT') };
      await this.#restart(dirty, `lost its log (${lost.error.message})`);
      return [lost];
    }
  }

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
      for (const range of this.#ranges) dirty.mark(range);
    }
  }

  /**
   * The machine's memory changed (contract rule 9): logging restarts with the new ranges. Everything that is new counts as dirty, and
   * what the old log still held is collected first.
   *
   * @param dirty covers the new ranges
   * @throws VfioError as {@link LoggingSession.collect}
   */
  changeRanges(ranges: readonly IovaRange[], dirty: DirtySet): Promise<LostLog[]> {
    return this.#inTurn(async () => {
      const lost = await this.#collect(dirty);
      const before = this.#ranges;
      this.#ranges = ranges.map(range => ({ ...range }));
      // Between the last report and the new START nothing is logged: what both have in common counts as dirty too.
      await this.#restart(dirty, 'was given new ranges');
      for (const range of before) dirty.mark(range);
      return lost;
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
    return this.#inTurn(async () => {
      if (!this.#started) return;
      this.#started = false;
      this.#pageSize = 0n;
      await this.#stopDevice();
    });
  }

  async #startDevice(): Promise<void> {
    const merged = mergeRanges(this.#ranges, Math.min(this.#features.profile.maxRanges, MOST_RANGES));
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

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(work);
    this.#turn = result.catch(() => {});
    return result;
  }
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
