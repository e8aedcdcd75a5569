import { isEventFd, type OwnedFd, signalEventFd } from '../native/index.js';
import { VfioError } from '../uapi/index.js';
import type { IrqTrigger } from './interrupts.js';

/** An interrupt that goes to a host's eventfd. */
export class EventfdTrigger implements IrqTrigger {
  readonly #file: OwnedFd;

  /** @param file owned by the trigger from now on. */
  constructor(file: OwnedFd) {
    this.#file = file;
  }

  signal(): void {
    signalEventFd(this.#file.fd);
  }

  close(): void {
    this.#file.close();
  }
}

/**
 * Anything else that a host may give for an interrupt is refused: writing to a file of a slow file system would stop the device.
 * @throws VfioError EINVAL
 */
export function requireEventFds(files: readonly OwnedFd[]): void {
  for (const file of files) {
    if (isEventFd(file.fd)) continue;
    throw new VfioError('EINVAL', { operation: 'SET_IRQS', field: 'fds', message: 'a descriptor is no eventfd' });
  }
}
