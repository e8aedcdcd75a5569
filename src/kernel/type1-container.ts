import { orBits } from '../bitmap/index.js';
import { Turns } from '../device/index.js';
import { ioctl, ioctlOffThread, NativeBlock, OwnedFd } from '../native/index.js';
import { bitmapBits, bitmapBytes, bitOf, type IovaRange, VfioError } from '../uapi/index.js';
import { type AddressSpace, type DmaRegion, type DmaRegionFile, mapFile, RegionTable } from './address-space.js';
import { openDeviceFile } from './device-file.js';
import type { DeviceSite } from './device-site.js';
import { explainMap, explainSetIommu, notViable } from './diagnosis.js';
import { GuardedFd } from './guarded-fd.js';
import { ReportMemory } from './report-memory.js';
import { requireBitmap } from './require-bitmap.js';
import { type Roots, SYSTEM_ROOTS } from './roots.js';
import { type UnmapWatch, unmapWatched } from './unmap-watch.js';
import {
  DIRTY_PAGES_START,
  DIRTY_PAGES_STOP,
  decodeGroupStatus,
  decodeIommuInfo,
  encodeDirtyPages,
  encodeDirtyPagesGet,
  encodeGroupStatus,
  encodeIommuInfo,
  encodeMapDma,
  encodeUnmapDma,
  GROUP_VIABLE,
  type IommuInfo,
  regionInfoSize,
  TYPE1V2_IOMMU,
  VfioRequest,
} from './vfio-abi.js';

/**
 * The address space of devices that are opened by group: a container of type 1 v2 (linux/vfio.h, VFIO_TYPE1v2_IOMMU).
 *
 * A group stays open, and so its devices' memory mapped, until the container is closed. Memory can be mapped when the first device is open.
 */
export class Type1Container implements AddressSpace {
  readonly kind = 'container';
  readonly #file: GuardedFd;
  readonly #roots: Roots;
  readonly #groups = new Map<number, OwnedFd>();
  readonly #table = new RegionTable();
  readonly #turns = new Turns();
  readonly #reports = new ReportMemory();
  #watch: UnmapWatch | undefined;
  #closing: Promise<void> | undefined;

  private constructor(file: OwnedFd, roots: Roots) {
    this.#file = new GuardedFd(file, 'the container');
    this.#roots = roots;
  }

  /**
   * A container with nothing in it.
   * @throws VfioError ENODEV when VFIO is not loaded, EACCES without permission; EOPNOTSUPP for a kernel without type 1 v2
   */
  static create(roots: Roots = SYSTEM_ROOTS): Type1Container {
    const file = openDeviceFile({ path: '/dev/vfio/vfio', module: 'vfio-pci', roots });
    try {
      const operation = 'CHECK_EXTENSION';
      if (ioctl(file.fd, VfioRequest.CHECK_EXTENSION, TYPE1V2_IOMMU, operation) === 0) {
        throw new VfioError('EOPNOTSUPP', { operation, message: 'no type 1 v2 IOMMU: modprobe vfio_iommu_type1' });
      }
      return new Type1Container(file, roots);
    } catch (error) {
      file.close();
      throw error;
    }
  }

  get regions(): readonly IovaRange[] {
    return this.#table.regions;
  }

