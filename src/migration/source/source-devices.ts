import { performance } from 'node:perf_hooks';
import { setTimeout as delay } from 'node:timers/promises';
import { type DeviceHandle, isRunning } from '../../device/index.js';
import { MigrationState, VfioError } from '../../uapi/index.js';
import { inStep } from '../devices/in-step.js';
import { FrameType } from '../stream/stream-format.js';
import {
  askAnything,
  type DeviceReport,
  expectedStateBytes,
  isRunningHere,
  requireMigratable,
  requireRunning,
  SourceDevice,
} from './source-device.js';
import type { SourceLink } from './source-link.js';

/*
 * The devices of a machine that is moved away, through their migration states (docs/contract.md, "Also part of the picture").
 *
 * A device that is stopped must not be written to by another that is not: so no device takes a step before all have taken the one before.
 *
 *   while the machine runs    those with PRE_COPY: PRE_COPY, and some of their state in every pass
 *   to stop                   those with P2P: PRE_COPY_P2P or RUNNING_P2P · all: STOP_COPY · their states are read
 *   to run again              those with P2P that do not run: RUNNING_P2P · all: RUNNING
 *
 * A failure leaves devices in different states, and the way back begins wherever each of them is. When one of them cannot go it, because it is in
 * ERROR or does not answer, the machine is not whole any more: those that still can are stopped, so that it runs nowhere instead of in part. None is
 * reset: the only copy of its state may be in it.
 */

/** Bytes of state that are taken from a device in a pass while it runs; what is left comes in the next, or when it is stopped. */
const MOST_PRECOPY_STATE = 64 * 1024 * 1024;

/** Bytes of a device's state asked for at a time; below what a vfio-user message takes. */
const STATE_PIECE = 512 * 1024;

/** How long a device that has nothing to offer just now is left alone, milliseconds. */
const PAUSE_MS = 5;

/** Devices that a migration in this process is moving. Two at a time would each undo what the other does. */
const moving = new WeakSet<DeviceHandle>();

/** The devices of a machine that is moved away. */
export class SourceDevices {
  readonly #handles: readonly DeviceHandle[];
  readonly #reports: readonly DeviceReport[];
  #devices: readonly SourceDevice[] = [];
  /** The devices are this migration's, and no other's. */
  #reserved = false;
  /** They were found running: so they shall run again if it fails. */
  #mayResume = false;
  /** The destination has said that its devices have the initial data. */
  #initialDataLoaded = true;

  constructor(handles: readonly DeviceHandle[]) {
    this.#handles = handles;
    this.#reports = handles.map(({ target }) => ({ name: target, stateBytes: 0, stopMs: 0, error: undefined }));
  }

  /** MIGRATION flags of each device, in order. */
  get flags(): readonly number[] {
    return this.#devices.map(({ flags }) => flags);
  }

  /** Bytes of state sent so far. */
  get stateBytes(): number {
    return this.#reports.reduce((sum, { stateBytes }) => sum + stateBytes, 0);
  }

  /** Each device's share, in order. */
  get reports(): readonly DeviceReport[] {
    return this.#reports;
  }

  /** Whether the devices may be stopped: what they offer before the switch is at the destination. */
  get initialDataLoaded(): boolean {
    return this.#initialDataLoaded;
  }

