import type { DeviceHandle } from '../../device/index.js';
import { MigrationState, migrationStateName, requireBytes, VfioError, viewOf } from '../../uapi/index.js';

/** The devices of a machine that comes, through their migration states. */
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
    for (const device of this.#devices) await device.reset();
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

  async run(): Promise<void> {
    await this.#setAll(MigrationState.RUNNING);
  }

  /** The machine does not come: devices are as after a reset again. Failing at it harms nobody. */
  async forget(): Promise<void> {
    await Promise.allSettled(this.#devices.map(device => device.reset()));
  }

  async #setAll(state: MigrationState): Promise<void> {
    for (const device of this.#devices) await device.features.setMigrationState(state);
  }
}

async function requireStopped(device: DeviceHandle): Promise<void> {
  const state = await device.features.migrationState();
  if (state === MigrationState.STOP) return;
  const message = `${device.target} was loaded, and is in state ${migrationStateName(state)}`;
  throw new VfioError('EIO', { operation: 'receive', field: 'devices', message });
}
