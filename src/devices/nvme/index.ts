/** An NVMe 1.4 controller with one namespace, on a file or in memory. @module */
export * from './disk.js';
export * from './file-disk.js';
export { NVME_VENDOR_ID } from './identify.js';
export { isSerial, SERIAL_SIZE } from './identity.js';
export * from './memory-disk.js';
export * from './nvme-controller.js';
export * from './nvme-stimulus.js';
export * from './registers.js';
export * from './statistics.js';
export * from './status.js';
