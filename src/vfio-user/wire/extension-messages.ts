import { type IovaRange, requireBytes, VfioError, viewOf } from '../../uapi/index.js';
import { requireArgsz, requireKnownFlags, requireSize, requireU32, requireU64 } from './payload.js';

/*
 * Commands of this project's own. A bitmap in a memory file, which the client attaches, takes reports without a copy through the socket:
 * the server ORs its bits into it atomically, so that several devices can share one. Statistics are for people who look on.
 *
 *   BITMAP_ATTACH  u32 argsz 24 · u32 flags 0 · u64 offset · u64 size, and the file's descriptor; the reply: u32 handle
 *   BITMAP_DETACH  u32 handle; the reply has no payload
 *   REPORT_SHARED  u32 handle · u32 0 · u64 offset in the bitmap · u64 iova · u64 length · u64 page size; the reply has no payload
 *   STATISTICS     nothing; the reply: JSON in UTF-8
 *
 * Example: a bitmap of 8 KiB at byte 4096 of a file is attached and is handle 1. A report of 256 MiB from 0 at 4 KiB pages needs 8 KiB; with
 * offset 0 its bit 0 is bit 0 of byte 4096 of the file.
 */

const ATTACH_SIZE = 24;
const HANDLE_SIZE = 4;
const REPORT_SIZE = 40;

/** Which part of a memory file is a bitmap. */
export interface BitmapAttachMessage {
  /** Bytes, from the file's start. */
  offset: bigint;
  /** Bytes. */
  size: bigint;
}

/** What is reported into an attached bitmap. */
export interface ReportSharedMessage extends IovaRange {
  handle: number;
  /** Where the report's bit 0 lies, bytes from the attached bitmap's start. */
  offset: bigint;
  /** What a bit speaks of, bytes. */
  pageSize: bigint;
}

/** What a server tells of its device; counts are since the device was made. */
export interface DeviceStatistics {
  /** Regions that are mapped now; DMAs that were refused because their memory is not mapped. */
  dmaMap: { regions: number; refused: number };
  /** The DMA log; `pageSize` in bytes, 0 when not active. */
  log: { active: boolean; pageSize: number; dirtyPages: number; ranges: number };
  /** DMAs and their bytes; those that the device was not allowed to make. */
  dma: { reads: number; writes: number; bytesRead: number; bytesWritten: number; refused: number };
  /** Clients that are served now. */
  connections: number;
}

/** BITMAP_ATTACH's request. @throws VfioError EINVAL for what 64 bits do not hold */
export function encodeBitmapAttach({ offset, size }: BitmapAttachMessage): Uint8Array {
  requireU64(offset, 'BITMAP_ATTACH', 'offset');
  requireU64(size, 'BITMAP_ATTACH', 'size');
  const bytes = new Uint8Array(ATTACH_SIZE);
  const view = viewOf(bytes);
  view.setUint32(0, ATTACH_SIZE, true);
  view.setBigUint64(8, offset, true);
  view.setBigUint64(16, size, true);
  return bytes;
}

/** Reverse of {@link encodeBitmapAttach}. @throws VfioError EINVAL for a wrong size or unknown flags */
export function decodeBitmapAttach(bytes: Uint8Array): BitmapAttachMessage {
  requireSize(bytes, ATTACH_SIZE, 'BITMAP_ATTACH');
  requireArgsz(bytes, ATTACH_SIZE, 'BITMAP_ATTACH');
  const view = viewOf(bytes);
  requireKnownFlags(view.getUint32(4, true), 0, 'BITMAP_ATTACH');
  return { offset: view.getBigUint64(8, true), size: view.getBigUint64(16, true) };
}

/** BITMAP_ATTACH's reply, or BITMAP_DETACH's request. @throws VfioError EINVAL for what 32 bits do not hold */
export function encodeBitmapHandle(handle: number): Uint8Array {
  requireU32(handle, 'BITMAP_DETACH', 'handle');
  const bytes = new Uint8Array(HANDLE_SIZE);
  viewOf(bytes).setUint32(0, handle, true);
  return bytes;
}

/** Reverse of {@link encodeBitmapHandle}. @throws VfioError EINVAL for a wrong size */
export function decodeBitmapHandle(bytes: Uint8Array, operation: 'BITMAP_ATTACH' | 'BITMAP_DETACH'): number {
  requireSize(bytes, HANDLE_SIZE, operation);
  return viewOf(bytes).getUint32(0, true);
}

/** REPORT_SHARED's request. @throws VfioError EINVAL for what its fields do not hold */
export function encodeReportShared({ handle, offset, iova, length, pageSize }: ReportSharedMessage): Uint8Array {
  const operation = 'REPORT_SHARED';
  requireU32(handle, operation, 'handle');
  const bytes = new Uint8Array(REPORT_SIZE);
  const view = viewOf(bytes);
  view.setUint32(0, handle, true);
  for (const [index, value] of [offset, iova, length, pageSize].entries()) {
    requireU64(value, operation, ['offset', 'iova', 'length', 'page_size'][index]!);
    view.setBigUint64(8 + 8 * index, value, true);
  }
  return bytes;
}

/** Reverse of {@link encodeReportShared}. @throws VfioError EINVAL for a wrong size, or what must be 0 and is not */
export function decodeReportShared(bytes: Uint8Array): ReportSharedMessage {
  requireSize(bytes, REPORT_SIZE, 'REPORT_SHARED');
  const view = viewOf(bytes);
  requireKnownFlags(view.getUint32(4, true), 0, 'REPORT_SHARED');
  return {
    handle: view.getUint32(0, true),
    offset: view.getBigUint64(8, true),
    iova: view.getBigUint64(16, true),
    length: view.getBigUint64(24, true),
    pageSize: view.getBigUint64(32, true),
  };
}

/** STATISTICS' reply. */
export function encodeStatistics(statistics: DeviceStatistics): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(statistics));
}

/** What the statistics of any server have; a newer one may have more. */
const STATISTICS_SHAPE = {
  dmaMap: { regions: 'number', refused: 'number' },
  log: { active: 'boolean', pageSize: 'number', dirtyPages: 'number', ranges: 'number' },
  dma: { reads: 'number', writes: 'number', bytesRead: 'number', bytesWritten: 'number', refused: 'number' },
  connections: 'number',
} as const;

/** Reverse of {@link encodeStatistics}. @throws VfioError EINVAL for what is no JSON, and for what is missing or of another type */
export function decodeStatistics(bytes: Uint8Array): DeviceStatistics {
  requireBytes(bytes, 2, 'STATISTICS', 'size');
  let parsed: unknown;
  try {
    parsed = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (error) {
    throw new VfioError('EINVAL', { operation: 'STATISTICS', field: 'JSON', message: 'is not valid', cause: error });
  }
  requireShape(parsed, STATISTICS_SHAPE, 'JSON');
  return parsed as DeviceStatistics;
}

type Shape = string | { readonly [key: string]: Shape };

function requireShape(value: unknown, shape: Shape, field: string): void {
  if (typeof shape === 'string') {
    if (typeof value === shape) return;
    throw new VfioError('EINVAL', { operation: 'STATISTICS', field, message: `is no ${shape}` });
  }
  if (typeof value !== 'object' || value === null) {
    throw new VfioError('EINVAL', { operation: 'STATISTICS', field, message: 'is no object' });
  }
  for (const [key, inner] of Object.entries(shape)) requireShape((value as Record<string, unknown>)[key], inner, key);
}
