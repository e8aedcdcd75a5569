import type { DeviceHandle } from '../../device/index.js';
import {
  MIGRATION_P2P,
  MigrationState,
  migrationStateName,
  requireBytes,
  VfioError,
  viewOf,
} from '../../uapi/index.js';
import { inStep } from '../devices/in-step.js';

/*
 * The devices of a machine that comes, through their migration states. As at the source, none takes a step before all have taken the one before:
 * all wait for their states · all have loaded them · those with P2P answer, without writing to each other · all run.
 *
 * Until they run, nothing has happened that a reset does not undo.
 */

/** The devices of a machine that comes. */
export class DestinationDevices {
  readonly #devices: readonly DeviceHandle[];
  #stateBytes = 0;

  constructor(devices: readonly DeviceHandle[]) {
    this.#devices = devices;
  }

  /** Bytes of state taken, those that a restart made void left out. */
  get stateBytes(): number {
    return this.#stateBytes;
  }

  /** MIGRATION flags of each device, in order. */
  flags(): Promise<number[]> {
    return Promise.all(this.#devices.map(device => device.features.migrationFlags()));
  }

  /** Devices wait for their states. */
  async prepare(): Promise<void> {
    await this.#setAll(MigrationState.RESUMING);
  }

  /** Gives a DEVICE_STATE frame's part to the device that it names. @throws VfioError EBADMSG for one that does not exist; what the device says */
  async take(payload: Uint8Array): Promise<void> {
    requireBytes(payload, 8, 'DEVICE_STATE');
    const index = viewOf(payload).getUint32(0, true);
    const device = this.#devices[index];
    if (device === undefined) {
      const message = `there is no device ${index}`;
      throw new VfioError('EBADMSG', { operation: 'DEVICE_STATE', field: 'device', message });
    }
    const data = payload.subarray(8);
    await device.writeMigrationData(data);
    this.#stateBytes += data.length;
  }

  /** What came so far is void. Only a reset leaves RESUMING with its data forgotten. */
  async restart(): Promise<void> {
    await inStep(this.#devices, device => device.reset());
    await this.prepare();
    this.#stateBytes = 0;
  }

  /** All of the states has come. */
  async load(): Promise<void> {
    await this.#setAll(MigrationState.STOP);
  }

  /** Asks every device whether it still is as it was loaded: one that has died since must be known before the machine is taken. */
  async requireLoaded(): Promise<void> {
    await Promise.all(this.#devices.map(device => requireStopped(device)));
  }

  /** All run, and none before all of those that may be written to answer. */
  async run(): Promise<void> {
    const flags = await this.flags();
    const answering = this.#devices.filter((_, index) => (flags[index]! & MIGRATION_P2P) !== 0);
    await inStep(answering, device => device.features.setMigrationState(MigrationState.RUNNING_P2P));
    await this.#setAll(MigrationState.RUNNING);
  }

  /** The machine does not come: devices are as after a reset again. Failing at it harms nobody. */
  async forget(): Promise<void> {
    await Promise.allSettled(this.#devices.map(device => device.reset()));
  }

  async #setAll(state: MigrationState): Promise<void> {
    await inStep(this.#devices, device => device.features.setMigrationState(state));
  }
}

async function requireStopped(device: DeviceHandle): Promise<void> {
  const state = await device.features.migrationState();
  if (state === MigrationState.STOP) return;
  const message = `${device.target} was loaded, and is in state ${migrationStateName(state)}`;
  throw new VfioError('EIO', { operation: 'receive', field: 'devices', message });
}
