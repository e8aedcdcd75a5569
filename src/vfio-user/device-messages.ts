import type { DeviceDescription, IrqInfo, RegionInfo } from '../device/index.js';
import { requireBytes, viewOf } from '../uapi/index.js';
import { exactNumber, requireArgsz, requireSize } from './payload.js';

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

/** DEVICE_GET_REGION_INFO's request. */
export function encodeRegionInfoRequest(region: number): Uint8Array {
  return encodeRegionInfo(region, { flags: 0, size: 0 });
}

/** The region that DEVICE_GET_REGION_INFO asks for. @throws VfioError EINVAL for a wrong size */
export function decodeRegionInfoRequest(bytes: Uint8Array): number {
  requireRequest(bytes, REGION_INFO_SIZE, 'DEVICE_GET_REGION_INFO');
  return viewOf(bytes).getUint32(8, true);
}

/** DEVICE_GET_REGION_INFO's reply. The offset stays 0: it would be that of a file to map. */
export function encodeRegionInfo(region: number, { flags, size }: RegionInfo): Uint8Array {
  const bytes = new Uint8Array(REGION_INFO_SIZE);
  const view = viewOf(bytes);
  view.setUint32(0, REGION_INFO_SIZE, true);
  view.setUint32(4, flags, true);
  view.setUint32(8, region, true);
  view.setBigUint64(16, BigInt(size), true);
  return bytes;
}

/** Reverse of {@link encodeRegionInfo}. @throws VfioError EINVAL when short, or for a size beyond 2^53 */
export function decodeRegionInfo(bytes: Uint8Array): RegionInfo {
  const operation = 'DEVICE_GET_REGION_INFO';
  requireBytes(bytes, REGION_INFO_SIZE, operation, 'size');
  const view = viewOf(bytes);
  return { flags: view.getUint32(4, true), size: exactNumber(view.getBigUint64(16, true), operation, 'size') };
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

function requireRequest(bytes: Uint8Array, size: number, operation: string): void {
  requireSize(bytes, size, operation);
  requireArgsz(bytes, size, operation);
}

function encodeWords(...words: readonly number[]): Uint8Array {
  const bytes = new Uint8Array(4 * words.length);
  for (const [index, word] of words.entries()) viewOf(bytes).setUint32(4 * index, word, true);
  return bytes;
}
