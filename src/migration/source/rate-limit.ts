import { performance } from 'node:perf_hooks';
import { setTimeout as delay } from 'node:timers/promises';
import { PAGE_SIZE } from '../memory/machine-memory.js';

/*
 * So many bytes a second, evenly: not a second's worth at once and then nothing. Every byte has a moment at which it is due; whoever is ahead
 * of that by more than a moment waits.
 *
 * Worked example, 1,000,000 bytes a second: after 50,000 bytes at once the next one is due 50 ms from now, which is 30 ms more than may be
 * ahead: so the sender waits 30 ms. In any 100 ms at most 120,000 bytes leave, and a block more.
 */

/** How far ahead of its time a byte may leave, milliseconds. */
const AHEAD_MS = 20;

/** Holds a sender to a number of bytes per second. */
export class RateLimit {
  readonly #bytesPerMs: number;
  #dueAt = 0;
  #counted = 0;

  /** @param bytesPerSecond `undefined`: no limit */
  constructor(bytesPerSecond: number | undefined) {
    this.#bytesPerMs = (bytesPerSecond ?? Number.POSITIVE_INFINITY) / 1000;
  }

  /** Pages that may leave together, so that they are no burst. */
  get pagesAtOnce(): number {
    return Math.max(1, Math.floor((this.#bytesPerMs * AHEAD_MS) / PAGE_SIZE));
  }

  /** Waits until more may be sent. @param bytesSent all that was sent so far */
  async pace(bytesSent: number): Promise<void> {
    const waitMs = this.spend(bytesSent - this.#counted, performance.now());
    this.#counted = bytesSent;
    // Timers of less than a millisecond do not exist, and the moment is made up for by the next block.
    if (waitMs >= 1) await delay(waitMs);
  }

  /** Counts bytes that were sent. @returns how long to wait before the next, milliseconds */
  spend(bytes: number, now: number): number {
    this.#dueAt = Math.max(this.#dueAt, now) + bytes / this.#bytesPerMs;
    return Math.max(0, this.#dueAt - now - AHEAD_MS);
  }
}
