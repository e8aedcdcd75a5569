import { requireBytes, viewOf } from './bytes.js';
import { VfioError } from './error.js';

/*
 * The DMA logging structures (contract: "Structures"). rfc and linux share one layout, with pointers; vfio-user has the
 * same heads with the array or the bitmap inline.
 */

/** An interval of IO virtual addresses: `[iova, iova + length)`, bytes. */
export interface IovaRange {
  iova: bigint;
  length: bigint;
}

/** Whether two intervals have an address in common, where neither is empty. */
export function overlap(one: IovaRange, other: IovaRange): boolean {
  return one.iova < other.iova + other.length && other.iova < one.iova + one.length;
}

/** Size of one `struct vfio_device_feature_dma_logging_range`. */
export const RANGE_SIZE = 16;
/** Size of START's structure where ranges are a pointer (`rfc`, `linux`). */
export const START_POINTER_SIZE = 24;
/** Size of START's head where the ranges follow inline (`vfio-user`). */
export const START_INLINE_SIZE = 16;
/** Size of REPORT's structure where the bitmap is a pointer. */
export const REPORT_POINTER_SIZE = 32;
/** Size of REPORT's structure where the bitmap follows inline in the reply. */
export const REPORT_INLINE_SIZE = 24;

/** START's head. */
export interface LoggingStart {
  /** In: the hint. Out: the page size the device chose. Bytes. */
  pageSize: bigint;
  numRanges: number;
  /** Address of the array of ranges; only in the pointer profiles. */
  rangesPointer?: bigint;
}

/** REPORT's head: the interval asked for and the size that one bit of the answer speaks of, in bytes. */
export interface LoggingReport {
  iova: bigint;
  length: bigint;
  pageSize: bigint;
  /** Address of the bitmap; only in the pointer profiles. */
  bitmapPointer?: bigint;
}

/** `struct vfio_device_feature_dma_logging_control`, 24 bytes. */
export function encodeStartPointer(start: Required<LoggingStart>): Uint8Array {
  const bytes = new Uint8Array(START_POINTER_SIZE);
  encodeStartHead(viewOf(bytes), start.pageSize, start.numRanges);
  viewOf(bytes).setBigUint64(16, start.rangesPointer, true);
  return bytes;
}

/** Reverse of {@link encodeStartPointer}; the reserved word is ignored, as Linux does. @throws VfioError EINVAL when short. */
export function decodeStartPointer(bytes: Uint8Array): Required<LoggingStart> {
  requireBytes(bytes, START_POINTER_SIZE, 'DMA_LOGGING_START');
  return { ...decodeStartHead(bytes), rangesPointer: viewOf(bytes).getBigUint64(16, true) };
}

/** vfio-user's START: the head and the ranges behind it. */
export function encodeStartInline(pageSize: bigint, ranges: readonly IovaRange[]): Uint8Array {
  const bytes = new Uint8Array(START_INLINE_SIZE + ranges.length * RANGE_SIZE);
  encodeStartHead(viewOf(bytes), pageSize, ranges.length);
  bytes.set(encodeRanges(ranges), START_INLINE_SIZE);
  return bytes;
}

/**
 * Reverse of {@link encodeStartInline}. The count is held against the bytes that are there before anything is allocated.
 * @throws VfioError EINVAL when short.
 */
export function decodeStartInline(bytes: Uint8Array): { pageSize: bigint; ranges: IovaRange[] } {
  const operation = 'DMA_LOGGING_START';
  requireBytes(bytes, START_INLINE_SIZE, operation);
  const { pageSize, numRanges } = decodeStartHead(bytes);
  const rest = bytes.subarray(START_INLINE_SIZE);
  if (numRanges * RANGE_SIZE > rest.length) {
    throw new VfioError('EINVAL', {
      operation,
      field: 'num_ranges',
      message: `${numRanges} ranges need ${numRanges * RANGE_SIZE} bytes, ${rest.length} are there`,
    });
  }
  return { pageSize, ranges: decodeRanges(rest, numRanges) };
}

function encodeStartHead(view: DataView, pageSize: bigint, numRanges: number): void {
  view.setBigUint64(0, pageSize, true);
  view.setUint32(8, numRanges, true);
}

function decodeStartHead(bytes: Uint8Array): { pageSize: bigint; numRanges: number } {
  const view = viewOf(bytes);
  return { pageSize: view.getBigUint64(0, true), numRanges: view.getUint32(8, true) };
}

/** An array of ranges, 16 bytes each. */
export function encodeRanges(ranges: readonly IovaRange[]): Uint8Array {
  const bytes = new Uint8Array(ranges.length * RANGE_SIZE);
  const view = viewOf(bytes);
  for (const [index, range] of ranges.entries()) {
    view.setBigUint64(index * RANGE_SIZE, range.iova, true);
    view.setBigUint64(index * RANGE_SIZE + 8, range.length, true);
  }
  return bytes;
}

/** The first `count` ranges of an array. The caller has checked that they are there. */
export function decodeRanges(bytes: Uint8Array, count: number): IovaRange[] {
  const view = viewOf(bytes);
  const ranges: IovaRange[] = [];
  for (let offset = 0; offset < count * RANGE_SIZE; offset += RANGE_SIZE) {
    ranges.push({ iova: view.getBigUint64(offset, true), length: view.getBigUint64(offset + 8, true) });
  }
  return ranges;
}

/** REPORT: 32 bytes with the bitmap's address, 24 without. */
export function encodeReport(report: LoggingReport): Uint8Array {
  const pointer = report.bitmapPointer;
  const bytes = new Uint8Array(pointer === undefined ? REPORT_INLINE_SIZE : REPORT_POINTER_SIZE);
  const view = viewOf(bytes);
  view.setBigUint64(0, report.iova, true);
  view.setBigUint64(8, report.length, true);
  view.setBigUint64(16, report.pageSize, true);
  if (pointer !== undefined) view.setBigUint64(24, pointer, true);
  return bytes;
}

/** Reverse of {@link encodeReport} for the pointer profiles. @throws VfioError EINVAL when short. */
export function decodeReportPointer(bytes: Uint8Array): Required<LoggingReport> {
  requireBytes(bytes, REPORT_POINTER_SIZE, 'DMA_LOGGING_REPORT');
  return { ...decodeReportInline(bytes), bitmapPointer: viewOf(bytes).getBigUint64(24, true) };
}

/** Reverse of {@link encodeReport} for vfio-user. @throws VfioError EINVAL when short. */
export function decodeReportInline(bytes: Uint8Array): LoggingReport {
  requireBytes(bytes, REPORT_INLINE_SIZE, 'DMA_LOGGING_REPORT');
  const view = viewOf(bytes);
  return {
    iova: view.getBigUint64(0, true),
    length: view.getBigUint64(8, true),
    pageSize: view.getBigUint64(16, true),
  };
}
