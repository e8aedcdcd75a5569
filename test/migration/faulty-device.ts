import { setTimeout as delay } from 'node:timers/promises';
import { type Device, FeatureClient, type FeatureDoor, LocalDevice, localDoor } from '../../src/device/index.js';
import { linux, type MigrationState, migrationStateName, type PrecopyInfo, VfioError } from '../../src/uapi/index.js';

/** What goes wrong with a call. */
export type FaultKind =
  /** The device says no, and is as it was. */
  | 'refuses'
  /** It answers after a while. */
  | 'answers late'
  /** It does what it was asked to, and says that it failed. */
  | 'answers wrongly'
  /** It is in ERROR. */
  | 'breaks';

/** When a call goes wrong. */
export interface Fault {
  /** `read`, `write`, or `set` and a state. */
  call: string;
  kind: FaultKind;
  /** How often. */
  times: number;
}

/** A device in this process whose calls go wrong on purpose, and are written down. */
export class FaultyDevice extends LocalDevice {
  override readonly features: FeatureClient;
  readonly faults: Fault[] = [];
  readonly #device: Device;
  readonly #trace: (line: string) => void;

  /** @param trace told each call when it begins and when it is done */
  constructor(device: Device, trace: (line: string) => void = () => {}) {
    super(device);
    this.#device = device;
    this.#trace = trace;
    this.features = new FaultyFeatures(localDoor(device, linux), (call, work) => this.do(call, work));
  }

  /** Does a call, or what its fault makes of it. */
  protected async do<T>(call: string, work: () => Promise<T>): Promise<T> {
    const fault = this.faults.find(one => one.call === call && one.times > 0);
    this.#trace(`${call} begins`);
    if (fault !== undefined) fault.times--;
    if (fault?.kind === 'refuses') throw failure(call);
    if (fault?.kind === 'breaks') {
      this.#device.migration!.fail();
      throw failure(call);
    }
    if (fault?.kind === 'answers late') await delay(15);
    const result = await work();
    this.#trace(`${call} is done`);
    if (fault?.kind === 'answers wrongly') throw failure(call);
    return result;
  }

  override readMigrationData(limit: number): Promise<Uint8Array> {
    return this.do('read', () => super.readMigrationData(limit));
  }

  override writeMigrationData(data: Uint8Array): Promise<void> {
    return this.do('write', () => super.writeMigrationData(data));
  }

  override precopyInfo(): Promise<PrecopyInfo> {
    return this.do('precopy info', () => super.precopyInfo());
  }
}

class FaultyFeatures extends FeatureClient {
  readonly #do: (call: string, work: () => Promise<void>) => Promise<void>;

  constructor(door: FeatureDoor, doCall: (call: string, work: () => Promise<void>) => Promise<void>) {
    super(door);
    this.#do = doCall;
  }

  override setMigrationState(state: MigrationState): Promise<void> {
    return this.#do(`set ${migrationStateName(state)}`, () => super.setMigrationState(state));
  }
}

function failure(call: string): VfioError {
  return new VfioError('EIO', { operation: call, message: 'on purpose' });
}
