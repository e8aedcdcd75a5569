import { moveBlocks } from './blocks';
import { BLOCK_LOG2, bits, bitsStride, GROUP_LOG2, generations, summary, summaryStride } from './layout';
import { setRangeShared } from './ranges';

/*
 * Any number of writers, two bitmaps: writers mark in the live one, a report of a whole group swaps the two and takes the
 * old one with plain loads and stores, so it costs what one writer's does. Every group of 32768 pages has a counter of its
 * own, whose lowest bit says which bitmap is live: what a report did not ask for is not swapped, and stays pending where it
 * is. Of a group that is asked for in part, the report takes the part from the live bitmap, as exchange.ts does.
 *
 * A writer's steps: (1) the bytes; (2) reads the counter; (3) atomic OR of the page bit in the bitmap that is live by (2),
 * and of its summary bit; (4) reads the counter again, and if it moved, goes back to (2). A report's: (a) moves the counter
 * atomically; (b) takes the old summary by an atomic exchange; (c) takes the old page bits, plainly; its reader (d) copies.
 *
 * So a report need not wait until no writer holds the old bitmap: a writer that still does finds out at (4), and marks once
 * more in the live one. Nobody waits for anybody, and a writer that is stopped halfway delays no report.
 *
 * Why no page is lost. Take the last round of a completed write, where (2) and (4) read the same counter.
 *  - (3) is an atomic step and (4) a load behind it, so when (4) reads the counter, the bits of (3) are visible to all (x86-64:
 *    a locked instruction drains the store buffer and no later load passes it). (4) still saw the old counter, so the swap (a)
 *    that retires this bitmap comes after it, and (b) and (c), which no processor moves before the locked (a), find the bits
 *    and, for the same reason, (d) finds the bytes of (1).
 *  - Bits that a writer leaves in a retired bitmap are surplus: their page is marked in the live one too. (c) may see them or
 *    wipe them out by its store of 0; what survives is reported once more, later, which is allowed. They cannot bring back
 *    what (c) took, for an atomic OR reads and writes in one step, and they hide nothing: the counter never returns to an
 *    earlier value while a writer is between (2) and (4), short of 2^32 reports.
 *  - Two reports of one log never run at once: its owner reports.
 *
 * (3) sets the summary bit only where a look finds it clear. Within one life of a bitmap it is only set, so it stays set until
 * (b) of its swap, which is after (4). In a list, behind a locked instruction, the same goes for the page bit and (c); what (c)
 * of an earlier life cleared is clear for all who read the counter of this one, for (a) published it.
 *
 * Worked example: counter 6, bitmap 0 is live. The writer reads 6; the report moves the counter to 7 and takes bitmap 0; the
 * writer's OR lands in bitmap 0, too late. It reads 7, marks in bitmap 1, reads 7: done. The next report moves the counter to
 * 8, takes bitmap 1 and has the page. The bit in bitmap 0, live again now, is reported once more by the report after that.
 */

/** The number of the live bitmap of a group, 0 or 1. */
export function liveOf(group: u64): u32 {
  return atomic.load<u32>(generations + <usize>(group << 2)) & 1;
}

/** Marks one page. */
export function markLive(page: u32): void {
  let before = counterOf(page);
  while (true) {
    const live = 0 - (before & 1);
    atomic.or<u32>(pageAt(page, live), 1 << page);
    markBlock(page, live);
    const after = counterOf(page);
    if (after === before) return;
    before = after;
  }
}

