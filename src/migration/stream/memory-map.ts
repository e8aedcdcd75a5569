import { type IovaRange, VfioError, viewOf } from '../../uapi/index.js';
import { PAGE_SIZE } from '../memory/machine-memory.js';

/*
 * A MEMORY_MAP frame's payload: all ranges of the machine's memory, in order of address. Range numbers in later MEMORY frames mean this list.
 *
 *   0 u32 number of ranges · 4 u32 0 · ranges, 16 bytes each: { u64 iova, u64 length }, as everything little-endian
 *
 * Worked example: [0x10000, 0x12000) alone is 01 00 00 00 · 00 00 00 00 · 00 00 01 00 00 00 00 00 · 00 20 00 00 00 00 00 00.
 */

const HEAD_SIZE = 8;
const RANGE_SIZE = 16;
const END_OF_ADDRESSES = 1n << 64n;

/** MEMORY_MAP's payload. @param ranges in order of address */
export function encodeMemoryMap(ranges: readonly IovaRange[]): Uint8Array {
  const payload = new Uint8Array(HEAD_SIZE + ranges.length * RANGE_SIZE);
  const view = viewOf(payload);
  view.setUint32(0, ranges.length, true);
  for (const [index, { iova, length }] of ranges.entries()) {
    view.setBigUint64(HEAD_SIZE + index * RANGE_SIZE, iova, true);
    view.setBigUint64(HEAD_SIZE + index * RANGE_SIZE + 8, length, true);
  }
  return payload;
}

/**
 * Reverse of {@link encodeMemoryMap}.
 * @throws VfioError EBADMSG for a size that does not fit, and for ranges that are empty, no whole pages, beyond 2^64, or not apart and in order
 */
export function decodeMemoryMap(payload: Uint8Array): IovaRange[] {
  const view = viewOf(payload);
  const count = payload.length < HEAD_SIZE ? Number.NaN : view.getUint32(0, true);
  if (payload.length !== HEAD_SIZE + count * RANGE_SIZE) {
    throw badMap('length', `${payload.length} bytes for ${count} ranges`);
  }
  const ranges: IovaRange[] = [];
  let end = 0n;
  for (let at = HEAD_SIZE; at < payload.length; at += RANGE_SIZE) {
    const range = { iova: view.getBigUint64(at, true), length: view.getBigUint64(at + 8, true) };
    if (range.iova < end || !isWhole(range)) throw badMap('ranges', `0x${range.iova.toString(16)} + ${range.length}`);
    end = range.iova + range.length;
    ranges.push(range);
  }
  return ranges;
}

function isWhole({ iova, length }: IovaRange): boolean {
  const pageSize = BigInt(PAGE_SIZE);
  return length > 0n && iova % pageSize === 0n && length % pageSize === 0n && iova + length <= END_OF_ADDRESSES;
}

function badMap(field: string, message: string): VfioError {
  return new VfioError('EBADMSG', { operation: 'MEMORY_MAP', field, message });
}
