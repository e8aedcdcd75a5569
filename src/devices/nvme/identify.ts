import { viewOf } from '../../uapi/index.js';
import { MAX_ASYNC_REQUESTS } from './async-events.js';
import { ERROR_LOG_ENTRIES } from './error-log.js';
import { CRITICAL_TEMPERATURE, RECOMMENDED_BURST, WARNING_TEMPERATURE } from './features.js';
import { MODEL_SIZE, SERIAL_SIZE, subsystemName, uuidOf } from './identity.js';
import { NAMESPACE_ID, type Namespace } from './namespace.js';
import { MAX_TRANSFER_EXPONENT, NVME_VERSION } from './registers.js';

/*
 * What Identify tells (NVMe 1.4, section 5.15). The offsets are those of figures 245 (namespace), 247 (controller) and 249 (descriptors);
 * what is not set is 0: not supported, not reported.
 */

/** Which structure Identify asks for (CNS). */
export const IdentifyStructure = {
  NAMESPACE: 0x00,
  CONTROLLER: 0x01,
  ACTIVE_NAMESPACES: 0x02,
  NAMESPACE_DESCRIPTORS: 0x03,
} as const;

/** Size of each structure, bytes. */
export const IDENTIFY_SIZE = 4096;

/** PCI vendor and subsystem vendor id; not registered: see the DMA engine's. */
export const NVME_VENDOR_ID = 0x1234;
/** Firmware revision, 8 characters. */
export const FIRMWARE_REVISION = '1.0';

const FIRMWARE_SIZE = 8;
const CONTROLLER_TYPE_IO = 1;
/** FRMW: one slot, read-only. */
const FIRMWARE_SLOTS = 0x03;
/** LPA: commands supported and effects, and offsets into log pages. */
const LOG_PAGE_ATTRIBUTES = 0x06;
/** ONCS: compare, dataset management, write zeroes, and which value Get Features gives. */
const OPTIONAL_COMMANDS = 0x1d;
/** VWC: there is a write cache; a flush of all namespaces flushes it. */
const VOLATILE_WRITE_CACHE = 0x7;
/** SQES and CQES: entries of 2^6 and 2^4 bytes, smallest and largest alike. */
const SUBMISSION_ENTRY_SIZES = 0x66;
const COMPLETION_ENTRY_SIZES = 0x44;
/** Of Abort commands at a time, less one. */
const ABORT_LIMIT = 3;
/** Power of the one power state in units of 10 mW. */
const MAX_POWER = 2500;
const NAMESPACE_WRITE_PROTECTED = 0x1;
const DESCRIPTOR_UUID = 3;

/** The controller. */
export function identifyController(serial: string, model: string): Uint8Array {
  const bytes = new Uint8Array(IDENTIFY_SIZE);
  const view = viewOf(bytes);
  view.setUint16(0, NVME_VENDOR_ID, true);
  view.setUint16(2, NVME_VENDOR_ID, true);
  setText(bytes, 4, SERIAL_SIZE, serial);
  setText(bytes, 24, MODEL_SIZE, model);
  setText(bytes, 64, FIRMWARE_SIZE, FIRMWARE_REVISION);
  bytes[72] = RECOMMENDED_BURST;
  bytes[77] = MAX_TRANSFER_EXPONENT;
  view.setUint32(80, NVME_VERSION, true);
  bytes[111] = CONTROLLER_TYPE_IO;
  bytes[258] = ABORT_LIMIT;
  bytes[259] = MAX_ASYNC_REQUESTS - 1;
  bytes[260] = FIRMWARE_SLOTS;
  bytes[261] = LOG_PAGE_ATTRIBUTES;
  bytes[262] = ERROR_LOG_ENTRIES - 1;
  view.setUint16(266, WARNING_TEMPERATURE, true);
  view.setUint16(268, CRITICAL_TEMPERATURE, true);
  bytes[512] = SUBMISSION_ENTRY_SIZES;
  bytes[513] = COMPLETION_ENTRY_SIZES;
  view.setUint32(516, NAMESPACE_ID, true);
  view.setUint16(520, OPTIONAL_COMMANDS, true);
  bytes[525] = VOLATILE_WRITE_CACHE;
  bytes.set(new TextEncoder().encode(subsystemName(serial)), 768);
  view.setUint16(2048, MAX_POWER, true);
  return bytes;
}

/** The namespace. */
export function identifyNamespace(namespace: Namespace): Uint8Array {
  const bytes = new Uint8Array(IDENTIFY_SIZE);
  const view = viewOf(bytes);
  const blocks = BigInt(namespace.blocks);
  view.setBigUint64(0, blocks, true);
  view.setBigUint64(8, blocks, true);
  view.setBigUint64(16, blocks, true);
  bytes[99] = namespace.disk.readOnly ? NAMESPACE_WRITE_PROTECTED : 0;
  bytes[130] = Math.log2(namespace.blockSize);
  return bytes;
}

/** The ids of the namespaces above `after`: of the one, or none. */
export function identifyActiveNamespaces(after: number): Uint8Array {
  const bytes = new Uint8Array(IDENTIFY_SIZE);
  if (after < NAMESPACE_ID) viewOf(bytes).setUint32(0, NAMESPACE_ID, true);
  return bytes;
}

/** The namespace's names: its UUID. */
export function identifyDescriptors(serial: string): Uint8Array {
  const bytes = new Uint8Array(IDENTIFY_SIZE);
  const uuid = uuidOf(serial);
  bytes[0] = DESCRIPTOR_UUID;
  bytes[1] = uuid.length;
  bytes.set(uuid, 4);
  return bytes;
}

/** ASCII that fits, filled up with spaces. */
function setText(bytes: Uint8Array, offset: number, size: number, text: string): void {
  bytes.set(new TextEncoder().encode(text.padEnd(size)), offset);
}
