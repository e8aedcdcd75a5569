import { exchangeBlocks } from './blocks';
import { BLOCK_LOG2, bits, summary } from './layout';
import { setRangeShared } from './ranges';

/*
 * Any number of writers, one bitmap: writers set bits by atomic OR, a report takes each word that is not 0 by an atomic
 * exchange, about 9 ns. No lock; nobody waits.
 *
 * Why no page is lost. A writer's steps, in this order: (1) the bytes, (2) atomic OR of the page bit, (3) a look at the
 * summary bit, and an atomic OR if it is clear. A report's: (a) takes the summary word, (b) takes the page words, and then
 * its reader (c) copies the pages.
 *  - Atomic steps on one word have one order. If (2) comes before (b), the report has the bit, and because an atomic step
 *    also publishes what its thread stored before, (c) sees the bytes. If (2) comes after (b), the bit stays.
 *  - A bit that stays has its summary bit: (3) comes after (2), so after (b), so after (a). Either it finds the summary bit
 *    set, by somebody who set it after (a), or it sets it.
 *  - A report that does not look at a block because (a) found its summary bit clear: if the write was complete, (3) was
 *    before (a) and the bit was set. So the write is not complete, and the next report has it.
 *
 * (2) is done even where the bit is set already. A mere look would come out of the store buffer's order: the bytes could
 * still wait there while the look finds the bit, the report takes it, and (c) copies the page without them. A list has one
 * locked instruction before all of its looks instead, so that the bytes of all its pages are out: a look that then finds the
 * bit comes before the (b) that takes it, and (c) sees them. It still looks at the summary bit, which whoever set the page bit
 * may not have set yet. Pages that are marked already then take 4 ns and not 9, and looks at four pages together fetch their
 * words at the same time, which locked instructions do one after the other.
 *
 * Worked example: the writer's OR of page 70 and the report's exchange of word 1 meet. OR first: the exchange gives bit 6
 * and leaves 0. Exchange first: it gives what was there before, and the OR leaves bit 6 for the next report.
 */

/** Marks one page. */
export function markShared(page: u32): void {
  atomic.or<u32>(bits + ((page >> 5) << 2), 1 << page);
  markBlock(page);
}

/** Marks four pages, behind a fence. */
export function markFourShared(first: u32, second: u32, third: u32, fourth: u32): void {
  const at1 = bits + ((first >> 5) << 2);
  const at2 = bits + ((second >> 5) << 2);
  const at3 = bits + ((third >> 5) << 2);
  const at4 = bits + ((fourth >> 5) << 2);
  const clear1 = ~atomic.load<u32>(at1) & (1 << first);
  const clear2 = ~atomic.load<u32>(at2) & (1 << second);
  const clear3 = ~atomic.load<u32>(at3) & (1 << third);
  const clear4 = ~atomic.load<u32>(at4) & (1 << fourth);
  if (clear1 !== 0) atomic.or<u32>(at1, clear1);
  if (clear2 !== 0) atomic.or<u32>(at2, clear2);
  if (clear3 !== 0) atomic.or<u32>(at3, clear3);
  if (clear4 !== 0) atomic.or<u32>(at4, clear4);
  markBlock(first);
  markBlock(second);
  markBlock(third);
  markBlock(fourth);
}

function markBlock(page: u32): void {
  const block = page >> <u32>BLOCK_LOG2;
  const above = summary + ((block >> 5) << 2);
  const one = (<u32>1) << block;
  if ((atomic.load<u32>(above) & one) === 0) atomic.or<u32>(above, one);
}

/** Marks pages `[first, end)`. */
export function markRangeExchange(first: u64, end: u64): void {
  setRangeShared(bits, <f64>first, <f64>end);
  setRangeShared(summary, <f64>(first >> BLOCK_LOG2), <f64>(((end - 1) >> BLOCK_LOG2) + 1));
}

/** Takes all of a group. */
export function takeGroupExchange(group: u64, target: usize, to: u64): void {
  const marked = atomic.xchg<u64>(summary + <usize>(group << 3), 0);
  exchangeBlocks(bits + <usize>(group << 12), marked, target, to);
}
