import { type IovaRange, viewOf } from '../uapi/index.js';
import { type DmaRights, decodeIovaRanges, encodeWords } from './vfio-abi.js';

/*
 * The requests of linux/iommufd.h and their structures. A request's number is _IO(';', 0x80 + n); the structures begin with u32 size, their
 * own in bytes. All integers are little-endian.
 *
 * Worked example: IOMMU_IOAS_ALLOC is ioctl 0x3B81 with { size 12, flags 0, out_ioas_id 0 }, and comes back with the number of a new address
 * space in its third word.
 */

/** ioctl numbers of linux/iommufd.h. */
export const IommufdRequest = {
  DESTROY: 0x3b80,
  IOAS_ALLOC: 0x3b81,
  IOAS_IOVA_RANGES: 0x3b84,
  IOAS_MAP: 0x3b85,
  IOAS_UNMAP: 0x3b86,
  HWPT_ALLOC: 0x3b89,
  GET_HW_INFO: 0x3b8a,
  HWPT_SET_DIRTY_TRACKING: 0x3b8b,
  HWPT_GET_DIRTY_BITMAP: 0x3b8c,
} as const;

/** IOMMU_HWPT_ALLOC: a page table whose IOMMU notes writes. */
export const HWPT_ALLOC_DIRTY_TRACKING = 2;
/** IOMMU_HWPT_GET_DIRTY_BITMAP: leaves the IOMMU's bits as they are. */
export const HWPT_GET_DIRTY_BITMAP_NO_CLEAR = 1;
/** IOMMU_GET_HW_INFO's capabilities: the IOMMU notes writes. */
export const HW_CAP_DIRTY_TRACKING = 1n;

const MAP_FIXED_IOVA = 1;
const MAP_WRITEABLE = 2;
const MAP_READABLE = 4;

/** `struct iommu_destroy`. */
export function encodeDestroy(id: number): Uint8Array {
  return encodeWords([8, id]);
}

/** `struct iommu_ioas_alloc`. */
export function encodeIoasAlloc(): Uint8Array {
  return encodeWords([12, 0, 0]);
}

/** The number of a new address space. */
export function decodeIoasAlloc(bytes: Uint8Array): number {
  return viewOf(bytes).getUint32(8, true);
}

/** `struct iommu_ioas_iova_ranges`: size, address space, room in entries, 0, u64 address of them, u64 out: alignment. */
export function encodeIovaRanges(ioas: number, room: number, address: number): Uint8Array {
  const bytes = new Uint8Array(32);
  bytes.set(encodeWords([32, ioas, room, 0]));
  viewOf(bytes).setBigUint64(16, BigInt(address), true);
  return bytes;
}

/** How many ranges there are, and to what mappings must be aligned, bytes. */
export function decodeIovaRangesHead(bytes: Uint8Array): { count: number; alignment: bigint } {
  const view = viewOf(bytes);
  return { count: view.getUint32(8, true), alignment: view.getBigUint64(24, true) };
}

/** The first `count` ranges of an array. */
export function decodeIoasRanges(bytes: Uint8Array, count: number): IovaRange[] {
  return decodeIovaRanges(viewOf(bytes), 0, count);
}

/** `struct iommu_ioas_map`: size, flags, address space, 0, u64 address here, u64 length, u64 iova. */
export function encodeIoasMap(ioas: number, range: IovaRange, address: bigint, rights: DmaRights): Uint8Array {
  const flags = MAP_FIXED_IOVA | (rights.writable ? MAP_WRITEABLE : 0) | (rights.readable ? MAP_READABLE : 0);
  const bytes = new Uint8Array(40);
  bytes.set(encodeWords([40, flags, ioas, 0]));
  const view = viewOf(bytes);
  view.setBigUint64(16, address, true);
  view.setBigUint64(24, range.length, true);
  view.setBigUint64(32, range.iova, true);
  return bytes;
}

/** `struct iommu_ioas_unmap`: size, address space, u64 iova, u64 length. */
export function encodeIoasUnmap(ioas: number, { iova, length }: IovaRange): Uint8Array {
  const bytes = new Uint8Array(24);
  bytes.set(encodeWords([24, ioas]));
  viewOf(bytes).setBigUint64(8, iova, true);
  viewOf(bytes).setBigUint64(16, length, true);
  return bytes;
}

/** `struct iommu_hwpt_alloc` of a page table that the kernel fills: size, flags, device, address space, out: its number, and zeros. */
export function encodeHwptAlloc(flags: number, device: number, ioas: number): Uint8Array {
  const bytes = new Uint8Array(40);
  bytes.set(encodeWords([40, flags, device, ioas]));
  return bytes;
}

/** The number of a new page table. */
export function decodeHwptAlloc(bytes: Uint8Array): number {
  return viewOf(bytes).getUint32(16, true);
}

/** `struct iommu_hw_info` that asks for no hardware's own data. */
export function encodeHwInfo(device: number): Uint8Array {
  const bytes = new Uint8Array(40);
  bytes.set(encodeWords([40, 0, device]));
  return bytes;
}

/** What the IOMMU behind a device can do, whatever its make: IOMMU_HW_CAP bits. */
export function decodeHwInfo(bytes: Uint8Array): bigint {
  return viewOf(bytes).getBigUint64(32, true);
}

/** `struct iommu_hwpt_set_dirty_tracking`: size, flags (1: on), page table, 0. */
export function encodeSetDirtyTracking(hwpt: number, enabled: boolean): Uint8Array {
  return encodeWords([16, enabled ? 1 : 0, hwpt, 0]);
}

/** What IOMMU_HWPT_GET_DIRTY_BITMAP is asked for. */
export interface HwptReport extends IovaRange {
  /** HWPT_GET_DIRTY_BITMAP bits. */
  readonly flags: number;
  /** Bytes. */
  readonly pageSize: bigint;
  /** Where the bitmap is. */
  readonly address: number;
}

/** `struct iommu_hwpt_get_dirty_bitmap`: size, page table, flags, 0, u64 iova, u64 length, u64 page size, u64 address of the bitmap. */
export function encodeGetDirtyBitmap(hwpt: number, report: HwptReport): Uint8Array {
  const bytes = new Uint8Array(48);
  bytes.set(encodeWords([48, hwpt, report.flags, 0]));
  const view = viewOf(bytes);
  view.setBigUint64(16, report.iova, true);
  view.setBigUint64(24, report.length, true);
  view.setBigUint64(32, report.pageSize, true);
  view.setBigUint64(40, BigInt(report.address), true);
  return bytes;
}
