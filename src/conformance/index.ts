/** The contract as named checks against any device. @module */
export { Bench, type OpenDevice, type Outcome, type RawRequest, type StartArguments } from './bench.js';
export * from './check.js';
export { checks } from './checks/index.js';
export * from './deviation.js';
export { ExpectedLog, isSet, type ReportInterval, setBits } from './expected-log.js';
export { Random } from './random.js';
export * from './reporters/index.js';
export * from './runner.js';
export * from './select.js';
export * from './stimuli/index.js';
export * from './stimulus.js';
