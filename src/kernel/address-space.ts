import { Mapping } from '../native/index.js';
import { ADDRESS_LIMIT, type IovaRange, overlap, VfioError } from '../uapi/index.js';

/** A region of IO virtual addresses that the devices of an address space may reach. */
export interface DmaRegion {
  /** Bytes, a multiple of 4096. */
  iova: bigint;
  /** Bytes, a multiple of 4096. */
  length: bigint;
  /** The devices may read. */
  readable: boolean;
  /** The devices may write. */
  writable: boolean;
}

/** The file behind a {@link DmaRegion}: a memory file, such as `GuestMemory` has. */
export interface DmaRegionFile {
  /** Stays the caller's: it may be closed when the call has returned its promise. */
  fd: number;
  /** Where the region begins in the file, bytes, a multiple of 4096; default 0. */
  offset?: bigint;
}

/**
 * What the devices of one container, or of one iommufd address space, see as memory. Several devices may share one.
 *
 * The memory of a region is mapped here for as long as devices may reach it, so that no mistake elsewhere in the process puts something else
 * in its place: software devices (mdev) look the address up when they do DMA.
 */
export interface AddressSpace {
  /** `'container'`: type 1 v2, the interface by group; `'iommufd'`: an IOAS. */
  readonly kind: 'container' | 'iommufd';
  /** The regions that are mapped. */
  readonly regions: readonly IovaRange[];
  /**
   * Maps a region to a file's bytes.
   * @throws VfioError EEXIST when it overlaps another; ENOMEM when the process may not lock so much memory (the message says what to raise);
   *   EINVAL for what is not aligned, or not within the reach of the IOMMU; EACCES for a file that was opened for less
   */
  dmaMap(region: DmaRegion, file: DmaRegionFile): Promise<void>;
  /** Unmaps one region, or several whole ones. @throws VfioError EINVAL for anything else; nothing is unmapped then */
  dmaUnmap(iova: bigint, length: bigint): Promise<void>;
  /** Unmaps everything. */
  dmaUnmapAll(): Promise<void>;
  /** Unmaps everything and lets go of the address space; the devices in it reach no memory any more. Idempotent. */
  close(): Promise<void>;
}

const PAGE_SIZE = 4096n;

interface MappedRegion extends IovaRange {
  readonly memory: Mapping;
}

/** The regions of an address space, and the memory mapped here for each. */
export class RegionTable {
  readonly #regions = new Map<bigint, MappedRegion>();

  /** In no order. */
  get regions(): readonly IovaRange[] {
    return [...this.#regions.values()].map(({ iova, length }) => ({ iova, length }));
  }

  /**
   * Has a region mapped for the devices, and keeps its memory for as long.
   * @param memory of {@link mapMemory}; closed by this object later, but not when this call throws
   * @throws VfioError EEXIST; as `map`
   */
  async add({ iova, length }: DmaRegion, memory: Mapping, map: (address: bigint) => Promise<void>): Promise<void> {
    const mapped = { iova, length, memory };
    const other = this.#overlapping(mapped);
    if (other !== undefined) {
      throw new VfioError('EEXIST', { operation: 'DMA_MAP', field: 'iova', message: `overlaps ${shown(other)}` });
    }
    await map(BigInt(memory.address));
    this.#regions.set(iova, mapped);
  }

  /** The whole regions in an interval. @throws VfioError EINVAL when there are none, or one that is only partly in it */
  within(range: IovaRange): readonly IovaRange[] {
    const operation = 'DMA_UNMAP';
    const inside = [...this.#regions.values()].filter(region => overlap(region, range));
    if (inside.length === 0) {
      throw new VfioError('EINVAL', { operation, field: 'iova', message: `nothing is mapped at ${shown(range)}` });
    }
    const cut = inside.find(region => region.iova < range.iova || end(region) > end(range));
    if (cut !== undefined) {
      throw new VfioError('EINVAL', { operation, field: 'length', message: `cuts through ${shown(cut)}` });
    }
    return inside;
  }

  /** Forgets the regions in an interval, which no device reaches any more. */
  remove(range: IovaRange): void {
    for (const region of this.#regions.values()) {
      if (overlap(region, range)) this.#forget(region);
    }
  }

  #overlapping(range: IovaRange): MappedRegion | undefined {
    return [...this.#regions.values()].find(region => overlap(region, range));
  }

  #forget(region: MappedRegion): void {
    this.#regions.delete(region.iova);
    region.memory.close();
  }
}

/**
 * Maps a region's memory in this process.
 * @throws VfioError EINVAL; as mmap(2)
 */
export function mapMemory(region: DmaRegion, { fd, offset = 0n }: DmaRegionFile): Mapping {
  requireRegion(region);
  return Mapping.map(fd, offset, Number(region.length), { read: true, write: region.writable });
}

/** Asks the kernel to map a region of the memory at an address of this process. */
type MapRegion = (region: DmaRegion, address: bigint) => Promise<void>;

/**
 * Maps a part of a file for the devices of a table's address space. The memory is mapped here at once: the caller may close the file, and change
 * the region, as soon as it has the promise.
 * @param inTurn calls `add`, with what asks the kernel, when nothing else changes the address space
 * @throws VfioError as {@link mapMemory} and {@link RegionTable.add}; nothing is mapped then
 */
export async function mapFile(
  table: RegionTable,
  region: DmaRegion,
  file: DmaRegionFile,
  inTurn: (add: (map: MapRegion) => Promise<void>) => Promise<void>,
): Promise<void> {
  const asked = { ...region };
  const memory = mapMemory(asked, file);
  try {
    await inTurn(map => table.add(asked, memory, address => map(asked, address)));
  } catch (error) {
    memory.close();
    throw error;
  }
}

function requireRegion({ iova, length, readable, writable }: DmaRegion): void {
  const bad = (field: string, message: string) => new VfioError('EINVAL', { operation: 'DMA_MAP', field, message });
  if (iova < 0n || iova % PAGE_SIZE !== 0n) throw bad('iova', `${iova} is no multiple of 4096`);
  if (length <= 0n || length % PAGE_SIZE !== 0n) throw bad('length', `${length} is no multiple of 4096`);
  if (length > BigInt(Number.MAX_SAFE_INTEGER)) throw bad('length', `${length} bytes`);
  if (iova + length > ADDRESS_LIMIT) throw bad('length', 'reaches beyond 2^64');
  if (!readable && !writable) throw bad('rights', 'neither readable nor writable');
}

function end({ iova, length }: IovaRange): bigint {
  return iova + length;
}

function shown({ iova, length }: IovaRange): string {
  return `0x${iova.toString(16)} + 0x${length.toString(16)}`;
}
