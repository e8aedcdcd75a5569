/*
 * Where the two-level bitmap of this instance is, and how it is kept. See two-level.ts for what it is.
 */

/** log2 of the pages in a block and in a group. */
export const BLOCK_LOG2: u64 = 9;
export const GROUP_LOG2: u64 = 15;
export const GROUP_BYTES: usize = 4096;

/** Ways to keep it; the third one is by generations. */
export const ONE_WRITER: u32 = 0;
export const EXCHANGE: u32 = 1;

export let mode: u32 = 0;
/** Page bits and their summary; with generations, those of generation 0. */
export let bits: usize = 0;
export let summary: usize = 0;
/** With generations, how far behind them generation 1 stands; else 0. */
export let bitsStride: usize = 0;
export let summaryStride: usize = 0;
/** One u32 a group: how often it was swapped; the lowest bit is the live generation. */
export let generations: usize = 0;

/** Where the levels are. All addresses and strides are multiples of 4096, except that of `generationsAt`: 64. */
export function configure(
  modeNumber: u32,
  bitsAt: usize,
  summaryAt: usize,
  bitsBetween: usize,
  summaryBetween: usize,
  generationsAt: usize,
): void {
  mode = modeNumber;
  bits = bitsAt;
  summary = summaryAt;
  bitsStride = bitsBetween;
  summaryStride = summaryBetween;
  generations = generationsAt;
}
