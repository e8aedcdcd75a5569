import { VfioError, viewOf } from '../uapi/index.js';
import type { PciIdentity } from './pci-config-space.js';

/*
 * The bytes that a PciDevice migrates as.
 *
 *   identity (given in PRE_COPY already, so that an unfit destination is found before the device stops), 16 bytes:
 *     0 "DMALOGDV" · 8 u16 vendor · 10 u16 device · 12 u16 revision · 14 u16 version of the author's state
 *   image (given in STOP_COPY):
 *     u32 length and bytes of: configuration space, MSI-X table, pending MSI-X vectors (a bit each), mappable BAR memory, the author's state
 */

const MAGIC = new TextEncoder().encode('DMALOGDV');
const IDENTITY_SIZE = 16;
const PARTS = 5;

/** A stopped device's state, part by part. */
export interface DeviceImage {
  config: Uint8Array;
  msixTable: Uint8Array;
  pending: Uint8Array;
  barMemory: Uint8Array;
  state: Uint8Array;
}

/** The first 16 bytes: which device, and which form of its state. */
export function encodeIdentity(identity: PciIdentity, stateVersion: number): Uint8Array {
  const bytes = new Uint8Array(IDENTITY_SIZE);
  const view = viewOf(bytes);
  bytes.set(MAGIC);
  view.setUint16(8, identity.vendorId, true);
  view.setUint16(10, identity.deviceId, true);
  view.setUint16(12, identity.revision ?? 0, true);
  view.setUint16(14, stateVersion, true);
  return bytes;
}

/** The rest. */
export function encodeDeviceImage(image: DeviceImage): Uint8Array {
  const parts = [image.config, image.msixTable, image.pending, image.barMemory, image.state];
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + 4 + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    viewOf(bytes).setUint32(offset, part.length, true);
    bytes.set(part, offset + 4);
    offset += 4 + part.length;
  }
  return bytes;
}

/** Size of the image without the author's state, in bytes. */
export function deviceImageSize(...parts: number[]): number {
  return parts.reduce((sum, size) => sum + 4 + size, 4);
}

/**
 * Identity and image together, as the other end wrote them.
 * @throws VfioError EINVAL when the identity is not `identity`, or a part is not whole.
 */
export function decodeDeviceImage(bytes: Uint8Array, identity: Uint8Array): DeviceImage {
  if (bytes.length < IDENTITY_SIZE || !identity.every((value, index) => bytes[index] === value)) {
    throw invalid('identity', 'the state is of another device or version');
  }
  const parts: Uint8Array[] = [];
  let offset = IDENTITY_SIZE;
  while (offset < bytes.length) {
    // Looked at before the part is taken: a peer's empty parts would cost an object for four bytes.
    if (parts.length === PARTS) throw invalid('parts', `more than ${PARTS}`);
    if (bytes.length - offset < 4) throw invalid('length', 'the state is cut off');
    const length = viewOf(bytes).getUint32(offset, true);
    if (length > bytes.length - offset - 4) throw invalid('length', 'the state is cut off');
    parts.push(bytes.subarray(offset + 4, offset + 4 + length));
    offset += 4 + length;
  }
  if (parts.length !== PARTS) throw invalid('parts', `${parts.length} parts, not ${PARTS}`);
  return { config: parts[0]!, msixTable: parts[1]!, pending: parts[2]!, barMemory: parts[3]!, state: parts[4]! };
}

function invalid(field: string, message: string): VfioError {
  return new VfioError('EINVAL', { operation: 'MIG_DATA_WRITE', field, message });
}
