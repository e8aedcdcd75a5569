import type { IovaRange } from '../uapi/index.js';
import type { Interval } from './interval.js';

/*
 * Ranges as the log keeps them: sorted, apart from each other, and no more than the device can tell apart (contract
 * rule 11).
 *
 * Worked example: [10, 20) [14, 16) [20, 25) [30, 40) [100, 110), at most two. The first three overlap or touch: [10,
 * 25). The gaps are then 5 and 60; the smaller one is closed: [10, 40) [100, 110).
 */

/**
 * The union of `ranges` as at most `most` intervals: the neighbours with the smallest gap are merged until they fit;
 * among equal gaps the one at the lower address first. Ranges of length 0 count for nothing. The caller has checked
 * that none reaches 2^64.
 */
export function mergeRanges(ranges: readonly IovaRange[], most: number): Interval[] {
  return closeSmallestGaps(union(ranges), most);
}

/**
 * Starts and ends are sorted each by themselves: behind the i-th smallest end there is a hole if and only if the next
 * start lies above it. Typed arrays, because a peer may send a million ranges, and they sort those without a comparison
 * function.
 */
function union(ranges: readonly IovaRange[]): Interval[] {
  const filled = ranges.filter(range => range.length > 0n);
  const starts = BigUint64Array.from(filled, range => range.iova).sort();
  const ends = BigUint64Array.from(filled, range => range.iova + range.length).sort();
  const intervals: Interval[] = [];
  let start = 0;
  for (let index = 0; index < ends.length; index++) {
    if (index + 1 < ends.length && starts[index + 1] <= ends[index]) continue;
    intervals.push({ start: starts[start], end: ends[index] });
    start = index + 1;
  }
  return intervals;
}

/** Closing a gap changes no other: "the smallest, again and again" is all below a threshold, and enough at it. */
function closeSmallestGaps(intervals: Interval[], most: number): Interval[] {
  const excess = intervals.length - most;
  if (excess <= 0) return intervals;
  const gaps = BigUint64Array.from(intervals.slice(1), (interval, index) => interval.start - intervals[index].end);
  const sorted = gaps.slice().sort();
  const threshold = sorted[excess - 1];
  let atThreshold = excess - sorted.indexOf(threshold);
  const merged = [intervals[0]];
  for (const [index, gap] of gaps.entries()) {
    const next = intervals[index + 1];
    if (gap < threshold || (gap === threshold && atThreshold-- > 0)) {
      merged[merged.length - 1] = { start: merged[merged.length - 1].start, end: next.end };
    } else {
      merged.push(next);
    }
  }
  return merged;
}
