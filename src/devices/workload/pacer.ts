/*
 * How many pages are due, by the clock.
 *
 * Example, 1000 pages/s: asked after 4.5 ms, 4 are due and half a page is kept; asked 4.5 ms later, 5 are. After a stall of 10 s, 100 are due
 * and not 10000: a device that could not write did not write, and a flood afterwards is no rate.
 */

/** How often the workload looks at the clock, milliseconds. */
export const TICK_MS = 4;
/** Longest that one tick writes pages, milliseconds; what is still due then is given up. */
export const TICK_BUDGET_MS = 3;
/** Pages between two looks at the budget. */
export const PAGES_PER_LOOK = 64;
/** Longest time that is made up for, milliseconds. */
export const CATCH_UP_MS = 100;

/** Turns a rate into pages due. */
export class Pacer {
  #lastMs: number;
  #kept = 0;

  /** @param nowMs the monotonic clock, milliseconds */
  constructor(nowMs: number) {
    this.#lastMs = nowMs;
  }

  /** Pages due since the last call. @param rate pages per second */
  due(nowMs: number, rate: number): number {
    const elapsedMs = Math.min(Math.max(nowMs - this.#lastMs, 0), CATCH_UP_MS);
    this.#lastMs = nowMs;
    const pages = this.#kept + (elapsedMs * rate) / 1000;
    const whole = Math.floor(pages);
    this.#kept = pages - whole;
    return whole;
  }
}
