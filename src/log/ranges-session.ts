import { setBit, setRange } from '../bitmap/index.js';
import { type IovaRange, VfioError } from '../uapi/index.js';
import type { Interval } from './interval.js';
import type { ReportRequest } from './report-request.js';
import { Segment } from './segment.js';
import { type LogSession, NUMBER_LIMIT } from './session.js';

/*
 * A session with ranges. They are rounded outwards to log pages, and those that then touch or overlap share one
 * segment.
 *
 * Worked example: page size 4096, ranges [0x1800, 0x1900) [0x1a00, 0x3000) [0x9000, 0xa000). The first two share the
 * segment of pages 1 and 2, the third has its own, page 9. A write to [0x1940, 0x1980) marks nothing: it lies in no
 * range.
 */

/** A range and the segment that holds its pages. */
interface LoggedRange extends Interval {
  readonly segment: Segment;
}

/** The part of a range that lies below {@link NUMBER_LIMIT}, for the hot path. */
interface LowRange {
  readonly start: number;
  readonly end: number;
  /** Address of bit 0. */
  readonly base: number;
  readonly words: Uint32Array;
}

/** Never hit: no write begins at infinity. */
const noRange: LowRange = {
  start: Number.POSITIVE_INFINITY,
  end: Number.POSITIVE_INFINITY,
  base: 0,
  words: new Uint32Array(0),
};

/** One START to its STOP, with ranges. */
export class RangesSession implements LogSession {
  readonly #segments: readonly Segment[];
  readonly #ranges: readonly LoggedRange[];
  readonly #low: readonly LowRange[];
  readonly #pageSize: bigint;
  /** Multiplying by it is exact, as dividing by a power of two is, and cheaper. */
  readonly #pagesPerByte: number;
  /** Writes come in clusters: most hit the range that the last one hit. */
  #recent: LowRange = noRange;

  /**
   * `intervals`: ascending, apart from each other. The bits are counted before any is allocated.
   * @throws VfioError ENOMEM when the bitmaps would take more than `maxBytes`, or the engine has no room for them.
   */
  constructor(intervals: readonly Interval[], pageSize: bigint, maxBytes: number) {
    const groups = groupByPages(intervals, pageSize);
    requireRoom(groups, pageSize, maxBytes);
    this.#segments = groups.map(group => allocateSegment(group, pageSize));
    this.#ranges = groups.flatMap((group, index) =>
      group.ranges.map(({ start, end }) => ({ start, end, segment: this.#segments[index] })),
    );
    this.#low = this.#ranges.filter(range => range.start < NUMBER_LIMIT).map(toLowRange);
    this.#pageSize = pageSize;
    this.#pagesPerByte = 1 / Number(pageSize);
  }

  get ranges(): readonly IovaRange[] {
    return this.#ranges.map(({ start, end }) => ({ iova: start, length: end - start }));
  }

  record(start: number, end: number): void {
    const recent = this.#recent;
    if (start >= recent.start && end <= recent.end) {
      this.#mark(recent, start, end);
      return;
    }
    const low = this.#low;
    for (let index = firstEndingAfter(low, start); index < low.length && low[index].start < end; index++) {
      const range = low[index];
      this.#mark(range, Math.max(start, range.start), Math.min(end, range.end));
      this.#recent = range;
    }
  }

  #mark(range: LowRange, start: number, end: number): void {
    const first = Math.floor((start - range.base) * this.#pagesPerByte);
    const last = Math.floor((end - 1 - range.base) * this.#pagesPerByte);
    // Most writes touch one page. Measured, random 4 KiB pages, bitmap in the cache: 13 ns instead of 24.
    if (first === last) setBit(range.words, first);
    else setRange(range.words, first, last + 1);
  }

  recordHigh(start: bigint, end: bigint): void {
    for (const range of this.#ranges) {
      if (range.end <= start) continue;
      if (range.start >= end) break;
      const { segment } = range;
      const from = start > range.start ? start : range.start;
      const through = (end < range.end ? end : range.end) - 1n;
      const first = Number((from - segment.start) / this.#pageSize);
      const last = Number((through - segment.start) / this.#pageSize);
      setRange(segment.words, first, last + 1);
    }
  }

  report(request: ReportRequest): void {
    for (const segment of this.#segments) {
      if (segment.end <= request.start) continue;
      if (segment.start >= request.end) break;
      segment.report(request);
    }
  }

  dirtyPages(): number {
    return this.#segments.reduce((total, segment) => total + segment.dirtyPages(), 0);
  }
}

/** Ranges whose pages, `[first, end)` of the absolute grid, touch or overlap. */
interface PageGroup {
  readonly first: bigint;
  readonly end: bigint;
  readonly ranges: readonly Interval[];
}

function groupByPages(intervals: readonly Interval[], pageSize: bigint): PageGroup[] {
  const groups: { first: bigint; end: bigint; ranges: Interval[] }[] = [];
  for (const interval of intervals) {
    const first = interval.start / pageSize;
    const end = (interval.end - 1n) / pageSize + 1n;
    const previous = groups.at(-1);
    if (previous !== undefined && first <= previous.end) {
      previous.end = end;
      previous.ranges.push(interval);
    } else {
      groups.push({ first, end, ranges: [interval] });
    }
  }
  return groups;
}

function requireRoom(groups: readonly PageGroup[], pageSize: bigint, maxBytes: number): void {
  const bytes = groups.reduce((total, group) => total + ((group.end - group.first + 63n) / 64n) * 8n, 0n);
  if (bytes <= BigInt(maxBytes)) return;
  throw new VfioError('ENOMEM', {
    operation: 'DMA_LOGGING_START',
    field: 'ranges',
    message: `${bytes} bytes of bitmap at page size ${pageSize}, at most ${maxBytes}`,
  });
}

function allocateSegment(group: PageGroup, pageSize: bigint): Segment {
  try {
    return new Segment(group.first * pageSize, Number(group.end - group.first), pageSize, group.ranges);
  } catch (cause) {
    throw new VfioError('ENOMEM', { operation: 'DMA_LOGGING_START', message: 'no room for the bitmap', cause });
  }
}

function toLowRange({ start, end, segment }: LoggedRange): LowRange {
  const lowEnd = Math.min(Number(end), NUMBER_LIMIT);
  return { start: Number(start), end: lowEnd, base: Number(segment.start), words: segment.words };
}

function firstEndingAfter(ranges: readonly LowRange[], address: number): number {
  let below = 0;
  let above = ranges.length;
  while (below < above) {
    const middle = (below + above) >>> 1;
    if (ranges[middle].end <= address) below = middle + 1;
    else above = middle;
  }
  return below;
}
