/** The DMA engine: a device that writes guest memory on command and by itself, and its driver. @module */
export type { WorkloadKindName } from '../workload/index.js';
export * from './dma-engine.js';
export * from './dma-engine-stimulus.js';
export * from './driver.js';
export * from './registers.js';
export * from './scatter-list.js';
