import { VfioError, viewOf } from '../uapi/index.js';

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
  if (value >= 0n && value < 1n << 64n) return;
  throw new VfioError('EINVAL', { operation, field, message: `${value} is no unsigned 64-bit integer` });
}
