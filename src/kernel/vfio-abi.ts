import type { RegionArea } from '../device/index.js';
import { type IovaRange, understand, VfioError, viewOf } from '../uapi/index.js';

/*
 * The requests of linux/vfio.h and their structures. A request's number is _IO(';', 100 + n), that is 0x3B64 + n; the structures begin with
 * u32 argsz, the bytes that the caller has room for. All integers are little-endian.
 *
 * Worked example: VFIO_DEVICE_GET_REGION_INFO of region 1 is ioctl 0x3B6C with
 *   u32 argsz 32 · u32 flags 0 · u32 index 1 · u32 cap_offset 0 · u64 size 0 · u64 offset 0,
 * and comes back with flags, size, and the offset of the region's byte 0 in the device's descriptor.
 */

/** ioctl numbers of linux/vfio.h, of container, group, device and migration data. */
export const VfioRequest = {
  CHECK_EXTENSION: 0x3b65,
  SET_IOMMU: 0x3b66,
  GROUP_GET_STATUS: 0x3b67,
  GROUP_SET_CONTAINER: 0x3b68,
  GROUP_GET_DEVICE_FD: 0x3b6a,
  DEVICE_GET_INFO: 0x3b6b,
  DEVICE_GET_REGION_INFO: 0x3b6c,
  DEVICE_GET_IRQ_INFO: 0x3b6d,
  DEVICE_SET_IRQS: 0x3b6e,
  DEVICE_RESET: 0x3b6f,
  IOMMU_GET_INFO: 0x3b70,
  IOMMU_MAP_DMA: 0x3b71,
  IOMMU_UNMAP_DMA: 0x3b72,
  DEVICE_FEATURE: 0x3b75,
  DEVICE_BIND_IOMMUFD: 0x3b76,
  DEVICE_ATTACH_IOMMUFD_PT: 0x3b77,
  MIG_GET_PRECOPY_INFO: 0x3b79,
  IOMMU_DIRTY_PAGES: 0x3b75,
} as const;

/** VFIO_SET_IOMMU: the second version of type 1, which unmaps whole mappings only. */
export const TYPE1V2_IOMMU = 3;

/** VFIO_GROUP_GET_STATUS: every device of the group is a VFIO driver's, or nobody's. */
export const GROUP_VIABLE = 1;

/** `struct vfio_group_status`: argsz, flags. */
export function encodeGroupStatus(): Uint8Array {
  return encodeWords([8, 0]);
}

/** The flags of a group's status. */
export function decodeGroupStatus(bytes: Uint8Array): number {
  return viewOf(bytes).getUint32(4, true);
}

/** `struct vfio_device_info` without capabilities: argsz, flags, regions, interrupt types. */
export function encodeDeviceInfo(): Uint8Array {
  return encodeWords([16, 0, 0, 0]);
}

/** Reverse of {@link encodeDeviceInfo}. */
export function decodeDeviceInfo(bytes: Uint8Array): { flags: number; regions: number; irqs: number } {
  const view = viewOf(bytes);
  return { flags: view.getUint32(4, true), regions: view.getUint32(8, true), irqs: view.getUint32(12, true) };
}

/** Size of `struct vfio_region_info` without capabilities. */
export const REGION_INFO_SIZE = 32;

const CAPABILITY_SPARSE_MMAP = 1;
const CAPABILITY_TYPE = 2;

/** `struct vfio_region_info` in a buffer with room for `room` bytes. */
export function encodeRegionInfo(index: number, room: number = REGION_INFO_SIZE): Uint8Array {
  const bytes = new Uint8Array(room);
  const view = viewOf(bytes);
  view.setUint32(0, room, true);
  view.setUint32(8, index, true);
  return bytes;
}

/** What a device-specific region is (capability `VFIO_REGION_INFO_CAP_TYPE`). */
export interface RegionType {
  /** With bit 31: a PCI vendor's, whose number is in the low bits. */
  readonly type: number;
  readonly subtype: number;
}

/** VFIO_DEVICE_GET_REGION_INFO, as the kernel tells it. */
export interface KernelRegionInfo {
  /** RegionFlag bits. */
  readonly flags: number;
  /** Bytes; 0 for a region that the device does not have. */
  readonly size: number;
  /** Where the region's byte 0 is in the device's descriptor, bytes. */
  readonly offset: number;
  /** What may be mapped, where that is not the whole region (capability `VFIO_REGION_INFO_CAP_SPARSE_MMAP`). */
  readonly areas?: readonly RegionArea[];
  /** What the region is, for one that is not standard. */
  readonly type?: RegionType;
}

/** The bytes that the kernel needs for all of a region's description. */
export function regionInfoSize(bytes: Uint8Array): number {
  return viewOf(bytes).getUint32(0, true);
}

