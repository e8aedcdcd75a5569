import type { Keeping } from '../bitmap/index.js';
import { type IovaRange, VfioError } from '../uapi/index.js';
import { EverythingSession } from './everything-session.js';
import { requireInterval } from './interval.js';
import type { LentBitmap } from './lent-bitmap.js';
import { mergeRanges } from './merge-ranges.js';
import { choosePageSize, requirePageSize } from './page-size.js';
import { RangesSession, type SessionOptions } from './ranges-session.js';
import { requireCount, type WriteRecorder } from './record-write.js';
import { checkReport } from './report-request.js';
import type { LogSession } from './session.js';
import type { SharedLog } from './shared-recorder.js';

/*
 * The DMA log of a device: START, record, REPORT, STOP (contract: "What a correct log does").
 *
 * The order matters: bytes first, then the mark. With the mark first, a report between the two would hand out the mark and
 * clear it, its reader would copy the page as it was, and the write that follows would be in no report at all.
 *
 * By default the thread that owns the log writes and reports. Where other threads write too, the log is made for it
 * (`keeping`), and each of them records through a `SharedRecorder`; reports stay with the owner, one at a time. Why no write
 * is lost then: assembly/generations.ts and assembly/exchange.ts.
 */

/** What a {@link DmaLog} can do, and how much it may take. */
export interface DmaLogOptions {
  /** Page sizes that the device can track, bytes, powers of two. Default `[4096n]`. */
  pageSizes?: readonly bigint[];
  /** Most ranges that the device keeps apart; more are merged (contract rule 11). Default 256. */
  maxRanges?: number;
  /** Most memory for bitmaps, bytes. A START beyond it is ENOMEM before anything is allocated. Default 512 MiB. */
  maxBytes?: number;
  /** Most ranges that a START may ask for; more are E2BIG before any is looked at. Default 65536. */
  maxRangesAsked?: number;
  /**
   * Who writes: `'one-writer'`, this thread alone, the quickest; `'generations'`, any number of threads at twice the bits, with
   * reports at plain speed; `'exchange'`, any number of threads at one time the bits, with reports some ten times slower.
   * Default `'one-writer'`.
   */
  keeping?: Keeping;
  /**
   * Room in the log's own memory for bitmaps to report into ({@link DmaLog.createReportBitmap},
   * {@link DmaLog.lendReportBitmap}), bytes. Default: as much as the log's bits, and 64. What is not used costs addresses,
   * not memory.
   */
  reportBytes?: number;
}

/** Which pages a device wrote, since when. One log serves one device. */
export class DmaLog {
  readonly #pageSizes: readonly bigint[];
  readonly #maxRanges: number;
  readonly #maxRangesAsked: number;
  readonly #options: SessionOptions;
  #session: LogSession | undefined;
  /** The session's, one step nearer. */
  #recorder: WriteRecorder | undefined;
  #pageSize = 0n;

  /** @throws VfioError EINVAL for options that no log can have. */
  constructor(options: DmaLogOptions = {}) {
    const { pageSizes = [4096n], maxRanges = 256, maxRangesAsked = 65536, keeping = 'one-writer' } = options;
    const { maxBytes = 512 * 2 ** 20, reportBytes } = options;
    if (pageSizes.length === 0) throw badOption('pageSizes', 'is empty');
    for (const size of pageSizes) requirePageSize(size, 'DmaLog', 'pageSizes');
    requireWhole(maxRanges, 1, 'maxRanges');
    requireWhole(maxRangesAsked, 1, 'maxRangesAsked');
    requireWhole(maxBytes, 1, 'maxBytes');
    if (reportBytes !== undefined) requireWhole(reportBytes, 0, 'reportBytes');
    if (!['one-writer', 'generations', 'exchange'].includes(keeping)) throw badOption('keeping', `${keeping}`);
    this.#pageSizes = [...pageSizes].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
    this.#maxRanges = maxRanges;
    this.#maxRangesAsked = maxRangesAsked;
    this.#options = { keeping, maxBytes, reportBytes };
  }

