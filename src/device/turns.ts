import type { MaybePromise } from '../memory/index.js';

/**
 * Work that is done one after another, in the order in which it was asked for, for what must not interleave: a change of the migration state
 * takes its time, and a report in the middle of it would see neither the one state nor the other (contract: feature requests are serialised).
 */
export class Turns {
  #last: Promise<void> | undefined;

  /** Whether work is under way. */
  get busy(): boolean {
    return this.#last !== undefined;
  }

  /**
   * Does `work` when all that was asked for before is done, whether it succeeded or not: at once, and without a promise of its own, when
   * nothing is under way; what it throws then is thrown at once, too. Work asks for no turn of the same in its own, before its first await: it
   * would have it at once, in its midst.
   */
  run<T>(work: () => Promise<T>): Promise<T>;
  run<T>(work: () => MaybePromise<T>): MaybePromise<T>;
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

  /** Waits until nothing is under way. */
  async idle(): Promise<void> {
    while (this.#last !== undefined) await this.#last;
  }
}
