import { requireBytes, VfioError, viewOf } from '../../uapi/index.js';
import { newBytes } from './new-bytes.js';
import { requireArgsz, requireSize, requireU32 } from './payload.js';

/*
 * MIG_DATA_READ and MIG_DATA_WRITE (vfio-user 0.9.x): u32 argsz · u32 size · data.
 * The request to read has no data: its argsz is the largest reply that the client takes, its size the most data. Some servers pad the reply
 * to what was asked for; its `size` tells how many bytes are data.
 */

const HEAD_SIZE = 8;

/** MIG_DATA_READ's request for at most `limit` bytes. */
export function encodeMigrationRead(limit: number): Uint8Array {
  requireU32(limit, 'MIG_DATA_READ', 'size');
  const bytes = newBytes(HEAD_SIZE);
  viewOf(bytes).setUint32(0, HEAD_SIZE + limit, true);
  viewOf(bytes).setUint32(4, limit, true);
  return bytes;
}

/** How many bytes MIG_DATA_READ asks for. @throws VfioError EINVAL for a wrong size, an argsz too small for the reply, or more than `maxSize` bytes */
export function decodeMigrationRead(bytes: Uint8Array, maxSize: number): number {
  const operation = 'MIG_DATA_READ';
  requireSize(bytes, HEAD_SIZE, operation);
  const size = viewOf(bytes).getUint32(4, true);
  if (size > maxSize) {
    throw new VfioError('EINVAL', {
      operation,
      field: 'size',
      message: `${size}, at most ${maxSize} are sent at once`,
    });
  }
  requireArgsz(bytes, HEAD_SIZE + size, operation);
  return size;
}

/** MIG_DATA_WRITE's request. */
export function encodeMigrationData(data: Uint8Array): Uint8Array {
  return encodeData(data, data.length);
}

/** MIG_DATA_READ's reply, padded to the `limit` bytes asked for: the C reference's client takes no other. */
export function encodeMigrationReply(data: Uint8Array, limit: number): Uint8Array {
  return encodeData(data, limit);
}

function encodeData(data: Uint8Array, room: number): Uint8Array {
  const bytes = newBytes(HEAD_SIZE + room);
  viewOf(bytes).setUint32(0, bytes.length, true);
  viewOf(bytes).setUint32(4, data.length, true);
  bytes.set(data, HEAD_SIZE);
  return bytes;
}

/** The data of MIG_DATA_WRITE's request. @throws VfioError EINVAL for a wrong size */
export function decodeMigrationWrite(bytes: Uint8Array): Uint8Array {
  const operation = 'MIG_DATA_WRITE';
  requireBytes(bytes, HEAD_SIZE, operation, 'size');
  requireSize(bytes, HEAD_SIZE + viewOf(bytes).getUint32(4, true), operation);
  requireArgsz(bytes, bytes.length, operation);
  return bytes.subarray(HEAD_SIZE);
}

/** The data of MIG_DATA_READ's reply, without padding. @throws VfioError EINVAL when it is short, or more than the `limit` bytes asked for */
export function decodeMigrationData(bytes: Uint8Array, limit: number): Uint8Array {
  const operation = 'MIG_DATA_READ';
  requireBytes(bytes, HEAD_SIZE, operation, 'size');
  const size = viewOf(bytes).getUint32(4, true);
  if (size > limit) {
    throw new VfioError('EINVAL', { operation, field: 'size', message: `${size} bytes for at most ${limit}` });
  }
  requireBytes(bytes, HEAD_SIZE + size, operation, 'size');
  return bytes.subarray(HEAD_SIZE, HEAD_SIZE + size);
}
