/** Live migration by pre-copy: source, destination, stream, convergence. @module */
export * from './convergence.js';
export * from './frame-channel.js';
export * from './frame-parser.js';
export * from './machine-memory.js';
export * from './memory-block.js';
export * from './memory-digest.js';
export type * from './memory-lane.js';
export * from './migration-receiver.js';
export type * from './migration-report.js';
export * from './ownership/index.js';
export * from './page-list.js';
export type { ReceiveOptions, ReceiveReport } from './reception.js';
export * from './source.js';
export * from './stream-format.js';
