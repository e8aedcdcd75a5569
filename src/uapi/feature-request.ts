import { requireBytes, viewOf } from './bytes.js';
import { VfioError } from './error.js';

/*
 * struct vfio_device_feature, the one entry point: { u32 argsz, u32 flags, data }.
 * Example: PROBE|SET of DMA_LOGGING_START in the linux profile is
 *   argsz 8, flags 0x00060006 = SET (bit 17) | PROBE (bit 18) | index 6.
 */

/** Size of the request's head in bytes. */
export const FEATURE_HEADER_SIZE = 8;
/** Bits 0-15 of flags: the feature's index. */
export const FEATURE_MASK = 0xffff;
/** Bit 16 of flags: read the feature's data. */
export const FEATURE_GET = 1 << 16;
/** Bit 17 of flags: write the feature's data. */
export const FEATURE_SET = 1 << 17;
/** Bit 18 of flags: only ask whether the feature, and each of GET and SET that is also set, is supported. */
export const FEATURE_PROBE = 1 << 18;

/** A feature request taken apart. */
export interface FeatureRequest {
  /** Linux: size of header and data that the caller provides. vfio-user: largest reply payload the caller accepts. Bytes. */
  argsz: number;
  /** Feature index. */
  index: number;
  get: boolean;
  set: boolean;
  probe: boolean;
  /** The bytes behind the header, not copied. */
  data: Uint8Array;
}

/** Builds a request: header and `data` behind it. */
export function encodeFeatureRequest(
  request: Pick<FeatureRequest, 'index'> & Partial<Omit<FeatureRequest, 'index'>>,
): Uint8Array {
  const data = request.data ?? new Uint8Array(0);
  const bytes = new Uint8Array(FEATURE_HEADER_SIZE + data.length);
  writeFeatureHeader(bytes, request);
  bytes.set(data, FEATURE_HEADER_SIZE);
  return bytes;
}

/** Writes the head of a request whose data stands behind it already. Without argsz it says how many bytes there are. */
export function writeFeatureHeader(
  bytes: Uint8Array,
  request: Pick<FeatureRequest, 'index'> & Partial<Omit<FeatureRequest, 'index' | 'data'>>,
): void {
  const view = viewOf(bytes);
  view.setUint32(0, request.argsz ?? bytes.length, true);
  view.setUint32(4, encodeFeatureFlags(request), true);
}

/** The flags word of a request. */
export function encodeFeatureFlags(request: { index: number; get?: boolean; set?: boolean; probe?: boolean }): number {
  return (
    request.index |
    (request.get ? FEATURE_GET : 0) |
    (request.set ? FEATURE_SET : 0) |
    (request.probe ? FEATURE_PROBE : 0)
  );
}

/**
 * Takes a request apart, with Linux's first checks in Linux's order: size of the header, unknown flag bits,
 * GET together with SET but without PROBE (kernel.md "Order of checks").
 * @throws VfioError EINVAL
 */
export function decodeFeatureRequest(bytes: Uint8Array): FeatureRequest {
  const operation = 'DEVICE_FEATURE';
  requireBytes(bytes, FEATURE_HEADER_SIZE, operation);
  const view = viewOf(bytes);
  const argsz = view.getUint32(0, true);
  const flags = view.getUint32(4, true);
  if (argsz < FEATURE_HEADER_SIZE) {
    throw new VfioError('EINVAL', { operation, field: 'argsz', message: `${argsz} is less than the header's 8` });
  }
  if ((flags & ~(FEATURE_MASK | FEATURE_GET | FEATURE_SET | FEATURE_PROBE)) !== 0) {
    throw new VfioError('EINVAL', { operation, field: 'flags', message: `unknown bits in 0x${flags.toString(16)}` });
  }
  const get = (flags & FEATURE_GET) !== 0;
  const set = (flags & FEATURE_SET) !== 0;
  const probe = (flags & FEATURE_PROBE) !== 0;
  if (get && set && !probe) {
    throw new VfioError('EINVAL', { operation, field: 'flags', message: 'GET and SET together need PROBE' });
  }
  return { argsz, index: flags & FEATURE_MASK, get, set, probe, data: bytes.subarray(FEATURE_HEADER_SIZE) };
}
