import koffi, { type node } from 'koffi';
import { VfioError } from '../uapi/index.js';
import { beforeClosing } from './file-descriptor.js';
import { checked, libc } from './libc.js';
import { warn } from './warn.js';

/*
 * Readiness of descriptors, by libuv's own poll: level-triggered, on the main loop.
 *
 * The handle beneath ends the process if it is made for a descriptor that is closed, cannot be polled, or is polled already,
 * and if it is used after its end. It is held weakly, and what its callback throws surfaces late. Each is dealt with here.
 */

/** What to wait for. Neither is a pause. */
export interface Interest {
  readonly readable?: boolean;
  readonly writable?: boolean;
}

/** What a descriptor is ready for. A peer that is gone makes it readable. */
export interface Readiness {
  readonly readable: boolean;
  readonly writable: boolean;
}

type PollCallback = (status: number, events: Readiness) => void;
type NativeCallback = (events: node.PollEvents) => void;

/** Every open watch by its descriptor: refuses a second one, and keeps the handles from the garbage collector. */
const watches = new Map<number, Watch>();

/** A running watch, made by {@link watch}. */
export class Watch {
  readonly #fd: number;
  readonly #ready: (readiness: Readiness) => void;
  readonly #failed: (error: unknown) => void;
  readonly #forgetFd: () => void;
  readonly #callback: NativeCallback;
  #interest: Interest;
  #handle: node.PollHandle | undefined;

  /** @internal Made by {@link watch}. */
  constructor(fd: number, interest: Interest, ready: (readiness: Readiness) => void, failed: (error: unknown) => void) {
    this.#fd = fd;
    this.#interest = interest;
    this.#ready = ready;
    this.#failed = failed;
    // The types of koffi 3.3 leave the status out.
    const callback: PollCallback = (status, events) => this.#wake(status, events);
    this.#callback = callback as unknown as NativeCallback;
    this.#handle = koffi.node.poll(fd, optionsFor(interest), this.#callback);
    this.#forgetFd = beforeClosing(fd, () => this.close());
    watches.set(fd, this);
  }

  /** Waits for something else from now on; after {@link Watch.close} this does nothing. */
  update(interest: Interest): void {
    this.#interest = interest;
    this.#handle?.start(optionsFor(interest), this.#callback);
  }

  /** Lets the process end while this watch is open. */
  unref(): void {
    this.#handle?.unref();
  }

  /** Keeps the process running while this watch is open: so it is at first. */
  ref(): void {
    this.#handle?.ref();
  }

  /** Ends the watch; the callback is not called again. A second call does nothing. */
  close(): void {
    if (this.#handle === undefined) return;
    this.#handle.close();
    this.#handle = undefined;
    this.#forgetFd();
    watches.delete(this.#fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #wake(status: number, events: Readiness): void {
    try {
      if (status === 0) this.#ready(events);
      else this.#wakeAfterError();
    } catch (error) {
      this.#report(error);
    }
  }

  /**
   * libuv answers an error on the descriptor, such as a connection that was reset, with a status, and stops. Bytes may still
   * wait there: the owner is woken to read up to the end, and woken again until it has.
   */
  #wakeAfterError(): void {
    this.update(this.#interest);
    this.#ready({ readable: this.#interest.readable === true, writable: this.#interest.writable === true });
  }

  #report(error: unknown): void {
    try {
      this.#failed(error);
    } catch (second) {
      warn(second);
    }
  }
}

/**
 * Calls `ready` whenever a descriptor is ready, again and again until it no longer is. The descriptor is made non-blocking.
 *
 * Close the watch before the descriptor; `OwnedFd.close` does so by itself.
 * @param failed gets what `ready` throws; the watch goes on. Without it, a process warning says so.
 * @throws VfioError EBADF for a descriptor that is not open, EPERM for one that cannot be polled (files, memory files,
 *   /dev/null), EBUSY for one that has a watch.
 */
export function watch(
  fd: number,
  interest: Interest,
  ready: (readiness: Readiness) => void,
  failed: (error: unknown) => void = warn,
): Watch {
  if (watches.has(fd)) throw new VfioError('EBUSY', { operation: 'watch', field: 'fd', message: `${fd} has a watch` });
  requirePollable(fd);
  return new Watch(fd, interest, ready, failed);
}

/** Asks the kernel itself, by adding the descriptor to an epoll set that is thrown away. */
function requirePollable(fd: number): void {
  const EPOLL_CLOEXEC = 0o2000000;
  const EPOLL_CTL_ADD = 1;
  const noEvents = new Uint8Array(12);
  const epoll = checked('epoll_create1', () => libc.epollCreate(EPOLL_CLOEXEC));
  try {
    checked('watch', () => libc.epollControl(epoll, EPOLL_CTL_ADD, fd, noEvents));
  } finally {
    libc.close(epoll);
  }
}

function optionsFor(interest: Interest): node.PollOptions {
  return { readable: interest.readable === true, writable: interest.writable === true };
}
