import { requireBytes, VfioError, viewOf } from '../../uapi/index.js';

/*
 * What every structure of the protocol is checked for, on both sides. A reader of a request wants sizes exactly, so that nothing is
 * half understood; a reader of a reply wants at least what it will look at.
 */

/** @throws VfioError EINVAL unless a payload has exactly `size` bytes. */
export function requireSize(bytes: Uint8Array, size: number, operation: string): void {
  if (bytes.length === size) return;
  throw new VfioError('EINVAL', { operation, field: 'size', message: `${bytes.length} bytes, must be ${size}` });
}

/** @throws VfioError EINVAL unless a payload begins with an argsz of at least `least`. The caller has checked that it is there. */
export function requireArgsz(bytes: Uint8Array, least: number, operation: string): void {
  const argsz = viewOf(bytes).getUint32(0, true);
  if (argsz >= least) return;
  throw new VfioError('EINVAL', { operation, field: 'argsz', message: `${argsz}, must be at least ${least}` });
}

/**
 * Checks the head of a request whose reply may be longer than it. Some clients (the C reference's) send all of the buffer that the reply goes
 * into, so a request may be as long as its argsz.
 * @throws VfioError EINVAL for a payload shorter than `least` or longer than its argsz, or a shorter argsz
 */
export function requireRequest(bytes: Uint8Array, least: number, operation: string): void {
  requireBytes(bytes, least, operation, 'size');
  requireArgsz(bytes, least, operation);
  const argsz = viewOf(bytes).getUint32(0, true);
  if (bytes.length === least || bytes.length <= argsz) return;
  throw new VfioError('EINVAL', { operation, field: 'size', message: `${bytes.length} bytes, argsz says ${argsz}` });
}

/** @throws VfioError EINVAL when `flags` has a bit that is not in `known`. */
export function requireKnownFlags(flags: number, known: number, operation: string): void {
  if ((flags & ~known) === 0) return;
  const message = `unknown bits in 0x${flags.toString(16)}`;
  throw new VfioError('EINVAL', { operation, field: 'flags', message });
}

/**
 * A 64-bit offset or size as a number.
 * @throws VfioError EINVAL beyond 2^53 - 1, which no region has.
 */
export function exactNumber(value: bigint, operation: string, field: string): number {
  if (value <= BigInt(Number.MAX_SAFE_INTEGER)) return Number(value);
  throw new VfioError('EINVAL', { operation, field, message: `0x${value.toString(16)} is too large` });
}

/** @throws VfioError EINVAL unless a value of one's own caller fits the 32 bits that it is sent in. */
export function requireU32(value: number, operation: string, field: string): void {
  if (Number.isInteger(value) && value >= 0 && value < 2 ** 32) return;
  throw new VfioError('EINVAL', { operation, field, message: `${value} is no unsigned 32-bit integer` });
}

/** @throws VfioError EINVAL unless a value of one's own caller fits the 64 bits that it is sent in. */
export function requireU64(value: bigint, operation: string, field: string): void {
  if (typeof value === 'bigint' && value >= 0n && value < 1n << 64n) return;
  throw new VfioError('EINVAL', { operation, field, message: `${value} is no bigint of 64 bits without a sign` });
}

/**
 * A 64-bit address: a number where that is exact, so that nothing is allocated for the usual ones.
 * Example: bytes 00 00 00 00 00 00 20 00 are 2^53, the first address that comes as a bigint.
 */
export function readAddress(view: DataView, offset: number): number | bigint {
  const high = view.getUint32(offset + 4, true);
  if (high >= 0x20_0000) return view.getBigUint64(offset, true);
  return high * 2 ** 32 + view.getUint32(offset, true);
}

/** A 64-bit offset that must be exact as a number. @throws VfioError EINVAL beyond 2^53 - 1, which no region has */
export function exactAddress(view: DataView, offset: number, operation: string, field: string): number {
  const address = readAddress(view, offset);
  return typeof address === 'number' ? address : exactNumber(address, operation, field);
}

/** Reverse of {@link readAddress}. @throws VfioError EINVAL for what 64 bits do not hold, and for a number that is not exact */
export function writeAddress(view: DataView, offset: number, address: number | bigint, operation: string): void {
  if (typeof address === 'bigint') {
    requireU64(address, operation, 'address');
    view.setBigUint64(offset, address, true);
    return;
  }
  requireOffset(address, operation, 'address');
  view.setUint32(offset, address >>> 0, true);
  view.setUint32(offset + 4, Math.floor(address / 2 ** 32), true);
}

/** @throws VfioError EINVAL unless an offset or size of one's own caller is an exact number, 0 or more. */
export function requireOffset(value: number, operation: string, field: string): void {
  if (Number.isSafeInteger(value) && value >= 0) return;
  throw new VfioError('EINVAL', { operation, field, message: `${value} is no exact integer from 0 on` });
}
