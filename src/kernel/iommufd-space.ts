import { Turns } from '../device/index.js';
import { ioctl, ioctlOffThread, NativeBlock, type OwnedFd } from '../native/index.js';
import { type IovaRange, VfioError } from '../uapi/index.js';
import { type AddressSpace, type DmaRegion, type DmaRegionFile, mapFile, RegionTable } from './address-space.js';
import { attachPageTable } from './attach-page-table.js';
import { openDeviceFile } from './device-file.js';
import type { DeviceSite } from './device-site.js';
import { explainBind, explainMap } from './diagnosis.js';
import { GuardedFd } from './guarded-fd.js';
import {
  decodeHwInfo,
  decodeHwptAlloc,
  decodeIoasAlloc,
  decodeIoasRanges,
  decodeIovaRangesHead,
  encodeDestroy,
  encodeGetDirtyBitmap,
  encodeHwInfo,
  encodeHwptAlloc,
  encodeIoasAlloc,
  encodeIoasMap,
  encodeIoasUnmap,
  encodeIovaRanges,
  encodeSetDirtyTracking,
  HW_CAP_DIRTY_TRACKING,
  HWPT_ALLOC_DIRTY_TRACKING,
  HWPT_GET_DIRTY_BITMAP_NO_CLEAR,
  IommufdRequest,
} from './iommufd-abi.js';
import { ReportMemory } from './report-memory.js';
import { requireBitmap } from './require-bitmap.js';
import { type Roots, SYSTEM_ROOTS } from './roots.js';
import { type UnmapWatch, unmapWatched } from './unmap-watch.js';
import { decodeBind, encodeBind, VfioRequest } from './vfio-abi.js';

/** A device that is bound to an iommufd. */
export interface BoundDevice {
  /** The device's descriptor; its owner closes it. */
  readonly file: OwnedFd;
  /** The device's number in the iommufd. */
  readonly id: number;
}

/** A device of an address space, as its page tables see it: a `KernelDevice` is one. */
export interface IommufdDevice {
  /** The device's number in the iommufd; `undefined` when it was opened by group. */
  readonly iommufdId: number | undefined;
  /** Attaches the device to a page table or address space of its iommufd, in place of the one before. */
  attachPageTable(pageTable: number): Promise<void>;
}

/** An {@link UnmapWatch} of page tables that note writes. */
export interface PageTableWatch extends UnmapWatch {
  readonly pageTables: readonly number[];
}

interface PageTableReport extends IovaRange {
  readonly pageSize: bigint;
  /** HWPT_GET_DIRTY_BITMAP bits. */
  readonly flags: number;
}

/** The address space of devices that are opened by their character devices: an IOAS of an iommufd (linux/iommufd.h). */
export class IommufdSpace implements AddressSpace {
  readonly kind = 'iommufd';
  readonly #file: GuardedFd;
  readonly #ioas: number;
  readonly #roots: Roots;
  readonly #table = new RegionTable();
  readonly #turns = new Turns();
  readonly #reports = new ReportMemory();
  #watch: PageTableWatch | undefined;
  #closing: Promise<void> | undefined;

  private constructor(file: OwnedFd, ioas: number, roots: Roots) {
    this.#file = new GuardedFd(file, 'the iommufd');
    this.#ioas = ioas;
    this.#roots = roots;
  }

  /**
   * An iommufd with one empty address space.
   * @throws VfioError ENODEV when the kernel has no iommufd, EACCES without permission
   */
  static create(roots: Roots = SYSTEM_ROOTS): IommufdSpace {
    const file = openDeviceFile({ path: '/dev/iommu', module: 'iommufd', roots });
    try {
      const alloc = NativeBlock.from(encodeIoasAlloc());
      ioctl(file.fd, IommufdRequest.IOAS_ALLOC, alloc, 'IOAS_ALLOC');
      return new IommufdSpace(file, decodeIoasAlloc(alloc.bytes), roots);
    } catch (error) {
      file.close();
      throw error;
    }
  }

  get regions(): readonly IovaRange[] {
    return this.#table.regions;
  }

