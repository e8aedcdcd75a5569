import { linux, PCI_NUM_IRQS, type Profile } from '../uapi/index.js';
import type { Device } from './device.js';
import type { DeviceDescription, DeviceHandle } from './device-handle.js';
import { FeatureClient, type FeatureDoor } from './feature-client.js';
import { dispatchFeature } from './feature-dispatch.js';
import { requireMigration } from './migration-machine.js';
import { LentMemory } from './user-memory.js';

/** The in-process transport: the same requests, byte for byte, with no wire between. */
export class LocalDevice implements DeviceHandle {
  readonly target: string;
  readonly features: FeatureClient;
  readonly #device: Device;

  /** @param profile the dialect to speak with the device */
  constructor(device: Device, profile: Profile = linux) {
    this.target = `local:${device.name}`;
    this.#device = device;
    this.features = new FeatureClient(localDoor(device, profile));
  }

  async info(): Promise<DeviceDescription> {
    const { flags, regions } = this.#device;
    return { flags, regions: regions.length, irqs: PCI_NUM_IRQS };
  }

  async regionRead(region: number, offset: number, count: number): Promise<Uint8Array> {
    const into = new Uint8Array(count);
    await this.#device.regionRead(region, offset, into);
    return into;
  }

  async regionWrite(region: number, offset: number, data: Uint8Array): Promise<void> {
    await this.#device.regionWrite(region, offset, data);
  }

  async readMigrationData(limit: number): Promise<Uint8Array> {
    return requireMigration(this.#device, 'MIG_DATA_READ').readData(limit);
  }

  async writeMigrationData(data: Uint8Array): Promise<void> {
    requireMigration(this.#device, 'MIG_DATA_WRITE').writeData(data);
  }

  async reset(): Promise<void> {
    await this.#device.reset();
  }

  async close(): Promise<void> {
    this.#device.disconnect();
  }
}

/** A door that leads straight to a device's feature dispatch. */
export function localDoor(device: Device, profile: Profile): FeatureDoor {
  const memory = new LentMemory();
  return {
    profile,
    maxReply: 64 * 1024 * 1024,
    maxRequest: 64 * 1024 * 1024,
    request: message => dispatchFeature(device, profile, message, memory),
    lend: bytes => memory.lend(bytes),
    take: address => memory.take(address),
  };
}