  /**
   * Takes the devices for this migration: all or none.
   * @throws VfioError ENOTTY for one that cannot migrate, EBUSY while another migration moves one, EINVAL for one that does not run here
   */
  async take(): Promise<void> {
    const flags = await Promise.all(this.#handles.map(handle => requireMigratable(handle)));
    this.#reserve();
    for (const handle of this.#handles) await requireRunning(handle);
    this.#devices = this.#handles.map(
      (handle, index) => new SourceDevice(handle, flags[index]!, this.#reports[index]!),
    );
    this.#mayResume = true;
  }

  /** With nothing that waits in between. */
  #reserve(): void {
    const taken = this.#handles.find(handle => moving.has(handle));
    if (taken !== undefined) {
      throw new VfioError('EBUSY', { operation: 'migrate', message: `${taken.target} is being migrated` });
    }
    for (const handle of this.#handles) moving.add(handle);
    this.#reserved = true;
  }

  /** Another migration may take them. */
  release(): void {
    if (this.#reserved) for (const handle of this.#handles) moving.delete(handle);
    this.#reserved = false;
  }

  get #precopied(): SourceDevice[] {
    return this.#devices.filter(({ hasPrecopy }) => hasPrecopy);
  }

  /** Begins to send what devices have to say of their state while they run. */
  async startPrecopy(link: SourceLink): Promise<void> {
    for (const device of this.#precopied) device.initialDataSent = false;
    this.#initialDataLoaded = this.#precopied.length === 0;
    await inStep(this.#precopied, device => device.setState(MigrationState.PRE_COPY));
    await this.sendPrecopy(link);
  }

  /** Sends what devices have to say of their state by now, up to a bound for each. When all of the initial data is sent, the destination is asked. */
  async sendPrecopy(link: SourceLink): Promise<void> {
    for (const device of this.#precopied) await this.#sendPrecopyOf(link, device);
    if (this.#initialDataLoaded || !this.#devices.every(({ initialDataSent }) => initialDataSent)) return;
    await link.channel.send(FrameType.INITIAL_DATA_SENT);
    await link.expect(FrameType.INITIAL_DATA_LOADED);
    this.#initialDataLoaded = true;
  }

  async #sendPrecopyOf(link: SourceLink, device: SourceDevice): Promise<void> {
    const isRead = await this.#send(link, device, MOST_PRECOPY_STATE);
    if (device.initialDataSent) return;
    const info = await device.handle.precopyInfo();
    device.initialDataSent = info === undefined ? isRead : info.initialBytes === 0n;
  }

  /**
   * Goes on with the initial data until the destination has it.
   * @throws VfioError ETIMEDOUT for a device that offers nothing for as long as the destination may be silent, though it says that there is more
   */
  async finishInitialData(link: SourceLink): Promise<void> {
    let deadline = performance.now() + link.channel.timeoutMs;
    while (!this.#initialDataLoaded) {
      const before = this.stateBytes;
      await this.sendPrecopy(link);
      if (this.#initialDataLoaded) return;
      link.channel.throwIfGivenUp();
      await link.throwIfPeerFailed();
      if (this.stateBytes > before) deadline = performance.now() + link.channel.timeoutMs;
      else if (performance.now() > deadline) throw this.#silentDevice(link.channel.timeoutMs);
      else await delay(PAUSE_MS);
    }
  }

  #silentDevice(timeoutMs: number): VfioError {
    const silent = this.#precopied.find(({ initialDataSent }) => !initialDataSent);
    const message = `${silent?.handle.target} has more initial data, and offers none of it for ${timeoutMs} ms`;
    return new VfioError('ETIMEDOUT', { operation: 'migrate', field: 'devices', message });
  }

  /** Stops all devices. @throws VfioError of the first that fails, when all have answered */
  async stop(): Promise<void> {
    const startedAt = performance.now();
    const quieted = this.#devices.filter(({ hasP2p }) => hasP2p);
    await inStep(quieted, device =>
      device.setState(device.hasPrecopy ? MigrationState.PRE_COPY_P2P : MigrationState.RUNNING_P2P),
    );
    await inStep(this.#devices, async device => {
      await device.setState(MigrationState.STOP_COPY);
      device.report.stopMs = performance.now() - startedAt;
    });
  }

  /** Sends all of the state of devices that are stopped. */
  async sendStates(link: SourceLink): Promise<void> {
    for (const device of this.#devices) await this.#send(link, device, Number.POSITIVE_INFINITY);
  }

  /**
   * @param most bytes; a running device may have more to say for ever
   * @returns whether all that there is for now was read
   */
  async #send({ channel }: SourceLink, { handle, report }: SourceDevice, most: number): Promise<boolean> {
    const index = this.#handles.indexOf(handle);
    for (let sent = 0; sent < most; ) {
      const data = await handle.readMigrationData(STATE_PIECE);
      if (data.length === 0) return true;
      await channel.sendDeviceState(index, data);
      sent += data.length;
      report.stateBytes += data.length;
    }
    return false;
  }

  /** Asks every device for something small, one after the other: how long that takes is how busy they are. */
  async ask(): Promise<void> {
    for (const device of this.#devices) await askAnything(device);
  }

  /** How much the devices expect to send when they are stopped, bytes. To say so, a device may have to go over all of its state. */
  async expectedStateBytes(): Promise<number> {
    let bytes = 0;
    for (const device of this.#devices) bytes += await expectedStateBytes(device);
    return bytes;
  }

  /** Lets devices that were stopped run again, to stop them later. @throws VfioError of the first that cannot */
  async runAgain(): Promise<void> {
    const states = await inStep(this.#devices, device => device.state());
    const resting = this.#devices.filter(({ hasP2p }, index) => hasP2p && !isRunning(states[index]!));
    await inStep(resting, device => device.insistOn(MigrationState.RUNNING_P2P));
    await inStep(this.#devices, device => device.insistOn(MigrationState.RUNNING));
  }

  /** After a failure: lets the devices run, all or none, and says where the machine then is. */
  async resume(): Promise<'source' | 'nowhere' | 'unknown'> {
    // Devices that were never this migration's are only asked: they may belong to another, or have been moved away.
    if (!this.#mayResume) return (await this.#allRunHere()) ? 'source' : 'unknown';
    try {
      await this.runAgain();
      for (const { report } of this.#devices) report.error = undefined;
      return 'source';
    } catch {
      await Promise.allSettled(this.#devices.map(device => device.setState(MigrationState.STOP)));
      return 'nowhere';
    }
  }

  async #allRunHere(): Promise<boolean> {
    const answers = await Promise.allSettled(this.#handles.map(isRunningHere));
    return answers.every(answer => answer.status === 'fulfilled' && answer.value);
  }

  /** Stops for good what runs elsewhere now. Failing at it harms nobody. */
  async letGo(): Promise<void> {
    await Promise.allSettled(this.#devices.map(device => device.setState(MigrationState.STOP)));
  }
}
