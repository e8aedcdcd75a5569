import { PAGE_SIZE } from '../memory/machine-memory.js';
import { type Downtime, estimateDowntime } from './downtime.js';
import type { PassReport } from './migration-report.js';
import { Recent } from './recent.js';

/** A pass of fewer pages measures the clock, not the link. */
const PAGES_TO_MEASURE = 256;
/** Below that, moving state measures the requests and not the way, bytes. */
const STATE_TO_MEASURE = 256 * 1024;

/** What was measured while the machine ran, of everything that its downtime will be made of: see {@link estimateDowntime}. */
export class DowntimeEstimator {
  readonly #logMs = new Recent();
  readonly #requestMs = new Recent();
  readonly #sizeMs = new Recent();
  readonly #roundTripMs = new Recent();
  /** The first, and those long enough to measure. */
  readonly #passes: PassReport[] = [];
  #stateBytes = 0;
  #stateBytesPerMs = 0;
  #lastPauseMs: number | undefined;
  #storeMs = 0;
  #destinationRequestMs: number | undefined;

  /** The ownership record's store answered after this long. */
  storeAnswered(durationMs: number): void {
    this.#storeMs = durationMs;
  }

  /** The destination's devices answer after this long; `undefined`: it does not say. */
  destinationAnswers(durationMs: number | undefined): void {
    this.#destinationRequestMs = durationMs;
  }

  /** State of devices was read and sent, while they ran. */
  stateMoved(bytes: number, durationMs: number): void {
    if (bytes >= STATE_TO_MEASURE) this.#stateBytesPerMs = bytes / durationMs;
  }

  passSent(report: PassReport): void {
    if (this.#passes.length === 0 || report.pagesSent >= PAGES_TO_MEASURE) this.#passes.push(report);
  }

  /** A word to the destination was answered, with nothing else under way. */
  wentRound(durationMs: number): void {
    this.#roundTripMs.add(durationMs);
  }

  /** The devices said how much state they have. */
  stateAsked(bytes: number, durationMs: number): void {
    this.#stateBytes = bytes;
    this.#sizeMs.add(durationMs);
  }

  /** The devices answered something small. */
  devicesAsked(durationMs: number): void {
    this.#requestMs.add(durationMs);
  }

  logsRead(durationMs: number): void {
    this.#logMs.add(durationMs);
  }

  /** The devices were stopped. They may run again since. */
  devicesStopped(durationMs: number): void {
    this.#lastPauseMs = durationMs;
  }

  /** The downtime to expect if the machine stopped now. */
  estimate(dirtyPages: number, dirtyPagesPerSecond: number): Downtime {
    const msPerPage = this.#msPerPage;
    const requestMs = this.#requestMs.once;
    return estimateDowntime({
      dirtyPages,
      dirtyPagesPerSecond,
      msPerPage,
      stateBytes: this.#stateBytes,
      stateBytesPerMs: this.#stateBytesPerMs || PAGE_SIZE / msPerPage,
      requestMs,
      sizeMs: this.#sizeMs.once,
      // Not known: as here.
      destinationRequestMs: this.#destinationRequestMs ?? requestMs,
      lastPauseMs: this.#lastPauseMs,
      logMs: this.#logMs.median,
      roundTripMs: this.#roundTripMs.once,
      storeMs: this.#storeMs,
    });
  }

  /**
   * Milliseconds that a page took lately until it was at the other end, a round trip a pass left out. 0 before the first pass.
   *
   * The first pass counts as the others do, although its pages lie in long runs and those of the last do not: while the machine runs it takes
   * processors and touches pages, which makes scattered ones slower by more. Measured in demos, µs a page: 5.1, 5.5, 6.3 in the first pass,
   * 14.6, 12.2, 11.8 in the second, 5.0, 4.4, 5.5 in the last, when the machine stood still.
   */
  get #msPerPage(): number {
    const roundTripMs = this.#roundTripMs.median;
    const recent = new Recent();
    for (const { pagesSent, durationMs } of this.#passes) {
      recent.add(Math.max(durationMs - roundTripMs, durationMs / 2) / Math.max(pagesSent, 1));
    }
    return recent.median;
  }
}
