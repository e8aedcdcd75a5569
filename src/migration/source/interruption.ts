/** The caller's wish to give up, for whoever waits. */
export class Interruption {
  readonly #happened: Promise<never>;
  #reject: (error: unknown) => void = () => {};

  constructor() {
    this.#happened = new Promise((_, reject) => {
      this.#reject = reject;
    });
    this.#happened.catch(() => {});
  }

  /** Everybody who waits by {@link Interruption.unlessInterrupted} gets `error`, now and later. */
  interrupt(error: unknown): void {
    this.#reject(error);
  }

  /** Waits for what may take long, but not longer than the caller wants. */
  unlessInterrupted<T>(work: Promise<T>): Promise<T> {
    return Promise.race([work, this.#happened]);
  }
}
