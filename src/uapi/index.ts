/** The ABI: numbers, structures, encode and decode, errno, profiles. Pure. @module */
export * from './bytes.js';
export * from './device-info.js';
export * from './dirty-bitmap.js';
export * from './dma-logging.js';
export * from './errno.js';
export * from './error.js';
export * from './feature-request.js';
export * from './migration.js';
export * from './profile.js';
