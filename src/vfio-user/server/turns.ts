import type { MaybePromise } from '../../memory/index.js';

/**
 * Lets the connections of one device take turns, for what must not interleave: a change of the migration state takes its time, and a report
 * of another connection in the middle of it would see neither the one state nor the other (contract: feature requests are serialised).
 */
export class Turns {
  #last: Promise<void> | undefined;

  /** Runs `work` when everything that was run before is done: at once, and without a promise of its own, when nothing is under way. */
  run<T>(work: () => MaybePromise<T>): MaybePromise<T> {
    const result = this.#last === undefined ? work() : this.#last.then(work);
    if (result instanceof Promise) this.#hold(result);
    return result;
  }

  #hold(result: Promise<unknown>): void {
    const over = result
      .catch(() => {})
      .then(() => {
        if (this.#last === over) this.#last = undefined;
      });
    this.#last = over;
  }
}
