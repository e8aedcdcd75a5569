import { requireBytes, VfioError, viewOf } from '../../uapi/index.js';
import { copyBytes, newBytes } from './new-bytes.js';
import { exactAddress, exactNumber, requireSize, requireU32, writeAddress } from './payload.js';

/*
 * REGION_READ and REGION_WRITE (vfio-user 0.9.x): u64 offset · u32 region · u32 count · data.
 * The request to read and the reply to a write have no data.
 *
 * REGION_WRITE_MULTI: u64 number of writes, then for each u64 offset · u32 region · u32 count · 8 bytes of which the first `count` are data;
 * the reply: u64 number of writes done.
 */

const HEAD_SIZE = 16;
const MULTI_HEAD_SIZE = 8;
const MULTI_DATA_SIZE = 8;
const MULTI_ENTRY_SIZE = HEAD_SIZE + MULTI_DATA_SIZE;

/** Most writes of one REGION_WRITE_MULTI: what QEMU sends at most. */
export const MAX_MULTI_WRITES = 200;

/** Which bytes of which region. */
export interface RegionAccess {
  region: number;
  offset: number;
  /** Bytes. */
  count: number;
}

/** One write of a REGION_WRITE_MULTI. */
export interface RegionWrite {
  region: number;
  offset: number;
  /** 8 bytes or fewer. */
  data: Uint8Array;
}

/** The head alone: a request to read, or the reply to a write. */
export function encodeRegionAccess(access: RegionAccess): Uint8Array {
  const bytes = newBytes(HEAD_SIZE);
  encodeHead(bytes, access);
  return bytes;
}

/** A request to write. */
export function encodeRegionWrite(region: number, offset: number, data: Uint8Array): Uint8Array {
  const bytes = newBytes(HEAD_SIZE + data.length);
  encodeHead(bytes, { region, offset, count: data.length });
  copyBytes(data, 0, data.length, bytes, HEAD_SIZE);
  return bytes;
}

/** A reply to a read, with room for `count` bytes of data: the device reads straight into it. */
export function newRegionData(access: RegionAccess): { reply: Uint8Array; data: Uint8Array } {
  const reply = newBytes(HEAD_SIZE + access.count);
  encodeHead(reply, access);
  return { reply, data: reply.subarray(HEAD_SIZE) };
}

/** A request to read. @throws VfioError EINVAL for a wrong size, an offset beyond 2^53, or more than `maxCount` bytes */
export function decodeRegionRead(bytes: Uint8Array, maxCount: number): RegionAccess {
  const operation = 'REGION_READ';
  requireSize(bytes, HEAD_SIZE, operation);
  const access = decodeHead(bytes, operation);
  if (access.count <= maxCount) return access;
  const message = `${access.count} bytes, at most ${maxCount} are sent at once`;
  throw new VfioError('EINVAL', { operation, field: 'count', message });
}

/** A request to write. @throws VfioError EINVAL for a wrong size, or an offset beyond 2^53 */
export function decodeRegionWrite(bytes: Uint8Array): RegionAccess & { data: Uint8Array } {
  const operation = 'REGION_WRITE';
  requireBytes(bytes, HEAD_SIZE, operation, 'size');
  const access = decodeHead(bytes, operation);
  requireSize(bytes, HEAD_SIZE + access.count, operation);
  return { ...access, data: bytes.subarray(HEAD_SIZE) };
}

/** The data of a reply to a read. @throws VfioError EINVAL when it is not the `count` bytes that were asked for */
export function decodeRegionData(bytes: Uint8Array, count: number): Uint8Array {
  const operation = 'REGION_READ';
  requireBytes(bytes, HEAD_SIZE, operation, 'size');
  const answered = viewOf(bytes).getUint32(12, true);
  if (answered !== count) {
    throw new VfioError('EINVAL', { operation, field: 'count', message: `${answered} bytes for ${count}` });
  }
  requireSize(bytes, HEAD_SIZE + count, operation);
  return bytes.subarray(HEAD_SIZE);
}

