import { createBitmap } from '../bitmap/index.js';
import { ADDRESS_LIMIT, type IovaRange, VfioError } from '../uapi/index.js';
import { ArrayMarks } from './array-marks.js';
import type { Interval } from './interval.js';
import { NUMBER_LIMIT } from './number-limit.js';
import { type IntervalRecorder, recordWrite, type WriteRecorder } from './record-write.js';
import type { ReportRequest } from './report-request.js';
import { Segment } from './segment.js';
import type { LogSession } from './session.js';
import type { SharedLog } from './shared-recorder.js';

/*
 * A session without ranges: every write is logged, wherever memory is mapped now or later (contract rule 12). Bits are
 * kept in windows of 2^15 log pages (4 KiB of bits), made when a write first marks a page in them and dropped when a
 * report leaves them clean.
 *
 * Worked example: page size 4096, so a window is 128 MiB. A write at 0x10001000 is page 0x10001: window 2, bit 1.
 *
 * When windows would take more than they may, the log is lost: it says so at each report until STOP, and the caller
 * treats everything as dirty (contract rule 8). Forgetting some marks and saying nothing would lose data.
 */

const WINDOW_PAGES = 2 ** 15;
const WINDOW_BYTES = WINDOW_PAGES / 8;
const wholeSpace: readonly Interval[] = [{ start: 0n, end: ADDRESS_LIMIT }];

/** One START to its STOP, for every address. */
export class EverythingSession implements LogSession, WriteRecorder, IntervalRecorder {
  readonly recorder: WriteRecorder = this;
  readonly ranges: readonly IovaRange[] = [{ iova: 0n, length: ADDRESS_LIMIT }];
  readonly #pageSize: bigint;
  /** Multiplying by it is exact, as dividing by a power of two is, and cheaper. */
  readonly #pagesPerByte: number;
  /** Pages that a list can name: those of the address space whose numbers are exact. */
  readonly #pageLimit: number;
  readonly #maxWindows: number;
  readonly #windows = new Map<number, Segment>();
  /** Writes come in clusters: most hit the window that the last one hit. */
  #recent: Segment | undefined;
  #recentNumber = -1;
  #lost = false;

  constructor(pageSize: bigint, maxBytes: number) {
    this.#pageSize = pageSize;
    this.#pagesPerByte = 1 / Number(pageSize);
    this.#pageLimit = Math.min(Number(ADDRESS_LIMIT / pageSize), NUMBER_LIMIT);
    this.#maxWindows = Math.floor(maxBytes / WINDOW_BYTES);
  }

  record(iova: number | bigint, length: number): void {
    recordWrite(this, iova, length);
  }

  recordLow(start: number, end: number): void {
    const firstPage = Math.floor(start * this.#pagesPerByte);
    const lastPage = Math.floor((end - 1) * this.#pagesPerByte);
    const firstWindow = Math.floor(firstPage / WINDOW_PAGES);
    const lastWindow = Math.floor(lastPage / WINDOW_PAGES);
    this.#mark(firstWindow, firstPage - firstWindow * WINDOW_PAGES, lastWindow, lastPage - lastWindow * WINDOW_PAGES);
  }

  recordHigh(start: bigint, end: bigint): void {
    const firstPage = start / this.#pageSize;
    const lastPage = (end - 1n) / this.#pageSize;
    this.#mark(windowOf(firstPage), bitInWindow(firstPage), windowOf(lastPage), bitInWindow(lastPage));
  }

  recordPages(pages: Float64Array | Uint32Array, count: number): void {
    for (let index = 0; index < count; index++) {
      const page = Math.floor(pages[index]);
      if (!(page >= 0 && page < this.#pageLimit)) continue;
      const window = Math.floor(page / WINDOW_PAGES);
      const bit = page - window * WINDOW_PAGES;
      this.#mark(window, bit, window, bit);
    }
  }

  #mark(firstWindow: number, firstBit: number, lastWindow: number, lastBit: number): void {
    if (this.#lost) return;
    if (lastWindow - firstWindow >= this.#maxWindows) {
      this.#lose();
      return;
    }
    for (let number = firstWindow; number <= lastWindow; number++) {
      const window = this.#window(number);
      if (window === undefined) {
        this.#lose();
        return;
      }
      window.marks.mark(number === firstWindow ? firstBit : 0, number === lastWindow ? lastBit + 1 : WINDOW_PAGES);
    }
  }

  #window(number: number): Segment | undefined {
    if (number === this.#recentNumber) return this.#recent;
    const window = this.#windows.get(number) ?? this.#createWindow(number);
    this.#recent = window;
    this.#recentNumber = number;
    return window;
  }

  #createWindow(number: number): Segment | undefined {
    if (this.#windows.size >= this.#maxWindows) return undefined;
    const start = BigInt(number) * BigInt(WINDOW_PAGES) * this.#pageSize;
    const window = new Segment(start, WINDOW_PAGES, this.#pageSize, wholeSpace, new ArrayMarks(WINDOW_PAGES));
    this.#windows.set(number, window);
    return window;
  }

  #lose(): void {
    this.#lost = true;
    this.#windows.clear();
    this.#forgetRecent();
  }

  #forgetRecent(): void {
    this.#recent = undefined;
    this.#recentNumber = -1;
  }

  report(request: ReportRequest): void {
    if (this.#lost) {
      const message = 'the log ran out of memory and was lost: everything counts as dirty';
      throw new VfioError('ENOMEM', { operation: 'DMA_LOGGING_REPORT', message });
    }
    const first = windowOf(request.start / this.#pageSize);
    const last = windowOf((request.end - 1n) / this.#pageSize);
    // Whichever is shorter: the windows that the interval could have, or those that there are.
    if (last - first < this.#windows.size) {
      for (let number = first; number <= last; number++) this.#reportWindow(number, this.#windows.get(number), request);
    } else {
      for (const [number, window] of this.#windows) this.#reportWindow(number, window, request);
    }
    this.#forgetRecent();
  }

  #reportWindow(number: number, window: Segment | undefined, request: ReportRequest): void {
    if (window === undefined) return;
    window.report(request);
    if (window.marks.count() === 0) this.#windows.delete(number);
  }

  createReportBitmap(bits: number): Uint32Array {
    return createBitmap(bits);
  }

  lendReportBitmap(): undefined {
    return undefined;
  }

  share(): SharedLog {
    const message = 'a log of everything makes its bitmaps as writes come: one thread only';
    throw new VfioError('EOPNOTSUPP', { operation: 'DmaLog.share', message });
  }

  dirtyPages(): number {
    let total = 0;
    for (const window of this.#windows.values()) total += window.marks.count();
    return total;
  }
}

function windowOf(page: bigint): number {
  return Number(page / BigInt(WINDOW_PAGES));
}

function bitInWindow(page: bigint): number {
  return Number(page % BigInt(WINDOW_PAGES));
}
