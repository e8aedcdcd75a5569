/**
 * A workload that writes pages which prove themselves: its order, its content, and the table of what must be where. Whoever writes memory runs it:
 * a device by DMA, a CPU by stores. @module
 */
export * from './generation-table.js';
export * from './mix.js';
export * from './pacer.js';
export * from './page-content.js';
export * from './page-fault.js';
export * from './page-order.js';
export * from './random.js';
export * from './workload.js';
export * from './workload-kind.js';
export * from './workload-settings.js';
export * from './zipf.js';
