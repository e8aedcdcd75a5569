import { requireBytes, VfioError, viewOf } from '../uapi/index.js';
import { DMA_PAGE_SIZE, DmaMapFlag, DmaUnmapFlag } from './constants.js';
import { requireArgsz, requireKnownFlags, requireSize, requireU64 } from './payload.js';

/*
 * DMA_MAP and DMA_UNMAP (vfio-user 0.9.x).
 *   DMA_MAP:   u32 argsz 32 · u32 flags · u64 offset in the file · u64 address · u64 size; the reply has no payload
 *   DMA_UNMAP: u32 argsz 24 · u32 flags · u64 address · u64 size; the reply is the same
 */

const MAP_SIZE = 32;
const UNMAP_SIZE = 24;

/** DMA_MAP's payload. */
export interface DmaMapMessage {
  iova: bigint;
  length: bigint;
  readable: boolean;
  writable: boolean;
  /** Where the region begins in the file that came along; without a file it says nothing. */
  offset: bigint;
}

/** DMA_UNMAP's payload: an interval, or everything. */
export type DmaUnmapMessage = { iova: bigint; length: bigint } | 'all';

/** DMA_MAP's payload as bytes. @throws VfioError EINVAL for what 64 bits do not hold */
export function encodeDmaMap({ iova, length, readable, writable, offset }: DmaMapMessage): Uint8Array {
  requireU64(iova, 'DMA_MAP', 'address');
  requireU64(length, 'DMA_MAP', 'size');
  requireU64(offset, 'DMA_MAP', 'offset');
  const bytes = new Uint8Array(MAP_SIZE);
  const view = viewOf(bytes);
  view.setUint32(0, MAP_SIZE, true);
  view.setUint32(4, (readable ? DmaMapFlag.READ : 0) | (writable ? DmaMapFlag.WRITE : 0), true);
  view.setBigUint64(8, offset, true);
  view.setBigUint64(16, iova, true);
  view.setBigUint64(24, length, true);
  return bytes;
}

/** Reverse of {@link encodeDmaMap}. @throws VfioError EINVAL for a wrong size, unknown flags, or what is not page aligned */
export function decodeDmaMap(bytes: Uint8Array): DmaMapMessage {
  const operation = 'DMA_MAP';
  requireSize(bytes, MAP_SIZE, operation);
  requireArgsz(bytes, MAP_SIZE, operation);
  const view = viewOf(bytes);
  const flags = view.getUint32(4, true);
  requireKnownFlags(flags, DmaMapFlag.READ | DmaMapFlag.WRITE | DmaMapFlag.MMAP | DmaMapFlag.FILE_IO, operation);
  const iova = view.getBigUint64(16, true);
  const length = view.getBigUint64(24, true);
  requirePageAligned(operation, 'address', iova);
  requirePageAligned(operation, 'size', length);
  return {
    iova,
    length,
    readable: (flags & DmaMapFlag.READ) !== 0,
    writable: (flags & DmaMapFlag.WRITE) !== 0,
    offset: view.getBigUint64(8, true),
  };
}

/** DMA_UNMAP's payload as bytes. @throws VfioError EINVAL for what 64 bits do not hold */
export function encodeDmaUnmap(unmap: DmaUnmapMessage): Uint8Array {
  const bytes = new Uint8Array(UNMAP_SIZE);
  const view = viewOf(bytes);
  view.setUint32(0, UNMAP_SIZE, true);
  if (unmap === 'all') view.setUint32(4, DmaUnmapFlag.ALL, true);
  else {
    requireU64(unmap.iova, 'DMA_UNMAP', 'address');
    requireU64(unmap.length, 'DMA_UNMAP', 'size');
    view.setBigUint64(8, unmap.iova, true);
    view.setBigUint64(16, unmap.length, true);
  }
  return bytes;
}

/**
 * Reverse of {@link encodeDmaUnmap}.
 * @throws VfioError EINVAL for a wrong size, unknown flags, what is not page aligned, or "all" with an interval; EOPNOTSUPP for a request
 *   that wants the dirty bitmap of what it unmaps: the device's log keeps those bits, and a report gives them.
 */
export function decodeDmaUnmap(bytes: Uint8Array): DmaUnmapMessage {
  const operation = 'DMA_UNMAP';
  requireBytes(bytes, UNMAP_SIZE, operation, 'size');
  const view = viewOf(bytes);
  const flags = view.getUint32(4, true);
  requireKnownFlags(flags, DmaUnmapFlag.GET_DIRTY_BITMAP | DmaUnmapFlag.ALL, operation);
  if ((flags & DmaUnmapFlag.GET_DIRTY_BITMAP) !== 0) {
    throw new VfioError('EOPNOTSUPP', { operation, field: 'flags', message: 'no dirty bitmap is given here' });
  }
  requireSize(bytes, UNMAP_SIZE, operation);
  requireArgsz(bytes, UNMAP_SIZE, operation);
  const iova = view.getBigUint64(8, true);
  const length = view.getBigUint64(16, true);
  if ((flags & DmaUnmapFlag.ALL) === 0) {
    requirePageAligned(operation, 'address', iova);
    requirePageAligned(operation, 'size', length);
    return { iova, length };
  }
  if (iova !== 0n || length !== 0n) {
    throw new VfioError('EINVAL', { operation, field: 'flags', message: 'all regions, and an interval too' });
  }
  return 'all';
}

function requirePageAligned(operation: string, field: string, value: bigint): void {
  if (value % DMA_PAGE_SIZE === 0n) return;
  const message = `0x${value.toString(16)} is no multiple of ${DMA_PAGE_SIZE}`;
  throw new VfioError('EINVAL', { operation, field, message });
}
