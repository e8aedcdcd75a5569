import { type DeviceHandle, isRunning } from '../../device/index.js';
import {
  asVfioError,
  MIGRATION_P2P,
  MIGRATION_PRE_COPY,
  MIGRATION_STOP_COPY,
  MigrationState,
  migrationStateName,
  VfioError,
} from '../../uapi/index.js';

/** A device's share of a migration. */
export interface DeviceReport {
  /** Where the device is, for people: {@link DeviceHandle.target}. */
  name: string;
  /** Bytes of its state that were sent, those that a restart made void included. */
  stateBytes: number;
  /** From telling it to stop until it had, milliseconds; 0 when it did not come to that. The last time, when it stopped more than once. */
  stopMs: number;
  /** Why it could not be started again when the migration failed; the machine then runs nowhere. */
  error: VfioError | undefined;
}

/** One device of a machine that is moved away, and how far it is. */
export class SourceDevice {
  readonly handle: DeviceHandle;
  readonly flags: number;
  readonly report: DeviceReport;
  /** Everything that must be at the destination before the switch has been sent. */
  initialDataSent: boolean;

  constructor(handle: DeviceHandle, flags: number, report: DeviceReport) {
    this.handle = handle;
    this.flags = flags;
    this.report = report;
    this.initialDataSent = !this.hasPrecopy;
  }

  get hasPrecopy(): boolean {
    return (this.flags & MIGRATION_PRE_COPY) !== 0;
  }

  get hasP2p(): boolean {
    return (this.flags & MIGRATION_P2P) !== 0;
  }

  setState(state: MigrationState): Promise<void> {
    return this.handle.features.setMigrationState(state);
  }

  /** Where the device is; one that is in ERROR, or does not say, is in no state to go on from. @throws VfioError EIO; as the device answers */
  state(): Promise<MigrationState> {
    return this.#noting(async () => {
      const state = (await this.handle.features.migrationState()) as MigrationState;
      if (state !== MigrationState.ERROR) return state;
      throw new VfioError('EIO', { operation: 'migrate', message: `${this.handle.target} is in state ERROR` });
    });
  }

  /**
   * Sets a state on the way back. An answer that is lost or wrong is no reason to lose a machine: where the device then is counts, and it is asked
   * once more.
   */
  insistOn(state: MigrationState): Promise<void> {
    return this.#noting(async () => {
      try {
        await this.setState(state);
      } catch {
        if ((await this.state()) !== state) await this.setState(state);
      }
    });
  }

  async #noting<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      this.report.error = asVfioError(error, 'migrate');
      throw error;
    }
  }
}

/** Its MIGRATION flags. @throws VfioError ENOTTY for a device that cannot migrate */
export async function requireMigratable(device: DeviceHandle): Promise<number> {
  const flags = await device.features.migrationFlags();
  if ((flags & MIGRATION_STOP_COPY) === 0) {
    throw new VfioError('ENOTTY', { operation: 'migrate', message: `${device.target} cannot migrate` });
  }
  return flags;
}

/** @throws VfioError EINVAL for a device that does not run */
export async function requireRunning(device: DeviceHandle): Promise<void> {
  const state = await device.features.migrationState();
  if (state !== MigrationState.RUNNING) {
    const message = `${device.target} does not run here: it is in state ${migrationStateName(state)}`;
    throw new VfioError('EINVAL', { operation: 'migrate', field: 'devices', message });
  }
}

/** Whether a device runs, or cannot do otherwise. */
export async function isRunningHere(device: DeviceHandle): Promise<boolean> {
  if ((await device.features.migrationFlags()) === 0) return true;
  return isRunning((await device.features.migrationState()) as MigrationState);
}

/** Asks a device for something small; any answer will do. @throws VfioError ECONNRESET when the device is gone */
export async function askAnything({ handle }: SourceDevice): Promise<void> {
  await unlessUnsaid(handle.features.migrationState(), undefined);
}

/**
 * How much a device expects to send when it is stopped, bytes. Devices need not say, and those that say it in two ways need not say the same: the
 * larger number counts.
 * @throws VfioError ECONNRESET when the device is gone
 */
export async function expectedStateBytes({ handle, hasPrecopy }: SourceDevice): Promise<number> {
  const stopped = await unlessUnsaid(handle.features.migrationDataSize(), 0n);
  const nothing = { initialBytes: 0n, dirtyBytes: 0n };
  const running = hasPrecopy ? await unlessUnsaid(handle.precopyInfo(), nothing) : nothing;
  return Math.max(Number(stopped), Number((running ?? nothing).initialBytes + (running ?? nothing).dirtyBytes));
}

async function unlessUnsaid<T, U>(answer: Promise<T>, unsaid: U): Promise<T | U> {
  try {
    return await answer;
  } catch (error) {
    if (error instanceof VfioError && error.errno !== 'ECONNRESET') return unsaid;
    throw error;
  }
}
