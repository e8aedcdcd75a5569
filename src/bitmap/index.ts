/**
 * The dirty bitmap: set, read-and-clear, OR, convert, count, runs. A bitmap is a `Uint32Array`; bits are numbered from
 * 0, intervals are half open. The kernels trust their caller: who takes bits from outside checks them first. Pure.
 * @module
 */
export { BitmapMemory, NUMBERS } from './bitmap-memory.js';
export * from './clear-range.js';
export * from './count.js';
export * from './expand.js';
export * from './or.js';
export * from './page-batches.js';
export * from './page-cursor.js';
export * from './read-and-clear.js';
export * from './run-batches.js';
export * from './runs.js';
export * from './search.js';
export * from './set-range.js';
export * from './shrink.js';
export * from './two-level-bitmap.js';
export * from './two-level-place.js';
export { createBitmap, maskFrom, maskThrough, testBit, wordOf } from './words.js';
