import { bitmapBytes, isPowerOfTwo, requireBytes, VfioError, viewOf } from '../../uapi/index.js';
import { DMA_PAGE_SIZE, DmaMapFlag, DmaUnmapFlag } from './constants.js';
import { requireArgsz, requireKnownFlags, requireSize, requireU32, requireU64 } from './payload.js';

/*
 * DMA_MAP and DMA_UNMAP (vfio-user 0.9.x).
 *   DMA_MAP:   u32 argsz 32 · u32 flags · u64 offset in the file · u64 address · u64 size; the reply has no payload
 *   DMA_UNMAP: u32 argsz 24 · u32 flags · u64 address · u64 size; the reply is the same
 *
 * A DMA_UNMAP that asks for the dirty bitmap has u64 page size · u64 bytes of bitmap behind that, and its argsz counts the bitmap too; the
 * reply is the same 40 bytes and the bitmap. Example: 1 GiB at 4 KiB pages is a bitmap of 32 KiB, an argsz and a reply of 32,808 bytes.
 */

const MAP_SIZE = 32;
const UNMAP_SIZE = 24;
const UNMAP_BITMAP_SIZE = 40;

/** DMA_MAP's payload. */
export interface DmaMapMessage {
  iova: bigint;
  length: bigint;
  readable: boolean;
  writable: boolean;
  /** Where the region begins in the file that came along; without a file it says nothing. */
  offset: bigint;
}

/** What is to be unmapped. */
export interface DmaUnmapInterval {
  iova: bigint;
  length: bigint;
  /** The dirty bits of the interval are wanted along with the reply. */
  dirtyBitmap?: {
    /** What a bit speaks of, bytes: a power of two. */
    pageSize: bigint;
    /** Size of the bitmap, as many as the interval has or more. */
    bytes: number;
  };
}

/** DMA_UNMAP's payload: an interval, or everything. */
export type DmaUnmapMessage = DmaUnmapInterval | 'all';

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

/** DMA_UNMAP's payload as bytes. @throws VfioError EINVAL for what its fields do not hold */
export function encodeDmaUnmap(unmap: DmaUnmapMessage): Uint8Array {
  const dirtyBitmap = unmap === 'all' ? undefined : unmap.dirtyBitmap;
  const bytes = new Uint8Array(dirtyBitmap === undefined ? UNMAP_SIZE : UNMAP_BITMAP_SIZE);
  const view = viewOf(bytes);
  const argsz = bytes.length + (dirtyBitmap?.bytes ?? 0);
  requireU32(argsz, 'DMA_UNMAP', 'argsz');
  view.setUint32(0, argsz, true);
  if (unmap === 'all') {
    view.setUint32(4, DmaUnmapFlag.ALL, true);
    return bytes;
  }
  requireU64(unmap.iova, 'DMA_UNMAP', 'address');
  requireU64(unmap.length, 'DMA_UNMAP', 'size');
  view.setBigUint64(8, unmap.iova, true);
  view.setBigUint64(16, unmap.length, true);
  if (dirtyBitmap !== undefined) {
    view.setUint32(4, DmaUnmapFlag.GET_DIRTY_BITMAP, true);
    requireU64(dirtyBitmap.pageSize, 'DMA_UNMAP', 'pgsize');
    view.setBigUint64(24, dirtyBitmap.pageSize, true);
    view.setBigUint64(32, BigInt(dirtyBitmap.bytes), true);
  }
  return bytes;
}

/**
 * Reverse of {@link encodeDmaUnmap}.
 * @throws VfioError EINVAL for a wrong size, unknown flags, what is not page aligned, "all" with an interval or a bitmap, a bitmap of no
 *   power of two, one too small for the interval, or one that argsz has no room for. How large a bitmap may be is the caller's to check.
 */
export function decodeDmaUnmap(bytes: Uint8Array): DmaUnmapMessage {
  const operation = 'DMA_UNMAP';
  requireBytes(bytes, UNMAP_SIZE, operation, 'size');
  const view = viewOf(bytes);
  const flags = view.getUint32(4, true);
  requireKnownFlags(flags, DmaUnmapFlag.GET_DIRTY_BITMAP | DmaUnmapFlag.ALL, operation);
  const wantsBitmap = (flags & DmaUnmapFlag.GET_DIRTY_BITMAP) !== 0;
  requireSize(bytes, wantsBitmap ? UNMAP_BITMAP_SIZE : UNMAP_SIZE, operation);
  requireArgsz(bytes, bytes.length, operation);
  const interval = { iova: view.getBigUint64(8, true), length: view.getBigUint64(16, true) };
  if ((flags & DmaUnmapFlag.ALL) === 0) {
    requirePageAligned(operation, 'address', interval.iova);
    requirePageAligned(operation, 'size', interval.length);
    return wantsBitmap ? { ...interval, dirtyBitmap: decodeBitmapRequest(view, interval.length) } : interval;
  }
  if (wantsBitmap || interval.iova !== 0n || interval.length !== 0n) {
    throw new VfioError('EINVAL', { operation, field: 'flags', message: 'all regions, and an interval or bitmap too' });
  }
  return 'all';
}

function decodeBitmapRequest(view: DataView, length: bigint): { pageSize: bigint; bytes: number } {
  const bad = (field: string, message: string) => new VfioError('EINVAL', { operation: 'DMA_UNMAP', field, message });
  const pageSize = view.getBigUint64(24, true);
  const bytes = view.getBigUint64(32, true);
  if (!isPowerOfTwo(pageSize)) throw bad('pgsize', `${pageSize} is no power of two`);
  const needed = bitmapBytes(length, pageSize);
  if (bytes < needed || bytes % 8n !== 0n) throw bad('bitmap size', `${bytes} bytes, needs ${needed} in words of 8`);
  if (BigInt(UNMAP_BITMAP_SIZE) + bytes > BigInt(view.getUint32(0, true)))
    throw bad('argsz', 'has no room for the bitmap');
  return { pageSize, bytes: Number(bytes) };
}

/** The reply to a DMA_UNMAP that asked for the dirty bitmap, with room for it. @param request the request's payload, which was decoded */
export function newDmaUnmapBitmap(request: Uint8Array, bytes: number): { reply: Uint8Array; bitmap: Uint32Array } {
  const reply = new Uint8Array(UNMAP_BITMAP_SIZE + bytes);
  reply.set(request.subarray(0, UNMAP_BITMAP_SIZE));
  return { reply, bitmap: new Uint32Array(reply.buffer, UNMAP_BITMAP_SIZE, bytes / 4) };
}

/** The bitmap of such a reply. @throws VfioError EINVAL when it is not of the size, or of the pages, that were asked for */
export function decodeDmaUnmapBitmap(bytes: Uint8Array, asked: { pageSize: bigint; bytes: number }): Uint8Array {
  const operation = 'DMA_UNMAP';
  requireSize(bytes, UNMAP_BITMAP_SIZE + asked.bytes, operation);
  const view = viewOf(bytes);
  if (view.getBigUint64(24, true) !== asked.pageSize || view.getBigUint64(32, true) !== BigInt(asked.bytes)) {
    throw new VfioError('EINVAL', { operation, field: 'bitmap', message: 'is not the one that was asked for' });
  }
  return bytes.subarray(UNMAP_BITMAP_SIZE);
}

function requirePageAligned(operation: string, field: string, value: bigint): void {
  if (value % DMA_PAGE_SIZE === 0n) return;
  const message = `0x${value.toString(16)} is no multiple of ${DMA_PAGE_SIZE}`;
  throw new VfioError('EINVAL', { operation, field, message });
}
