import {
  type DeviceDescription,
  type DeviceHandle,
  FeatureClient,
  type FeatureDoor,
  type IrqInfo,
  requireMappable,
} from '../device/index.js';
import type { DmaRegionSpec, GuestMemory } from '../memory/index.js';
import { ioctl, NativeBlock, type OwnedFd } from '../native/index.js';
import { IrqSet, type PrecopyInfo, VfioError } from '../uapi/index.js';
import type { AddressSpace, DmaRegion, DmaRegionFile } from './address-space.js';
import { attachPageTable } from './attach-page-table.js';
import type { DeviceSite } from './device-site.js';
import { KernelFeatureDoor } from './feature-door.js';
import { GuardedFd } from './guarded-fd.js';
import { KernelIrqs } from './kernel-irqs.js';
import { KernelRegions, type MappedRegionArea } from './kernel-regions.js';
import { MigrationFile } from './migration-file.js';
import { type OpenedDevice, type OpenOptions, openDevice } from './open-device.js';
import { decodeDeviceInfo, encodeDeviceInfo, type KernelRegionInfo, VfioRequest } from './vfio-abi.js';

/**
 * A real device, or one of the kernel's, behind Linux VFIO (linux/vfio.h).
 *
 * Every call throws VfioError: the kernel's own errno, EBADF after {@link KernelDevice.close}.
 */
export class KernelDevice implements DeviceHandle {
  readonly target: string;
  readonly features: FeatureClient;
  /** The requests beneath {@link KernelDevice.features}. */
  readonly door: FeatureDoor;
  /** What the device sees as memory. Of its own unless another was given; then it is closed with the device. */
  readonly space: AddressSpace;
  /** The device's place in sysfs. */
  readonly site: DeviceSite;
  /** The device's number in the iommufd of its address space; `undefined` when it was opened by group. */
  readonly iommufdId: number | undefined;
  readonly #file: GuardedFd;
  readonly #ownsSpace: boolean;
  readonly #migration = new MigrationFile();
  readonly #door: KernelFeatureDoor;
  readonly #regions: KernelRegions;
  readonly #irqs: KernelIrqs;
  #closing: Promise<void> | undefined;

