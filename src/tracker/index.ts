/** The host side of dirty tracking: sessions with recovery, and the union of all sources. @module */

export { DirtyLogTracker } from './dirty-log-tracker.js';
export * from './dirty-set.js';
export * from './iommufd-dirty-tracker.js';
export * from './logging-session.js';
export * from './tracker.js';
export * from './tracker-union.js';
export * from './type1-dirty-tracker.js';
