/** What a device author writes against, and the feature request on both its sides. @module */
export * from './check-logging.js';
export * from './device.js';
export * from './device-handle.js';
export * from './dma-port.js';
export * from './eventfd-trigger.js';
export * from './feature-client.js';
export * from './feature-dispatch.js';
export { replyData, reportBitmap } from './feature-replies.js';
export * from './interrupts.js';
export type { IoEventSpec } from './io-events.js';
export * from './local-device.js';
export { requireMappable } from './mappable.js';
export * from './migration-machine.js';
export * from './migration-states.js';
export { orBytes } from './or-bytes.js';
export * from './pci-config-space.js';
export * from './pci-device.js';
export * from './user-memory.js';
