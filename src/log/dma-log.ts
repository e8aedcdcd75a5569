import { ADDRESS_LIMIT, type IovaRange, VfioError } from '../uapi/index.js';
import { EverythingSession } from './everything-session.js';
import { requireInterval } from './interval.js';
import { mergeRanges } from './merge-ranges.js';
import { choosePageSize, requirePageSize } from './page-size.js';
import { RangesSession } from './ranges-session.js';
import { checkReport } from './report-request.js';
import { type LogSession, NUMBER_LIMIT } from './session.js';

/*
 * The DMA log of a device: START, record, REPORT, STOP (contract: "What a correct log does").
 *
 * One thread writes, marks and reports. The order matters all the same: bytes first, then the mark. With the mark
 * first, a report between the two would hand out the mark and clear it, its reader would copy the page as it was, and
 * the write that follows would be in no report at all.
 */

/** What a {@link DmaLog} can do, and how much it may take. */
export interface DmaLogOptions {
  /** Page sizes that the device can track, bytes, powers of two. Default `[4096n]`. */
  pageSizes?: readonly bigint[];
  /** Most ranges that the device keeps apart; more are merged (contract rule 11). Default 256. */
  maxRanges?: number;
  /** Most memory for bitmaps, bytes. A START beyond it is ENOMEM before anything is allocated. Default 512 MiB. */
  maxBytes?: number;
}

/** Which pages a device wrote, since when. One log serves one device. */
export class DmaLog {
  readonly #pageSizes: readonly bigint[];
  readonly #maxRanges: number;
  readonly #maxBytes: number;
  #session: LogSession | undefined;
  #pageSize = 0n;

  /** @throws VfioError EINVAL for options that no log can have. */
  constructor(options: DmaLogOptions = {}) {
    const { pageSizes = [4096n], maxRanges = 256, maxBytes = 512 * 2 ** 20 } = options;
    if (pageSizes.length === 0) throw badOption('pageSizes', 'is empty');
    for (const size of pageSizes) requirePageSize(size, 'DmaLog', 'pageSizes');
    if (!Number.isSafeInteger(maxRanges) || maxRanges < 1) throw badOption('maxRanges', `${maxRanges} is no count`);
    if (!Number.isSafeInteger(maxBytes) || maxBytes < 1) throw badOption('maxBytes', `${maxBytes} is no size`);
    this.#pageSizes = [...pageSizes].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
    this.#maxRanges = maxRanges;
    this.#maxBytes = maxBytes;
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
   * range reaches 2^64; ENOMEM when the bitmaps would take more than `maxBytes`.
   */
  start(pageSizeHint: bigint, ranges: readonly IovaRange[] | 'everything'): bigint {
    const operation = 'DMA_LOGGING_START';
    if (this.#session !== undefined)
      throw new VfioError('EINVAL', { operation, message: 'logging is started already' });
    const pageSize = choosePageSize(pageSizeHint, this.#pageSizes);
    this.#session =
      ranges === 'everything'
        ? new EverythingSession(pageSize, this.#maxBytes)
        : this.#startRanges(pageSize, ranges, operation);
    this.#pageSize = pageSize;
    return pageSize;
  }

  #startRanges(pageSize: bigint, ranges: readonly IovaRange[], operation: string): LogSession {
    if (ranges.length === 0) throw new VfioError('EINVAL', { operation, field: 'num_ranges', message: 'is 0' });
    for (const range of ranges) requireInterval(range.iova, range.length, operation);
    return new RangesSession(mergeRanges(ranges, this.#maxRanges), pageSize, this.#maxBytes);
  }

  /** Stops logging; the log is gone. @throws VfioError EINVAL when not started. */
  stop(): void {
    if (this.#session === undefined) throw notStarted('DMA_LOGGING_STOP');
    this.#session = undefined;
    this.#pageSize = 0n;
  }

  /**
   * Marks what a write of `length` bytes at `iova` touched (contract rule 1). Call it when the bytes are in memory, not
   * before. Does nothing when not active.
   * @throws VfioError EINVAL for a number that is no safe integer: it has lost low bits already, and would mark the
   * wrong page.
   */
  record(iova: number | bigint, length: number): void {
    const session = this.#session;
    if (session === undefined) return;
    const start = Number(iova);
    const end = start + length;
    // A bigint above the limit is rounded, but not to below the limit; the same goes for the sum.
    if (start >= 0 && length > 0 && end < NUMBER_LIMIT && Number.isInteger(start) && Number.isInteger(length)) {
      session.record(start, end);
    } else {
      recordUncommon(session, iova, length);
    }
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
    if (this.#session === undefined) throw notStarted('DMA_LOGGING_REPORT');
    const request = checkReport(iova, length, pageSize, bitmap);
    if (length > 0n) this.#session.report(request);
  }

  /** Pages that are marked now; for statistics. */
  dirtyPages(): number {
    return this.#session?.dirtyPages() ?? 0;
  }
}

function recordUncommon(session: LogSession, iova: number | bigint, length: number): void {
  if (!Number.isSafeInteger(length) || length < 0) throw badWrite('length', length);
  if (typeof iova === 'number' && !Number.isSafeInteger(iova)) throw badWrite('iova', iova);
  if (iova < 0) throw badWrite('iova', iova);
  const start = BigInt(iova);
  const reach = start + BigInt(length);
  const end = reach < ADDRESS_LIMIT ? reach : ADDRESS_LIMIT;
  if (start < end) session.recordHigh(start, end);
}

function badOption(field: string, message: string): VfioError {
  return new VfioError('EINVAL', { operation: 'DmaLog', field, message });
}

function notStarted(operation: string): VfioError {
  return new VfioError('EINVAL', { operation, message: 'logging is not started' });
}

function badWrite(field: string, value: number | bigint): VfioError {
  return new VfioError('EINVAL', { operation: 'DmaLog.record', field, message: `${value} is no address or length` });
}
