export * from './json.js';
export * from './junit.js';
export * from './tap.js';