  /**
   * Opens a device of a group, the group first if it is not in this container yet.
   * @internal `KernelDevice.open` does it.
   * @throws VfioError EBUSY when the group is open elsewhere; EPERM when it is not viable; EACCES without permission; as the driver answers
   */
  openDevice(site: DeviceSite): Promise<OwnedFd> {
    return this.#turns.run(() =>
      this.#file.use('open', async container => {
        const known = this.#groups.get(site.group!);
        const group = known ?? this.#openGroup(site.group!, container);
        try {
          return await openInGroup(group, site.name);
        } catch (error) {
          // Others may want the group, which none of the devices here is in.
          if (known === undefined) this.#closeGroup(site.group!);
          throw error;
        }
      }),
    );
  }

  #openGroup(number: number, container: number): OwnedFd {
    const group = openDeviceFile({ path: `/dev/vfio/${number}`, module: 'vfio-pci', roots: this.#roots });
    try {
      const status = NativeBlock.from(encodeGroupStatus());
      ioctl(group.fd, VfioRequest.GROUP_GET_STATUS, status, 'GROUP_GET_STATUS');
      if ((decodeGroupStatus(status.bytes) & GROUP_VIABLE) === 0) throw notViable(number, this.#roots);
      const containerFd = new NativeBlock(4);
      containerFd.view.setInt32(0, container, true);
      ioctl(group.fd, VfioRequest.GROUP_SET_CONTAINER, containerFd, 'GROUP_SET_CONTAINER');
      if (this.#groups.size === 0) setIommu(container);
      this.#groups.set(number, group);
      return group;
    } catch (error) {
      group.close();
      throw error;
    }
  }

  #closeGroup(number: number): void {
    this.#groups.get(number)?.close();
    this.#groups.delete(number);
  }

  async dmaMap(region: DmaRegion, file: DmaRegionFile): Promise<void> {
    await mapFile(this.#table, region, file, add =>
      this.#withDevice('DMA_MAP', container => add((asked, address) => this.#map(container, asked, address))),
    );
  }

  async #map(container: number, region: DmaRegion, address: bigint): Promise<void> {
    const map = NativeBlock.from(encodeMapDma(region, address, region));
    try {
      await ioctlOffThread(container, VfioRequest.IOMMU_MAP_DMA, map, 'DMA_MAP');
    } catch (error) {
      throw explainMap(error, region.length, this.#roots);
    }
  }

  dmaUnmap(iova: bigint, length: bigint): Promise<void> {
    return this.#withDevice('DMA_UNMAP', container => this.#unmap(container, { iova, length }));
  }

  async dmaUnmapAll(): Promise<void> {
    if (this.#groups.size === 0) return;
    await this.#withDevice('DMA_UNMAP', container => this.#unmapAll(container));
  }

  async #unmapAll(container: number): Promise<void> {
    for (const region of this.#table.regions) await this.#unmap(container, region);
  }

  /** Region by region: what the kernel then answers is for whole regions, or not at all. */
  async #unmap(container: number, range: IovaRange): Promise<void> {
    for (const region of this.#table.within(range)) {
      if (this.#watch === undefined) await this.#unmapPlainly(container, region);
      else await this.#unmapTold(container, region, this.#watch);
    }
  }

  async #unmapPlainly(container: number, region: IovaRange): Promise<void> {
    const unmap = NativeBlock.from(encodeUnmapDma(region));
    await ioctlOffThread(container, VfioRequest.IOMMU_UNMAP_DMA, unmap, 'DMA_UNMAP');
    this.#table.remove(region);
  }

  #unmapTold(container: number, region: IovaRange, watch: UnmapWatch): Promise<void> {
    return unmapWatched(
      region,
      watch,
      async bitmap => bitmap.set(await this.#unmapDirty(container, region, watch.pageSize)),
      () => this.#unmapPlainly(container, region),
    );
  }

  /** Has what was written to a region told when it is unmapped, while dirty pages are tracked; `undefined`: no more. */
  watchUnmaps(watch: UnmapWatch | undefined): void {
    this.#watch = watch;
  }

  /** What the IOMMU of the container can map and track. @throws VfioError EINVAL while no device is open in it */
  info(): Promise<IommuInfo> {
    return this.#withDevice('IOMMU_GET_INFO', async container => {
      const ask = (room: number) => {
        const block = NativeBlock.from(encodeIommuInfo(room));
        ioctl(container, VfioRequest.IOMMU_GET_INFO, block, 'IOMMU_GET_INFO');
        return block.bytes;
      };
      const first = ask(24);
      const needed = Math.min(regionInfoSize(first), 65536);
      return decodeIommuInfo(needed > first.length ? ask(needed) : first);
    });
  }

  /** Begins type 1's own dirty tracking (VFIO_IOMMU_DIRTY_PAGES): of what is mapped, and pinned for devices. */
  async startDirtyTracking(): Promise<void> {
    await this.#dirtyPages(DIRTY_PAGES_START);
  }

  /** Ends it; idempotent. */
  async stopDirtyTracking(): Promise<void> {
    await this.#dirtyPages(DIRTY_PAGES_STOP);
  }

  #dirtyPages(flags: number): Promise<void> {
    return this.#withDevice('IOMMU_DIRTY_PAGES', async container => {
      const request = NativeBlock.from(encodeDirtyPages(flags));
      await ioctlOffThread(container, VfioRequest.IOMMU_DIRTY_PAGES, request, 'IOMMU_DIRTY_PAGES');
    });
  }

  /**
   * Reads and clears the dirty pages of an interval that cuts through no mapped region, and ORs them into `bitmap`.
   * @param pageSize bytes; the IOMMU's smallest, nothing else
   * @throws VfioError EINVAL when tracking is not started, for a region that is cut, another page size, or a bitmap that is too small
   */
  async reportDirty(range: IovaRange, pageSize: bigint, bitmap: Uint32Array): Promise<void> {
    const bytes = requireBitmap(range.length, pageSize, bitmap);
    await this.#withDevice('IOMMU_DIRTY_PAGES', container =>
      this.#reports.reportOffThread(bytes, address => {
        const request = NativeBlock.from(encodeDirtyPagesGet(range, { pageSize, size: bytes.length, address }));
        return ioctlOffThread(container, VfioRequest.IOMMU_DIRTY_PAGES, request, 'IOMMU_DIRTY_PAGES');
      }),
    );
  }

  /**
   * Unmaps one region, or several whole ones, and ORs into `bitmap` which of their pages are dirty (VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP).
   * @throws VfioError as {@link Type1Container.reportDirty}
   */
  async dmaUnmapDirty(range: IovaRange, pageSize: bigint, bitmap: Uint32Array): Promise<void> {
    requireBitmap(range.length, pageSize, bitmap);
    await this.#withDevice('DMA_UNMAP', async container => {
      for (const region of this.#table.within(range)) {
        const part = await this.#unmapDirty(container, region, pageSize);
        const bits = Number(bitmapBits(region.length, pageSize));
        orBits(part, 0, bitmap, Number(bitOf(region.iova, range.iova, pageSize)), bits);
      }
    });
  }

  async #unmapDirty(container: number, region: IovaRange, pageSize: bigint): Promise<Uint32Array> {
    const words = new Uint32Array(Number(bitmapBytes(region.length, pageSize)) / 4);
    const bytes = new Uint8Array(words.buffer);
    await this.#reports.reportOffThread(bytes, address => {
      const request = NativeBlock.from(encodeUnmapDma(region, { pageSize, size: bytes.length, address }));
      return ioctlOffThread(container, VfioRequest.IOMMU_UNMAP_DMA, request, 'DMA_UNMAP');
    });
    this.#table.remove(region);
    return words;
  }

  /** One after the other, and only while there is an IOMMU behind the container. */
  #withDevice<T>(operation: string, work: (container: number) => Promise<T>): Promise<T> {
    return this.#turns.run(() =>
      this.#file.use(operation, container => {
        if (this.#groups.size > 0) return work(container);
        const message = 'the container has no device yet, and so no IOMMU: open one first';
        throw new VfioError('EINVAL', { operation, field: 'container', message });
      }),
    );
  }

  close(): Promise<void> {
    this.#closing ??= this.#turns.run(() => this.#close());
    return this.#closing;
  }

  async #close(): Promise<void> {
    try {
      if (this.#groups.size > 0) await this.#file.use('close', container => this.#unmapAll(container));
    } catch {
      // What cannot be unmapped keeps its memory here: a device may still write there.
    }
    for (const group of this.#groups.keys()) this.#closeGroup(group);
    this.#reports.close();
    await this.#file.close();
  }
}

async function openInGroup(group: OwnedFd, device: string): Promise<OwnedFd> {
  const name = NativeBlock.from(Buffer.from(`${device}\0`));
  return new OwnedFd(await ioctlOffThread(group.fd, VfioRequest.GROUP_GET_DEVICE_FD, name, 'GROUP_GET_DEVICE_FD'));
}

function setIommu(container: number): void {
  try {
    ioctl(container, VfioRequest.SET_IOMMU, TYPE1V2_IOMMU, 'SET_IOMMU');
  } catch (error) {
    throw explainSetIommu(error);
  }
}
