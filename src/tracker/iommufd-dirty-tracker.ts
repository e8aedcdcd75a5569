import type { IommufdDevice, IommufdSpace } from '../kernel/index.js';
import { type IovaRange, VfioError } from '../uapi/index.js';
import type { DirtyLog } from './dirty-log.js';
import { DirtyLogTracker } from './dirty-log-tracker.js';

/** What of an iommufd's address space the tracker asks. */
export type IommufdDirtyLog = Pick<
  IommufdSpace,
  | 'attachTracked'
  | 'detachTracked'
  | 'hasDirtyTracking'
  | 'iovaRanges'
  | 'regions'
  | 'reportDirty'
  | 'startDirtyTracking'
  | 'stopDirtyTracking'
  | 'watchUnmaps'
>;

/**
 * Tracks by the IOMMU's hardware, which notes in its page tables what devices write (linux/iommufd.h, IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
 * IOMMU_HWPT_SET_DIRTY_TRACKING, IOMMU_HWPT_GET_DIRTY_BITMAP).
 *
 * The devices are attached to page tables that can do so for as long as the tracker runs, one each.
 */
export class IommufdDirtyTracker extends DirtyLogTracker {
  /** @param devices those of the address space whose writes are tracked, each a `KernelDevice` opened with iommufd */
  constructor(space: IommufdDirtyLog, devices: readonly IommufdDevice[], options: { name?: string } = {}) {
    super(options.name ?? 'IOMMU dirty tracking', new PageTableLog(space, devices));
  }
}

interface TrackedDevice {
  readonly device: IommufdDevice;
  readonly pageTable: number;
}

class PageTableLog implements DirtyLog {
  readonly space: IommufdDirtyLog;
  readonly #devices: readonly IommufdDevice[];
  #tracked: TrackedDevice[] = [];
  #pageSize = 0n;

  constructor(space: IommufdDirtyLog, devices: readonly IommufdDevice[]) {
    this.space = space;
    this.#devices = devices;
  }

  get regions(): readonly IovaRange[] {
    return this.space.regions;
  }

  async start(unmapped: (region: IovaRange, bitmap: Uint32Array) => void): Promise<bigint> {
    this.#pageSize = (await this.space.iovaRanges()).alignment;
    try {
      for (const device of this.#devices) await this.#track(device);
    } catch (error) {
      await this.stop();
      throw error;
    }
    const pageTables = this.#tracked.map(({ pageTable }) => pageTable);
    this.space.watchUnmaps({ pageSize: this.#pageSize, pageTables, unmapped });
    return this.#pageSize;
  }

  async #track(device: IommufdDevice): Promise<void> {
    await this.#requireTracking(device);
    const pageTable = await this.space.attachTracked(device);
    this.#tracked.push({ device, pageTable });
    await this.space.startDirtyTracking(pageTable);
  }

  async #requireTracking(device: IommufdDevice): Promise<void> {
    const cannot = (message: string, cause?: unknown) =>
      new VfioError('EOPNOTSUPP', { operation: 'GET_HW_INFO', field: 'out_capabilities', message, cause });
    const notesWrites = await this.space.hasDirtyTracking(device).catch((error: unknown) => {
      const isSoftware = error instanceof VfioError && error.errno === 'ENOENT';
      throw isSoftware
        ? cannot(`device ${device.iommufdId} is a software device, with no IOMMU behind it`, error)
        : error;
    });
    if (!notesWrites) throw cannot(`the IOMMU behind device ${device.iommufdId} does not note what devices write`);
  }

  /** Takes down as much as can be; the first failure is thrown then. */
  async stop(): Promise<void> {
    this.space.watchUnmaps(undefined);
    const tracked = this.#tracked.splice(0);
    const results = await Promise.allSettled(
      tracked.flatMap(({ device, pageTable }) => [
        this.space.stopDirtyTracking(pageTable),
        this.space.detachTracked(device, pageTable),
      ]),
    );
    for (const result of results) if (result.status === 'rejected') throw result.reason;
  }

  async report(region: IovaRange, bitmap: Uint32Array): Promise<void> {
    for (const { pageTable } of this.#tracked) await this.space.reportDirty(pageTable, region, this.#pageSize, bitmap);
  }
}
