/** Work that is done one after the other, in the order in which it was asked for; at once while nothing else is under way. */
export class Turns {
  #last: Promise<unknown> | undefined;

  /** Whether work is under way. */
  get busy(): boolean {
    return this.#last !== undefined;
  }

  /** Does `work` when all that was asked for before is done, whether it succeeded or not. */
  run<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#last === undefined ? work() : this.#last.then(work);
    const over = result.then(
      () => {},
      () => {},
    );
    this.#last = over;
    over.then(() => {
      if (this.#last === over) this.#last = undefined;
    });
    return result;
  }

  /** Waits until nothing is under way. */
  async idle(): Promise<void> {
    while (this.#last !== undefined) await this.#last;
  }
}