  /** Whether a session runs. */
  get active(): boolean {
    return this.#session !== undefined;
  }

  /** The page size chosen at START, bytes; 0n when not active. */
  get pageSize(): bigint {
    return this.#pageSize;
  }

  /** The ranges as logged: merged, ascending; none when not active. With `'everything'`, one of 2^64 bytes. */
  get ranges(): readonly IovaRange[] {
    return this.#session?.ranges ?? [];
  }

  /**
   * Starts logging, clean. Ranges may have any alignment and order, and may overlap; those of length 0 log nothing.
   * `'everything'` logs every address (vfio-user's START without ranges).
   *
   * A START that fails changes nothing.
   * @returns the page size chosen: the supported one closest to the hint in log2, the smaller one on a tie. Bytes.
   * @throws VfioError EINVAL when started already, for a hint of 0, and for an empty list of ranges; EOVERFLOW when a
   * range reaches 2^64; E2BIG for more than `maxRangesAsked` ranges; ENOMEM when the bitmaps would take more than `maxBytes`,
   * or more than WebAssembly's 4 GiB (128 TiB at 4 KiB).
   */
  start(pageSizeHint: bigint, ranges: readonly IovaRange[] | 'everything'): bigint {
    const operation = 'DMA_LOGGING_START';
    if (this.#session !== undefined)
      throw new VfioError('EINVAL', { operation, message: 'logging is started already' });
    const pageSize = choosePageSize(pageSizeHint, this.#pageSizes);
    this.#session =
      ranges === 'everything'
        ? new EverythingSession(pageSize, this.#options.maxBytes)
        : this.#startRanges(pageSize, ranges, operation);
    this.#recorder = this.#session.recorder;
    this.#pageSize = pageSize;
    return pageSize;
  }

  #startRanges(pageSize: bigint, ranges: readonly IovaRange[], operation: string): LogSession {
    if (ranges.length === 0) throw new VfioError('EINVAL', { operation, field: 'num_ranges', message: 'is 0' });
    if (ranges.length > this.#maxRangesAsked) {
      const message = `${ranges.length}, at most ${this.#maxRangesAsked}`;
      throw new VfioError('E2BIG', { operation, field: 'num_ranges', message });
    }
    for (const range of ranges) requireInterval(range.iova, range.length, operation);
    return new RangesSession(mergeRanges(ranges, this.#maxRanges), pageSize, this.#options);
  }

  /** Stops logging; the log is gone. @throws VfioError EINVAL when not started. */
  stop(): void {
    if (this.#session === undefined) throw notStarted('DMA_LOGGING_STOP');
    this.#session = undefined;
    this.#recorder = undefined;
    this.#pageSize = 0n;
  }

  /**
   * Marks what a write of `length` bytes at `iova` touched (contract rule 1). Call it when the bytes are in memory, not
   * before. Does nothing when not active.
   * @throws VfioError EINVAL for a number that is no safe integer: it has lost low bits already, and would mark the
   * wrong page.
   */
  record(iova: number | bigint, length: number): void {
    const recorder = this.#recorder;
    if (recorder === undefined) return;
    recorder.record(iova, length);
  }

  /**
   * Marks whole log pages by their numbers, iova divided by {@link DmaLog.pageSize}: the first `count` of a list, in any order.
   * Pages that no range touches are not logged. A number from 2^53 on names no page; what lies so high, where pages are
   * below 2 KiB, is for {@link DmaLog.record}. For devices that write many pages at once: quicker than one call for each.
   * @throws VfioError EINVAL when the list is shorter than `count`.
   */
  recordPages(pages: Float64Array | Uint32Array, count = pages.length): void {
    if (this.#recorder === undefined) return;
    requireCount(pages, count);
    this.#recorder.recordPages(pages, count);
  }

  /**
   * What another thread needs to record into this session, for `postMessage` or `workerData`; one for each thread. There,
   * {@link SharedRecorder} takes it.
   * @throws VfioError EINVAL when not started; EOPNOTSUPP for one writer and for `'everything'`; ENOMEM for more than 256.
   */
  share(): SharedLog {
    if (this.#session === undefined) throw notStarted('DmaLog.share');
    return this.#session.share();
  }

  /**
   * Read-and-clear: ORs into `bitmap` what was written in `[iova, iova + length)` since the last report, and clears it
   * for that interval only (contract rules 3 to 5). Bit n speaks of `[iova + n * pageSize, iova + (n + 1) * pageSize)`.
   * Bits beyond the interval are never set, bits that are set already never cleared.
   *
   * A report that fails changes nothing.
   * @param pageSize what one bit speaks of, bytes: any power of two, whatever the log's page size.
   * @param bitmap at least `bitmapBytes(length, pageSize)` bytes.
   * @throws VfioError EINVAL when not started, for a page size that is no power of two, and for a bitmap too small;
   * EOVERFLOW when the interval reaches 2^64; ENOMEM when a log of everything ran out of memory and was lost: treat
   * everything as dirty, and restart.
   */
  report(iova: bigint, length: bigint, pageSize: bigint, bitmap: Uint32Array): void {
    this.#report(iova, length, pageSize, bitmap, 'own');
  }

  /**
   * {@link DmaLog.report} into a bitmap that others report into at the same time: other logs in other threads, or in other
   * processes that map the same memory file. Bits are ORed in atomically, so that the bitmap becomes the union of all.
   * @param bitmap as for {@link DmaLog.report}; over a `SharedArrayBuffer`, or over pages that processes share.
   * @throws VfioError as {@link DmaLog.report}.
   */
  reportShared(iova: bigint, length: bigint, pageSize: bigint, bitmap: Uint32Array): void {
    this.#report(iova, length, pageSize, bitmap, 'shared');
  }

  #report(iova: bigint, length: bigint, pageSize: bigint, bitmap: Uint32Array, combining: 'own' | 'shared'): void {
    if (this.#session === undefined) throw notStarted('DMA_LOGGING_REPORT');
    const request = checkReport(iova, length, pageSize, bitmap, combining);
    if (length > 0n) this.#session.report(request);
  }

  /**
   * A clean bitmap of at least `bits` bits in the session's own memory: reports go there without a copy. It serves this
   * session; take one, and use it again and again.
   * @throws VfioError EINVAL when not started; ENOMEM when `reportBytes` are used up.
   */
  createReportBitmap(bits: number): Uint32Array {
    if (this.#session === undefined) throw notStarted('DmaLog.createReportBitmap');
    requireWhole(bits, 0, 'bits');
    return this.#session.createReportBitmap(bits);
  }

  /**
   * The same for a while: a clean bitmap that is kept, and lent to one borrower after the other, so that it never has to be made anew. For
   * whoever serves reports, and hands their bits on at once.
   * @returns `undefined` while another has it, when logging is not started or has no such memory, and when it is too small: make an array then
   */
  lendReportBitmap(bits: number): LentBitmap | undefined {
    requireWhole(bits, 0, 'bits');
    return this.#session?.lendReportBitmap(bits);
  }

  /** Pages that are marked now; for statistics. */
  dirtyPages(): number {
    return this.#session?.dirtyPages() ?? 0;
  }
}

function requireWhole(value: number, least: number, field: string): void {
  if (!Number.isSafeInteger(value) || value < least) throw badOption(field, `${value} is not ${least} or more`);
}

function badOption(field: string, message: string): VfioError {
  return new VfioError('EINVAL', { operation: 'DmaLog', field, message });
}

function notStarted(operation: string): VfioError {
  return new VfioError('EINVAL', { operation, message: 'logging is not started' });
}