  /**
   * Opens a device's character device and attaches it to the address space.
   * @internal `KernelDevice.open` does it.
   * @throws VfioError EBUSY when it is open elsewhere, or its group in a driver's use; EACCES without permission; as the driver answers
   */
  openDevice(site: DeviceSite): Promise<BoundDevice> {
    return this.#exclusively('open', async iommufd => {
      const path = `/dev/vfio/devices/${site.cdev}`;
      const file = openDeviceFile({ path, module: 'vfio-pci', roots: this.#roots });
      try {
        const bind = NativeBlock.from(encodeBind(iommufd));
        await ioctlOffThread(file.fd, VfioRequest.DEVICE_BIND_IOMMUFD, bind, 'BIND_IOMMUFD');
        await attachPageTable(file.fd, this.#ioas);
        return { file, id: decodeBind(bind.bytes) };
      } catch (error) {
        // Before the reason is looked for: this descriptor is none.
        file.close();
        throw explainBind(error, site, this.#roots);
      }
    });
  }

  async dmaMap(region: DmaRegion, file: DmaRegionFile): Promise<void> {
    await mapFile(this.#table, region, file, add =>
      this.#exclusively('DMA_MAP', iommufd => add((asked, address) => this.#map(iommufd, asked, address))),
    );
  }

  async #map(iommufd: number, region: DmaRegion, address: bigint): Promise<void> {
    const map = NativeBlock.from(encodeIoasMap(this.#ioas, region, address, region));
    try {
      await ioctlOffThread(iommufd, IommufdRequest.IOAS_MAP, map, 'DMA_MAP');
    } catch (error) {
      throw explainMap(error, region.length, this.#roots);
    }
  }

  dmaUnmap(iova: bigint, length: bigint): Promise<void> {
    return this.#exclusively('DMA_UNMAP', iommufd => this.#unmap(iommufd, { iova, length }));
  }

  async dmaUnmapAll(): Promise<void> {
    await this.#exclusively('DMA_UNMAP', iommufd => this.#unmapAll(iommufd));
  }

  async #unmapAll(iommufd: number): Promise<void> {
    for (const region of this.#table.regions) await this.#unmap(iommufd, region);
  }

  /** Region by region: what the kernel then answers is for whole regions, or not at all. */
  async #unmap(iommufd: number, range: IovaRange): Promise<void> {
    for (const region of this.#table.within(range)) {
      if (this.#watch === undefined) await this.#unmapPlainly(iommufd, region);
      else await this.#unmapTold(iommufd, region, this.#watch);
    }
  }

  async #unmapPlainly(iommufd: number, region: IovaRange): Promise<void> {
    const unmap = NativeBlock.from(encodeIoasUnmap(this.#ioas, region));
    await ioctlOffThread(iommufd, IommufdRequest.IOAS_UNMAP, unmap, 'DMA_UNMAP');
    this.#table.remove(region);
  }

  /**
   * The kernel unmaps without a word of what was written: it is read before, and left as it is, which spares the IOMMU a flush. What a device
   * still writes between the two is in no report: linux/iommufd.h has no call that does both.
   */
  #unmapTold(iommufd: number, region: IovaRange, watch: PageTableWatch): Promise<void> {
    const { pageSize, pageTables } = watch;
    return unmapWatched(
      region,
      watch,
      async bitmap => {
        const asked = { ...region, pageSize, flags: HWPT_GET_DIRTY_BITMAP_NO_CLEAR };
        for (const pageTable of pageTables) await this.#reportTo(iommufd, pageTable, asked, bitmap);
        await this.#unmapPlainly(iommufd, region);
      },
      () => this.#unmapPlainly(iommufd, region),
    );
  }

  /** Has what was written to a region told when it is unmapped, while dirty pages are tracked; `undefined`: no more. */
  watchUnmaps(watch: PageTableWatch | undefined): void {
    this.#watch = watch;
  }

  /** Where memory may be mapped, and to what it must be aligned, bytes. */
  iovaRanges(): Promise<{ ranges: IovaRange[]; alignment: bigint }> {
    return this.#exclusively('IOAS_IOVA_RANGES', async iommufd => {
      const room = 256;
      const entries = new NativeBlock(16 * room);
      const head = NativeBlock.from(encodeIovaRanges(this.#ioas, room, entries.address));
      ioctl(iommufd, IommufdRequest.IOAS_IOVA_RANGES, head, 'IOAS_IOVA_RANGES');
      const { count, alignment } = decodeIovaRangesHead(head.bytes);
      return { ranges: decodeIoasRanges(entries.bytes, count), alignment };
    });
  }

  /** Whether the IOMMU behind a device notes writes. @throws VfioError ENOENT, EOPNOTSUPP for a device with no IOMMU of its own */
  hasDirtyTracking(device: IommufdDevice): Promise<boolean> {
    return this.#exclusively('GET_HW_INFO', async iommufd => {
      const info = NativeBlock.from(encodeHwInfo(requireId(device)));
      ioctl(iommufd, IommufdRequest.GET_HW_INFO, info, 'GET_HW_INFO');
      return (decodeHwInfo(info.bytes) & HW_CAP_DIRTY_TRACKING) !== 0n;
    });
  }

  /**
   * A page table of the address space whose IOMMU notes writes, with the device attached to it (IOMMU_HWPT_ALLOC).
   * @returns its number
   * @throws VfioError EOPNOTSUPP where the IOMMU cannot; ENOENT, EINVAL for a device with no IOMMU of its own
   */
  attachTracked(device: IommufdDevice): Promise<number> {
    return this.#exclusively('HWPT_ALLOC', async iommufd => {
      const alloc = NativeBlock.from(encodeHwptAlloc(HWPT_ALLOC_DIRTY_TRACKING, requireId(device), this.#ioas));
      await ioctlOffThread(iommufd, IommufdRequest.HWPT_ALLOC, alloc, 'HWPT_ALLOC');
      const hwpt = decodeHwptAlloc(alloc.bytes);
      try {
        await device.attachPageTable(hwpt);
        return hwpt;
      } catch (error) {
        destroy(iommufd, hwpt);
        throw error;
      }
    });
  }

  /**
   * Attaches the device to the address space itself again, and gives the page table of {@link IommufdSpace.attachTracked} back. A device that is
   * closed has left it already.
   */
  detachTracked(device: IommufdDevice, hwpt: number): Promise<void> {
    return this.#exclusively('ATTACH_IOMMUFD_PT', async iommufd => {
      await device.attachPageTable(this.#ioas).catch(unlessClosed);
      destroy(iommufd, hwpt);
    });
  }

  /** Switches a page table's tracking on (IOMMU_HWPT_SET_DIRTY_TRACKING). @throws VfioError ENOENT, EOPNOTSUPP */
  startDirtyTracking(hwpt: number): Promise<void> {
    return this.#setTracking(hwpt, true);
  }

  /** Switches a page table's tracking off. @throws VfioError ENOENT, EOPNOTSUPP */
  stopDirtyTracking(hwpt: number): Promise<void> {
    return this.#setTracking(hwpt, false);
  }

  #setTracking(hwpt: number, enabled: boolean): Promise<void> {
    return this.#exclusively('HWPT_SET_DIRTY_TRACKING', async iommufd => {
      const request = NativeBlock.from(encodeSetDirtyTracking(hwpt, enabled));
      await ioctlOffThread(iommufd, IommufdRequest.HWPT_SET_DIRTY_TRACKING, request, 'HWPT_SET_DIRTY_TRACKING');
    });
  }

  /**
   * Reads and clears what the IOMMU noted of an interval, and ORs it into `bitmap`.
   * @param pageSize bytes; interval and page size must fit each other
   * @throws VfioError ENOENT, EOPNOTSUPP, EINVAL as the kernel answers
   */
  reportDirty(hwpt: number, range: IovaRange, pageSize: bigint, bitmap: Uint32Array): Promise<void> {
    return this.#report(hwpt, { ...range, pageSize, flags: 0 }, bitmap);
  }

  /** {@link IommufdSpace.reportDirty} that clears nothing: the next report has it again. */
  peekDirty(hwpt: number, range: IovaRange, pageSize: bigint, bitmap: Uint32Array): Promise<void> {
    return this.#report(hwpt, { ...range, pageSize, flags: HWPT_GET_DIRTY_BITMAP_NO_CLEAR }, bitmap);
  }

  #report(hwpt: number, asked: PageTableReport, bitmap: Uint32Array): Promise<void> {
    return this.#exclusively('HWPT_GET_DIRTY_BITMAP', iommufd => this.#reportTo(iommufd, hwpt, asked, bitmap));
  }

  /**
   * In one piece: the IOMMU notes a write once for each of its own pages, up to 1 GiB, and a question that ends in the middle of one clears it
   * for the rest of it, too.
   */
  async #reportTo(iommufd: number, hwpt: number, asked: PageTableReport, bitmap: Uint32Array): Promise<void> {
    const bytes = requireBitmap(asked.length, asked.pageSize, bitmap);
    await this.#reports.reportOffThread(bytes, address => {
      const request = NativeBlock.from(encodeGetDirtyBitmap(hwpt, { ...asked, address }));
      return ioctlOffThread(iommufd, IommufdRequest.HWPT_GET_DIRTY_BITMAP, request, 'HWPT_GET_DIRTY_BITMAP');
    });
  }

  #exclusively<T>(operation: string, work: (iommufd: number) => Promise<T>): Promise<T> {
    return this.#turns.run(() => this.#file.use(operation, work));
  }

  close(): Promise<void> {
    this.#closing ??= this.#turns.run(() => this.#close());
    return this.#closing;
  }

  async #close(): Promise<void> {
    try {
      await this.#file.use('close', iommufd => this.#unmapAll(iommufd));
    } catch {
      // What cannot be unmapped keeps its memory here: a device may still write there.
    }
    this.#reports.close();
    await this.#file.close();
  }
}

function requireId({ iommufdId }: IommufdDevice): number {
  if (iommufdId !== undefined) return iommufdId;
  const message = 'the device was opened by its group, and is in no iommufd';
  throw new VfioError('EINVAL', { operation: 'iommufd', field: 'device', message });
}

function unlessClosed(error: unknown): void {
  if (!(error instanceof VfioError && error.errno === 'EBADF')) throw error;
}

function destroy(iommufd: number, id: number): void {
  ioctl(iommufd, IommufdRequest.DESTROY, NativeBlock.from(encodeDestroy(id)), 'DESTROY');
}
