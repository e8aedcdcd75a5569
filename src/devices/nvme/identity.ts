import { createHash, randomBytes } from 'node:crypto';
import { VfioError } from '../../uapi/index.js';

/** Bytes of a serial number in identify. */
export const SERIAL_SIZE = 20;
/** Bytes of a model number in identify. */
export const MODEL_SIZE = 40;

/** A serial number that no other controller has. */
export function randomSerial(): string {
  return `DMALOG${randomBytes(6).toString('hex').toUpperCase()}`;
}

/** @throws VfioError EINVAL for a serial or model number that is empty, too long, not printable ASCII, or blank at an end */
export function requireName(field: 'serial' | 'model', name: string): void {
  const size = field === 'serial' ? SERIAL_SIZE : MODEL_SIZE;
  if (isName(name, size)) return;
  const message = `${JSON.stringify(name)} is not 1 to ${size} printable ASCII characters`;
  throw new VfioError('EINVAL', { operation: 'NvmeController', field, message });
}

/** Whether a string can be a serial number. */
export function isSerial(serial: string): boolean {
  return isName(serial, SERIAL_SIZE);
}

/** Identify fills names up with blanks: blanks at their ends would be lost. */
function isName(name: string, size: number): boolean {
  return name.length <= size && /^[!-~]([ -~]*[!-~])?$/.test(name);
}

/**
 * The UUID of what has a serial number: of the NVM subsystem and its namespace. The first 16 bytes of the serial number's SHA-256, marked as
 * version 8 (RFC 9562, section 5.8).
 */
export function uuidOf(serial: string): Uint8Array {
  const bytes = new Uint8Array(createHash('sha256').update(serial).digest().subarray(0, 16));
  bytes[6] = (bytes[6]! & 0x0f) | 0x80;
  bytes[8] = (bytes[8]! & 0x3f) | 0x80;
  return bytes;
}

/** The NVMe qualified name of the subsystem (NVMe 1.4, section 7.9). */
export function subsystemName(serial: string): string {
  const hex = Buffer.from(uuidOf(serial)).toString('hex');
  return `nqn.2014-08.org.nvmexpress:uuid:${hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-')}`;
}
