export * from './command-line.js';
export * from './vdlog.js';
