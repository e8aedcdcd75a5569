/** Guest memory, and the map from IOVA to it. @module */
export * from './backing.js';
export * from './dma-map.js';
export * from './guest-memory.js';
export * from './maybe-promise.js';
export { PeerBitmap } from './peer-bitmap.js';
export { PeerMapping } from './peer-mapping.js';
