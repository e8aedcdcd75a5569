import type { DmaStimulus } from '../../../src/conformance/index.js';
import {
  type DeviceHandle,
  DmaPort,
  dispatchFeature,
  FeatureClient,
  LentMemory,
  LocalDevice,
  PciDevice,
  type UserMemory,
} from '../../../src/device/index.js';
import { DmaMap } from '../../../src/memory/index.js';
import { decodeFeatureRequest, Feature, type Profile, VfioError, viewOf } from '../../../src/uapi/index.js';
import { PlainLog } from './plain-log.js';

/** Everything: for {@link PlainLog.forget}. */
export const WHOLE_SPACE = { iova: 0n, length: 1n << 64n };

/**
 * A device that keeps the contract, made to be deviated from: what a host can see of it comes from methods, each of which a deviation replaces.
 * DMA is made by calling {@link PlainDevice.dmaWrite} and {@link PlainDevice.dmaRead}; it needs no memory, as the log is what is looked at.
 */
export class PlainDevice extends PciDevice {
  override readonly dma: DmaPort;
  readonly log: PlainLog;

  constructor(log = new PlainLog({ pageSizes: [4096n, 65536n, 2n ** 21n] }), migrationFlags?: number) {
    super({
      name: 'deviant',
      vendorId: 0x1234,
      deviceId: 0x0002,
      classCode: 0xff0000,
      bars: [{ index: 0, size: 4096 }],
      ...(migrationFlags === undefined ? {} : { migrationFlags }),
    });
    this.log = log;
    this.dma = new DmaPort(new DmaMap(), log);
  }

  protected override readRegister(_bar: number, _offset: number, into: Uint8Array): void {
    into.fill(0);
  }

  protected override writeRegister(): void {}

  dmaWrite(iova: bigint, length: number): void {
    this.log.record(iova, length);
  }

  dmaRead(_iova: bigint, _length: number): void {}

  /** A feature request, as it reaches the device. */
  request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    return dispatchFeature(this, profile, message, memory);
  }

  /** Memory was taken away. */
  unmapped(_iova: bigint, _length: bigint): void {}

  readData(limit: number): Uint8Array {
    return this.migration!.readData(limit);
  }

  writeData(data: Uint8Array): void {
    this.migration!.writeData(data);
  }
}

/** A host's hold on a plain device in this process. */
export class PlainHandle extends LocalDevice {
  override readonly features: FeatureClient;
  readonly #device: PlainDevice;

  constructor(device: PlainDevice, profile: Profile) {
    super(device, profile);
    const memory = new LentMemory();
    this.#device = device;
    this.features = new FeatureClient({
      profile,
      maxReply: 64 * 2 ** 20,
      maxRequest: 64 * 2 ** 20,
      request: message => device.request(message, profile, memory),
      lend: bytes => memory.lend(bytes),
      take: address => memory.take(address),
    });
  }

  override async unmapMemory(iova: bigint, length: bigint): Promise<void> {
    await super.unmapMemory(iova, length);
    this.#device.unmapped(iova, length);
  }

  override async readMigrationData(limit: number): Promise<Uint8Array> {
    return this.#device.readData(limit);
  }

  override async writeMigrationData(data: Uint8Array): Promise<void> {
    this.#device.writeData(data);
  }
}

/** DMA by calling the device. */
export function stimulusOf(device: PlainDevice): DmaStimulus {
  return {
    name: 'called',
    limits: { alignment: 1, maxLength: 2 ** 30, emptyWrites: true },
    prepare: async (_device: DeviceHandle, windows) => windows,
    write: async (iova, length) => device.dmaWrite(iova, length),
    read: async (iova, length) => device.dmaRead(iova, length),
    close: async () => {},
  };
}

/** Which of the three a request is, and nothing of the rest; `undefined` for PROBE, and for what cannot be read. */
export function kindOf(message: Uint8Array, profile: Profile): 'start' | 'stop' | 'report' | 'state' | undefined {
  if (message.length < 8) return undefined;
  const flags = viewOf(message).getUint32(4, true);
  const index = flags & 0xffff;
  if (flags >>> 16 === 2) {
    if (index === profile.start) return 'start';
    if (index === profile.stop) return 'stop';
    if (index === Feature.MIG_DEVICE_STATE) return 'state';
  }
  return flags >>> 16 === 1 && index === profile.report ? 'report' : undefined;
}

/** The data of a request, to be read and changed. */
export function dataOf(message: Uint8Array): DataView {
  return viewOf(decodeFeatureRequest(message).data);
}

export function refusal(errno: 'EINVAL' | 'EPERM' | 'EIO' | 'ENOENT' | 'E2BIG', message: string): VfioError {
  return new VfioError(errno, { operation: 'DEVICE_FEATURE', message });
}
