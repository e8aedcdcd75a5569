/** The vfio-user protocol: a device in its own process behind a UNIX socket, and a host's client of it. @module */
export * from './client/client.js';
export type { WireReply } from './client/connection.js';
export type { ByteAccess, DmaMemory } from './client/memory.js';
export type { ClientOptions, DmaFile, DmaMapping } from './client/options.js';
export type { MappedArea, RegionFile, RegionIoFd } from './client/regions.js';
export type { BitmapPlace, SharedBitmap, SharedReport } from './client/shared-bitmap.js';
export * from './server/server.js';
export type { ClientRole } from './server/session.js';
export { Command, commandName, IoEventFdFlag, IoFdType } from './wire/constants.js';
export type { DeviceStatistics } from './wire/extension-messages.js';
export { OWN_LIMITS, PROTOCOL_LIMITS, type VfioUserLimits } from './wire/limits.js';
export type { RegionWrite } from './wire/region-messages.js';
