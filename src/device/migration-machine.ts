import type { MaybePromise } from '../memory/index.js';
import { MigrationState, type PrecopyInfo, VfioError } from '../uapi/index.js';
import { isRunning, isSaving, migrationPath } from './migration-states.js';

/** What a device does when its migration state changes. Every hook but `quiesce` is synchronous. */
export interface MigratableModel {
  /** From now on the device may start DMA and raise interrupts. */
  run(): void;
  /** The device starts nothing any more; done when nothing of it is in flight. */
  quiesce(): MaybePromise<void>;
  /** Data that may be moved while the device still runs, so that an unfit destination is found early. May be empty. */
  savePrecopy(): Uint8Array;
  /** The stopped device's whole state (without what `savePrecopy` gave). */
  saveStopped(): Uint8Array;
  /**
   * Takes what the other end's `savePrecopy` (if it was read) and `saveStopped` gave, in that order, as one piece.
   * @throws VfioError EINVAL; the device is then as it was.
   */
  load(state: Uint8Array): void;
  /** How many bytes `saveStopped` would give; the device may be running. */
  stoppedSize(): number;
  /** The device is in ERROR: it must do nothing any more until it is reset. */
  fail(): void;
}

/** Limits of a {@link MigrationMachine}. */
export interface MigrationLimits {
  /** Most bytes that RESUMING takes; one more is ENOSPC. */
  maxStateBytes?: number;
}

/**
 * A device's migration state and the data that goes with it: all eight states, combination arcs, and what each arc does to the model.
 *
 * What happens depends on the two states of a hop, not on the arc's name, so that a device that skips states gets the same effects:
 * a hop from a running to a not running state quiesces; one that enters the saving group opens the saving stream, one that leaves it
 * drops it; entering STOP_COPY appends the stopped device's state; leaving RESUMING loads what was written.
 */
export class MigrationMachine {
  /** MIGRATION flags: STOP_COPY, P2P, PRE_COPY. */
  readonly flags: number;
  readonly #model: MigratableModel;
  readonly #maxStateBytes: number;
  #state: MigrationState = MigrationState.RUNNING;
  #moving = false;
  #epoch = 0;
  #outgoing: Uint8Array[] = [];
  /** Grows by doubling; the first `#incomingBytes` are what came. */
  #incoming = new Uint8Array(0);
  #incomingBytes = 0;

  constructor(model: MigratableModel, flags: number, limits: MigrationLimits = {}) {
    this.#model = model;
    this.flags = flags;
    this.#maxStateBytes = limits.maxStateBytes ?? 1 << 30;
  }

  /** Where the device is. */
  get state(): MigrationState {
    return this.#state;
  }