/** Reverse of {@link encodeRegionInfo}. @throws VfioError EPROTO for a chain of capabilities that leads nowhere */
export function decodeRegionInfo(bytes: Uint8Array): KernelRegionInfo {
  const view = viewOf(bytes);
  const chain = capabilities(bytes, view.getUint32(12, true));
  const sparse = chain.get(CAPABILITY_SPARSE_MMAP);
  const type = chain.get(CAPABILITY_TYPE);
  return understand('GET_REGION_INFO', () => ({
    flags: view.getUint32(4, true),
    size: Number(view.getBigUint64(16, true)),
    offset: Number(view.getBigUint64(24, true)),
    ...(sparse !== undefined && { areas: decodeAreas(view, sparse) }),
    ...(type !== undefined && { type: decodeType(view, type) }),
  }));
}

function decodeType(view: DataView, at: number): RegionType {
  return { type: view.getUint32(at + 8, true), subtype: view.getUint32(at + 12, true) };
}

/**
 * A chain of `struct vfio_info_cap_header`: u16 id, u16 version, u32 offset of the next, from the structure's start; 0 for the last.
 * @param first offset of the first; 0: there is none
 * @returns where each capability begins, by its id
 * @throws VfioError EPROTO when the chain leaves the bytes, or does not end
 */
export function capabilities(bytes: Uint8Array, first: number): Map<number, number> {
  const view = viewOf(bytes);
  const found = new Map<number, number>();
  for (let at = first, steps = 0; at !== 0; at = view.getUint32(at + 4, true), steps++) {
    if (at + 8 > bytes.length || steps * 8 > bytes.length) {
      throw new VfioError('EPROTO', { operation: 'capabilities', message: `one at ${at} of ${bytes.length} bytes` });
    }
    found.set(view.getUint16(at, true), at);
  }
  return found;
}

/** Behind the header u32 number of areas · u32 0, then u64 offset · u64 size of each. */
function decodeAreas(view: DataView, at: number): RegionArea[] {
  const room = (view.byteLength - at - 16) / 16;
  const count = view.getUint32(at + 8, true);
  if (count > room) throw new VfioError('EPROTO', { operation: 'GET_REGION_INFO', field: 'nr_areas' });
  return Array.from({ length: count }, (_, index) => ({
    offset: Number(view.getBigUint64(at + 16 + 16 * index, true)),
    size: Number(view.getBigUint64(at + 24 + 16 * index, true)),
  })).filter(area => area.size > 0);
}

/** `struct vfio_irq_info`: argsz, flags, index, count. */
export function encodeIrqInfo(index: number): Uint8Array {
  return encodeWords([16, 0, index, 0]);
}

/** Reverse of {@link encodeIrqInfo}. */
export function decodeIrqInfo(bytes: Uint8Array): { flags: number; count: number } {
  return { flags: viewOf(bytes).getUint32(4, true), count: viewOf(bytes).getUint32(12, true) };
}

/** What VFIO_DEVICE_SET_IRQS does, and to which vectors. */
export interface IrqSetting {
  /** IrqSet bits: what the data is, and what is done. */
  readonly flags: number;
  readonly type: number;
  readonly start: number;
  readonly count: number;
}

/** `struct vfio_irq_set`: argsz, flags, index, start, count, then the eventfds, an i32 each; -1 takes one away. */
export function encodeIrqSet(setting: IrqSetting, eventfds: readonly number[] = []): Uint8Array {
  const argsz = 20 + 4 * eventfds.length;
  return encodeWords([argsz, setting.flags, setting.type, setting.start, setting.count, ...eventfds]);
}

/** `struct vfio_device_bind_iommufd`: argsz, flags, the iommufd, out: the device's number there. */
export function encodeBind(iommufd: number): Uint8Array {
  return encodeWords([16, 0, iommufd, 0]);
}

/** The device's number in the iommufd that it was bound to. */
export function decodeBind(bytes: Uint8Array): number {
  return viewOf(bytes).getUint32(12, true);
}

/** `struct vfio_device_attach_iommufd_pt`: argsz, flags, in: the address space or page table; out: the page table. */
export function encodeAttach(pageTable: number): Uint8Array {
  return encodeWords([12, 0, pageTable]);
}

/** Rights of a mapping in VFIO_IOMMU_MAP_DMA's flags. */
export interface DmaRights {
  readonly readable: boolean;
  readonly writable: boolean;
}

/** `struct vfio_iommu_type1_dma_map`: argsz, flags, u64 address here, u64 iova, u64 size. */
export function encodeMapDma({ iova, length }: IovaRange, address: bigint, rights: DmaRights): Uint8Array {
  const bytes = new Uint8Array(32);
  const view = viewOf(bytes);
  view.setUint32(0, 32, true);
  view.setUint32(4, (rights.readable ? 1 : 0) | (rights.writable ? 2 : 0), true);
  view.setBigUint64(8, address, true);
  view.setBigUint64(16, iova, true);
  view.setBigUint64(24, length, true);
  return bytes;
}

/** VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP: a `struct vfio_bitmap` follows. */
export const UNMAP_GET_DIRTY_BITMAP = 1;
/** VFIO_IOMMU_DIRTY_PAGES: begin to log. */
export const DIRTY_PAGES_START = 1;
/** VFIO_IOMMU_DIRTY_PAGES: end logging. */
export const DIRTY_PAGES_STOP = 2;
/** VFIO_IOMMU_DIRTY_PAGES: report. */
export const DIRTY_PAGES_GET_BITMAP = 4;

