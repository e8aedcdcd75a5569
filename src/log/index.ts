/** The DMA log: ranges, page-size choice, record, read-and-clear. Pure. @module */
export * from './dma-log.js';
export type { LentBitmap } from './lent-bitmap.js';
export { mergeRanges } from './merge-ranges.js';
export { choosePageSize } from './page-size.js';
export { type SharedLog, SharedRecorder } from './shared-recorder.js';
