/** Live migration by pre-copy: source, destination, stream, convergence. @module */

export * from './destination/migration-receiver.js';
export type { ReceiveOptions, ReceiveReport } from './destination/reception.js';
export type { Dial, LinkEvent } from './link/link-keeper.js';
export * from './link/one-host.js';
export type { TlsIdentity } from './link/tls-identity.js';
export * from './memory/machine-memory.js';
export * from './memory/memory-digest.js';
export * from './ownership/index.js';
export * from './source/convergence.js';
export type * from './source/memory-lane.js';
export * from './source/migrate.js';
export type * from './source/migration-report.js';
export * from './stream/frame-channel.js';
export * from './stream/frame-parser.js';
export * from './stream/hello.js';
export * from './stream/memory-block.js';
export * from './stream/page-list.js';
export * from './stream/stream-format.js';
