/**
 * dmalog: VFIO device DMA logging in TypeScript.
 *
 * Device authors begin at `PciDevice` and `VfioUserServer`; hosts at `connect`, `LoggingSession` and `migrate`.
 * @module
 */
export * as bitmap from './bitmap/index.js';
export * from './connect/index.js';
export * from './device/index.js';
export { IommufdSpace, KernelDevice, type OpenOptions, Type1Container } from './kernel/index.js';
export * from './log/index.js';
export * from './memory/index.js';
export * from './migration/index.js';
export * from './tracker/index.js';
export * from './uapi/index.js';
export { type ClientOptions, type ServerOptions, VfioUserClient, VfioUserServer } from './vfio-user/index.js';