/** Marks four pages, behind a fence: each step for all four, and those whose counter moved again. */
export function markFourLive(first: u32, second: u32, third: u32, fourth: u32): void {
  const before1 = counterOf(first);
  const before2 = counterOf(second);
  const before3 = counterOf(third);
  const before4 = counterOf(fourth);
  const live1 = 0 - (before1 & 1);
  const live2 = 0 - (before2 & 1);
  const live3 = 0 - (before3 & 1);
  const live4 = 0 - (before4 & 1);
  const at1 = pageAt(first, live1);
  const at2 = pageAt(second, live2);
  const at3 = pageAt(third, live3);
  const at4 = pageAt(fourth, live4);
  const clear1 = ~atomic.load<u32>(at1) & (1 << first);
  const clear2 = ~atomic.load<u32>(at2) & (1 << second);
  const clear3 = ~atomic.load<u32>(at3) & (1 << third);
  const clear4 = ~atomic.load<u32>(at4) & (1 << fourth);
  if (clear1 !== 0) atomic.or<u32>(at1, clear1);
  if (clear2 !== 0) atomic.or<u32>(at2, clear2);
  if (clear3 !== 0) atomic.or<u32>(at3, clear3);
  if (clear4 !== 0) atomic.or<u32>(at4, clear4);
  markBlock(first, live1);
  markBlock(second, live2);
  markBlock(third, live3);
  markBlock(fourth, live4);
  if (counterOf(first) !== before1) markLive(first);
  if (counterOf(second) !== before2) markLive(second);
  if (counterOf(third) !== before3) markLive(third);
  if (counterOf(fourth) !== before4) markLive(fourth);
}

function counterOf(page: u32): u32 {
  return atomic.load<u32>(generations + ((page >> <u32>GROUP_LOG2) << 2));
}

/** `live`: 0, or all ones for generation 1. */
function pageAt(page: u32, live: u32): usize {
  return bits + ((page >> 5) << 2) + (bitsStride & live);
}

function markBlock(page: u32, live: u32): void {
  const block = page >> <u32>BLOCK_LOG2;
  const above = summary + ((block >> 5) << 2) + (summaryStride & live);
  const one = (<u32>1) << block;
  if ((atomic.load<u32>(above) & one) === 0) atomic.or<u32>(above, one);
}

/** Marks pages `[first, end)`, group by group. */
export function markRangeGenerations(first: u64, end: u64): void {
  while (first < end) {
    const group = first >> GROUP_LOG2;
    const groupEnd = min<u64>((group + 1) << GROUP_LOG2, end);
    markInGroup(group, first, groupEnd);
    first = groupEnd;
  }
}

function markInGroup(group: u64, first: u64, end: u64): void {
  const counter = generations + <usize>(group << 2);
  let before = atomic.load<u32>(counter);
  while (true) {
    const live = <usize>0 - <usize>(before & 1);
    setRangeShared(bits + (bitsStride & live), <f64>first, <f64>end);
    setRangeShared(summary + (summaryStride & live), <f64>(first >> BLOCK_LOG2), <f64>(((end - 1) >> BLOCK_LOG2) + 1));
    const after = atomic.load<u32>(counter);
    if (after === before) return;
    before = after;
  }
}

/** Swaps the bitmaps of a group. Returns what chooses the one that was live till now: 0, or all ones for its stride. */
export function retire(group: u64): usize {
  return <usize>0 - <usize>(atomic.add<u32>(generations + <usize>(group << 2), 1) & 1);
}

/** Takes the summary of a group's retired bitmap. */
export function takeSummaryGenerations(group: u64, retired: usize): u64 {
  return atomic.xchg<u64>(summary + (summaryStride & retired) + <usize>(group << 3), 0);
}

/** Takes all of a group. */
export function takeGroupGenerations(group: u64, target: usize, to: u64): void {
  const retired = retire(group);
  const marked = takeSummaryGenerations(group, retired);
  if (marked !== 0) moveBlocks(bits + (bitsStride & retired) + <usize>(group << 12), marked, target, to);
}

/** Clears summary bits of the live bitmap: all but `others`. */
export function clearSummaryGenerations(group: u64, others: u64): void {
  atomic.and<u64>(summary + (liveOf(group) === 0 ? 0 : summaryStride) + <usize>(group << 3), others);
}