/** `struct vfio_bitmap`: u64 page size, u64 bytes of bitmap, u64 address of it. */
export interface Type1Bitmap {
  readonly pageSize: bigint;
  readonly size: number;
  readonly address: number;
}

/** `struct vfio_iommu_type1_dma_unmap`: argsz, flags, u64 iova, u64 size, and the bitmap where one is asked for. */
export function encodeUnmapDma({ iova, length }: IovaRange, bitmap?: Type1Bitmap): Uint8Array {
  return encodeWithBitmap(bitmap === undefined ? 0 : UNMAP_GET_DIRTY_BITMAP, { iova, length }, bitmap);
}

/** `struct vfio_iommu_type1_dirty_bitmap` of GET_BITMAP: argsz, flags, u64 iova, u64 size, and the bitmap. */
export function encodeDirtyPagesGet(range: IovaRange, bitmap: Type1Bitmap): Uint8Array {
  return encodeWithBitmap(DIRTY_PAGES_GET_BITMAP, range, bitmap);
}

/** `struct vfio_iommu_type1_dirty_bitmap` of START and STOP: argsz, flags. */
export function encodeDirtyPages(flags: number): Uint8Array {
  return encodeWords([8, flags]);
}

function encodeWithBitmap(flags: number, { iova, length }: IovaRange, bitmap: Type1Bitmap | undefined): Uint8Array {
  const bytes = new Uint8Array(bitmap === undefined ? 24 : 48);
  const view = viewOf(bytes);
  view.setUint32(0, bytes.length, true);
  view.setUint32(4, flags, true);
  view.setBigUint64(8, iova, true);
  view.setBigUint64(16, length, true);
  if (bitmap !== undefined) {
    view.setBigUint64(24, bitmap.pageSize, true);
    view.setBigUint64(32, BigInt(bitmap.size), true);
    view.setBigUint64(40, BigInt(bitmap.address), true);
  }
  return bytes;
}

/** What an IOMMU can map. */
export interface IommuInfo {
  /** Page sizes, a bit each; bytes. */
  readonly pageSizes: bigint;
  /** Where devices may be given memory; `undefined`: the kernel does not say. */
  readonly iovaRanges: readonly IovaRange[] | undefined;
  /** Type 1's own dirty tracking: page sizes and the largest bitmap, bytes; `undefined` where it has none. */
  readonly dirtyTracking: { readonly pageSizes: bigint; readonly maxBitmapBytes: bigint } | undefined;
}

const TYPE1_IOVA_RANGE = 1;
const TYPE1_MIGRATION = 2;

/** `struct vfio_iommu_type1_info` in a buffer with room for `room` bytes. */
export function encodeIommuInfo(room = 24): Uint8Array {
  const bytes = new Uint8Array(room);
  viewOf(bytes).setUint32(0, room, true);
  return bytes;
}

/** Reverse of {@link encodeIommuInfo}. @throws VfioError EPROTO for a chain of capabilities that leads nowhere */
export function decodeIommuInfo(bytes: Uint8Array): IommuInfo {
  const view = viewOf(bytes);
  const chain = capabilities(bytes, view.getUint32(16, true));
  const ranges = chain.get(TYPE1_IOVA_RANGE);
  const migration = chain.get(TYPE1_MIGRATION);
  return understand('IOMMU_GET_INFO', () => ({
    pageSizes: view.getBigUint64(8, true),
    iovaRanges:
      ranges === undefined ? undefined : decodeIovaRanges(view, ranges + 16, view.getUint32(ranges + 8, true)),
    dirtyTracking: migration === undefined ? undefined : decodeDirtyTracking(view, migration),
  }));
}

/** Behind the header u32 flags, 4 bytes of nothing, u64 page sizes, u64 largest bitmap. */
function decodeDirtyTracking(view: DataView, at: number): { pageSizes: bigint; maxBitmapBytes: bigint } {
  return { pageSizes: view.getBigUint64(at + 16, true), maxBitmapBytes: view.getBigUint64(at + 24, true) };
}

/** `struct vfio_iova_range` and `struct iommu_iova_range`: u64 first, u64 last. @throws RangeError for more than there are bytes for */
export function decodeIovaRanges(view: DataView, at: number, count: number): IovaRange[] {
  const ranges: IovaRange[] = [];
  for (let index = 0; index < count; index++) {
    const iova = view.getBigUint64(at + 16 * index, true);
    ranges.push({ iova, length: view.getBigUint64(at + 16 * index + 8, true) - iova + 1n });
  }
  return ranges;
}

/** A structure of 32-bit words. */
export function encodeWords(words: readonly number[]): Uint8Array {
  const bytes = new Uint8Array(4 * words.length);
  for (const [index, word] of words.entries()) viewOf(bytes).setUint32(4 * index, word, true);
  return bytes;
}
