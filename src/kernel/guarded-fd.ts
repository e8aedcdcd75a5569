import type { OwnedFd } from '../native/index.js';
import { VfioError } from '../uapi/index.js';

/**
 * A descriptor that other threads work with, closed when the last of them is done: a call that still waits for its thread would else find the
 * number closed, or, worse, somebody else's.
 */
export class GuardedFd {
  readonly #owned: OwnedFd;
  readonly #what: string;
  #users = 0;
  #closing: Promise<void> | undefined;
  #lastLeft: (() => void) | undefined;

  /**
   * @param owned closed by this object, and by nobody else
   * @param what what it is, for people: `'the device'`
   */
  constructor(owned: OwnedFd, what: string) {
    this.#owned = owned;
    this.#what = what;
  }

  /** Whether {@link GuardedFd.close} was called. */
  get closed(): boolean {
    return this.#closing !== undefined;
  }

  /** The number, for a call on this thread that is over when it returns. @throws VfioError EBADF when closed */
  now(operation: string): number {
    if (this.#closing !== undefined) throw new VfioError('EBADF', { operation, message: `${this.#what} is closed` });
    return this.#owned.fd;
  }

  /** The number, until the promise of `work` settles. @throws VfioError EBADF when closed */
  async use<T>(operation: string, work: (fd: number) => Promise<T>): Promise<T> {
    const fd = this.now(operation);
    this.#users++;
    try {
      return await work(fd);
    } finally {
      this.#users--;
      if (this.#users === 0) this.#lastLeft?.();
    }
  }

  /** Lets nobody in any more, and closes when the last has left; further calls wait for the same. Never throws. */
  close(): Promise<void> {
    this.#closing ??= this.#closeAfterUse();
    return this.#closing;
  }

  async #closeAfterUse(): Promise<void> {
    if (this.#users > 0) {
      await new Promise<void>(resolve => {
        this.#lastLeft = resolve;
      });
    }
    this.#owned.close();
  }
}
