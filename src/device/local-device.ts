import { backingFor, type DmaRegionSpec, type GuestMemory } from '../memory/index.js';
import { OwnedFd } from '../native/index.js';
import { linux, PCI_NUM_IRQS, type PrecopyInfo, type Profile, VfioError } from '../uapi/index.js';
import type { Device } from './device.js';
import type { DeviceDescription, DeviceHandle, RegionDescription } from './device-handle.js';
import { EventfdTrigger, requireEventFds } from './eventfd-trigger.js';
import { FeatureClient, type FeatureDoor } from './feature-client.js';
import { dispatchFeature } from './feature-dispatch.js';
import type { IrqInfo } from './interrupts.js';
import { requireMappable } from './mappable.js';
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

  async getRegionInfo(region: number): Promise<RegionDescription> {
    const info = this.#device.regions[region];
    if (info === undefined) {
      const message = `${this.#device.name} has no region ${region}`;
      throw new VfioError('EINVAL', { operation: 'GET_REGION_INFO', field: 'index', message });
    }
    return { size: info.size, flags: info.flags };
  }

  async regionRead(region: number, offset: number, count: number): Promise<Uint8Array> {
    const into = new Uint8Array(count);
    await this.#device.regionRead(region, offset, into);
    return into;
  }

  async regionWrite(region: number, offset: number, data: Uint8Array): Promise<void> {
    await this.#device.regionWrite(region, offset, data);
  }

  async mapMemory(region: DmaRegionSpec, memory: GuestMemory, offset = 0n): Promise<void> {
    requireMappable(region, memory, offset);
    const rights = { read: region.readable, write: region.writable };
    this.#device.dma.map.map(region, backingFor(memory.duplicateFd(), offset, region.length, rights));
  }

  async unmapMemory(iova: bigint, length: bigint): Promise<void> {
    this.#device.dma.map.unmap(iova, length);
    await this.#device.dma.landed();
  }

  async getIrqInfo(type: number): Promise<IrqInfo> {
    return this.#device.interrupts.info(type);
  }

  async setIrqTriggers(type: number, start: number, eventfds: readonly (number | undefined)[]): Promise<void> {
    this.#device.interrupts.check(type, start, eventfds.length);
    this.#device.interrupts.setTriggers(type, start, triggersFor(eventfds));
  }

  async unmaskIrqs(type: number, start: number, count: number): Promise<void> {
    this.#device.interrupts.unmask(type, start, count);
  }

  async readMigrationData(limit: number): Promise<Uint8Array> {
    return requireMigration(this.#device, 'MIG_DATA_READ').readData(limit);
  }

  async writeMigrationData(data: Uint8Array): Promise<void> {
    requireMigration(this.#device, 'MIG_DATA_WRITE').writeData(data);
  }

  async precopyInfo(): Promise<PrecopyInfo> {
    return requireMigration(this.#device, 'MIG_GET_PRECOPY_INFO').precopyInfo();
  }

  async reset(): Promise<void> {
    await this.#device.reset();
  }

  async close(): Promise<void> {
    this.#device.disconnect();
  }
}

/** @throws VfioError EINVAL for what is no eventfd, EBADF, EMFILE; nothing is left open then */
function triggersFor(eventfds: readonly (number | undefined)[]): (EventfdTrigger | undefined)[] {
  const files: OwnedFd[] = [];
  try {
    const triggers = eventfds.map(fd => {
      if (fd === undefined) return undefined;
      const file = OwnedFd.duplicateOf(fd);
      files.push(file);
      return new EventfdTrigger(file);
    });
    requireEventFds(files);
    return triggers;
  } catch (error) {
    for (const file of files) file.close();
    throw error;
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
