import { moveBlocks } from './blocks';
import { BLOCK_LOG2, bits, summary } from './layout';
import { setRange } from './ranges';

/*
 * One thread writes and reports: plain loads and stores.
 */

/** Marks one page. */
export function markPlain(page: u32): void {
  const at = bits + ((page >> 5) << 2);
  store<u32>(at, load<u32>(at) | (1 << page));
  const block = page >> <u32>BLOCK_LOG2;
  const above = summary + ((block >> 5) << 2);
  const marked = load<u32>(above);
  const one = (<u32>1) << block;
  if ((marked & one) === 0) store<u32>(above, marked | one);
}

/** Marks four pages. */
export function markFourPlain(first: u32, second: u32, third: u32, fourth: u32): void {
  markPlain(first);
  markPlain(second);
  markPlain(third);
  markPlain(fourth);
}

/** Marks pages `[first, end)`. */
export function markRangeOneWriter(first: u64, end: u64): void {
  setRange(bits, <f64>first, <f64>end);
  setRange(summary, <f64>(first >> BLOCK_LOG2), <f64>(((end - 1) >> BLOCK_LOG2) + 1));
}

/** Takes the summary of a group. */
export function takeSummaryOneWriter(group: u64): u64 {
  const at = summary + <usize>(group << 3);
  const marked = load<u64>(at);
  store<u64>(at, 0);
  return marked;
}

/** Takes all of a group. */
export function takeGroupOneWriter(group: u64, target: usize, to: u64): void {
  moveBlocks(bits + <usize>(group << 12), takeSummaryOneWriter(group), target, to);
}
