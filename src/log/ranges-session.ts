import { BLOCK_PAGES, type Keeping } from '../bitmap/index.js';
import { type IovaRange, VfioError } from '../uapi/index.js';
import type { Interval } from './interval.js';
import { BitmapLender, HEAD_ROOM, type LentBitmap } from './lent-bitmap.js';
import { LIST_LENGTH, LogMemory, MAX_SHARES } from './log-memory.js';
import { NUMBER_LIMIT } from './number-limit.js';
import type { PageRecorder } from './page-recorder.js';
import { RangeRecorder, type RecorderPlan } from './range-recorder.js';
import type { ReportRequest } from './report-request.js';
import { Segment } from './segment.js';
import type { LogSession } from './session.js';
import type { SharedLog } from './shared-recorder.js';
import { TwoLevelMarks } from './two-level-marks.js';

/*
 * A session with ranges. They are rounded outwards to log pages, and those that then touch or overlap share one
 * segment. The segments' bits stand one behind the other in one two-level bitmap, each from a border of blocks on.
 *
 * Worked example: page size 4096, ranges [0x1800, 0x1900) [0x1a00, 0x3000) [0x9000, 0xa000). The first two share the
 * segment of pages 1 and 2, bits 0 and 1; the third has its own, page 9, bit 512. A write to [0x1940, 0x1980) marks nothing:
 * it lies in no range.
 */

const operation = 'DMA_LOGGING_START';

/** What a session may take, and how it keeps its marks. */
export interface SessionOptions {
  readonly keeping: Keeping;
  /** Most memory for bitmaps, bytes. */
  readonly maxBytes: number;
  /** Room for bitmaps to report into, bytes; undefined: as much as the bits of one generation. */
  readonly reportBytes: number | undefined;
}

/** One START to its STOP, with ranges. */
export class RangesSession implements LogSession {
  readonly ranges: readonly IovaRange[];
  readonly recorder: PageRecorder;
  readonly #log: LogMemory;
  readonly #segments: readonly Segment[];
  readonly #plan: RecorderPlan;
  readonly #lender: BitmapLender;
  #shares = 0;

  /**
   * `intervals`: ascending, apart from each other. The bits are counted before any is allocated.
   * @throws VfioError ENOMEM when the bitmaps would take more than `maxBytes`, more than WebAssembly's 4 GiB, or more than
   * the engine has.
   */
  constructor(intervals: readonly Interval[], pageSize: bigint, options: SessionOptions) {
    const groups = groupByPages(intervals, pageSize);
    requireRoom(groups, pageSize, options);
    const origins = placeGroups(groups);
    const pages = origins.at(-1) ?? 0;
    const reportBytes = options.reportBytes ?? pages / 8 + HEAD_ROOM;
    this.#log = new LogMemory(pages, options.keeping, groups.length * 24, reportBytes, operation);
    this.#lender = new BitmapLender(this.#log.memory, pages / 8 + HEAD_ROOM);
    this.ranges = intervals.map(({ start, end }) => ({ iova: start, length: end - start }));
    this.#segments = groups.map((group, index) => {
      const length = Number(group.end - group.first);
      const marks = new TwoLevelMarks(this.#log, origins[index], length);
      return new Segment(group.first * pageSize, length, pageSize, group.ranges, marks);
    });
    this.#plan = planOf(this.#log, groups, origins, pageSize);
    this.recorder = new RangeRecorder(this.#log.bitmap, this.#plan).pages;
  }

  report(request: ReportRequest): void {
    for (const segment of this.#segments) {
      if (segment.end <= request.start) continue;
      if (segment.start >= request.end) break;
      segment.report(request);
    }
    if (request.target.touched) this.#lender.reported();
  }

  dirtyPages(): number {
    return this.#segments.reduce((total, segment) => total + segment.marks.count(), 0);
  }

  createReportBitmap(bits: number): Uint32Array {
    return this.#log.memory.createBitmap(bits);
  }

  lendReportBitmap(bits: number): LentBitmap | undefined {
    return this.#lender.lend(bits);
  }

  share(): SharedLog {
    if (this.#log.bitmap.place.keeping === 'one-writer') {
      const message = "one writer only: ask for 'generations' or 'exchange' when the log is made";
      throw new VfioError('EOPNOTSUPP', { operation: 'DmaLog.share', field: 'keeping', message });
    }
    if (this.#shares === MAX_SHARES) {
      throw new VfioError('ENOMEM', { operation: 'DmaLog.share', message: `${MAX_SHARES} recorders have it already` });
    }
    this.#shares++;
    return {
      place: this.#log.bitmap.place,
      plan: { ...this.#plan, list: this.#plan.list + this.#shares * LIST_LENGTH * 8 },
    };
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

function requireRoom(groups: readonly PageGroup[], pageSize: bigint, { keeping, maxBytes }: SessionOptions): void {
  const once = groups.reduce((total, group) => total + ((group.end - group.first + 63n) / 64n) * 8n, 0n);
  const bytes = keeping === 'generations' ? 2n * once : once;
  if (bytes <= BigInt(maxBytes)) return;
  throw new VfioError('ENOMEM', {
    operation,
    field: 'ranges',
    message: `${bytes} bytes of bitmap at page size ${pageSize}, at most ${maxBytes}`,
  });
}

/** The bit of each group's first page, and the bit behind all. */
function placeGroups(groups: readonly PageGroup[]): number[] {
  const origins = [0];
  for (const { first, end } of groups) {
    const pages = Math.ceil(Number(end - first) / BLOCK_PAGES) * BLOCK_PAGES;
    origins.push(origins[origins.length - 1] + pages);
  }
  return origins;
}

function planOf(
  { memory }: LogMemory,
  groups: readonly PageGroup[],
  origins: readonly number[],
  pageSize: bigint,
): RecorderPlan {
  // Numbers hold page numbers below this exactly; nobody can name the others in a list.
  const named = groups.filter(group => group.first < NUMBER_LIMIT);
  const table = memory.allocate(named.length * 24);
  const entries = new Float64Array(memory.memory.buffer, table, named.length * 3);
  for (const [index, { first, end }] of named.entries()) {
    const behind = Math.min(Number(end), NUMBER_LIMIT);
    entries.set([Number(first), behind, origins[index] - Number(first)], index * 3);
  }
  return {
    pageSize,
    ranges: groups.flatMap((group, index) =>
      group.ranges.map(({ start, end }) => ({ start, end, base: group.first * pageSize, origin: origins[index] })),
    ),
    list: memory.allocate((1 + MAX_SHARES) * LIST_LENGTH * 8),
    table,
    segments: named.length,
  };
}
