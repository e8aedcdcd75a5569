import { type DeviceHandle, isRunning } from '../../device/index.js';
import {
  MIGRATION_P2P,
  MIGRATION_PRE_COPY,
  MIGRATION_STOP_COPY,
  MigrationState,
  migrationStateName,
  VfioError,
} from '../../uapi/index.js';
import type { FrameChannel } from '../stream/frame-channel.js';

/** Bytes of state that are taken from a device while it runs; what is left comes when it is stopped. */
const MOST_PRECOPY_STATE = 64 * 1024 * 1024;

/** Bytes of a device's state asked for at a time; below what a vfio-user message takes. */
const STATE_PIECE = 512 * 1024;

/** Devices that a migration in this process is moving. Two at a time would each undo what the other does. */
const moving = new WeakSet<DeviceHandle>();

/** The devices of a machine that is moved away, through their migration states. */
export class SourceDevices {
  readonly #devices: readonly DeviceHandle[];
  #flags: number[] = [];
  #stateBytes = 0;
  /** The devices are this migration's, and no other's. */
  #reserved = false;
  /** They were found running: so they shall run again if it fails. */
  #mayResume = false;

  constructor(devices: readonly DeviceHandle[]) {
    this.#devices = devices;
  }

  /** MIGRATION flags of each device, in order. */
  get flags(): readonly number[] {
    return this.#flags;
  }

  /** Bytes of state sent so far. */
  get stateBytes(): number {
    return this.#stateBytes;
  }

  /**
   * Takes the devices for this migration: all or none.
   * @throws VfioError ENOTTY for one that cannot migrate, EBUSY while another migration moves one, EINVAL for one that does not run here
   */
  async take(): Promise<void> {
    this.#flags = await Promise.all(this.#devices.map(device => requireMigratable(device)));
    this.#reserve();
    for (const device of this.#devices) await requireRunning(device);
    this.#mayResume = true;
  }

  /** With nothing that waits in between. */
  #reserve(): void {
    const taken = this.#devices.find(device => moving.has(device));
    if (taken !== undefined) {
      throw new VfioError('EBUSY', { operation: 'migrate', message: `${taken.target} is being migrated` });
    }
    for (const device of this.#devices) moving.add(device);
    this.#reserved = true;
  }

  /** Another migration may take them. */
  release(): void {
    if (this.#reserved) for (const device of this.#devices) moving.delete(device);
  }

  /** Sends what devices have to say of their state while they run. */
  async startPrecopy(channel: FrameChannel): Promise<void> {
    for (const [index, device] of this.#devices.entries()) {
      if ((this.#flags[index]! & MIGRATION_PRE_COPY) === 0) continue;
      await device.features.setMigrationState(MigrationState.PRE_COPY);
      await this.#send(channel, index, device, MOST_PRECOPY_STATE);
    }
  }

  /** Stops all devices: first none starts anything any more, so that no device writes into one that is stopped, then all save. */
  async stop(): Promise<void> {
    for (const [index, device] of this.#devices.entries()) {
      const flags = this.#flags[index]!;
      if ((flags & MIGRATION_P2P) === 0) continue;
      const quiet = (flags & MIGRATION_PRE_COPY) !== 0 ? MigrationState.PRE_COPY_P2P : MigrationState.RUNNING_P2P;
      await device.features.setMigrationState(quiet);
    }
    for (const device of this.#devices) await device.features.setMigrationState(MigrationState.STOP_COPY);
  }

  /** Sends all of the state of devices that are stopped. */
  async sendStates(channel: FrameChannel): Promise<void> {
    for (const [index, device] of this.#devices.entries()) {
      await this.#send(channel, index, device, Number.POSITIVE_INFINITY);
    }
  }

  /** @param most bytes; a running device may have more to say for ever */
  async #send(channel: FrameChannel, index: number, device: DeviceHandle, most: number): Promise<void> {
    for (let sent = 0; sent < most; ) {
      const data = await device.readMigrationData(STATE_PIECE);
      if (data.length === 0) return;
      await channel.sendDeviceState(index, data);
      sent += data.length;
      this.#stateBytes += data.length;
    }
  }

  /** How much the devices expect to send when they are stopped, bytes. */
  async expectedStateBytes(): Promise<number> {
    let bytes = 0;
    for (const device of this.#devices) bytes += await dataSize(device);
    return bytes;
  }

  /** Lets devices that were stopped run again, to stop them later. */
  async runAgain(): Promise<void> {
    for (const device of this.#devices) await device.features.setMigrationState(MigrationState.RUNNING);
  }

  /** After a failure: lets the devices run, and says where the machine then is. */
  async resume(): Promise<'source' | 'nowhere' | 'unknown'> {
    // Devices that were never this migration's are only asked: they may belong to another, or have been moved away.
    if (!this.#mayResume) return (await this.#allAre(isRunningHere)) ? 'source' : 'unknown';
    return (await this.#allAre(resumeDevice)) ? 'source' : 'nowhere';
  }

  async #allAre(so: (device: DeviceHandle) => Promise<boolean>): Promise<boolean> {
    const answers = await Promise.allSettled(this.#devices.map(so));
    return answers.every(answer => answer.status === 'fulfilled' && answer.value);
  }

  /** Stops for good what runs elsewhere now. Failing at it harms nobody. */
  async letGo(): Promise<void> {
    await Promise.allSettled(this.#devices.map(device => device.features.setMigrationState(MigrationState.STOP)));
  }
}

async function requireMigratable(device: DeviceHandle): Promise<number> {
  const flags = await device.features.migrationFlags();
  if ((flags & MIGRATION_STOP_COPY) === 0) {
    throw new VfioError('ENOTTY', { operation: 'migrate', message: `${device.target} cannot migrate` });
  }
  return flags;
}

async function requireRunning(device: DeviceHandle): Promise<void> {
  const state = await device.features.migrationState();
  if (state !== MigrationState.RUNNING) {
    const message = `${device.target} does not run here: it is in state ${migrationStateName(state)}`;
    throw new VfioError('EINVAL', { operation: 'migrate', field: 'devices', message });
  }
}

async function isRunningHere(device: DeviceHandle): Promise<boolean> {
  if ((await device.features.migrationFlags()) === 0) return true;
  return isRunning((await device.features.migrationState()) as MigrationState);
}

async function resumeDevice(device: DeviceHandle): Promise<boolean> {
  await device.features.setMigrationState(MigrationState.RUNNING);
  return true;
}

async function dataSize(device: DeviceHandle): Promise<number> {
  try {
    return Number(await device.features.migrationDataSize());
  } catch (error) {
    // Devices need not say; their state then counts as nothing.
    if (error instanceof VfioError && error.errno !== 'ECONNRESET') return 0;
    throw error;
  }
}
