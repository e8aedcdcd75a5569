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
  #firstSizeMs: number | undefined;
  readonly #roundTripMs = new Recent();
  /** Of all memory, in long runs. */
  #firstPass: PassReport | undefined;
  /** Of scattered pages, as the last pass will be: those long enough to measure. */
  readonly #otherPasses: PassReport[] = [];
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
    if (this.#firstPass === undefined) this.#firstPass = report;
    else if (report.pagesSent >= PAGES_TO_MEASURE) this.#otherPasses.push(report);
  }

  /** A word to the destination was answered, with nothing else under way. */
  wentRound(durationMs: number): void {
    this.#roundTripMs.add(durationMs);
  }

  /** The devices said how much state they have. */
  stateAsked(bytes: number, durationMs: number): void {
    this.#stateBytes = bytes;
    this.#firstSizeMs ??= durationMs;
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
    const requestMs = this.#requestMs.median;
    return estimateDowntime({
      dirtyPages,
      dirtyPagesPerSecond,
      msPerPage,
      stateBytes: this.#stateBytes,
      stateBytesPerMs: this.#stateBytesPerMs || PAGE_SIZE / msPerPage,
      requestMs,
      // A state is saved and loaded once, by code and in memory that were not in use before: later answers come faster than that.
      sizeMs: Math.max(this.#firstSizeMs ?? 0, this.#sizeMs.median),
      // Not known: as here.
      destinationRequestMs: this.#destinationRequestMs ?? requestMs,
      lastPauseMs: this.#lastPauseMs,
      logMs: this.#logMs.median,
      roundTripMs: this.#roundTripMs.median,
      storeMs: this.#storeMs,
    });
  }

  /** Milliseconds that a page took lately until it was at the other end, a round trip a pass left out. 0 before the first pass. */
  get #msPerPage(): number {
    const roundTripMs = this.#roundTripMs.median;
    const passes =
      this.#otherPasses.length > 0 || this.#firstPass === undefined ? this.#otherPasses : [this.#firstPass];
    const recent = new Recent();
    for (const { pagesSent, durationMs } of passes) {
      recent.add(Math.max(durationMs - roundTripMs, durationMs / 2) / Math.max(pagesSent, 1));
    }
    return recent.median;
  }
}
