import type { MaybePromise } from '../memory/index.js';
import { createEventFd, type OwnedFd, readEventFd, warn, watch } from '../native/index.js';
import { VfioError } from '../uapi/index.js';
import type { IoEventFd, RegionArea } from './device.js';

/** Writes to a BAR that a client may signal on an eventfd: a doorbell of which only the ringing matters. */
export interface IoEventSpec extends RegionArea {
  readonly bar: number;
  /** The one value that a write must have; missing: any. */
  readonly match?: bigint;
}

/**
 * The eventfds that stand for writes (vfio-user 0.9.x DEVICE_GET_REGION_IO_FDS).
 *
 * Each is made when a client first asks, and closed when the client goes, so that a client that is gone rings no more. However often it was
 * rung until the device looks, the device is told once.
 */
export class IoEvents {
  readonly #specs: readonly IoEventSpec[];
  readonly #rung: (index: number) => MaybePromise<void>;
  readonly #files: (OwnedFd | undefined)[];

  /**
   * @param rung is told the index of the spec; what it throws, or rejects with, becomes a process warning.
   * @throws VfioError EINVAL for an access of no size that a register has
   */
  constructor(specs: readonly IoEventSpec[], rung: (index: number) => MaybePromise<void>) {
    for (const { size } of specs) requireAccessSize(size);
    this.#specs = specs.map(spec => ({ ...spec }));
    this.#rung = rung;
    this.#files = specs.map(() => undefined);
  }

  /** Whether any eventfd is open. */
  get open(): boolean {
    return this.#files.some(file => file !== undefined);
  }

  /** A BAR's eventfds. @throws VfioError EMFILE, ENFILE; those that were made before stay */
  ofBar(bar: number): readonly IoEventFd[] {
    return this.#specs.flatMap((spec, index) => {
      if (spec.bar !== bar) return [];
      const { offset, size, match } = spec;
      return [{ offset, size, fd: this.#fileOf(index).fd, ...(match === undefined ? {} : { match }) }];
    });
  }

  #fileOf(index: number): OwnedFd {
    const opened = this.#files[index];
    if (opened !== undefined) return opened;
    const file = createEventFd();
    try {
      const watching = watch(file.fd, { readable: true }, () => this.#look(index));
      // What keeps the process running is the client's connection.
      watching.unref();
    } catch (error) {
      file.close();
      throw error;
    }
    this.#files[index] = file;
    return file;
  }

  #look(index: number): void {
    const file = this.#files[index];
    if (file === undefined || readEventFd(file.fd) === 0n) return;
    try {
      const pending = this.#rung(index);
      if (pending !== undefined) pending.catch(warn);
    } catch (error) {
      warn(error);
    }
  }

  /** Tells the device of what was rung and not seen yet: before it stops, since nobody would ring again. */
  lookNow(): void {
    for (const index of this.#files.keys()) this.#look(index);
  }

  /** Forgets what was rung and not seen yet. */
  discard(): void {
    for (const file of this.#files) if (file !== undefined) readEventFd(file.fd);
  }

  /** Closes all eventfds. They can be asked for again. */
  close(): void {
    for (const [index, file] of this.#files.entries()) {
      file?.close();
      this.#files[index] = undefined;
    }
  }
}

/** 0 is a write of any size (Linux KVM_IOEVENTFD). */
function requireAccessSize(size: number): void {
  if ([0, 1, 2, 4, 8].includes(size)) return;
  throw new VfioError('EINVAL', {
    operation: 'IoEvents',
    field: 'size',
    message: `${size} bytes are no register access`,
  });
}
