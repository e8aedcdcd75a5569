/** Live migration by pre-copy: source, destination, stream, convergence. @module */

export type { MemoryProvider } from './destination/destination-memory.js';
export * from './destination/migration-receiver.js';
export type { ReceiveOptions, ReceiveReport } from './destination/reception.js';
export type { Dial, LinkEvent } from './link/link-keeper.js';
export * from './memory/machine-memory.js';
export * from './memory/memory-digest.js';
export * from './ownership/index.js';
export * from './source/convergence.js';
export * from './source/downtime.js';
export * from './source/hot-pages.js';
export type * from './source/memory-lane.js';
export * from './source/migrate.js';
export type * from './source/migration-report.js';
export type { PassOptions } from './source/pass-options.js';
export * from './source/rate-limit.js';
export type { DeviceReport } from './source/source-device.js';
export type { MemoryChange } from './source/source-memory.js';
export * from './stream/compression-choice.js';
export * from './stream/frame-channel.js';
export * from './stream/frame-parser.js';
export * from './stream/hello.js';
export * from './stream/memory-block.js';
export * from './stream/memory-encoder.js';
export * from './stream/memory-map.js';
export * from './stream/page-list.js';
export * from './stream/stream-format.js';