  /**
   * Brings the device to `target`, over as many arcs as that takes. A hop that fails with a VfioError leaves the device in the last
   * state that was reached; any other failure leaves it in ERROR, which only a reset leaves.
   *
   * @throws VfioError EINVAL for a forbidden way, EBUSY while another change is under way, ECANCELED when a reset came between, or what
   *   the hop said.
   */
  async setState(target: number): Promise<void> {
    const path = migrationPath(this.#state, target, this.flags);
    if (this.#moving) {
      throw new VfioError('EBUSY', { operation: 'MIG_DEVICE_STATE', message: 'another state change is under way' });
    }
    const epoch = this.#epoch;
    this.#moving = true;
    try {
      for (const next of path) await this.#hop(next, epoch);
    } catch (error) {
      if (error instanceof VfioError) throw error;
      if (epoch === this.#epoch) this.fail();
      throw new VfioError('EIO', { operation: 'MIG_DEVICE_STATE', message: 'the device failed', cause: error });
    } finally {
      if (epoch === this.#epoch) this.#moving = false;
    }
  }

  /** One arc. A reset may come wherever it waits; from the last wait on, its effects and the new state come as one. */
  async #hop(next: MigrationState, epoch: number): Promise<void> {
    this.#requireSame(epoch);
    const current = this.#state;
    const stops = isRunning(current) && !isRunning(next);
    try {
      if (stops) await this.#model.quiesce();
      this.#requireSame(epoch);
      if (current === MigrationState.RESUMING) this.#load();
      const saved = this.#save(current, next);
      if (!isSaving(next)) this.#outgoing = [];
      this.#outgoing.push(...saved);
    } catch (error) {
      // The state stays a running one, and so must the device.
      if (stops && epoch === this.#epoch && error instanceof VfioError) this.#model.run();
      throw error;
    }
    if (next === MigrationState.RESUMING) this.#dropIncoming();
    if (isRunning(next) && !isRunning(current)) this.#model.run();
    this.#state = next;
  }

  #requireSame(epoch: number): void {
    if (epoch === this.#epoch) return;
    throw new VfioError('ECANCELED', { operation: 'MIG_DEVICE_STATE', message: 'the device was reset meanwhile' });
  }

  /** What a hop adds to the saving stream; all of it or, when a hook fails, nothing. */
  #save(current: MigrationState, next: MigrationState): Uint8Array[] {
    const pieces: Uint8Array[] = [];
    // Straight from STOP to STOP_COPY nothing was offered yet: the stream begins with the same first part.
    if (isSaving(next) && !isSaving(current)) pieces.push(this.#model.savePrecopy());
    if (next === MigrationState.STOP_COPY) pieces.push(this.#model.saveStopped());
    return pieces.filter(piece => piece.length > 0);
  }

  #load(): void {
    this.#model.load(this.#incoming.subarray(0, this.#incomingBytes));
    this.#dropIncoming();
  }

  #dropIncoming(): void {
    this.#incoming = new Uint8Array(0);
    this.#incomingBytes = 0;
  }

  /**
   * The next bytes of the device's data, at most `limit`; none: all that there is for now (the end, in STOP_COPY).
   * @throws VfioError EINVAL outside PRE_COPY, PRE_COPY_P2P and STOP_COPY.
   */
  readData(limit: number): Uint8Array {
    if (!isSaving(this.#state)) throw this.#wrongState('MIG_DATA_READ');
    const first = this.#outgoing[0];
    if (first === undefined || limit === 0) return new Uint8Array(0);
    if (first.length <= limit) {
      this.#outgoing.shift();
      return first;
    }
    this.#outgoing[0] = first.subarray(limit);
    return first.subarray(0, limit);
  }

  /**
   * Takes the next bytes of another device's data; copied.
   * @throws VfioError EINVAL outside RESUMING; ENOSPC beyond the limit.
   */
  writeData(bytes: Uint8Array): void {
    const operation = 'MIG_DATA_WRITE';
    if (this.#state !== MigrationState.RESUMING) throw this.#wrongState(operation);
    if (this.#incomingBytes + bytes.length > this.#maxStateBytes) {
      throw new VfioError('ENOSPC', {
        operation,
        field: 'size',
        message: `more than ${this.#maxStateBytes} bytes of state`,
      });
    }
    const size = this.#incomingBytes + bytes.length;
    if (size > this.#incoming.length) {
      const grown = new Uint8Array(Math.max(size, Math.min(2 * this.#incoming.length, this.#maxStateBytes)));
      grown.set(this.#incoming);
      this.#incoming = grown;
    }
    this.#incoming.set(bytes, this.#incomingBytes);
    this.#incomingBytes = size;
  }

  /** What a stop-copy would move now, in bytes. */
  dataSize(): bigint {
    const offered = isSaving(this.#state) ? this.#pendingBytes() : BigInt(this.#model.savePrecopy().length);
    return this.#state === MigrationState.STOP_COPY ? offered : offered + BigInt(this.#model.stoppedSize());
  }

  #pendingBytes(): bigint {
    return this.#outgoing.reduce((sum, piece) => sum + BigInt(piece.length), 0n);
  }

  /** What PRE_COPY still offers. @throws VfioError EINVAL outside the PRE_COPY states (Linux's precopy info ioctl). */
  precopyInfo(): PrecopyInfo {
    if (this.#state !== MigrationState.PRE_COPY && this.#state !== MigrationState.PRE_COPY_P2P) {
      throw this.#wrongState('MIG_GET_PRECOPY_INFO');
    }
    return { initialBytes: this.#pendingBytes(), dirtyBytes: 0n };
  }

  /** After the device's own reset: RUNNING, and no data kept. The one way out of ERROR. */
  reset(): void {
    this.#epoch++;
    this.#moving = false;
    this.#outgoing = [];
    this.#dropIncoming();
    this.#state = MigrationState.RUNNING;
  }

  /** The device failed in a way that only a reset mends: ERROR. */
  fail(): void {
    this.#state = MigrationState.ERROR;
    this.#outgoing = [];
    this.#dropIncoming();
    this.#model.fail();
  }

  #wrongState(operation: string): VfioError {
    return new VfioError('EINVAL', {
      operation,
      field: 'device_state',
      message: `not possible in state ${this.#state}`,
    });
  }
}

/** The device's migration machine. @throws VfioError ENOTTY for a device that cannot migrate */
export function requireMigration(
  device: { name: string; migration: MigrationMachine | undefined },
  operation: string,
): MigrationMachine {
  if (device.migration === undefined) {
    throw new VfioError('ENOTTY', { operation, message: `${device.name} cannot migrate` });
  }
  return device.migration;
}
