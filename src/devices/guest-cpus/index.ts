/** The CPUs of a guest that has none: threads that write guest memory by plain stores, and migrate as a device does. @module */
export { type CpuWorkload, MOST_CPUS } from './cpu-workload.js';
export * from './guest-cpus.js';
