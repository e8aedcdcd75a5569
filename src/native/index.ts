/** The only room that calls the C library: descriptors, memory files, mappings, sockets that carry descriptors, readiness. @module */
export * from './device-calls.js';
export * from './eventfd.js';
export { BorrowedFd, type FdKind, fdKind, fileSize, OwnedFd, openFdCount } from './file-descriptor.js';
export * from './file-lock.js';
export * from './mapping.js';
export * from './memory-file.js';
export * from './native-block.js';
export { offThread } from './off-thread.js';
export type { RunsVisitor } from './pagemap.js';
export * from './placed-mapping.js';
export * from './poll.js';
export * from './resident-memory.js';
export * from './shared-mapping.js';
export * from './socket-messages.js';
export * from './tcp-listener.js';
export * from './unix-socket.js';
export * from './warn.js';
export { type WatchedInterval, WriteWatch } from './write-watch.js';
