import type { DeviceDescription, IrqInfo, RegionArea, RegionInfo } from '../../device/index.js';
import { RegionFlag, requireBytes, viewOf } from '../../uapi/index.js';
import { exactNumber, requireRequest } from './payload.js';
import { decodeSparseAreas, encodeSparseAreas, sparseAreasSize } from './region-capabilities.js';

/*
 * DEVICE_GET_INFO, DEVICE_GET_REGION_INFO, DEVICE_GET_IRQ_INFO (vfio-user 0.9.x). Request and reply have the same structure; the request
 * fills in argsz and, for the two last, the index.
 *   DEVICE_GET_INFO:        u32 argsz · u32 flags · u32 regions · u32 IRQ types
 *   DEVICE_GET_REGION_INFO: u32 argsz · u32 flags · u32 index · u32 capability offset · u64 size · u64 offset
 *   DEVICE_GET_IRQ_INFO:    u32 argsz · u32 flags · u32 index · u32 count
 */

const INFO_SIZE = 16;
const REGION_INFO_SIZE = 32;
const IRQ_INFO_SIZE = 16;

/** DEVICE_GET_INFO's request. */
export function encodeInfoRequest(): Uint8Array {
  return encodeWords(INFO_SIZE, 0, 0, 0);
}

/** Checks DEVICE_GET_INFO's request. @throws VfioError EINVAL */
export function decodeInfoRequest(bytes: Uint8Array): void {
  requireRequest(bytes, INFO_SIZE, 'DEVICE_GET_INFO');
}

/** DEVICE_GET_INFO's reply. */
export function encodeInfo({ flags, regions, irqs }: DeviceDescription): Uint8Array {
  return encodeWords(INFO_SIZE, flags, regions, irqs);
}

/** Reverse of {@link encodeInfo}. @throws VfioError EINVAL when short */
export function decodeInfo(bytes: Uint8Array): DeviceDescription {
  requireBytes(bytes, INFO_SIZE, 'DEVICE_GET_INFO', 'size');
  const view = viewOf(bytes);
  return { flags: view.getUint32(4, true), regions: view.getUint32(8, true), irqs: view.getUint32(12, true) };
}

/** DEVICE_GET_REGION_INFO's reply, taken apart. */
export interface RegionInfoReply {
  /** RegionFlag bits. */
  flags: number;
  /** Size of the region, bytes. */
  size: number;
  /** Bytes that the whole reply has. */
  needed: number;
  /** Whether it is: if not, the request's argsz was too small, and areas and descriptor are left out. */
  whole: boolean;
  /** Where the region begins in the file that came along, bytes. */
  fileOffset: bigint;
  /** What of the region may be mapped, when it is not all of it. */
  areas: readonly RegionArea[] | undefined;
}

/** How a region lies in the file that goes with DEVICE_GET_REGION_INFO's reply. */
export interface RegionLayout {
  /** Where the region begins in the file, bytes. */
  offset: number;
  /** What may be mapped. */
  areas: readonly RegionArea[];
}

/** DEVICE_GET_REGION_INFO's request. @param argsz most bytes of the reply's payload */
export function encodeRegionInfoRequest(region: number, argsz: number = REGION_INFO_SIZE): Uint8Array {
  const bytes = encodeRegionInfo(region, { flags: 0, size: 0 }).payload;
  viewOf(bytes).setUint32(0, argsz, true);
  return bytes;
}

/** The region that DEVICE_GET_REGION_INFO asks for, and most bytes of the reply's payload. @throws VfioError EINVAL for a wrong size */
export function decodeRegionInfoRequest(bytes: Uint8Array): { region: number; argsz: number } {
  requireRequest(bytes, REGION_INFO_SIZE, 'DEVICE_GET_REGION_INFO');
  const view = viewOf(bytes);
  return { region: view.getUint32(8, true), argsz: view.getUint32(0, true) };
}

/**
 * DEVICE_GET_REGION_INFO's reply. A request whose argsz has no room for the areas gets the structure alone, with the argsz that has, and no
 * descriptor.
 * @param layout of a region that may be mapped
 * @param argsz the request's
 * @returns `withFile`: the file's descriptor goes with the reply
 */
