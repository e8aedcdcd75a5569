import { setBit } from '../../src/bitmap/index.js';
import type { IommufdDevice, UnmapWatch } from '../../src/kernel/index.js';
import type { IommufdDirtyLog, Type1DirtyLog } from '../../src/tracker/index.js';
import { type IovaRange, VfioError } from '../../src/uapi/index.js';

export const PAGE = 4096n;

/** What the kernel does with an address space's log, a page at a time; both interfaces to it answer as the kernel does. */
class NaiveAddressSpace {
  /** Calls that fail, by name, one after the other. */
  failing: string[] = [];
  tracking = false;
  readonly #mapped = new Map<bigint, { region: IovaRange; dirty: Set<bigint> }>();
  #watch: UnmapWatch | undefined;

  get regions(): readonly IovaRange[] {
    return [...this.#mapped.values()].map(({ region }) => region);
  }

  watchUnmaps(watch: UnmapWatch | undefined): void {
    this.#watch = watch;
  }

  map(region: IovaRange): void {
    this.#mapped.set(region.iova, { region, dirty: new Set() });
  }

  unmap(iova: bigint): void {
    const { region, dirty } = this.#mapped.get(iova)!;
    this.#mapped.delete(iova);
    if (this.#watch === undefined) return;
    const bitmap = new Uint32Array(Number((region.length / PAGE + 63n) / 64n) * 2);
    for (const page of dirty) setBit(bitmap, Number(page - iova / PAGE));
    this.#watch.unmapped(region, bitmap);
  }

  /** A device writes to a page. @returns whether it is mapped */
  write(page: bigint): boolean {
    for (const { region, dirty } of this.#mapped.values()) {
      if (page * PAGE < region.iova || page * PAGE >= region.iova + region.length) continue;
      if (this.tracking) dirty.add(page);
      return true;
    }
    return false;
  }

  protected async call(name: string): Promise<void> {
    await Promise.resolve();
    if (this.failing[0] !== name) return;
    this.failing.shift();
    throw new VfioError('EIO', { operation: name, message: 'made to fail' });
  }

  protected read(region: IovaRange, pageSize: bigint, bitmap: Uint32Array): void {
    const found = this.#mapped.get(region.iova);
    if (!this.tracking || pageSize !== PAGE) throw new VfioError('EINVAL', { operation: 'report' });
    if (found === undefined || found.region.length !== region.length) {
      throw new VfioError('EINVAL', { operation: 'report', field: 'iova', message: 'no whole region' });
    }
    for (const page of found.dirty) setBit(bitmap, Number(page - region.iova / PAGE));
    found.dirty.clear();
    // Bits behind the last page say nothing.
    for (let bit = Number(region.length / PAGE); bit < bitmap.length * 32; bit++) setBit(bitmap, bit);
  }

  protected startLog(): void {
    this.tracking = true;
  }

  protected stopLog(): void {
    this.tracking = false;
    for (const { dirty } of this.#mapped.values()) dirty.clear();
  }
}

/** A container of type 1. */
export class NaiveContainer extends NaiveAddressSpace implements Type1DirtyLog {
  maxBitmapBytes: bigint | undefined = 2n ** 28n;

  async info() {
    const { maxBitmapBytes } = this;
    const dirtyTracking = maxBitmapBytes === undefined ? undefined : { pageSizes: PAGE, maxBitmapBytes };
    return { pageSizes: 0x4020_1000n, iovaRanges: undefined, dirtyTracking };
  }

  async startDirtyTracking(): Promise<void> {
    await this.call('start');
    this.startLog();
  }

  async stopDirtyTracking(): Promise<void> {
    await this.call('stop');
    this.stopLog();
  }

  async reportDirty(region: IovaRange, pageSize: bigint, bitmap: Uint32Array): Promise<void> {
    await this.call('report');
    this.read(region, pageSize, bitmap);
  }
}

/** An iommufd's address space whose IOMMU can note writes. */
export class NaiveIommufd extends NaiveAddressSpace implements IommufdDirtyLog {
  capable = true;
  readonly pageTables = new Set<number>();

  async iovaRanges() {
    return { ranges: [{ iova: 0n, length: 1n << 48n }], alignment: PAGE };
  }

  async hasDirtyTracking(): Promise<boolean> {
    await this.call('info');
    return this.capable;
  }

  async attachTracked(device: IommufdDevice): Promise<number> {
    await this.call('attach');
    this.pageTables.add(device.iommufdId! + 100);
    return device.iommufdId! + 100;
  }

  async detachTracked(_: IommufdDevice, pageTable: number): Promise<void> {
    await this.call('detach');
    this.pageTables.delete(pageTable);
  }

  async startDirtyTracking(pageTable: number): Promise<void> {
    await this.call('start');
    this.#require(pageTable);
    this.startLog();
  }

  async stopDirtyTracking(pageTable: number): Promise<void> {
    await this.call('stop');
    this.#require(pageTable);
    this.stopLog();
  }

  async reportDirty(pageTable: number, region: IovaRange, pageSize: bigint, bitmap: Uint32Array): Promise<void> {
    await this.call('report');
    this.#require(pageTable);
    this.read(region, pageSize, bitmap);
  }

  #require(pageTable: number): void {
    if (!this.pageTables.has(pageTable)) throw new VfioError('ENOENT', { operation: 'page table' });
  }
}
