import { requireBytes, VfioError, viewOf } from '../../uapi/index.js';
import { IoFdType } from './constants.js';
import { exactNumber, requireOffset, requireRequest, requireU32, requireU64 } from './payload.js';

/*
 * DEVICE_GET_REGION_IO_FDS (vfio-user 0.9.x): u32 argsz · u32 flags 0 · u32 index · u32 count · entries; the request has a count of 0.
 *
 * An entry, 48 bytes as the C reference has it:
 *   u64 offset · u64 size · u32 descriptor index · u32 type · u32 flags · u32 shadow's descriptor index · u64 shadow's offset · u64 match
 * The text of the protocol has entries of 40 bytes, without the shadow's offset, and says that a reader goes by argsz and count. So does
 * this one. Example: argsz 16 + 2 * 48 = 112 and count 2 are entries of 48 bytes; 96 and 2 are entries of 40.
 *
 * A request whose argsz has no room for all entries gets the 16 bytes alone, with the argsz that has, and no descriptors.
 */

const HEAD_SIZE = 16;
const ENTRY_SIZE = 48;
const TEXT_ENTRY_SIZE = 40;

/** An interval of a region where an access is told by a descriptor. */
export interface IoFdEntry {
  /** Bytes, from the region's start. */
  offset: number;
  /** Size of the access, bytes; 0: any. */
  size: number;
  /** Which of the message's descriptors. */
  fdIndex: number;
  /** {@link IoFdType}. */
  type: number;
  /** {@link IoEventFdFlag}s, for an ioeventfd. */
  flags: number;
  /** An ioeventfd's value that must be written, an ioregionfd's user data. */
  match: bigint;
  /** IOEVENTFD_SHADOW: the memory file that takes what is written. */
  shadow?: { fdIndex: number; offset: bigint };
}

/** GET_REGION_IO_FDS's request. @param argsz most bytes of the reply's payload */
export function encodeRegionIoFdsRequest(region: number, argsz: number): Uint8Array {
  return encodeHead(region, argsz, 0, HEAD_SIZE);
}

/** The region that is asked for, and most bytes of the reply's payload. @throws VfioError EINVAL */
export function decodeRegionIoFdsRequest(bytes: Uint8Array): { region: number; argsz: number } {
  const operation = 'DEVICE_GET_REGION_IO_FDS';
  requireRequest(bytes, HEAD_SIZE, operation);
  const view = viewOf(bytes);
  if (view.getUint32(4, true) !== 0 || view.getUint32(12, true) !== 0) {
    throw new VfioError('EINVAL', { operation, field: 'flags', message: 'flags and count must be 0' });
  }
  return { region: view.getUint32(8, true), argsz: view.getUint32(0, true) };
}

/**
 * GET_REGION_IO_FDS's reply.
 * @param argsz the request's
 * @returns `complete`: the entries are in it, and their descriptors go with it
 */
export function encodeRegionIoFds(
  region: number,
  entries: readonly IoFdEntry[],
  argsz: number,
): { payload: Uint8Array; complete: boolean } {
  const needed = HEAD_SIZE + ENTRY_SIZE * entries.length;
  const complete = argsz >= needed;
  const payload = encodeHead(region, needed, entries.length, complete ? needed : HEAD_SIZE);
  if (complete) {
    for (const [index, entry] of entries.entries()) encodeEntry(payload, HEAD_SIZE + ENTRY_SIZE * index, entry);
  }
  return { payload, complete };
}

/**
 * Reverse of {@link encodeRegionIoFds}.
 * @returns without entries and not `whole` when the request's argsz had no room for them: `needed` has
 * @throws VfioError EINVAL for a reply that is short, of another region, or whose sizes make no sense
 */
export function decodeRegionIoFds(
  bytes: Uint8Array,
  region: number,
): { needed: number; whole: boolean; entries: readonly IoFdEntry[] } {
  requireBytes(bytes, HEAD_SIZE, 'DEVICE_GET_REGION_IO_FDS', 'size');
  const view = viewOf(bytes);
  const argsz = view.getUint32(0, true);
  const count = view.getUint32(12, true);
  if (view.getUint32(8, true) !== region) throw invalid('index', `${view.getUint32(8, true)} for ${region}`);
  if (argsz > bytes.length) return { needed: argsz, whole: false, entries: [] };
  if (count === 0) return { needed: argsz, whole: true, entries: [] };
  const entrySize = (argsz - HEAD_SIZE) / count;
  if (!Number.isInteger(entrySize) || entrySize < TEXT_ENTRY_SIZE) {
    throw invalid('argsz', `${argsz} bytes hold no ${count} entries`);
  }
  return {
    needed: argsz,
    whole: true,
    entries: Array.from({ length: count }, (_, index) => decodeEntry(view, HEAD_SIZE + entrySize * index, entrySize)),
  };
}

function encodeHead(region: number, argsz: number, count: number, size: number): Uint8Array {
  requireU32(region, 'DEVICE_GET_REGION_IO_FDS', 'index');
  requireU32(argsz, 'DEVICE_GET_REGION_IO_FDS', 'argsz');
  const bytes = new Uint8Array(size);
  const view = viewOf(bytes);
  view.setUint32(0, argsz, true);
  view.setUint32(8, region, true);
  view.setUint32(12, count, true);
  return bytes;
}

function encodeEntry(bytes: Uint8Array, at: number, entry: IoFdEntry): void {
  const operation = 'DEVICE_GET_REGION_IO_FDS';
  requireOffset(entry.offset, operation, 'offset');
  requireOffset(entry.size, operation, 'size');
  requireU64(entry.match, operation, 'match');
  const view = viewOf(bytes);
  view.setBigUint64(at, BigInt(entry.offset), true);
  view.setBigUint64(at + 8, BigInt(entry.size), true);
  view.setUint32(at + 16, entry.fdIndex, true);
  view.setUint32(at + 20, entry.type, true);
  view.setUint32(at + 24, entry.flags, true);
  view.setUint32(at + 28, entry.shadow?.fdIndex ?? 0, true);
  view.setBigUint64(at + 32, entry.shadow?.offset ?? 0n, true);
  view.setBigUint64(at + 40, entry.match, true);
}

function decodeEntry(view: DataView, at: number, size: number): IoFdEntry {
  const operation = 'DEVICE_GET_REGION_IO_FDS';
  const hasShadow = size >= ENTRY_SIZE;
  const type = view.getUint32(at + 20, true);
  const entry: IoFdEntry = {
    offset: exactNumber(view.getBigUint64(at, true), operation, 'offset'),
    size: exactNumber(view.getBigUint64(at + 8, true), operation, 'size'),
    fdIndex: view.getUint32(at + 16, true),
    type,
    flags: view.getUint32(at + 24, true),
    // The union of the C reference: an ioregionfd's user data lies where an ioeventfd has its shadow's offset.
    match: view.getBigUint64(hasShadow && type !== IoFdType.IOREGIONFD ? at + 40 : at + 32, true),
  };
  if (type === IoFdType.IOEVENTFD_SHADOW && hasShadow) {
    entry.shadow = { fdIndex: view.getUint32(at + 28, true), offset: view.getBigUint64(at + 32, true) };
  }
  return entry;
}

function invalid(field: string, message: string): VfioError {
  return new VfioError('EINVAL', { operation: 'DEVICE_GET_REGION_IO_FDS', field, message });
}
