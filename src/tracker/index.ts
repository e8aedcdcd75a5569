/** The host side of dirty tracking: sessions with recovery, and the union of all sources. @module */
export { probeCpuTracking } from './cpu/cpu-support.js';
export * from './cpu/cpu-tracker.js';
export * from './cpu/marked-tracker.js';
export { DirtyLogTracker } from './dirty-log-tracker.js';
export * from './dirty-set.js';
export * from './iommufd-dirty-tracker.js';
export * from './logging-session.js';
export * from './tracker.js';
export * from './tracker-union.js';
export * from './type1-dirty-tracker.js';
