import { requireBytes, VfioError, viewOf } from '../uapi/index.js';
import { newBytes } from './new-bytes.js';
import { exactNumber, requireSize, requireU32 } from './payload.js';

/*
 * REGION_READ and REGION_WRITE (vfio-user 0.9.x): u64 offset · u32 region · u32 count · data.
 * The request to read and the reply to a write have no data.
 */

const HEAD_SIZE = 16;

/** Which bytes of which region. */
export interface RegionAccess {
  region: number;
  offset: number;
  /** Bytes. */
  count: number;
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
  bytes.set(data, HEAD_SIZE);
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

/** @throws VfioError EINVAL for what its field does not hold */
function encodeHead(bytes: Uint8Array, { region, offset, count }: RegionAccess): void {
  if (!Number.isSafeInteger(offset) || offset < 0) {
    throw new VfioError('EINVAL', { operation: 'region access', field: 'offset', message: `${offset} is no offset` });
  }
  requireU32(region, 'region access', 'region');
  requireU32(count, 'region access', 'count');
  const view = viewOf(bytes);
  view.setBigUint64(0, BigInt(offset), true);
  view.setUint32(8, region, true);
  view.setUint32(12, count, true);
}

function decodeHead(bytes: Uint8Array, operation: string): RegionAccess {
  const view = viewOf(bytes);
  return {
    offset: exactNumber(view.getBigUint64(0, true), operation, 'offset'),
    region: view.getUint32(8, true),
    count: view.getUint32(12, true),
  };
}