export function encodeRegionInfo(
  region: number,
  { flags, size }: Pick<RegionInfo, 'flags' | 'size'>,
  layout?: RegionLayout,
  argsz: number = REGION_INFO_SIZE,
): { payload: Uint8Array; withFile: boolean } {
  const sparse = layout !== undefined && !isWhole(layout.areas, size) ? layout.areas : undefined;
  const needed = REGION_INFO_SIZE + (sparse === undefined ? 0 : sparseAreasSize(sparse));
  const fits = argsz >= needed;
  const payload = new Uint8Array(fits ? needed : REGION_INFO_SIZE);
  const view = viewOf(payload);
  view.setUint32(0, needed, true);
  const mappable = layout === undefined ? 0 : RegionFlag.MMAP;
  // Only with the areas behind it: QEMU 11.1 refuses a CAPS flag whose offset is 0, which is how Linux answers when there is no room.
  const capabilities = sparse !== undefined && fits ? RegionFlag.CAPS : 0;
  view.setUint32(4, flags | mappable | capabilities, true);
  view.setUint32(8, region, true);
  view.setBigUint64(16, BigInt(size), true);
  view.setBigUint64(24, BigInt(layout?.offset ?? 0), true);
  if (sparse !== undefined && fits) {
    view.setUint32(12, REGION_INFO_SIZE, true);
    encodeSparseAreas(payload, REGION_INFO_SIZE, sparse);
  }
  return { payload, withFile: layout !== undefined && fits };
}

function isWhole(areas: readonly RegionArea[], size: number): boolean {
  const [first] = areas;
  return areas.length === 1 && first !== undefined && first.offset === 0 && first.size === size;
}

/** Reverse of {@link encodeRegionInfo}. @throws VfioError EINVAL when short, for a size beyond 2^53, and for capabilities that make no sense */
export function decodeRegionInfo(bytes: Uint8Array): RegionInfoReply {
  const operation = 'DEVICE_GET_REGION_INFO';
  requireBytes(bytes, REGION_INFO_SIZE, operation, 'size');
  const view = viewOf(bytes);
  const needed = Math.max(REGION_INFO_SIZE, view.getUint32(0, true));
  const flags = view.getUint32(4, true);
  const size = exactNumber(view.getBigUint64(16, true), operation, 'size');
  const whole = needed <= bytes.length;
  const areas =
    whole && (flags & RegionFlag.CAPS) !== 0 ? decodeSparseAreas(bytes, view.getUint32(12, true), size) : undefined;
  return { needed, whole, flags, size, fileOffset: view.getBigUint64(24, true), areas };
}

/** DEVICE_GET_IRQ_INFO's request. */
export function encodeIrqInfoRequest(type: number): Uint8Array {
  return encodeIrqInfo(type, { flags: 0, count: 0 });
}

/** The IRQ type that DEVICE_GET_IRQ_INFO asks for. @throws VfioError EINVAL for a wrong size */
export function decodeIrqInfoRequest(bytes: Uint8Array): number {
  requireRequest(bytes, IRQ_INFO_SIZE, 'DEVICE_GET_IRQ_INFO');
  return viewOf(bytes).getUint32(8, true);
}

/** DEVICE_GET_IRQ_INFO's reply. */
export function encodeIrqInfo(type: number, { flags, count }: IrqInfo): Uint8Array {
  return encodeWords(IRQ_INFO_SIZE, flags, type, count);
}

/** Reverse of {@link encodeIrqInfo}. @throws VfioError EINVAL when short */
export function decodeIrqInfo(bytes: Uint8Array): IrqInfo {
  requireBytes(bytes, IRQ_INFO_SIZE, 'DEVICE_GET_IRQ_INFO', 'size');
  const view = viewOf(bytes);
  return { flags: view.getUint32(4, true), count: view.getUint32(12, true) };
}

function encodeWords(...words: readonly number[]): Uint8Array {
  const bytes = new Uint8Array(4 * words.length);
  for (const [index, word] of words.entries()) viewOf(bytes).setUint32(4 * index, word, true);
  return bytes;
}