/** REGION_WRITE_MULTI's request. @throws VfioError EINVAL for more than 200 writes, or one of more than 8 bytes */
export function encodeRegionWriteMulti(writes: readonly RegionWrite[]): Uint8Array {
  requireMultiCount(writes.length);
  const bytes = newBytes(MULTI_HEAD_SIZE + MULTI_ENTRY_SIZE * writes.length);
  viewOf(bytes).setUint32(0, writes.length, true);
  for (const [index, { region, offset, data }] of writes.entries()) {
    requireMultiData(data.length);
    const entry = bytes.subarray(MULTI_HEAD_SIZE + MULTI_ENTRY_SIZE * index);
    encodeHead(entry, { region, offset, count: data.length });
    entry.set(data, HEAD_SIZE);
  }
  return bytes;
}

/** Reverse of {@link encodeRegionWriteMulti}. @throws VfioError EINVAL for a wrong size, more than 200 writes, or one of more than 8 bytes */
export function decodeRegionWriteMulti(bytes: Uint8Array): readonly RegionWrite[] {
  requireBytes(bytes, MULTI_HEAD_SIZE, 'REGION_WRITE_MULTI', 'size');
  const count = exactNumber(viewOf(bytes).getBigUint64(0, true), 'REGION_WRITE_MULTI', 'wr_cnt');
  requireMultiCount(count);
  requireSize(bytes, MULTI_HEAD_SIZE + MULTI_ENTRY_SIZE * count, 'REGION_WRITE_MULTI');
  return Array.from({ length: count }, (_, index) => {
    const entry = bytes.subarray(MULTI_HEAD_SIZE + MULTI_ENTRY_SIZE * index);
    const { region, offset, count: size } = decodeHead(entry, 'REGION_WRITE_MULTI');
    requireMultiData(size);
    return { region, offset, data: entry.subarray(HEAD_SIZE, HEAD_SIZE + size) };
  });
}

/** REGION_WRITE_MULTI's reply. */
export function encodeRegionWritesDone(count: number): Uint8Array {
  const bytes = newBytes(MULTI_HEAD_SIZE);
  viewOf(bytes).setUint32(0, count, true);
  return bytes;
}

/** How many writes of `most` were done. @throws VfioError EINVAL for a wrong size, or more than were asked for */
export function decodeRegionWritesDone(bytes: Uint8Array, most: number): number {
  requireSize(bytes, MULTI_HEAD_SIZE, 'REGION_WRITE_MULTI');
  const count = exactNumber(viewOf(bytes).getBigUint64(0, true), 'REGION_WRITE_MULTI', 'wr_cnt');
  if (count <= most) return count;
  throw new VfioError('EINVAL', {
    operation: 'REGION_WRITE_MULTI',
    field: 'wr_cnt',
    message: `${count} were done of ${most}`,
  });
}

function requireMultiCount(count: number): void {
  if (count <= MAX_MULTI_WRITES) return;
  const message = `${count} writes, at most ${MAX_MULTI_WRITES}`;
  throw new VfioError('EINVAL', { operation: 'REGION_WRITE_MULTI', field: 'wr_cnt', message });
}

/** @throws VfioError EINVAL for more bytes than a write of a REGION_WRITE_MULTI has */
export function requireMultiData(size: number): void {
  if (size <= MULTI_DATA_SIZE) return;
  const message = `${size} bytes, at most ${MULTI_DATA_SIZE}`;
  throw new VfioError('EINVAL', { operation: 'REGION_WRITE_MULTI', field: 'count', message });
}

/** @throws VfioError EINVAL for what its field does not hold */
function encodeHead(bytes: Uint8Array, { region, offset, count }: RegionAccess): void {
  requireU32(region, 'region access', 'region');
  requireU32(count, 'region access', 'count');
  const view = viewOf(bytes);
  writeAddress(view, 0, offset, 'region access');
  view.setUint32(8, region, true);
  view.setUint32(12, count, true);
}

function decodeHead(bytes: Uint8Array, operation: string): RegionAccess {
  const view = viewOf(bytes);
  return {
    offset: exactAddress(view, 0, operation, 'offset'),
    region: view.getUint32(8, true),
    count: view.getUint32(12, true),
  };
}
