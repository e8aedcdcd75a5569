import type { RegionArea } from '../device/index.js';
import {
  ioctl,
  Mapping,
  NativeBlock,
  readBlock,
  readBlockOffThread,
  writeBlock,
  writeBlockOffThread,
} from '../native/index.js';
import { RegionFlag, VfioError } from '../uapi/index.js';
import type { GuardedFd } from './guarded-fd.js';
import { decodeRegionInfo, encodeRegionInfo, type KernelRegionInfo, regionInfoSize, VfioRequest } from './vfio-abi.js';

/** An area of a region, mapped here: what is written there reaches the device without a call. */
export interface MappedRegionArea extends RegionArea {
  /**
   * Offset 0 is the area's first byte. While a PCI device's memory is switched off (its command register, a reset, D3) touching it ends the
   * process by SIGBUS.
   */
  readonly mapping: Mapping;
  /** Ends the mapping. A second call does nothing. */
  close(): void;
}

/** Up to here an access is made on this thread, bytes: a PCI register takes about a microsecond, and is 4 of them. */
const SMALL_ACCESS = 4096;

/** Most that a region's description may need, bytes: 4000 areas. */
const MOST_INFO = 65536;

/** The regions of a device behind the kernel: what they are, and reads and writes through the device's descriptor. */
export class KernelRegions {
  readonly #device: GuardedFd;
  readonly #known = new Map<number, KernelRegionInfo>();
  readonly #small = new NativeBlock(SMALL_ACCESS);

  constructor(device: GuardedFd) {
    this.#device = device;
  }

  /** What a region is; asked for once, as it does not change. @throws VfioError EINVAL for one that does not exist */
  info(region: number): KernelRegionInfo {
    const known = this.#known.get(region);
    if (known !== undefined) return known;
    const first = this.#ask(region);
    const needed = regionInfoSize(first);
    if (needed > MOST_INFO) {
      throw new VfioError('EPROTO', { operation: 'GET_REGION_INFO', field: 'argsz', message: `${needed} bytes` });
    }
    const info = decodeRegionInfo(needed > first.length ? this.#ask(region, needed) : first);
    this.#known.set(region, info);
    return info;
  }

  #ask(region: number, room?: number): Uint8Array {
    const operation = 'GET_REGION_INFO';
    const block = NativeBlock.from(encodeRegionInfo(region, room));
    ioctl(this.#device.now(operation), VfioRequest.DEVICE_GET_REGION_INFO, block, operation);
    return block.bytes;
  }

  /** Reads `count` bytes. @throws VfioError EINVAL outside the region; EIO when the device gives fewer; as the driver answers */
  async read(region: number, offset: number, count: number): Promise<Uint8Array> {
    const operation = 'REGION_READ';
    const at = this.#place(region, offset, count, operation);
    if (count > SMALL_ACCESS) return this.#readLarge(at, count);
    const fd = this.#device.now(operation);
    const done = count === 0 ? 0 : readBlock({ fd, offset: at, block: this.#small, count }, operation);
    requireAll(done, count, operation);
    return this.#small.copy(count);
  }

  #readLarge(offset: number, count: number): Promise<Uint8Array> {
    const operation = 'REGION_READ';
    return this.#device.use(operation, async fd => {
      const block = new NativeBlock(count);
      requireAll(await readBlockOffThread({ fd, offset, block, count }, operation), count, operation);
      return block.bytes;
    });
  }

  /** Writes all of `data`. @throws VfioError EINVAL outside the region; EIO when the device takes less; as the driver answers */
  async write(region: number, offset: number, data: Uint8Array): Promise<void> {
    const operation = 'REGION_WRITE';
    const count = data.length;
    const at = this.#place(region, offset, count, operation);
    if (count > SMALL_ACCESS) return this.#writeLarge(at, data);
    const fd = this.#device.now(operation);
    this.#small.load(data);
    const done = count === 0 ? 0 : writeBlock({ fd, offset: at, block: this.#small, count }, operation);
    requireAll(done, count, operation);
  }

  #writeLarge(offset: number, data: Uint8Array): Promise<void> {
    const operation = 'REGION_WRITE';
    const block = NativeBlock.from(data);
    const count = data.length;
    return this.#device.use(operation, async fd => {
      requireAll(await writeBlockOffThread({ fd, offset, block, count }, operation), count, operation);
    });
  }

  /**
   * Maps what of a region may be mapped.
   * @returns none for a region that is reached by calls alone
   * @throws VfioError as mmap(2)
   */
  map(region: number): MappedRegionArea[] {
    const { flags, size, offset, areas = [{ offset: 0, size }] } = this.info(region);
    if ((flags & RegionFlag.MMAP) === 0) return [];
    const rights = { read: (flags & RegionFlag.READ) !== 0, write: (flags & RegionFlag.WRITE) !== 0 };
    const mapped: MappedRegionArea[] = [];
    try {
      for (const area of areas) {
        const fd = this.#device.now('mmap');
        const mapping = Mapping.map(fd, offset + area.offset, area.size, rights);
        mapped.push({ ...area, mapping, close: () => mapping.close() });
      }
      return mapped;
    } catch (error) {
      for (const area of mapped) area.close();
      throw error;
    }
  }

  /** Where an interval of a region is in the device's descriptor. The kernel puts regions side by side: a step too far would be another's. */
  #place(region: number, offset: number, count: number, operation: string): number {
    const info = this.info(region);
    const whole = Number.isSafeInteger(offset) && Number.isSafeInteger(count) && offset >= 0 && count >= 0;
    if (whole && count <= info.size && offset <= info.size - count) return info.offset + offset;
    const message = `${count} bytes at ${offset} of ${info.size}`;
    throw new VfioError('EINVAL', { operation, field: 'offset', message });
  }
}

function requireAll(done: number, count: number, operation: string): void {
  if (done === count) return;
  throw new VfioError('EIO', { operation, field: 'count', message: `${done} of ${count} bytes` });
}
