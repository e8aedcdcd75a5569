import type { Type1Container } from '../kernel/index.js';
import { type IovaRange, VfioError } from '../uapi/index.js';
import type { DirtyLog } from './dirty-log.js';
import { DirtyLogTracker } from './dirty-log-tracker.js';

/** What of a container the tracker asks. */
export type Type1DirtyLog = Pick<
  Type1Container,
  'info' | 'regions' | 'reportDirty' | 'startDirtyTracking' | 'stopDirtyTracking' | 'watchUnmaps'
>;

/**
 * Tracks by the container's own dirty pages (linux/vfio.h, VFIO_IOMMU_DIRTY_PAGES): the legacy interface.
 *
 * With a device that does DMA by itself, the kernel knows only what is mapped, and reports all of it each time. Of software devices (mdev) it
 * knows the pages that they have pinned, which count as dirty in each report, and those that they wrote through VFIO.
 */
export class Type1DirtyTracker extends DirtyLogTracker {
  constructor(container: Type1DirtyLog, options: { name?: string } = {}) {
    super(options.name ?? 'type 1 dirty pages', new ContainerLog(container));
  }
}

class ContainerLog implements DirtyLog {
  readonly space: Type1DirtyLog;
  #pageSize = 0n;
  #mostPages = 0n;

  constructor(container: Type1DirtyLog) {
    this.space = container;
  }

  get regions(): readonly IovaRange[] {
    return this.space.regions;
  }

  async start(unmapped: (region: IovaRange, bitmap: Uint32Array) => void): Promise<bigint> {
    const { dirtyTracking } = await this.space.info();
    if (dirtyTracking === undefined) {
      throw new VfioError('EOPNOTSUPP', {
        operation: 'IOMMU_DIRTY_PAGES',
        message: 'the container knows no dirty pages',
      });
    }
    // It reports in the smallest of its page sizes, and in no other.
    this.#pageSize = dirtyTracking.pageSizes & -dirtyTracking.pageSizes;
    this.#mostPages = dirtyTracking.maxBitmapBytes * 8n;
    await this.space.startDirtyTracking();
    this.space.watchUnmaps({ pageSize: this.#pageSize, unmapped });
    return this.#pageSize;
  }

  async stop(): Promise<void> {
    this.space.watchUnmaps(undefined);
    await this.space.stopDirtyTracking();
  }

  async report(region: IovaRange, bitmap: Uint32Array): Promise<void> {
    if (region.length / this.#pageSize > this.#mostPages) {
      const message = `a region of ${region.length} bytes; the kernel reports ${this.#mostPages * this.#pageSize}: map it in pieces`;
      throw new VfioError('E2BIG', { operation: 'IOMMU_DIRTY_PAGES', field: 'length', message });
    }
    await this.space.reportDirty(region, this.#pageSize, bitmap);
  }
}
