export * from './json.js';
export * from './junit.js';
export * from './markdown.js';
export * from './tap.js';
