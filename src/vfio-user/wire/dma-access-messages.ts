import { requireBytes, VfioError, viewOf } from '../../uapi/index.js';
import { newBytes } from './new-bytes.js';
import { readAddress, requireSize, requireU32, writeAddress } from './payload.js';

/*
 * DMA_READ and DMA_WRITE (vfio-user 0.9.x), which the server sends: u64 address · u64 count · data.
 * The request to read and the reply to a write have no data.
 *
 * What real peers answer to a write: the C reference takes exactly these 16 bytes; the text of the protocol has a count of 32 bits, which
 * makes 12; QEMU answers with a header alone; 4 bytes have been seen. All are read here, 16 are sent.
 */

const HEAD_SIZE = 16;

/** Which bytes of a guest's memory. */
export interface DmaAccess {
  /** A number wherever it is exact. */
  iova: number | bigint;
  /** Bytes. */
  count: number;
}

/** The head alone: a request to read, or the reply to a write. @throws VfioError EINVAL for what its fields do not hold */
export function encodeDmaAccess(access: DmaAccess): Uint8Array {
  const bytes = newBytes(HEAD_SIZE);
  encodeHead(bytes, access);
  return bytes;
}

/** A request to write. @throws VfioError EINVAL for what its fields do not hold */
export function encodeDmaWrite(iova: number | bigint, data: Uint8Array): Uint8Array {
  const bytes = newBytes(HEAD_SIZE + data.length);
  encodeHead(bytes, { iova, count: data.length });
  bytes.set(data, HEAD_SIZE);
  return bytes;
}

/** A reply to a read, with room for `count` bytes of data: memory is read straight into it. */
export function newDmaData(access: DmaAccess): { reply: Uint8Array; data: Uint8Array } {
  const reply = newBytes(HEAD_SIZE + access.count);
  encodeHead(reply, access);
  return { reply, data: reply.subarray(HEAD_SIZE) };
}

/** A request to read. @throws VfioError EINVAL for a wrong size, or more than `maxCount` bytes */
export function decodeDmaRead(bytes: Uint8Array, maxCount: number): DmaAccess {
  requireSize(bytes, HEAD_SIZE, 'DMA_READ');
  return decodeHead(bytes, maxCount, 'DMA_READ');
}

/** A request to write. @throws VfioError EINVAL for a wrong size, or more than `maxCount` bytes */
export function decodeDmaWrite(bytes: Uint8Array, maxCount: number): DmaAccess & { data: Uint8Array } {
  requireBytes(bytes, HEAD_SIZE, 'DMA_WRITE', 'size');
  const { iova, count } = decodeHead(bytes, maxCount, 'DMA_WRITE');
  requireSize(bytes, HEAD_SIZE + count, 'DMA_WRITE');
  return { iova, count, data: bytes.subarray(HEAD_SIZE) };
}

/** The data of a reply to a read. @throws VfioError EINVAL when it is not the `count` bytes that were asked for */
export function decodeDmaData(bytes: Uint8Array, count: number): Uint8Array {
  requireBytes(bytes, HEAD_SIZE, 'DMA_READ', 'size');
  requireAnswered(viewOf(bytes).getBigUint64(8, true), count, 'DMA_READ');
  requireSize(bytes, HEAD_SIZE + count, 'DMA_READ');
  return bytes.subarray(HEAD_SIZE);
}

/** Checks the reply to a write of `count` bytes, in any of its sizes. @throws VfioError EINVAL when it is of no such size, or tells another count */
export function checkDmaWritten(bytes: Uint8Array, count: number): void {
  switch (bytes.length) {
    case 0:
    case 4:
      return;
    case 12:
      requireAnswered(BigInt(viewOf(bytes).getUint32(8, true)), count, 'DMA_WRITE');
      return;
    case HEAD_SIZE:
      requireAnswered(viewOf(bytes).getBigUint64(8, true), count, 'DMA_WRITE');
      return;
    default:
      requireSize(bytes, HEAD_SIZE, 'DMA_WRITE');
  }
}

function encodeHead(bytes: Uint8Array, { iova, count }: DmaAccess): void {
  requireU32(count, 'DMA access', 'count');
  const view = viewOf(bytes);
  writeAddress(view, 0, iova, 'DMA access');
  view.setUint32(8, count, true);
  view.setUint32(12, 0, true);
}

function decodeHead(bytes: Uint8Array, maxCount: number, operation: string): DmaAccess {
  const view = viewOf(bytes);
  const count = readAddress(view, 8);
  if (typeof count === 'number' && count <= maxCount) return { iova: readAddress(view, 0), count };
  const message = `${count} bytes, at most ${maxCount} are taken at once`;
  throw new VfioError('EINVAL', { operation, field: 'count', message });
}

function requireAnswered(answered: bigint, count: number, operation: string): void {
  if (answered === BigInt(count)) return;
  throw new VfioError('EINVAL', { operation, field: 'count', message: `${answered} bytes for ${count}` });
}
