/*
 * The kernels that TypeScript calls. All work on the one memory that is imported; addresses and byte counts are u32, bit and
 * page numbers f64, because a number of JavaScript arrives as one without conversion and 2^35 bits fit into 4 GiB.
 * src/bitmap/kernels.ts says what each takes.
 */
export { expand, shrink } from './convert';
export { count } from './count';
export { edges, edgesResume, pages } from './edges';
export { markShared } from './exchange';
export { markLive } from './generations';
export { configure } from './layout';
export { markList } from './lists';
export { markPlain } from './one-writer';
export { exchange, or, orShared, readAndClear } from './or';
export { clearRange, setRange, setRangeShared } from './ranges';
export {
  countMarked,
  drain,
  drainExpanded,
  drainShrunk,
  isMarked,
  markRange,
  nextMarkedBlock,
} from './two-level';