  private constructor(target: string, file: OwnedFd, opened: OpenedDevice) {
    this.target = `vfio:${target}`;
    this.space = opened.space;
    this.site = opened.site;
    this.iommufdId = opened.iommufdId;
    this.#ownsSpace = opened.ownsSpace;
    this.#file = new GuardedFd(file, 'the device');
    this.#door = new KernelFeatureDoor(this.#file, this.#migration);
    this.door = this.#door;
    this.features = new FeatureClient(this.#door);
    this.#regions = new KernelRegions(this.#file);
    this.#irqs = new KernelIrqs(this.#file);
  }

  /**
   * Opens a device.
   * @param target a PCI address (`0000:3b:00.2`), the UUID of a mediated device, the name of a device on another bus, `/dev/vfio/N` with
   *   `:NAME` behind it where the group has several devices, `/dev/vfio/devices/vfioN`, or a folder in sysfs
   * @throws VfioError ENODEV: there is no such device, no IOMMU, no VFIO driver has it, or VFIO is not loaded; EACCES: no permission; EPERM: a
   *   driver works with another device of its group; EBUSY: somebody has it. Each message says how to put it right.
   */
  static async open(target: string, options: OpenOptions = {}): Promise<KernelDevice> {
    const opened = await openDevice(target, options);
    return new KernelDevice(target, opened.file, opened);
  }

  /**
   * Attaches the device to a page table of the iommufd of its address space, in place of the one before.
   * @throws VfioError EINVAL for a page table that does not fit the device, ENOENT for one that is not there; ENOTTY when opened by group
   */
  attachPageTable(pageTable: number): Promise<void> {
    return this.#file.use('ATTACH_IOMMUFD_PT', fd => attachPageTable(fd, pageTable));
  }

  async info(): Promise<DeviceDescription> {
    const block = NativeBlock.from(encodeDeviceInfo());
    ioctl(this.#file.now('GET_INFO'), VfioRequest.DEVICE_GET_INFO, block, 'GET_INFO');
    return decodeDeviceInfo(block.bytes);
  }

  /** What a region is. @throws VfioError EINVAL for one that does not exist */
  async getRegionInfo(region: number): Promise<KernelRegionInfo> {
    return this.#regions.info(region);
  }

  /** What an IRQ type is. @throws VfioError EINVAL for one that does not exist */
  async getIrqInfo(type: number): Promise<IrqInfo> {
    return this.#irqs.info(type);
  }

  regionRead(region: number, offset: number, count: number): Promise<Uint8Array> {
    return this.#regions.read(region, offset, count);
  }

  regionWrite(region: number, offset: number, data: Uint8Array): Promise<void> {
    return this.#regions.write(region, offset, data);
  }

  /**
   * Maps what a region lets be mapped; each area is the caller's, to be closed.
   *
   * For memory, such as a frame buffer. Registers take accesses of their own width only (QEMU's edu reads 0 by single bytes), which a view of
   * bytes does not make and a copy does not keep: an aligned Uint32Array element does, and {@link KernelDevice.regionRead} always does.
   * @returns none for a region that is reached by calls alone
   * @throws VfioError EINVAL for a region that does not exist; as mmap(2)
   */
  async mapRegion(region: number): Promise<MappedRegionArea[]> {
    return this.#regions.map(region);
  }

  async mapMemory(region: DmaRegionSpec, memory: GuestMemory, offset = 0n): Promise<void> {
    requireMappable(region, memory, offset);
    await this.dmaMap(region, { fd: memory.fd, offset });
  }

  unmapMemory(iova: bigint, length: bigint): Promise<void> {
    return this.dmaUnmap(iova, length);
  }

  /** Maps memory for the device, and for all that share its {@link KernelDevice.space}. @throws VfioError as {@link AddressSpace.dmaMap} */
  dmaMap(region: DmaRegion, file: DmaRegionFile): Promise<void> {
    return this.space.dmaMap(region, file);
  }

  /** Unmaps one region, or several whole ones. @throws VfioError EINVAL for anything else; nothing is unmapped then */
  dmaUnmap(iova: bigint, length: bigint): Promise<void> {
    return this.space.dmaUnmap(iova, length);
  }

  /** Unmaps everything. */
  dmaUnmapAll(): Promise<void> {
    return this.space.dmaUnmapAll();
  }

  /**
   * Gives vectors `start`… their eventfds; `undefined` takes one away.
   * @param eventfds stay the caller's, who may close them when the call has returned its promise
   */
  async setIrqTriggers(type: number, start: number, eventfds: readonly (number | undefined)[]): Promise<void> {
    this.#irqs.setTriggers(type, start, eventfds);
  }

  /** Takes all triggers of a type away. */
  async disableIrqs(type: number): Promise<void> {
    this.#irqs.disable(type);
  }

  /** Masks vectors. */
  async maskIrqs(type: number, start: number, count: number): Promise<void> {
    this.#irqs.act(IrqSet.ACTION_MASK, type, start, count);
  }

  /** Unmasks vectors; INTx is delivered again while it is asserted. */
  async unmaskIrqs(type: number, start: number, count: number): Promise<void> {
    this.#irqs.act(IrqSet.ACTION_UNMASK, type, start, count);
  }

  /** Delivers interrupts as if the device had raised them. */
  async triggerIrqs(type: number, start: number, count: number): Promise<void> {
    this.#irqs.act(IrqSet.ACTION_TRIGGER, type, start, count);
  }

  /** At most 1 MiB at a time. @throws VfioError EINVAL in a state without data; as the device answers */
  readMigrationData(limit: number): Promise<Uint8Array> {
    return this.#migration.read(limit);
  }

  /** @throws VfioError EINVAL in a state without data; as the device answers, and a part may have been taken then */
  writeMigrationData(data: Uint8Array): Promise<void> {
    return this.#migration.write(data);
  }

  /** `undefined` of a driver that does not know the request. @throws VfioError EINVAL outside of PRE_COPY and PRE_COPY_P2P */
  async precopyInfo(): Promise<PrecopyInfo | undefined> {
    try {
      return this.#migration.precopyInfo();
    } catch (error) {
      if (error instanceof VfioError && error.errno === 'ENOTTY') return undefined;
      throw error;
    }
  }

  /**
   * Resets the device, in its turn among the requests of {@link KernelDevice.features}: it is RUNNING then, and its migration data is gone.
   * @throws VfioError where it cannot be reset (DeviceFlag.RESET of {@link KernelDevice.info} is not set): EINVAL of vfio-pci, ENOTTY of drivers
   *   without a reset
   */
  reset(): Promise<void> {
    return this.#door.reset();
  }

  /**
   * Lets go of the device, and of its address space unless that was given. What other threads still ask of the kernel is waited for. The
   * kernel resets the device when nobody has it any more, and its log is gone.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const closed = this.#file.close();
    await Promise.all([closed, this.#migration.close(), this.#door.close()]);
    if (this.#ownsSpace) await this.space.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
